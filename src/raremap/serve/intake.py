"""Uploads that come in: so many at once, each in a folder of its own that goes where no prediction comes of it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi.concurrency import run_in_threadpool

from raremap.serve import schemas
from raremap.serve.faults import Refused
from raremap.serve.jobs import Jobs
from raremap.serve.options import ServeOptions
from raremap.serve.runner import Runner


class Intake:
    """The way into the queue."""

    def __init__(self, runner: Runner, jobs: Jobs, options: ServeOptions) -> None:
        self._runner, self._jobs, self._options = runner, jobs, options
        self._coming: set[str] = set()

    @asynccontextmanager
    async def folder(self, job_id: str) -> AsyncIterator[Path]:
        """An empty folder for an upload; raises `Refused` where too many wait or the disk is full."""
        if self._jobs.waiting() + len(self._coming) >= self._options.queue:
            raise self._full()
        folder = self._runner.folder(job_id)
        self._coming.add(job_id)
        try:
            await run_in_threadpool(folder.mkdir, parents=True, exist_ok=True)
            yield folder
        except OSError as error:
            raise Refused(
                507, f"the file cannot be stored ({error.strerror}); ask who runs this server"
            ) from None
        finally:
            self._coming.discard(job_id)
            if self._jobs.get(job_id) is None:
                await run_in_threadpool(shutil.rmtree, folder, True)

    def queued(self, job_id: str, model_id: str, task: dict[str, Any], bounds: Any) -> schemas.Accepted:
        """Queue a prediction; raises `Refused` where too many wait."""
        if self._jobs.add(job_id, model_id, task, bounds) is None:
            raise self._full()
        self._runner.wake()
        return schemas.Accepted(id=job_id, status="queued", url=f"/api/predictions/{job_id}")

    def _full(self) -> Refused:
        line = f"{self._options.queue} predictions wait already; try again in 10 s"
        return Refused(429, line, {"retry-after": "10"})
