"""Long work in parts: one progress bar on standard error, several parts at a time, a journal of those that are done."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from raremap.errors import OutputError

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


@contextmanager
def progress(title: str, total: float, quiet: bool = False) -> Iterator[Progress]:
    """A bar with the time left on standard error; remarks alone where that is no terminal; `quiet`: nothing."""
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


def in_threads(items: Iterable[T], work: Callable[[T], R], threads: int) -> Iterator[tuple[T, R]]:
    """Each item with its result, as they are done; few are under way.

    After a fault no other is begun, those that were come to their end, and then it is raised.
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
