"""Ground areas of pixels as whole numbers, whose sums do not depend on their order."""

from __future__ import annotations

import numpy as np

from raremap.scene.grid import Grid
from raremap.scene.groundarea import pixel_areas
from raremap.scene.window import Window


class ExactAreas:
    """Areas in the unit 1/`scale` square metres: as fine as the grid's whole area lets it be."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        most, self.least = 0.0, np.inf
        """Square metres of the smallest pixel."""
        for row in (0, grid.height // 2, grid.height - 1):
            areas = pixel_areas(grid, Window(row, 0, 1, grid.width))
            assert areas is not None, "the grid has a CRS"
            most, self.least = max(most, float(areas.max())), min(self.least, float(areas.min()))
        room = 2.0**60 / (grid.height * grid.width * max(most, 1e-9))
        self.scale = 2.0 ** np.floor(np.log2(room))

    def areas(self, window: Window) -> np.ndarray:
        """Areas int64 `[h, w]` or `[h, 1]` of the pixels of a window."""
        areas = pixel_areas(self._grid, window)
        assert areas is not None, "the grid has a CRS"
        return np.maximum(np.rint(areas * self.scale), 1).astype(np.int64)

    def whole(self, area_m2: np.ndarray) -> np.ndarray:
        """Square metres as whole numbers int64, rounded up."""
        return np.minimum(np.ceil(np.asarray(area_m2, float) * self.scale), 2.0**62).astype(np.int64)
