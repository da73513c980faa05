"""What schemathesis makes of the OpenAPI description: right and wrong requests, none of which is our failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.serve.live import Live

schemathesis = pytest.importorskip("schemathesis", reason="the development tools are not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def live(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    live = Live(bundle_folder, tmp_path_factory.mktemp("described") / "data", "--rate", "0", "--queue", "5")
    yield live
    live.stop()


@pytest.fixture(scope="module")
def api(live: Live):
    return schemathesis.openapi.from_url(f"{live.client.base_url}openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(max_examples=15, suppress_health_check=list(HealthCheck), deadline=None)
def test_every_answer_is_one_that_the_description_knows(case) -> None:
    answer = case.call()
    # 501: scenes are not fetched here, which is an answer and no failure.
    assert answer.status_code < 500 or answer.status_code == 501, answer.text
    if answer.status_code >= 400 and case.method != "HEAD":
        line = answer.json()["error"]
        assert line
        assert "\n" not in line
    checks = schemathesis.checks
    conforms = [
        checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance,
    ]  # fmt: skip
    case.validate_response(answer, checks=conforms)
