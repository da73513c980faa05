"""Takes predictions from the queue, one after another, and has the worker make them."""

from __future__ import annotations

import json
import logging
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raremap.errors import BundleError, RaremapError
from raremap.files import is_table_bundle
from raremap.serve.jobs import Job, Jobs
from raremap.serve.models import Joined, Model, Table, joined_of, tables_of
from raremap.serve.options import ServeOptions
from raremap.tabular.model import TableModel

_log = logging.getLogger("raremap.serve")

_TIDY_EVERY_S = 60.0
_LOAD_S = 600.0


class Runner:
    """One thread of the server, and one worker process that it starts again when it has ended."""

    def __init__(self, jobs: Jobs, bundles: Sequence[str | Path], options: ServeOptions) -> None:
        self.models: dict[str, Model] = {}
        self.tables: dict[str, Table] = {}
        self.joined: Joined | None = None
        self._jobs, self._options = jobs, options
        folders = [str(Path(b)) for b in bundles]
        self._tables = [f for f in folders if is_table_bundle(f)]
        self._folders = [f for f in folders if f not in self._tables]
        self._worker: _Process | None = None
        self._wake, self._stop = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._cancelled: set[str] = set()
        self._running: str | None = None
        self._thread = threading.Thread(target=self._work, name="raremap-runner", daemon=True)

    def start(self) -> None:
        """Load the models and begin, unless it has.

        Raises `BundleError` where one cannot be loaded, `ConfigError` where the fusion does not fit them.
        """
        if self._worker is not None:
            return
        tables = {folder: TableModel.load(folder) for folder in self._tables}
        self._worker = self._started()
        self.tables = tables_of(tables, [m.name for m in self.models.values()])
        try:
            self.joined = joined_of(self._options.fusion, self._options.landslide, self.models, self.tables)
        except RaremapError:
            self._worker.kill()
            raise
        self._jobs.broken_off(None, "the server")
        self.tidy()
        self._thread.start()

    def stop(self) -> None:
        """End the worker; a prediction that it was making waits for the next start."""
        self._stop.set()
        self._wake.set()
        if self._worker is not None:
            self._worker.kill()
        if self._thread.is_alive():
            self._thread.join(10)
        if self._worker is not None:
            self._worker.kill()

    def wake(self) -> None:
        """Say that there is something to do."""
        self._wake.set()

    def folder(self, job_id: str) -> Path:
        """Where a prediction's files are; the id is one of ours."""
        return self._options.data / "predictions" / job_id

    def cancel(self, job_id: str) -> bool:
        """Forget a prediction and its files, also in the middle of it; whether there was one."""
        with self._lock:
            known = self._jobs.remove(job_id)
            if known and self._running == job_id:
                self._cancelled.add(job_id)
                if self._worker is not None:
                    self._worker.kill()
                return True
        if known:
            shutil.rmtree(self.folder(job_id), ignore_errors=True)
        return known

    def tidy(self) -> None:
        """Remove the files of predictions that are too old, and those that belong to none."""
        for job_id in self._jobs.expired():
            shutil.rmtree(self.folder(job_id), ignore_errors=True)
        root = self._options.data / "predictions"
        root.mkdir(parents=True, exist_ok=True)
        known = self._jobs.ids()
        for folder in root.iterdir():
            # An upload that is coming in belongs to no prediction yet.
            if folder.name not in known and time.time() - folder.stat().st_mtime > 3600:
                shutil.rmtree(folder, ignore_errors=True)

    def _work(self) -> None:
        tidied = time.monotonic()
        while not self._stop.is_set():
            try:
                if time.monotonic() - tidied > _TIDY_EVERY_S:
                    tidied = time.monotonic()
                    self.tidy()
                job = self._jobs.claim()
                if job is not None:
                    self._run(job)
                    continue
                self._wake.wait(1.0)
                self._wake.clear()
            except Exception:  # the queue goes on, whatever one prediction did
                _log.exception("a prediction broke the queue's turn")
                time.sleep(1.0)

    def _run(self, job: Job) -> None:
        with self._lock:
            if self._jobs.get(job.id) is None:
                return
            self._running = job.id
        try:
            if self._worker is None or not self._worker.alive:
                self._worker = self._started()
            folder = self.folder(job.id)
            folder.mkdir(parents=True, exist_ok=True)
            self._worker.say(
                {
                    "job": job.id, "model": job.model, "task": job.task, "out": str(folder.absolute()),
                    "device": self._options.device,
                }
            )  # fmt: skip
            self._follow(job, self._worker)
        except _Ended as ended:
            if self._stop.is_set():
                self._jobs.put_back(job.id)
            else:
                self._jobs.broken_off(job.id, f"the worker process ({ended})")
        except RaremapError as error:
            self._jobs.fail(job.id, str(error))
        finally:
            with self._lock:
                self._running = None
                cancelled = job.id in self._cancelled
                self._cancelled.discard(job.id)
            if cancelled:
                shutil.rmtree(self.folder(job.id), ignore_errors=True)

    def _follow(self, job: Job, worker: _Process) -> None:
        """Write down what the worker says of a job until it is done, failed, or takes too long."""
        until = time.monotonic() + self._options.job_minutes * 60
        while True:
            answer = worker.hear(until - time.monotonic())
            if answer is None:
                worker.kill()
                self._jobs.fail(
                    job.id,
                    f"the prediction took longer than {self._options.job_minutes:g} minutes and was stopped; "
                    "cut the scene into parts",
                )
                self._emptied(job.id)
                return
            if answer.get("job") != job.id:
                continue
            if "progress" in answer:
                self._jobs.advance(job.id, float(answer["progress"]))
            elif "failed" in answer:
                self._jobs.fail(job.id, answer["failed"])
                self._emptied(job.id)
                return
            else:
                result = answer["done"]
                self._jobs.finish(job.id, result, result.pop("bounds", None))
                return

    def _emptied(self, job_id: str) -> None:
        """Remove the files of a prediction that failed."""
        shutil.rmtree(self.folder(job_id), ignore_errors=True)

    def _started(self) -> _Process:
        worker = _Process()
        worker.say(
            {
                "load": self._folders,
                "table": self._tables[0] if self._options.fusion and self._tables else None,
            }
        )
        models = {}
        while True:
            try:
                answer = worker.hear(_LOAD_S)
            except _Ended as ended:
                raise BundleError(
                    f"the worker process ended while it loaded the models ({ended}); is there memory for them?"
                ) from None
            if answer is None or "failed" in answer:
                worker.kill()
                raise BundleError(answer["failed"] if answer else "the models did not load in ten minutes")
            if "ready" in answer:
                self.models = models
                return worker
            model = Model.from_dict(answer["model"])
            models[model.id] = model


class _Ended(Exception):
    """The worker process has ended."""


class _Process:
    """A worker process, and lines of JSON to and from it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "raremap.serve.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        """Its number with the system."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def say(self, order: dict[str, Any]) -> None:
        """Give it something to do; raises `_Ended`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise _Ended(self._how()) from None

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """What it says next, None after so many seconds; raises `_Ended`."""
        try:
            answer = self._answers.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        if answer is None:
            raise _Ended(self._how())
        return answer

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def _how(self) -> str:
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit {code}"

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(json.loads(line))
        self._answers.put(None)
