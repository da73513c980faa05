"""`ClassMap`: a written map read back, with its legend, by window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from raremap.errors import SceneError
from raremap.labels import LabelScheme
from raremap.scene.grid import Grid
from raremap.scene.labelfile import LabelFile, open_labels
from raremap.scene.window import Window

NONE = -1
"""Class index of a pixel without one."""
_ODD = -2
_BLOCK = 1024
GREY = "#888888"
"""Colour of a class that has none."""


@dataclass(frozen=True)
class ClassMap:
    """A class raster whose legend is known: `values`, `names` and `colors` by class index; `tags` of the file."""

    path: str
    file: LabelFile
    values: tuple[int, ...]
    names: tuple[str, ...]
    colors: tuple[str, ...]
    nodata: float | None
    tags: dict[str, str]

    def __enter__(self) -> ClassMap:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    @property
    def grid(self) -> Grid:
        """Where its pixels lie."""
        return self.file.grid

    @cached_property
    def _table(self) -> np.ndarray:
        """Class index of each stored value; `_ODD` where the legend has none."""
        table = np.full(1 << 16, _ODD, np.int32)
        table[list(self.file.blanks)] = NONE
        table[list(self.values)] = np.arange(len(self.values))
        return table

    def raw(self, window: Window) -> np.ndarray:
        """The stored values `[h, w]` of a window."""
        out = np.empty((window.height, window.width), self.file.dtype)
        for piece, raw in self.file.pieces(window):
            out[piece.slices(within=window)] = raw
        return out

    def read(self, window: Window) -> np.ndarray:
        """Class index int32 `[h, w]` of a window, `NONE` where there is none; raises `LabelError`."""
        out = np.empty((window.height, window.width), np.int32)
        for piece, raw in self.file.pieces(window):
            index = self._table[raw]
            if (index == _ODD).any():
                self.file.values(np.unique(raw[index == _ODD]).astype(np.int64))  # which tells of it
            out[piece.slices(within=window)] = index
        return out


def open_classmap(path: str | Path, scheme: LabelScheme | None = None) -> ClassMap:
    """A map with its legend: the file's own tags, or `scheme`; raises `SceneError` where there is neither."""
    from raremap.scene.gdal import opened

    file = open_labels(path, scheme)
    if not file.names:
        raise SceneError(
            f"map {path} has no legend: none of its tags is like class_7=landslide, as `raremap predict` writes them; "
            "add them with gdal_edit.py -mo class_7=landslide, or name a label scheme"
        )
    with opened(path) as raster:
        nodata, tags = raster.nodata, raster.tags()
    values = tuple(file.names)
    colors = tuple(
        "#{:02X}{:02X}{:02X}".format(*file.colors[v]) if v in file.colors else GREY for v in values
    )
    return ClassMap(str(path), file, values, tuple(file.names.values()), colors, nodata, tags)


def blocks(grid: Grid) -> Iterator[Window]:
    """Rectangles of at most 1024² pixels that cover a grid, row by row; always the same ones."""
    for row in range(0, grid.height, _BLOCK):
        for col in range(0, grid.width, _BLOCK):
            yield Window(row, col, _BLOCK, _BLOCK).intersect(grid.window)
