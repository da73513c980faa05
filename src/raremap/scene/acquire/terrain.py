"""Heights of a place on its grid, and slopes made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raremap.jobs import Progress
from raremap.scene.acquire.source import Source
from raremap.scene.acquire.windows import windows
from raremap.scene.cog import CogWriter
from raremap.scene.features.terrain import slope, uphill
from raremap.scene.gdal import bounded_cache
from raremap.scene.grid import Grid
from raremap.scene.steps import Steps
from raremap.scene.window import Window


def write_terrain(
    source: Source, grid: Grid, dem: Path, slopes: Path, progress: Progress, side: int = 1024
) -> None:
    """Write metres above the sea and degrees of slope (Horn 1981), float32, NaN where there are no heights.

    Every window is fetched a pixel wider, so that slopes have no seams and none at the border of the grid.
    """
    wide = grid.shifted(Window(-1, -1, grid.height + 2, grid.width + 2))
    nan = float("nan")
    with (
        bounded_cache(),
        CogWriter(slopes, grid, "float32", ("slope",), nodata=nan, overviews="average") as steep,
        CogWriter(dem, grid, "float32", ("dem",), nodata=nan, overviews="average") as high,
        source.heights(wide) as read,
    ):
        for window in windows(grid, side, side):
            around = Window(window.row_off, window.col_off, window.height + 2, window.width + 2)
            z = read(around)
            valid = ~np.isnan(z)
            steps = Steps.of(wide, around)
            assert steps is not None, "the grid of a place has a CRS"
            degrees = slope(*uphill(np.where(valid, z, 0).astype(np.float64), valid, steps))
            degrees[~valid] = np.nan
            high.write(window, z[1:-1, 1:-1].copy())
            steep.write(window, degrees[1:-1, 1:-1].astype(np.float32))
            progress.advance(window.height * window.width / 1e6)
        high.complete()
        steep.complete()
