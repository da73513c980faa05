"""`Grid`: where a raster's pixels lie on the ground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from affine import Affine
from rasterio.crs import CRS

from raremap.scene.window import Window

if TYPE_CHECKING:
    import numpy as np

_IDENTITY = Affine.identity()


@dataclass(frozen=True)
class Grid:
    """Size, coordinate system (None where unknown) and pixel-to-ground transform of a raster."""

    height: int
    width: int
    crs: CRS | None = None
    transform: Affine = _IDENTITY

    @property
    def georeferenced(self) -> bool:
        """Whether pixels have a place on the ground at all."""
        return self.crs is not None or self.transform != _IDENTITY

    @property
    def window(self) -> Window:
        """The whole raster."""
        return Window(0, 0, self.height, self.width)

    def difference(self, other: Grid, tolerance: float = 1e-2) -> str | None:
        """What differs from `other`, in words, or None; corners may differ by `tolerance` pixels.

        A grid without any georeferencing fits any grid of its size.
        """
        if (self.height, self.width) != (other.height, other.width):
            return f"size {self.width}x{self.height}, expected {other.width}x{other.height}"
        if not self.georeferenced or not other.georeferenced:
            return None
        if self.crs is not None and other.crs is not None and self.crs != other.crs:
            return f"CRS {_name(self.crs)}, expected {_name(other.crs)}"
        to_other = ~other.transform @ self.transform
        for col, row in ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height)):
            x, y = to_other @ (col, row)
            if abs(x - col) > tolerance or abs(y - row) > tolerance:
                off = max(abs(x - col), abs(y - row))
                return f"another grid (shifted or scaled by {off:.3g} pixels), expected the same"
        return None

    def bounds(self, window: Window | None = None) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of a window in the grid's own coordinates."""
        w = window or self.window
        corners = [self.transform @ (c, r) for c in (w.col_off, w.col_end) for r in (w.row_off, w.row_end)]
        xs, ys = [c[0] for c in corners], [c[1] for c in corners]
        return min(xs), min(ys), max(xs), max(ys)

    def corners(self, windows: np.ndarray) -> np.ndarray:
        """Corners (x, y) of windows `[n, 4]` in the grid's own coordinates, clockwise from the first pixel's, `[n, 4, 2]`."""
        import numpy as np

        row, col, height, width = np.asarray(windows, float).T
        cols = np.stack([col, col + width, col + width, col], 1)
        rows = np.stack([row, row, row + height, row + height], 1)
        t = self.transform
        return np.stack([t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f], 2)

    def shifted(self, window: Window) -> Grid:
        """The grid of a window."""
        offset = Affine.translation(window.col_off, window.row_off)
        return Grid(window.height, window.width, self.crs, self.transform @ offset)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form that `from_dict` reads."""
        return {
            "height": self.height,
            "width": self.width,
            "crs": self.crs.to_wkt() if self.crs is not None else None,
            "transform": list(self.transform)[:6],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Grid:
        """The grid that `to_dict` gave."""
        crs = CRS.from_wkt(data["crs"]) if data["crs"] else None
        return cls(data["height"], data["width"], crs, Affine(*data["transform"]))


def _name(crs: CRS) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.to_string()[:60]
