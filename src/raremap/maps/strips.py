"""Strips of whole rows from the top down, and filters that look beyond a strip's borders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from raremap.maps.classmap import ClassMap
from raremap.maps.filters import Step
from raremap.scene.gdal import bounded_cache
from raremap.scene.grid import Grid
from raremap.scene.window import Window

_STRIP_BYTES = 64 << 20
_ROWS = 512  # as many as a block of a COG has


def strips(grid: Grid, bytes_a_pixel: int = 16) -> list[Window]:
    """Windows of whole rows, from the top down, of some 64 MB at most (and 8 rows at least)."""
    rows = min(_ROWS, max(8, _STRIP_BYTES // (bytes_a_pixel * grid.width)))
    return [Window(top, 0, min(rows, grid.height - top), grid.width) for top in range(0, grid.height, rows)]


def read_index(source: ClassMap, window: Window) -> np.ndarray:
    """Class index uint8 `[h, w]` of a window, 255 where there is none."""
    return source.read(window).astype(np.uint8)  # the map's -1 becomes 255


def filtered(source: ClassMap, windows: Sequence[Window], steps: Sequence[Step]) -> Iterator[np.ndarray]:
    """Class index uint8 of each strip after the steps; what the steps see beyond the strip is read with it."""
    reach = sum(step.reach for step in steps)
    for window in windows:
        top, end = max(0, window.row_off - reach), min(source.grid.height, window.row_end + reach)
        with bounded_cache():
            index = read_index(source, Window(top, 0, end - top, window.width))
        for step in steps:
            index = step(index)
        yield index[window.row_off - top : window.row_end - top]
