"""Long work made visible: one progress bar on standard error for everything that takes time."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


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
