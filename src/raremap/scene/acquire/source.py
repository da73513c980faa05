"""What a place for imagery offers: which days have any, and the pixels of one of them on a grid."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from raremap.errors import AcquireError

if TYPE_CHECKING:
    import numpy as np

    from raremap.scene.acquire.period import Period
    from raremap.scene.acquire.place import Place
    from raremap.scene.grid import Grid
    from raremap.scene.window import Window

T = TypeVar("T")

ATTEMPTS = 4
"""How often a fetch is tried."""

WAIT_S = 1.0
"""Seconds before the second attempt; each further wait is twice as long."""


@dataclass(frozen=True)
class Overpass:
    """The scenes of one day: their names, the cloud cover that they tell (percent), and what the source knows of them."""

    date: str
    scenes: tuple[str, ...]
    cloud: float | None
    items: tuple[Any, ...] = field(default=(), repr=False, compare=False)


class Source(Protocol):
    """Imagery that can be searched and read; a STAC API, or Sentinel Hub."""

    name: str
    collection: str

    def overpasses(self, place: Place, period: Period, max_cloud: float) -> list[Overpass]:
        """The days that have imagery of a place, the earliest first. Raises `AcquireError`."""
        ...

    def day(
        self, overpass: Overpass, bands: tuple[str, ...], grid: Grid
    ) -> AbstractContextManager[Callable[[Window], tuple[np.ndarray, np.ndarray]]]:
        """What reads the windows of a day on a grid.

        It gives reflectance times 10000 float32 `[bands, h, w]`, NaN where there is none, and scene classes uint8
        `[h, w]`. Raises `AcquireError`.
        """
        ...

    def heights(self, grid: Grid) -> AbstractContextManager[Callable[[Window], np.ndarray]]:
        """What reads metres above the sea float32 `[h, w]` of windows of a grid, NaN where there are none.

        Raises `AcquireError`.
        """
        ...


def patiently(
    step: Callable[[], T], kinds: tuple[type[Exception], ...], what: str, mend: str = "try again later"
) -> T:
    """What `step` gives, tried again with growing waits; the last fault is an `AcquireError` in one line."""
    for attempt in range(ATTEMPTS):
        try:
            return step()
        except kinds as error:
            if attempt == ATTEMPTS - 1:
                raise AcquireError(f"{what} ({said(error)}), tried {ATTEMPTS} times; {mend}") from None
            time.sleep(WAIT_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def said(error: BaseException) -> str:
    """What lies at the bottom of a library's exception, in one short line."""
    while isinstance(cause := _beneath(error), BaseException):
        error = cause
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split())[:160] or type(error).__name__


def _beneath(error: BaseException) -> object:
    # requests' and pystac-client's words hold the whole of urllib3's, in which the cause comes last.
    return (
        error.__cause__
        or getattr(error, "reason", None)
        or (None if error.__suppress_context__ else error.__context__)
    )
