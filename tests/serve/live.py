"""A server in a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

SRC = Path(__file__).parents[2] / "src"


class Live:
    """`raremap serve`; `client` asks it."""

    def __init__(self, bundle: Path, data: Path, *options: str) -> None:
        env = {**os.environ, "PYTHONPATH": str(SRC), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raremap", "serve", str(bundle), "--port", "0", "--data", str(data), *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " at http://" in line, self.process.communicate()[1]
        self.client = httpx.Client(base_url=line.split(" at ")[1].strip(), timeout=60)
        until = time.monotonic() + 60
        while True:
            try:
                self.client.get("/healthz")
                return
            except httpx.TransportError:
                assert time.monotonic() < until
                time.sleep(0.05)

    def workers(self) -> list[int]:
        """Processes of it that predict, whichever of its threads started them."""
        found: list[int] = []
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                found += map(int, (thread / "children").read_text().split())
        return found

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.communicate(timeout=60)
        return self.process.returncode
