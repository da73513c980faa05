"""What lies ready for those who fetch it: asked for by HEAD, read in parts by GDAL, and gone when its time is over."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.rasters import write
from tests.serve import browser, service

from raremap.serve import runner as runner_module
from raremap.serve import schemas
from raremap.serve.app import create_app
from raremap.serve.jobs import new_id
from raremap.serve.models import Class, Model
from raremap.serve.options import ServeOptions


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """A server without a worker."""
    app = create_app([], ServeOptions(data=tmp_path, rate=0))
    classes = (Class(1, "meadow", "#112233", False), Class(7, "slide", "#445566", True))
    app.state.runner.models["m"] = Model("m", "", "m", "# m", ("red",), classes, 255, None, None, {})
    return app


@pytest.fixture
def done(app: FastAPI) -> str:
    """The id of a prediction that is done, whose map has 500 x 700 pixels."""
    jobs, job_id = app.state.jobs, new_id()
    assert jobs.add(job_id, "m", {"upload": "u", "called": "u.tif"})
    jobs.claim()
    jobs.finish(job_id, {"areas": [], "shown": {"bands": [1], "ranges": [[0, 255]]}}, (2.0, 42.0, 2.1, 42.1))
    folder = app.state.runner.folder(job_id)
    folder.mkdir(parents=True)
    for name in ("map.tif", "scene.tif"):
        write(
            folder / name,
            service.pixels(500, 700, 1),
            (4e5, 4.6e6),
            tiled=True,
            blockxsize=256,
            blockysize=256,
        )
    return job_id


def test_head_says_what_get_would(app: FastAPI, done: str) -> None:
    client = TestClient(app, base_url="http://localhost")
    at = f"/api/predictions/{done}"
    paths = [
        "/healthz",
        "/api/models",
        "/api/models/m",
        at,
        f"{at}/map.tif",
        f"{at}/tiles/image/0/0/0.png",
        "/",
    ]
    for path in paths:
        head, get = client.head(path), client.get(path)
        assert (head.status_code, get.status_code) == (200, 200), path
        same = ("content-type", "content-length", "cache-control", "accept-ranges", "etag")
        assert [head.headers.get(k) for k in same] == [get.headers.get(k) for k in same], path
    assert client.head(f"{at}/preview.png").status_code == 404
    assert client.head("/api/nothing").status_code == 404
    assert all("head" not in told for told in app.openapi()["paths"].values())


def test_what_is_described_comes_with_examples_that_are_true(app: FastAPI) -> None:
    told = app.openapi()
    for kind in (schemas.ModelRow, schemas.TableRow, schemas.FusedRow, schemas.Health):
        (example,) = told["components"]["schemas"][kind.__name__]["examples"]
        assert kind.model_validate(example).model_dump(mode="json") == example
    forms = 0
    for path, asked in told["paths"].items():
        for media, body in asked.get("post", {}).get("requestBody", {}).get("content", {}).items():
            schema, example = body["schema"], body["example"]
            assert set(schema["required"]) <= set(example) <= set(schema["properties"]), (path, media)
            forms += media == "multipart/form-data"
    assert forms == 3


def test_gdal_reads_a_map_where_it_lies(app: FastAPI, done: str) -> None:
    read = "import rasterio, sys; print(rasterio.open(sys.argv[1]).read(1, window=((300, 304), (400, 405))).tolist())"
    with browser.serving(app, lifespan="off") as address:
        at = f"/vsicurl/{address}api/predictions/{done}/map.tif"
        # In a process of its own: rasterio lets no other thread run while it opens a file.
        got = subprocess.run([sys.executable, "-c", read, at], capture_output=True, text=True, timeout=60)
    assert got.stdout, got.stderr
    assert json.loads(got.stdout) == service.pixels(500, 700, 1)[0, 300:304, 400:405].tolist()


def test_what_is_too_old_is_gone_before_it_is_tidied_away(app: FastAPI, done: str, monkeypatch: Any) -> None:
    client = TestClient(app, base_url="http://localhost")
    later = time.time() + 7 * 86_400 + 1
    monkeypatch.setattr(time, "time", lambda: later)
    for last in ("", "/map.tif", "/tiles/image/0/0/0.png"):
        answer = client.get(f"/api/predictions/{done}{last}")
        assert answer.status_code == 404
        assert "may have been removed, or be too old" in answer.json()["error"]
    assert app.state.runner.folder(done).is_dir()


def test_results_go_with_their_files_while_the_queue_is_busy(
    app: FastAPI, done: str, monkeypatch: Any
) -> None:
    runner, jobs = app.state.runner, app.state.jobs
    for _ in range(3):
        assert jobs.add(new_id(), "m", {"upload": "u"})
    later = time.time() + 7 * 86_400 + 1
    there = []

    def run(job: Any) -> None:
        monkeypatch.setattr(time, "time", lambda: later)  # the first result grows old while others are made
        there.append(runner.folder(done).exists())
        if len(there) == 3:
            runner._stop.set()

    monkeypatch.setattr(runner, "_run", run)
    monkeypatch.setattr(runner_module, "_TIDY_EVERY_S", 0.0)
    runner._work()
    assert there == [True, False, False]
