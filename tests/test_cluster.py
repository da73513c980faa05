"""Work on the workers of Ray: a lost worker costs its part, faults come through, an address that is wrong says so."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest

from raremap import cluster
from raremap.cluster import joined
from raremap.errors import ClusterError, SceneError

ray = pytest.importorskip("ray", reason="ray is not installed")


@pytest.fixture(scope="module")
def two() -> Iterator[None]:
    """Ray with two workers, on this machine."""
    with joined("local", 2):
        yield


class Square:
    """Squares whole numbers; keeps how often it was made and ends its process at a part where a file says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / f"made-{os.getpid()}").touch()

    def __call__(self, part: int) -> int:
        (self.folder / f"part-{part}-{os.getpid()}").touch()
        deadly = self.folder / f"deadly-{part}"
        if deadly.exists() and (left := int(deadly.read_text()) - 1) >= 0:
            deadly.write_text(str(left))
            os._exit(1)
        if part == 0:  # until the other worker is up, so that both have something to do
            until = time.monotonic() + 300  # a busy machine starts them slowly
            while len(list(self.folder.glob("made-*"))) < 2 and time.monotonic() < until:
                time.sleep(0.05)
        if part < 0:
            raise SceneError(f"{part} is negative; give another")
        if part == 1000:
            raise ZeroDivisionError("a failure of ours")
        return part * part


def squares(folder: Path, parts: list[int]) -> list[int]:
    with (
        joined("auto", 2) as here,
        here.team(partial(Square, folder), told=lambda part: f"part {part}") as team,
        ThreadPoolExecutor(team.size) as pool,
    ):
        return list(pool.map(team, parts))


def test_two_workers_share_the_parts_and_load_once(two: None, tmp_path: Path) -> None:
    assert squares(tmp_path, list(range(12))) == [n * n for n in range(12)]
    assert len(list(tmp_path.glob("made-*"))) == 2
    assert len(list(tmp_path.glob("part-*"))) == 12


def test_a_lost_worker_costs_its_part_and_the_log_says_which(
    two: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "deadly-3").write_text("1")
    with caplog.at_level(logging.WARNING, "raremap"):
        assert squares(tmp_path, list(range(8))) == [n * n for n in range(8)]
    [record] = [r.getMessage() for r in caplog.records]
    assert "was lost" in record
    assert "part 3 is done again, attempt 2" in record
    done = [p.name.split("-")[1] for p in tmp_path.glob("part-*")]
    assert sorted(done) == sorted([*map(str, range(8)), "3"])


def test_what_ray_says_of_lost_workers_is_not_among_the_results(tmp_path: Path) -> None:
    (tmp_path / "deadly-3").write_text("2")
    code = (
        "from pathlib import Path\nfrom raremap.cluster import joined\nfrom tests.test_cluster import squares\n"
        f"with joined('local', 1): found = squares(Path({str(tmp_path)!r}), [3, 4, 5])\nprint(found)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert told.stdout == "[9, 16, 25]\n"
    assert "A worker died or was killed while executing a task" in told.stderr


def test_a_part_that_costs_worker_after_worker_is_given_up(two: None, tmp_path: Path) -> None:
    (tmp_path / "deadly-2").write_text("99")
    with pytest.raises(ClusterError, match=r"part 2 has cost 3 workers of 'auto'; they may want memory"):
        squares(tmp_path, [2])


def test_what_a_part_raises_is_raised_here(two: None, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"^-4 is negative; give another$"):
        squares(tmp_path, [1, -4])
    with pytest.raises(ZeroDivisionError, match="a failure of ours"):
        squares(tmp_path, [1, 1000])


class NeverUp:
    """What cannot be unpickled in a worker."""

    def __reduce__(self) -> tuple:
        return exec, ("import os; assert 'RAY_RAYLET_PID' not in os.environ, 'no module named raremap'",)


def test_workers_that_cannot_begin_are_told_of(two: None) -> None:
    cannot = r"the workers of 'auto' cannot begin .*no module named raremap"
    with (
        joined("auto", 1) as here,
        here.team(NeverUp()) as team,  # type: ignore[arg-type]
        pytest.raises(ClusterError, match=cannot),
    ):
        team(1)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("ray://127.0.0.1:1", "Connection refused"),
        ("nonsense", "expected HOST:PORT"),
        ("no.such.host.invalid:6379", ""),
    ],
)
def test_an_address_where_no_cluster_is_says_so_within_seconds(address: str, why: str) -> None:
    started = time.monotonic()
    code = (
        "from raremap.cluster import joined\nfrom raremap.errors import ClusterError\n"
        f"try:\n with joined({address!r}): pass\nexcept ClusterError as e: print(e)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    [line] = told.stdout.splitlines()
    assert line.startswith(f"no Ray cluster answers at '{address}' (")
    assert why in line
    assert line.endswith("start one, or give --ray local")
    assert time.monotonic() - started < 60  # most of it is loading Ray


def test_a_port_where_something_else_listens_is_no_cluster() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        code = f"from raremap.cluster import joined\nwith joined({address!r}): pass"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert f"ClusterError: no Ray cluster answers at '{address}' (" in told.stderr


def test_a_grpc_server_that_is_no_ray_is_no_cluster(two: None) -> None:
    grpc = pytest.importorskip("grpc")
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    started = time.monotonic()
    try:
        with pytest.raises(ClusterError, match="what listens there is no Ray"):
            cluster._answers(f"127.0.0.1:{port}")
    finally:
        server.stop(None)
    assert time.monotonic() - started < 5
    cluster._answers(ray.get_runtime_context().gcs_address)  # a real one, beside it


SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
HEADERS, TRAILERS, DATA = b"\x01\x04\0\0\0\x01", b"\x01\x05\0\0\0\x01", b"\0\x01\0\0\0\x01"
HUFFMAN = bytes.fromhex(
    "8840889acac8b21234da8f"
)  # ":status: 200" and the name of "grpc-status", as Go writes it
ANSWERS: list[tuple[bytes, str]] = [
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks no HTTP/2"),
    (SETTINGS, "timed out"),
    (SETTINGS + b"\0\0\x01" + TRAILERS + b"\x8d", "is no Ray"),  # 404
    (SETTINGS + b"\0\0\x01" + HEADERS + b"\x88" + b"\0\0\x06" + DATA + b"<html>", "is no Ray"),
    (SETTINGS + b"\0\0\x0e" + TRAILERS + HUFFMAN + b"\x0212", "is no Ray"),
    (SETTINGS + b"\0\0\x0e" + TRAILERS + HUFFMAN + b"\x0216", ""),  # wants a token: Ray itself asks with one
    (SETTINGS + b"\0\0\x01" + HEADERS + b"\x88" + b"\0\0\x07" + DATA + b"\0\0\0\0\x02id", ""),
]


@pytest.mark.parametrize(("said", "why"), ANSWERS)
def test_a_cluster_is_what_knows_a_clusters_method(
    monkeypatch: pytest.MonkeyPatch, said: bytes, why: str
) -> None:
    monkeypatch.setattr(cluster, "_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            link, _ = server.accept()
            with link:
                link.sendall(said)
                while link.recv(1 << 12):
                    pass

        done = pool.submit(serve)
        with pytest.raises(ClusterError, match=why) if why else nullcontext():
            cluster._answers(f"127.0.0.1:{server.getsockname()[1]}")
        done.exception(10)
