"""Long work in parts: one progress bar on standard error, several parts at a time, a journal of those that are done."""

from __future__ import annotations

import os
import shutil
import struct
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from raremap.errors import OutputError
from raremap.files import written

T = TypeVar("T")
R = TypeVar("R")


class Progress(Protocol):
    """What a long job reports to."""

    def advance(self, steps: float = 1) -> None:
        """Say that `steps` more units are done."""

    def note(self, text: str) -> None:
        """Show a short remark (such as the current scores) beside the bar."""


class Silent:
    """A `Progress` that shows nothing."""

    def advance(self, steps: float = 1) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


class Lines(Silent):
    """A `Progress` for logs: remarks as lines on standard error, no bar."""

    def note(self, text: str) -> None:
        """Print the remark."""
        print(text, file=sys.stderr, flush=True)


_listener: ContextVar[Callable[[float], None] | None] = ContextVar("raremap-progress", default=None)


@contextmanager
def heard(listener: Callable[[float], None]) -> Iterator[None]:
    """Within it the share that is done (0 to 1) of each long job of this thread is told to `listener`, and not shown."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class _Told(Silent):
    """A `Progress` that tells a listener."""

    def __init__(self, total: float, listener: Callable[[float], None]) -> None:
        self._total, self._done, self._listener = max(total, 1e-9), 0.0, listener

    def advance(self, steps: float = 1) -> None:
        """Tell the share."""
        self._done += steps
        self._listener(min(1.0, self._done / self._total))


@contextmanager
def progress(title: str, total: float, quiet: bool = False) -> Iterator[Progress]:
    """A bar with the time left on standard error; remarks alone where that is no terminal; `quiet`: nothing.

    Where a program listens (`heard`), it is told instead.
    """
    if (listener := _listener.get()) is not None:
        yield _Told(total, listener)
        return
    if quiet or not sys.stderr.isatty():
        yield Silent() if quiet else Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Rich

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Rich(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, note="")

        class _Bar:
            def advance(self, steps: float = 1) -> None:
                bar.advance(task, steps)

            def note(self, text: str) -> None:
                bar.update(task, note=text)

        yield _Bar()


def tracked(items: Iterable[T], title: str, total: int, quiet: bool = False) -> Iterator[T]:
    """Go through `items` behind a progress bar."""
    with progress(title, total, quiet) as bar:
        for item in items:
            yield item
            bar.advance()


def cores() -> int:
    """Processors that this process may use."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def in_threads(
    items: Iterable[T], work: Callable[[T], R], threads: int, stop: Callable[[], None] | None = None
) -> Iterator[tuple[T, R]]:
    """Each item with its result, as they are done; few are under way.

    After a fault no other is begun, those that were come to their end, and then it is raised. Where the consumer
    stops, `stop` is called to end those under way.
    """
    left = iter(items)
    under_way: dict[Future[R], T] = {}
    fault: BaseException | None = None
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                for item in islice(left, 0 if fault else 2 * threads - len(under_way)):
                    under_way[pool.submit(work, item)] = item
                if not under_way:
                    break
                for done in wait(under_way, return_when=FIRST_COMPLETED).done:
                    item = under_way.pop(done)
                    if done.cancelled():
                        continue
                    if found := done.exception():
                        fault = fault or found
                        for future in under_way:
                            future.cancel()
                    else:
                        yield item, done.result()
            if fault is not None:
                raise fault
        finally:
            for future in under_way:
                future.cancel()
            if under_way and stop is not None:
                stop()


def in_order(pool: Executor, work: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Results in the order of the items, of at most `ahead` of them at a time."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_HEAD = struct.Struct("<4sHII")
_MAGIC = b"rmj1"


class Journal:
    """Finished parts of a job in a file, by key: what was put in is there when a stopped job is begun again.

    The key says all that a part follows from, so that what is out of date is never found. Without a path
    nothing is kept. A record that was cut short, and what follows it, is dropped.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._path = Path(path) if path is not None else None
        self._done: dict[str, bytes] = {}
        if self._path is None:
            return
        if self._path.exists():
            whole = self._load(self._path.read_bytes())
            if whole < self._path.stat().st_size:
                os.truncate(self._path, whole)

    def __len__(self) -> int:
        return len(self._done)

    def _load(self, data: bytes) -> int:
        """Take in the whole records; give the length of them all."""
        at = 0
        while at + _HEAD.size <= len(data):
            magic, key_size, size, check = _HEAD.unpack_from(data, at)
            start = at + _HEAD.size
            record = data[start : start + key_size + size]
            if magic != _MAGIC or len(record) < key_size + size or zlib.crc32(record) != check:
                break
            self._done[record[:key_size].decode(errors="replace")] = record[key_size:]
            at = start + key_size + size
        return at

    def items(self) -> Iterator[tuple[str, bytes]]:
        """Each key with what was put in under it."""
        yield from self._done.items()

    def get(self, key: str) -> bytes | None:
        """What was put in under a key, or None."""
        return self._done.get(key)

    def put(self, key: str, data: bytes) -> None:
        """Keep a finished part; raises `OutputError` where the file cannot be written."""
        if self._path is None:
            return
        record = key.encode() + data
        head = _HEAD.pack(_MAGIC, len(key.encode()), len(data), zlib.crc32(record))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(head + record)
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be written ({error.strerror}); choose a writable folder"
            ) from None

    def remove(self) -> None:
        """Delete the file: the whole is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class PartFiles:
    """Finished parts of a job as files of a folder, by key, for parts too large to be kept in memory.

    Like `Journal` otherwise: keys say all that a part follows from, and a file that is not whole is no part.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.part"

    def get(self, key: str) -> bytes | None:
        """What was put in under a key, or None."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        if len(data) < _HEAD.size:
            return None
        magic, _, size, check = _HEAD.unpack_from(data)
        body = data[_HEAD.size :]
        whole = magic == _MAGIC and len(body) == size and zlib.crc32(key.encode() + body) == check
        return body if whole else None

    def put(self, key: str, data: bytes) -> None:
        """Keep a finished part; raises `OutputError` where it cannot be written."""
        check = zlib.crc32(key.encode() + data)
        with written(self._path(key)) as fresh:
            fresh.write_bytes(_HEAD.pack(_MAGIC, len(key.encode()), len(data), check) + data)

    def remove(self) -> None:
        """Delete the folder: the whole is done."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def tidy(self) -> None:
        """Delete the folder where it holds no part, only the lock of a job that has come to nothing."""
        if not any(self._folder.glob("*.part")):
            self.remove()
