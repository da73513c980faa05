"""What schemathesis makes of the OpenAPI description: right and wrong requests, none of which is our failure."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from tests.serve import tables

from raremap.serve.app import create_app
from raremap.serve.models import Class, Model, Table, joined_of
from raremap.serve.options import ServeOptions

schemathesis = pytest.importorskip("schemathesis", reason="the development tools are not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A server over real HTTP, of a model that nothing is mapped with and one of tables: no worker starts."""
    fusion = tables.save_fusion(tmp_path / "fusion.json")
    app = create_app([], ServeOptions(data=tmp_path, rate=0, queue=3, fusion=fusion))
    classes = (Class(1, "meadow", "#112233", False), Class(7, "slide", "#445566", True))
    app.state.runner.models["m"] = Model("m", "", "m", "# m", ("red",), classes, 255, None, None, {})
    app.state.runner.tables["units"] = Table("units", "# units", tables.model())
    app.state.runner.joined = joined_of(fusion, None, app.state.runner.models, app.state.runner.tables)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    listener.close()


def test_every_answer_is_one_that_the_description_knows(url: str) -> None:
    checks = schemathesis.checks
    conforms = [
        checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance,
    ]  # fmt: skip
    asked: dict[str, int] = {}

    def probe(case) -> None:
        answer = case.call(base_url=url)
        asked[case.operation.label] = asked.get(case.operation.label, 0) + 1
        # 501: scenes are not fetched here, which is an answer and no failure.
        assert answer.status_code < 500 or answer.status_code == 501, answer.text
        if answer.status_code >= 400:
            line = answer.json()["error"]
            assert line
            assert "\n" not in line
        case.validate_response(answer, checks=conforms)

    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE:
            try:
                drawn = given(case=operation.as_strategy(generation_mode=mode))(probe)
                settings(
                    max_examples=15, suppress_health_check=list(HealthCheck), deadline=None, phases=[Phase.generate],
                    derandomize=True, database=None,
                )(drawn)()  # fmt: skip
            except Unsatisfiable:  # what takes nothing cannot be asked wrongly
                assert mode == schemathesis.GenerationMode.NEGATIVE
    assert len(asked) >= 16
    assert {"POST /api/tables/predictions", "POST /api/fused/predictions"} <= set(asked)
