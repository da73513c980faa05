"""What an object keeps of its home, and must find at a new place: resolution, season and slope."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from raremap.scene.grid import Grid

_HEIGHTS = frozenset(("dem", "dtm", "elevation", "altitude"))
_ALIKE = 1.1
_YEAR = 365.25


def pixel_size(grid: Grid) -> tuple[float, float]:
    """Height and width on the ground of the grid's middle pixel, metres; NaN without a CRS."""
    if grid.crs is None:
        return float("nan"), float("nan")
    from raremap.scene.steps import metres

    col, row = grid.width / 2, grid.height / 2
    points = [grid.transform @ p for p in ((col, row), (col, row + 1), (col + 1, row))]
    east, north = metres(grid.crs, points)
    height, width = np.hypot(north, east)
    return float(height), float(width)


def resolution(size: tuple[float, float]) -> float:
    """Metres a pixel: the side of a square as large as a pixel of that height and width."""
    return float(np.sqrt(size[0] * size[1]))


def same_resolution(home: float, there: np.ndarray) -> np.ndarray:
    """Where resolutions are alike to 10 %; unknown ones are alike to each other only."""
    if np.isnan(home):
        return np.isnan(there)
    return (there < home * _ALIKE) & (there > home / _ALIKE)


def day_of_year(dates: Iterable[Any]) -> np.ndarray:
    """The day of the year of ISO dates, 1 to 366; NaN where there is none or it has no day.

    >>> day_of_year(["2024-02-01", "20240201T101500", None, "2024"]).tolist()
    [32.0, 32.0, nan, nan]
    """
    import pandas as pd

    days = pd.Series(list(dates), dtype="string").str.extract(r"^(\d{4}-?\d{2}-?\d{2})", expand=False)
    whole = pd.to_datetime(days.str.replace("-", ""), format="%Y%m%d", errors="coerce")
    return whole.dt.day_of_year.to_numpy(float, na_value=np.nan)


def same_season(home: float, there: np.ndarray, days: int) -> np.ndarray:
    """Where days of the year differ by at most `days` around the year, or one of them is unknown."""
    apart = np.abs(there - home) % _YEAR
    return ~(np.minimum(apart, _YEAR - apart) > days)


def slope_source(bands: Sequence[str]) -> tuple[int, bool] | None:
    """The band that slopes come from, and whether it holds heights; None where no band's name says so.

    >>> slope_source(("red", "DEM_10m")), slope_source(("dem", "slope_deg")), slope_source(("red",))
    ((1, True), (1, False), None)
    """
    words = [[w for w in re.split("[^a-z]+", b.lower()) if w] for b in bands]
    for i, w in enumerate(words):
        if "slope" in w:
            return i, False
    for i, w in enumerate(words):
        if _HEIGHTS & set(w) or w[:1] == ["height"]:
            return i, True
    return None


def slope_of(
    image: np.ndarray, valid: np.ndarray, bands: Sequence[str], size: tuple[float, float]
) -> np.ndarray | None:
    """Slope in degrees `[h, w]` of an image `[C, h, w]`: its slope band, else from its heights (metres).

    `size` is the pixel's height and width in metres. None where no band tells; NaN where it is unknown.
    """
    source = slope_source(bands)
    if source is None:
        return None
    band = np.where(valid, image[source[0]], np.nan).astype(np.float32)
    if not source[1]:
        return band
    if min(band.shape) < 2:
        return np.full(band.shape, np.nan, np.float32)
    down, across = np.gradient(band, *size)
    return np.degrees(np.arctan(np.hypot(down, across))).astype(np.float32)
