"""The windows of a grid, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from raremap.scene.grid import Grid
from raremap.scene.window import Window


def windows(grid: Grid, height: int, width: int) -> Iterator[Window]:
    """Windows that cover a grid, row by row."""
    for row in range(0, grid.height, height):
        for col in range(0, grid.width, width):
            yield Window(row, col, height, width).intersect(grid.window)
