"""Strips of whole rows from the top down, and tiles for filters that look beyond their borders."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np

from raremap.maps.classmap import ClassMap
from raremap.maps.filters import Step
from raremap.maps.index import index_type
from raremap.scene.gdal import bounded_cache
from raremap.scene.grid import Grid
from raremap.scene.window import Window

_STRIP_BYTES = 64 << 20
_ROWS = 512  # as many as a block of a COG has
_TILE = 8 << 20  # pixels, with what is around them


def strips(grid: Grid, bytes_a_pixel: int = 16) -> list[Window]:
    """Windows of whole rows, from the top down, of some 64 MB at most (and 8 rows at least)."""
    rows = min(_ROWS, max(8, _STRIP_BYTES // (bytes_a_pixel * grid.width)))
    return [Window(top, 0, min(rows, grid.height - top), grid.width) for top in range(0, grid.height, rows)]


def read_index(source: ClassMap, window: Window) -> np.ndarray:
    """Class index `[h, w]` of a window in its `index_type`, the last value where there is none."""
    return source.read(window).astype(index_type(len(source.names)))  # -1 becomes the last


def tiles(grid: Grid, reach: int) -> list[Window]:
    """Windows that cover a grid, for filters that look `reach` pixels beyond them.

    With what is around it none has more than 8 million pixels, or than `(4 * reach)²` where that is more: so a tile is at
    least twice the reach high and wide, and filters see no pixel more than four times. Whole rows where that fits.
    """
    most = max(_TILE, 16 * reach**2)
    high = min(grid.height, isqrt(most))
    wide = min(grid.width, most // high)
    high = min(grid.height, most // wide)
    rows, cols = (n if n == all_ else n - 2 * reach for n, all_ in ((high, grid.height), (wide, grid.width)))
    return [
        Window(top, left, rows, cols).intersect(grid.window)
        for top in range(0, grid.height, rows)
        for left in range(0, grid.width, cols)
    ]


@dataclass(frozen=True)
class Filtered:
    """Class index of a window after the steps; what the steps see beyond the window is read with it."""

    source: ClassMap
    steps: tuple[Step, ...]

    def __call__(self, window: Window) -> np.ndarray:
        """The window; the same whatever windows the map is cut into."""
        r = self.reach
        around = Window(
            window.row_off - r, window.col_off - r, window.height + 2 * r, window.width + 2 * r
        ).intersect(self.source.grid.window)
        with bounded_cache():
            index = read_index(self.source, around)
        for step in self.steps:
            index = step(index)
        return index[window.slices(within=around)]

    @property
    def reach(self) -> int:
        """How far beyond a window the steps see."""
        return sum(step.reach for step in self.steps)
