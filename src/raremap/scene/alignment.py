"""Where the pixels of a fine raster fall in a coarser grid.

`Aligned` is the plain case: one coordinate system, axes parallel. Rows and columns are then independent, and a
fine pixel on the border of two cells is divided between them by the ground in each. `Warped` is every other
case (another coordinate system, a turned or flipped grid): fine pixel centres are mapped to cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.warp import transform as _transform

from raremap.errors import SceneError
from raremap.scene.grid import Grid
from raremap.scene.window import Window

_SNAP = 1e-2  # fine pixels: edges this near to a pixel's are the pixel's
_COARSER = 1e-3  # how much larger than a cell a label pixel may seem, by rounding in the files
_TOLERANCE = 0.05  # fine pixels (or cells, the other way): error of the interpolated coordinates
_STEPS = (64, 32, 16, 8, 4)  # pixels between the nodes of the interpolation
_SAMPLES = 4.0  # points a cell and axis, at least, at which a warped raster is sampled


class Apart(SceneError):
    """Two rasters that have no ground in common."""


class Axis(NamedTuple):
    """Fine pixels `first[i]` … `end[i]`-1 of cell i along one axis, and their weights `[n, m]` (share of a pixel)."""

    first: np.ndarray
    end: np.ndarray
    weight: np.ndarray

    @property
    def whole(self) -> bool:
        """Whether no pixel is divided between cells."""
        return bool(((self.weight == 0) | (self.weight == 1)).all())


@dataclass(frozen=True)
class Aligned:
    """Cells of a grid and pixels of a finer one with parallel axes: fine = offset + scale · cell."""

    fine: Grid
    coarse: Grid
    scale: tuple[float, float]  # fine pixels a cell, in y and x
    offset: tuple[float, float]

    @property
    def pixel_cells(self) -> float:
        """Size of a fine pixel, in cells."""
        return 1 / (self.scale[0] * self.scale[1])

    def axis(self, number: int, start: int, length: int) -> Axis:
        """Pixels and weights of `length` cells from `start`, in y (0) or x (1)."""
        size = (self.fine.height, self.fine.width)[number]
        edges = self.offset[number] + self.scale[number] * np.arange(start, start + length + 1)
        near = np.rint(edges)
        edges = np.where(abs(edges - near) < _SNAP, near, edges).clip(0, size)
        first, end = np.floor(edges[:-1]).astype(np.int64), np.ceil(edges[1:]).astype(np.int64)
        most = max(1, int((end - first).max()))
        at = first[:, None] + np.arange(most)
        weight = np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at)
        return Axis(first, end, weight.clip(0, 1))

    def offsets(self, number: int, start: int, length: int) -> np.ndarray:
        """How far each pixel's centre of `axis` lies from its cell's centre, in cells `[n, m]`."""
        axis = self.axis(number, start, length)
        at = axis.first[:, None] + np.arange(axis.weight.shape[1]) + 0.5
        return (at - self.offset[number]) / self.scale[number] - (
            np.arange(start, start + length)[:, None] + 0.5
        )

    def centres(self, number: int, start: int, length: int) -> np.ndarray:
        """The pixel at the centre of each cell, -1 beyond the raster; on a border the later pixel, as in GDAL."""
        size = (self.fine.height, self.fine.width)[number]
        at = self.offset[number] + self.scale[number] * (np.arange(start, start + length) + 0.5)
        at = np.floor(at + 1e-6).astype(np.int64)
        return np.where((at >= 0) & (at < size), at, -1)

    def source_window(self, window: Window) -> Window:
        """The fine pixels that the cells of a window touch; may be empty."""
        rows, cols = (
            (int(a.first[0]), int(a.end[-1]))
            for a in (
                self.axis(0, window.row_off, window.height),
                self.axis(1, window.col_off, window.width),
            )
        )
        return Window(rows[0], cols[0], rows[1] - rows[0], cols[1] - cols[0])


@dataclass(frozen=True)
class Warped:
    """Pixels of one grid in the coordinates of another, interpolated between exact nodes `step` pixels apart.

    Nodes lie at multiples of `step`, wherever a window begins, so a pixel falls into the same cell in every
    window. `error` is the largest deviation found midway between nodes, in fine pixels. Cells that hold few
    pixels are sampled at `samples`² points a pixel.
    """

    fine: Grid
    coarse: Grid
    step: int
    back_step: int
    error: float
    pixel_cells: float
    samples: int

    def nodes(self, window: Window) -> np.ndarray:
        """Cell rows and columns float64 `[2, n, m]` of the nodes around a window of fine pixels."""
        return _nodes(self.fine, self.coarse, window, self.step)

    def back_nodes(self, window: Window) -> np.ndarray:
        """Fine rows and columns of the nodes around a window of cells."""
        return _nodes(self.coarse, self.fine, window, self.back_step)

    def source_window(self, window: Window) -> Window:
        """Fine pixels that may lie in the cells of a window; may be empty."""
        at = self.back_nodes(window).reshape(2, -1)
        at = at[:, np.isfinite(at).all(0)]
        if not at.size:
            return Window(0, 0, 0, 0)
        low, high = np.floor(at.min(1)).astype(int) - 2, np.ceil(at.max(1)).astype(int) + 2
        around = Window(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))
        return around.intersect(self.fine.window)


def align(fine: Grid, coarse: Grid, fine_name: str, coarse_name: str) -> Aligned | Warped:
    """How the fine grid lies in the coarse one; raises `SceneError` where they do not meet or fit."""
    if (fine.crs is None) != (coarse.crs is None):
        lacks, has = (fine_name, coarse_name) if fine.crs is None else (coarse_name, fine_name)
        raise SceneError(
            f"{lacks} has no CRS, {has} has one; write the CRS into the file, both need the same ground"
        )
    if not fine.georeferenced and not coarse.georeferenced:
        ratio = fine.height / coarse.height, fine.width / coarse.width
        if abs(ratio[0] / ratio[1] - 1) > 1e-2:
            raise SceneError(
                f"{fine_name} ({fine.width}x{fine.height}) and {coarse_name} ({coarse.width}x{coarse.height}) have no "
                "georeferencing and different proportions; they cannot be of the same ground"
            )
        fine = Grid(fine.height, fine.width, None, Affine.scale(1 / ratio[1], 1 / ratio[0]))
    if fine.crs == coarse.crs:
        to_fine = ~fine.transform @ coarse.transform
        turned = max(abs(to_fine.b) * coarse.height, abs(to_fine.d) * coarse.width)
        if turned < _SNAP and to_fine.a > 0 and to_fine.e > 0:
            found = Aligned(fine, coarse, (to_fine.e, to_fine.a), (to_fine.f, to_fine.c))
            _check_finer(min(found.scale), fine_name, coarse_name)
            if found.source_window(coarse.window).empty:
                raise _apart(fine_name, coarse_name)
            return found
    return _warped(fine, coarse, fine_name, coarse_name)


def _warped(fine: Grid, coarse: Grid, fine_name: str, coarse_name: str) -> Warped:
    rows, cols = np.meshgrid(*(np.linspace(0, n, 65) for n in (coarse.height, coarse.width)), indexing="ij")
    with np.errstate(invalid="ignore"):
        here = _mapped(coarse, fine, rows.ravel(), cols.ravel())
        east = _mapped(coarse, fine, rows.ravel(), cols.ravel() + 1)
        south = _mapped(coarse, fine, rows.ravel() + 1, cols.ravel())
        jacobian = np.abs(
            (east[0] - here[0]) * (south[1] - here[1]) - (east[1] - here[1]) * (south[0] - here[0])
        )
    known = np.isfinite(jacobian)
    size = fine.height, fine.width
    if not known.any() or any(
        a[known].max() <= 0 or a[known].min() >= n for a, n in zip(here, size, strict=True)
    ):
        raise _apart(fine_name, coarse_name)
    ratio = float(np.sqrt(np.median(jacobian[known])))
    step, error = _step(fine, coarse, 1 / ratio)
    back_step, back_error = _step(coarse, fine, ratio)
    _check_finer(ratio, fine_name, coarse_name)
    samples = max(1, int(np.ceil(_SAMPLES / ratio)))
    return Warped(fine, coarse, step, back_step, max(error, back_error), 1 / ratio**2, samples)


def _check_finer(ratio: float, fine_name: str, coarse_name: str) -> None:
    if ratio < 1 - _COARSER:
        raise SceneError(
            f"{fine_name} is coarser than {coarse_name} ({1 / ratio:.3g} times its pixel); "
            "rescale is for labels at least as fine as the image"
        )


def _apart(fine_name: str, coarse_name: str) -> Apart:
    return Apart(
        f"{fine_name} does not overlap {coarse_name}; check that they are of the same ground, and their CRS"
    )


def _step(grid: Grid, other: Grid, unit: float) -> tuple[int, float]:
    """The widest step whose interpolation is exact to the tolerance, and the largest error met.

    `unit` turns lengths in `other`'s pixels into fine pixels where `other` is the coarse grid (unit < 1).
    """
    if grid.crs == other.crs:
        return _STEPS[0], 0.0  # an affine map: bilinear interpolation is exact
    rows, cols = np.meshgrid(*(np.linspace(0, n, 9) for n in (grid.height, grid.width)), indexing="ij")
    rows, cols = rows.ravel(), cols.ravel()
    step, error = _STEPS[0], np.inf
    for step in _STEPS:
        corners = [_mapped(grid, other, rows + i * step, cols + j * step) for i in (0, 1) for j in (0, 1)]
        middle = _mapped(grid, other, rows + step / 2, cols + step / 2)
        off = np.abs(np.mean(corners, axis=0) - middle)
        off = off[np.isfinite(off)]
        error = float(off.max()) / min(1.0, unit) if off.size else 0.0
        if error <= _TOLERANCE:
            break
    return step, error


def _nodes(grid: Grid, other: Grid, window: Window, step: int) -> np.ndarray:
    rows = np.arange(window.row_off // step, -(-window.row_end // step) + 1) * float(step)
    cols = np.arange(window.col_off // step, -(-window.col_end // step) + 1) * float(step)
    mesh = np.meshgrid(rows, cols, indexing="ij")
    return _mapped(grid, other, mesh[0].ravel(), mesh[1].ravel()).reshape(2, len(rows), len(cols))


def _mapped(grid: Grid, other: Grid, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Rows and columns in `other` of points of `grid` (pixel edges are whole numbers), inf where there are none."""
    t = grid.transform
    xs, ys = t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f
    if grid.crs != other.crs:
        try:
            xs, ys = map(np.asarray, _transform(grid.crs, other.crs, xs, ys)[:2])
        except RasterioError as error:
            raise SceneError(f"no transformation leads from one CRS to the other ({error})") from None
    back = ~other.transform
    return np.stack([back.d * xs + back.e * ys + back.f, back.a * xs + back.b * ys + back.c])
