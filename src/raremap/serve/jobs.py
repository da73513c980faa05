"""The queue of predictions, in SQLite: it survives the server, whatever ends it."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raremap.errors import OutputError

Status = Literal["queued", "running", "done", "failed"]

ID_PATTERN = r"^[0-9a-f]{24}$"
_ATTEMPTS = 2
_OLD = "status IN ('done', 'failed') AND expires < ?"  # results are kept no longer; what waits or runs has none yet
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, model TEXT NOT NULL, task TEXT NOT NULL, status TEXT NOT NULL, progress REAL NOT NULL,
    error TEXT, bounds TEXT, result TEXT, attempts INTEGER NOT NULL, created REAL NOT NULL, expires REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS by_status ON jobs (status, created);
"""


@dataclass(frozen=True)
class Job:
    """A prediction: what it is of (`task`), how far it is, and what came of it.

    `bounds` are west, south, east, north in degrees; `result` is what the worker reported. Times are seconds since 1970.
    """

    id: str
    model: str
    task: dict[str, Any]
    status: Status
    progress: float
    error: str | None
    bounds: tuple[float, float, float, float] | None
    result: dict[str, Any] | None
    attempts: int
    created: float
    expires: float


def new_id() -> str:
    """A name that cannot be guessed."""
    return secrets.token_hex(12)


class Jobs:
    """Predictions in a file of SQLite; used from any thread of one process."""

    def __init__(self, path: Path, most_waiting: int, keep_days: float) -> None:
        self.most_waiting, self.keep_s = most_waiting, keep_days * 86_400
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA busy_timeout=5000")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise OutputError(f"{path} cannot be used ({error}); choose another folder with --data") from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def waiting(self) -> int:
        """How many are queued."""
        with self._lock:
            return self._db.execute("SELECT count(*) FROM jobs WHERE status = 'queued'").fetchone()[0]

    def add(self, job_id: str, model: str, task: dict[str, Any], bounds: Any = None) -> Job | None:
        """Queue a prediction; None where as many wait as may."""
        now = time.time()
        with self._transaction() as db:
            waiting = db.execute("SELECT count(*) FROM jobs WHERE status = 'queued'").fetchone()[0]
            if waiting >= self.most_waiting:
                return None
            db.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, 'queued', 0, NULL, ?, NULL, 0, ?, ?)",
                (job_id, model, json.dumps(task), _json(bounds), now, now + self.keep_s),
            )
        return self.get(job_id)

    def get(self, job_id: str) -> Job | None:
        """A prediction by its id; None also where it is older than results are kept."""
        with self._lock:
            row = self._db.execute(
                f"SELECT * FROM jobs WHERE id = ? AND NOT ({_OLD})", (job_id, time.time())
            ).fetchone()
        return _job(row) if row else None

    def ids(self) -> set[str]:
        """All there are."""
        with self._lock:
            return {row[0] for row in self._db.execute("SELECT id FROM jobs")}

    def ahead(self, job: Job) -> int:
        """How many are queued before one."""
        with self._lock:
            return self._db.execute(
                "SELECT count(*) FROM jobs WHERE status = 'queued' AND created < ?", (job.created,)
            ).fetchone()[0]

    def claim(self) -> Job | None:
        """The prediction that waits longest, which is running from now on; None where none waits."""
        with self._transaction() as db:
            row = db.execute(
                "UPDATE jobs SET status = 'running', attempts = attempts + 1, progress = 0 WHERE id = "
                "(SELECT id FROM jobs WHERE status = 'queued' ORDER BY created LIMIT 1) RETURNING *"
            ).fetchone()
        return _job(row) if row else None

    def advance(self, job_id: str, progress: float) -> None:
        """Say how far a running prediction is, from 0 to 1."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET progress = ? WHERE id = ? AND status = 'running'", (progress, job_id))

    def finish(self, job_id: str, result: dict[str, Any], bounds: Any = None) -> None:
        """A running prediction is done; it is kept from now on for as long as results are."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET status = 'done', progress = 1, result = ?, bounds = coalesce(?, bounds), "
                "expires = ? WHERE id = ? AND status = 'running'",
                (json.dumps(result), _json(bounds), time.time() + self.keep_s, job_id),
            )

    def fail(self, job_id: str, error: str) -> None:
        """A prediction came to nothing."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET status = 'failed', error = ? WHERE id = ? AND status IN ('queued', 'running')",
                (error, job_id),
            )

    def broken_off(self, job_id: str | None, what: str) -> None:
        """What was running (one, or all) when `what` ended: queued once more, then failed."""
        which, values = ("AND id = ?", (job_id,)) if job_id else ("", ())
        with self._transaction() as db:
            db.execute(
                f"UPDATE jobs SET status = 'failed', error = ? WHERE status = 'running' AND attempts >= ? {which}",
                (
                    f"{what} ended {_ATTEMPTS} times while it was at work on this prediction; it was given up, "
                    "the scene may be too large for the machine",
                    _ATTEMPTS,
                    *values,
                ),
            )
            db.execute(
                f"UPDATE jobs SET status = 'queued', progress = 0 WHERE status = 'running' {which}", values
            )

    def put_back(self, job_id: str) -> None:
        """A running prediction waits again, as if it had not been begun: the server is stopped in good order."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET status = 'queued', progress = 0, attempts = attempts - 1 "
                "WHERE id = ? AND status = 'running'",
                (job_id,),
            )

    def remove(self, job_id: str) -> bool:
        """Forget a prediction; whether there was one."""
        with self._transaction() as db:
            return db.execute("DELETE FROM jobs WHERE id = ?", (job_id,)).rowcount > 0

    def expired(self) -> list[str]:
        """Forget what is older than results are kept; gives the ids."""
        with self._transaction() as db:
            rows = db.execute(f"DELETE FROM jobs WHERE {_OLD} RETURNING id", (time.time(),)).fetchall()
        return [row[0] for row in rows]


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    for key in ("task", "bounds", "result"):
        values[key] = None if values[key] is None else json.loads(values[key])
    if values["bounds"] is not None:
        values["bounds"] = tuple(values["bounds"])
    return Job(**values)
