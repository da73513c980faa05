"""Keys, rates, hosts and headers, without a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from raremap.serve.app import create_app
from raremap.serve.options import ServeOptions


def asked(tmp_path: Path, base: str = "http://localhost", **options: Any) -> TestClient:
    """Not entered, so that no worker starts."""
    return TestClient(create_app([], ServeOptions(data=tmp_path, **options)), base_url=base)


def test_with_a_key_the_api_is_closed_and_the_page_is_open(tmp_path: Path) -> None:
    client = asked(tmp_path, api_key="sesame-open")
    assert client.get("/api/models").status_code == 401
    assert client.get("/api/models", headers={"x-api-key": "sesame-opem"}).status_code == 401
    assert client.get("/api/models", headers={"x-api-key": "é".encode("latin-1")}).status_code == 401
    assert client.get("/api/models", headers={"x-api-key": "sesame-open"}).json() == []
    assert client.get("/healthz").status_code == 200
    assert client.get("/").status_code == 200


def test_too_many_requests_are_told_when_to_come_back(tmp_path: Path) -> None:
    client = asked(tmp_path, rate=2)
    codes = [client.get("/api/models") for _ in range(12)]
    assert [c.status_code for c in codes[:8]] == [200] * 8
    assert codes[-1].status_code == 429
    assert int(codes[-1].headers["retry-after"]) >= 1
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:8000", ""])
def test_a_loopback_server_answers_to_its_own_names_only(tmp_path: Path, host: str) -> None:
    assert asked(tmp_path).get("/api/models", headers={"host": host}).status_code == 421
    assert asked(tmp_path, host="0.0.0.0").get("/api/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_its_own_names_are_known(tmp_path: Path, host: str) -> None:
    assert asked(tmp_path).get("/api/models", headers={"host": host}).status_code == 200


def test_other_sites_pages_may_not_send_or_remove(tmp_path: Path) -> None:
    client = asked(tmp_path)
    url = "/api/predictions/0123456789abcdef01234567"
    assert client.delete(url, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.delete(url, headers={"origin": "http://localhost"}).status_code == 404


@pytest.mark.parametrize("path", ["/", "/api/models", "/api/none", "/openapi.json", "/healthz"])
def test_every_answer_has_the_headers(tmp_path: Path, path: str) -> None:
    headers = asked(tmp_path).get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "script-src 'self'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"


def test_a_place_is_refused_where_scenes_are_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raremap.serve import place as fetched
    from raremap.serve.models import Model

    monkeypatch.setattr(fetched, "can_fetch", lambda: False)
    monkeypatch.setattr(fetched, "missing_line", lambda: "this server cannot fetch scenes; upload a GeoTIFF")
    client = asked(tmp_path)
    client.app.state.runner.models["m"] = Model("m", "", "m", "", (), (), 255, None, None, {})  # type: ignore[attr-defined]
    place = {"model": "m", "bbox": [2, 41, 2.1, 41.1], "date": "2024-07-01"}
    answer = client.post("/api/predictions", json=place)
    assert (answer.status_code, answer.json()["error"]) == (
        501, "this server cannot fetch scenes; upload a GeoTIFF",
    )  # fmt: skip
    flipped = client.post("/api/predictions", json={**place, "bbox": [3, 41, 2, 42]})
    assert flipped.json()["error"].startswith("bbox is west, south, east, north, with west below east")
