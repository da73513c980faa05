"""Hundreds of hostile uploads and requests: each is refused in a line, and none reaches what it should not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.serve import hostile, service
from tests.serve.watch import Watch


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return service.scene(tmp_path_factory.mktemp("secret") / "canary.tif")


@pytest.fixture(scope="module")
def watch(canary: Path) -> Iterator[Watch]:
    watch = Watch(canary.parent)
    canary.read_bytes()
    assert watch.opened() == ["canary.tif"]  # or the tests below could not fail
    yield watch
    watch.close()


def test_each_is_refused_in_a_line_and_leaves_nothing(
    client: TestClient, tmp_path: Path, canary: Path, watch: Watch
) -> None:
    data = client.app.state.options.data
    before, known = client.app.state.jobs.ids(), set(os.listdir(data / "predictions"))
    wrong, count = [], 0
    for name, request in hostile.everything(tmp_path, canary):
        count += 1
        watch.opened()
        answer = client.request(**request)
        try:
            line = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            line = f"no line: {answer.text[:80]}"
        clear = line.strip() and "\n" not in line and len(line) < 500 and not line.startswith("no line")
        secret = str(data) in answer.text or "upload.tif" in line or canary.read_bytes()[:8] in answer.content
        opened = watch.opened()[:-1]  # the last is the line above
        if not 400 <= answer.status_code < 500 or not clear or secret or opened:
            wrong.append(f"{name}: {answer.status_code} {line[:200]} {opened}")
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong)
    assert count >= 200
    assert client.app.state.jobs.ids() == before
    assert set(os.listdir(data / "predictions")) == known


def test_a_good_scene_with_a_wicked_name_stays_where_it_belongs(client: TestClient, tmp_path: Path) -> None:
    path = service.scene(tmp_path / "a.tif")
    job = service.finished(client, service.send(client, path.read_bytes(), "../../../evil.tif"))
    assert job["status"] == "done"
    data = client.app.state.options.data
    assert data / "predictions" / job["id"] / "map.tif" in set(data.parent.rglob("*"))
    assert not [p for p in data.parent.rglob("*evil*") if "wicked" not in p.name]


def test_what_the_headers_of_a_tiff_say_is_believed_only_if_it_is_there(tmp_path: Path) -> None:
    """Random bytes changed: never anything but a `RaremapError`, however the header looks."""
    import numpy as np

    from raremap.errors import RaremapError
    from raremap.serve.scenes import looked_at

    good = service.scene(tmp_path / "good.tif", tiled=True, blockxsize=32, blockysize=32).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        for at in rng.integers(0, min(600, len(good)), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        (tmp_path / "a.tif").write_bytes(data)
        said = ""
        try:
            looked_at(tmp_path / "a.tif", "a.tif", service.BANDS, 1_000_000, 8_000_000)
        except RaremapError as error:
            said = str(error)
        refused += bool(said)
        assert "\n" not in said
        assert str(tmp_path) not in said
    assert refused > 100
