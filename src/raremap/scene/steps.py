"""How far a pixel's step is on the ground, in metres, whatever the coordinates are counted in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from rasterio.crs import CRS
from rasterio.warp import transform

from raremap.scene.grid import Grid
from raremap.scene.turn import axes, dihedral
from raremap.scene.window import Window

# WGS 84: half the equator's diameter in metres, squared eccentricity.
_AXIS, _ECCENTRICITY = 6378137.0, 0.00669437999014
# Rows of a scene at which its scale is taken; between them it is interpolated.
_ROWS = 65
# A scene whose rows differ by less than this share has one scale.
_ALIKE = 1e-3


def metres(crs: CRS, points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Metres to the east and to the north from the first of nearby points to each of the others.

    By the ellipsoid's radii of curvature there, so degrees and Web Mercator are right at any latitude.
    """
    lon, lat = (np.array(v) for v in transform(crs, "EPSG:4326", *zip(*points, strict=True))[:2])
    bend = 1 - _ECCENTRICITY * np.sin(np.radians(lat[0])) ** 2
    north = np.radians(lat[1:] - lat[0]) * _AXIS * (1 - _ECCENTRICITY) / bend**1.5
    east = np.radians(lon[1:] - lon[0]) * _AXIS / np.sqrt(bend) * np.cos(np.radians(lat[0]))
    return east, north


class Steps:
    """The steps of a window's pixels on the ground: `matrix` `[2, 2, h or 1, w or 1]`, metres.

    `matrix[:, 0]` is (east, north) of the next column, `matrix[:, 1]` that of the next row.
    """

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix

    @classmethod
    def square(cls, pixel_m: float) -> Steps:
        """Square pixels, north up."""
        return cls(np.diag([pixel_m, -pixel_m])[:, :, None, None])

    @classmethod
    def of(cls, grid: Grid, window: Window) -> Steps | None:
        """Those of a window of a grid; None where the grid does not say where on the ground it lies.

        East and north are the grid's own. A scene's scale is that of its middle column, row by row.
        """
        if grid.crs is None:
            return None
        rows, scale = _scales(grid)
        here = np.arange(window.row_off, window.row_end) + 0.5
        if (scale == scale[:, :1]).all():
            here = here[:1]
        x, y = (np.interp(here, rows, s) for s in scale)
        t = grid.transform
        return cls(np.array([[t.a * x, t.b * x], [t.d * y, t.e * y]])[..., None])

    def turned(self, code: int) -> Steps:
        """Those of the turned window, as if the scene had been turned on the ground with it."""
        north_up = np.diag([1.0, -1.0])
        pixels = axes(code)
        world = north_up @ np.linalg.inv(pixels) @ north_up
        matrix = np.einsum("ij,jk...,kl->il...", world, self.matrix, pixels)
        return Steps(dihedral(matrix, code))

    def zoomed(self, rows: np.ndarray, cols: np.ndarray, down: float, across: float) -> Steps:
        """Those of pixels that lie where `rows` and `cols` do, and are shown `down` and `across` times as large."""
        matrix = self.matrix[:, :, rows if self.matrix.shape[2] > 1 else [0]]
        matrix = matrix[..., cols if matrix.shape[3] > 1 else [0]]
        return Steps(matrix / np.array([across, down])[None, :, None, None])

    def uphill(self, right: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The gradient to the east and to the north, a metre, of one a pixel to the right and downwards."""
        a, b, c, d = self._inverse()
        return a * right + c * down, b * right + d * down

    def bend(
        self, xx: np.ndarray, xy: np.ndarray, yy: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Second derivatives (east-east, east-north, north-north), a square metre, of those by pixels."""
        a, b, c, d = self._inverse()
        ee = a * a * xx + 2 * a * c * xy + c * c * yy
        en = a * b * xx + (a * d + b * c) * xy + c * d * yy
        nn = b * b * xx + 2 * b * d * xy + d * d * yy
        return ee, en, nn

    def _inverse(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        (a, b), (c, d) = self.matrix
        area = a * d - b * c
        return d / area, -b / area, -c / area, a / area


@lru_cache(256)
def _scales(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a grid, and metres of one of its units eastwards and northwards there `[2, rows]`."""
    assert grid.crs is not None
    rows = np.linspace(0, grid.height, _ROWS)
    unit = 1e-4 if grid.crs.is_geographic else 1.0
    found = []
    for row in rows:
        x, y = grid.transform @ (grid.width / 2, row)
        east, north = metres(grid.crs, [(x, y), (x + unit, y), (x, y + unit)])
        found.append(np.hypot(east, north) / unit)
    scale = np.array(found).T
    if (np.ptp(scale, 1) < _ALIKE * scale.mean(1)).all():
        scale = np.repeat(scale.mean(1, keepdims=True), _ROWS, 1)
    return rows, scale
