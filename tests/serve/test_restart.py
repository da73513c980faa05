"""The server, or its worker, is killed in the middle of a prediction: it ends, or says that it failed."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from tests.serve import service
from tests.serve.live import Live

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc"),
]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return service.scene(tmp_path_factory.mktemp("large") / "a.tif", 1500, 1500).read_bytes()


def running(live: Live, url: str) -> None:
    """Wait until the network is at work on it."""
    until = time.monotonic() + 60
    while True:
        job = live.client.get(url).json()
        if job["status"] == "running" and job["progress"] > 0.05:
            return
        assert job["status"] in ("queued", "running"), job
        assert time.monotonic() < until
        time.sleep(0.01)


def new_worker(live: Live, old: int) -> int:
    """The one process that predicts, once it is another than `old`."""
    until = time.monotonic() + 60
    while len(now := live.workers()) != 1 or now[0] == old:
        assert time.monotonic() < until
        time.sleep(0.02)
    return now[0]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_a_killed_server_finishes_its_predictions_when_it_is_started_again(
    bundle_folder: Path, tmp_path: Path, large: bytes
) -> None:
    live = Live(bundle_folder, tmp_path / "data")
    urls = [service.send(live.client, large).json()["url"] for _ in range(2)]
    running(live, urls[0])
    (worker,) = live.workers()
    live.stop(signal.SIGKILL)
    until = time.monotonic() + 20
    while not gone(worker):  # or two would be at work on one folder
        assert time.monotonic() < until
        time.sleep(0.05)
    live = Live(bundle_folder, tmp_path / "data")
    try:
        for url in urls:
            answer = live.client.get(url)
            assert answer.status_code == 200
            until = time.monotonic() + 120
            while (job := live.client.get(url).json())["status"] in ("queued", "running"):
                assert time.monotonic() < until
                time.sleep(0.1)
            assert job["status"] == "done", job
            assert live.client.get(job["files"]["map"]).status_code == 200
    finally:
        assert live.stop() in (0, -signal.SIGTERM)


def test_a_killed_worker_is_replaced_once_and_then_the_prediction_has_failed(
    bundle_folder: Path, tmp_path: Path, large: bytes
) -> None:
    live = Live(bundle_folder, tmp_path / "data")
    try:
        url = service.send(live.client, large).json()["url"]
        killed = 0
        for _ in range(2):
            worker = new_worker(live, killed)
            running(live, url)  # the queue sets the progress back before a new worker starts
            os.kill(worker, signal.SIGKILL)
            killed = worker
        until = time.monotonic() + 60
        while (job := live.client.get(url).json())["status"] != "failed":
            assert time.monotonic() < until, job
            time.sleep(0.05)
        assert "the worker process (signal 9) ended 2 times" in job["error"]
        small = service.scene(tmp_path / "small.tif").read_bytes()
        assert service.finished(live.client, service.send(live.client, small))["status"] == "done"
    finally:
        live.stop()
