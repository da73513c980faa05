"""Units of ground (slope units, objects) on a scene's grid, and what a map of probabilities says of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from affine import Affine

from raremap.errors import SceneError
from raremap.scene.grid import Grid
from raremap.scene.raster import ImageReader, open_image
from raremap.scene.window import Window


class Units(Protocol):
    """Which unit each pixel belongs to."""

    def read(self, window: Window) -> np.ndarray:
        """Row of the units' table int64 `[h, w]`, -1 where there is no unit."""
        ...


class RasterUnits:
    """Units as numbers in a raster on the scene's own grid; `numbers [n]` are those of table rows `rows [n]`."""

    def __init__(self, path: str | Path, grid: Grid, numbers: np.ndarray, rows: np.ndarray) -> None:
        self._reader: ImageReader = open_image(path)
        if len(self._reader.bands) != 1:
            raise SceneError(
                f"units {path} have {len(self._reader.bands)} bands, expected one of unit numbers"
            )
        if not np.issubdtype(self._reader.dtype, np.integer):
            raise SceneError(f"units {path} hold {self._reader.dtype}, expected whole numbers of units")
        if differs := self._reader.grid.difference(grid):
            raise SceneError(f"units {path} have {differs} as of the scene; warp them to its grid")
        order = np.argsort(numbers, kind="stable")
        self._numbers, self._rows = numbers[order], rows[order]

    def read(self, window: Window) -> np.ndarray:
        """As `Units` says; numbers without a row count as no unit."""
        image, valid = self._reader.read(window)
        found = image[0].astype(np.int64)
        if not len(self._numbers):
            return np.full(found.shape, -1, np.int64)
        at = np.minimum(np.searchsorted(self._numbers, found), len(self._numbers) - 1)
        return np.where(valid & (self._numbers[at] == found), self._rows[at], -1)


class PolygonUnits:
    """Units as polygons in the CRS of the grid; a pixel belongs to the polygon that holds its centre."""

    def __init__(self, shapes: np.ndarray, grid: Grid) -> None:
        from shapely import STRtree

        self._shapes, self._grid, self._tree = shapes, grid, STRtree(shapes)

    def read(self, window: Window) -> np.ndarray:
        """As `Units` says; of overlapping polygons the last."""
        import shapely
        from rasterio.features import rasterize

        near = np.sort(self._tree.query(shapely.box(*self._grid.bounds(window))))
        if not len(near):
            return np.full((window.height, window.width), -1, np.int64)
        place = self._grid.transform * Affine.translation(window.col_off, window.row_off)
        # Small numbers, for rasterize has no int64 in older GDAL.
        drawn = rasterize(
            [(self._shapes[i], k + 1) for k, i in enumerate(near)], (window.height, window.width),
            fill=0, transform=place, dtype="int32",
        )  # fmt: skip
        assert drawn is not None
        return np.where(drawn > 0, near[drawn - 1], -1)


@dataclass(frozen=True)
class Summary:
    """Of each unit `[n]`: log-odds (NaN without a valid pixel), pixels that were valid, and their mean column and row."""

    logits: np.ndarray
    pixels: np.ndarray
    col: np.ndarray
    row: np.ndarray


class Zonal:
    """The log-odds of the mean of each unit's `top` greatest probabilities, from pieces in any order.

    A landslide is few pixels of its unit: the mean over all of them would be that of the ground around it. Memory is
    `top` numbers a unit.
    """

    def __init__(self, units: int, top: int = 4) -> None:
        self._top = np.full((units, top), -1.0, np.float32)
        self.pixels = np.zeros(units, np.int64)
        self._sums = np.zeros((2, units))

    def add(self, unit: np.ndarray, probs: np.ndarray, valid: np.ndarray, window: Window) -> None:
        """Take the probabilities `[h, w]` of a window whose pixels belong to `unit [h, w]`."""
        here = valid & (unit >= 0)
        index, p = unit[here], probs[here]
        if not len(index):
            return
        n, top = self._top.shape
        self.pixels += np.bincount(index, minlength=n)
        rows, cols = np.nonzero(here)
        for total, at, start in zip(self._sums, (cols, rows), (window.col_off, window.row_off), strict=True):
            total += np.bincount(index, at + start + 0.5, minlength=n)
        order = np.lexsort((-p, index))
        index, p = index[order], p[order]
        first = np.flatnonzero(np.r_[True, index[1:] != index[:-1]])
        rank = np.arange(len(index)) - np.repeat(first, np.diff(np.r_[first, len(index)]))
        best = rank < top
        met = index[first]
        fresh = np.full((len(met), top), -1.0, np.float32)
        fresh[np.searchsorted(met, index[best]), rank[best]] = p[best]
        both = np.concatenate([self._top[met], fresh], 1)
        self._top[met] = -np.sort(-both, 1)[:, :top]

    def summary(self) -> Summary:
        """What was met so far."""
        there = self._top >= 0
        count = there.sum(1)
        total = np.where(there, self._top, 0).sum(1, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.clip(total / count, 1e-6, 1 - 1e-6)
            col, row = self._sums / self.pixels
        return Summary(np.log(mean) - np.log1p(-mean), self.pixels.copy(), col, row)
