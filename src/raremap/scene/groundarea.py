"""How much ground the pixels of a grid cover, on the ellipsoid, whatever the grid's projection makes of it."""

from __future__ import annotations

import numpy as np

from raremap.scene.grid import Grid
from raremap.scene.ground import cell_areas, zone
from raremap.scene.window import Window

# Nodes are at most so far apart; between them the scale of a projection bends by some 10⁻⁶ of itself.
_NODES_M = 20_000
# Half the step at which a projection's scale is taken: (step / Earth's radius)² is lost, and 10⁻⁹ m of rounding.
_STEP_M = 50
_DEGREE_M = 111_320
_NEARLY = 0.01  # UTM bends lengths by a thousandth


def pixel_areas(grid: Grid, window: Window | None = None) -> np.ndarray | None:
    """Square metres of ground of each pixel of a window (default: the whole grid), float64 `[h, w]` or `[h, 1]`.

    One column where all columns are alike: it broadcasts. None where the grid has no CRS. A pixel's area is
    that on the ellipsoid of the CRS, in degrees, in UTM and in Web Mercator alike, but for rounding whatever the
    window. Where a CRS has no place on the Earth it is as the CRS measures it.
    """
    window = window or grid.window
    crs = grid.crs
    if crs is None:
        return None
    level = grid.transform.b == 0 and grid.transform.d == 0
    local = not crs.is_geographic and not crs.is_projected
    if local or (crs.is_geographic and level):
        rows = cell_areas(grid.shifted(Window(window.row_off, 0, window.height, grid.width)))
        assert rows is not None, "the grid has a CRS"
        return rows[:, None]
    spacing = _node_spacing(grid)
    rows, row_weights = _weights(window.row_off, window.height, spacing)
    cols, col_weights = _weights(window.col_off, window.width, spacing)
    nodes = _areas_at(grid, rows, cols)
    if (np.ptp(nodes, 1) <= 1e-9 * nodes[:, 0]).all():
        return row_weights @ nodes[:, :1]
    return row_weights @ nodes @ col_weights.T


def pixel_m(grid: Grid) -> float | None:
    """Metres of ground along a pixel's side in the middle of a grid, the root of its area; None without a CRS.

    As the projection has it where that is nearly so (10 m of UTM are 10, not 9.998), else of three digits.
    """
    areas = pixel_areas(grid, Window(grid.height // 2, grid.width // 2, 1, 1))
    if areas is None or not areas[0, 0] > 0:
        return None
    ground = float(np.sqrt(areas[0, 0]))
    assert grid.crs is not None
    if grid.crs.is_projected:
        drawn = float(np.sqrt(abs(grid.transform.determinant))) * grid.crs.linear_units_factor[1]
        if abs(ground / drawn - 1) < _NEARLY:
            return drawn
    return float(f"{ground:.3g}")


def _node_spacing(grid: Grid) -> int:
    """Pixels from a node to the next."""
    t, crs = grid.transform, grid.crs
    assert crs is not None
    unit = _DEGREE_M if crs.is_geographic else crs.linear_units_factor[1]
    longest = max(np.hypot(t.a, t.d), np.hypot(t.b, t.e)) * unit
    return max(1, int(_NODES_M / longest))


def _weights(start: int, length: int, spacing: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (pixel coordinates) around the pixels of an axis, and linear weights `[length, nodes]` of their centres.

    Nodes are at multiples of `spacing` from the grid's first pixel centre, so that windows agree.
    """
    first = start // spacing
    last = -(-(start + length - 1) // spacing)
    nodes = np.arange(first, max(last, first) + 1) * spacing + 0.5
    at = (np.arange(start, start + length) - first * spacing) / spacing
    low = np.minimum(at.astype(int), max(0, len(nodes) - 2))
    weights = np.zeros((length, len(nodes)))
    here = np.arange(length)
    weights[here, low] = 1 - (at - low)
    if len(nodes) > 1:
        weights[here, low + 1] = at - low
    return nodes, weights


def _areas_at(grid: Grid, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Square metres of a pixel at each node `[rows, cols]`: the determinant of the way to equal-area coordinates."""
    from pyproj import CRS, Transformer

    assert grid.crs is not None
    crs = CRS.from_wkt(grid.crs.to_wkt())
    base, ellipsoid = crs.geodetic_crs, crs.ellipsoid
    assert base is not None, "a projected CRS has one below it"
    assert ellipsoid is not None, "so has a geographic one"
    to_degrees = Transformer.from_crs(crs, base, always_xy=True)
    a, b = ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre
    t = grid.transform
    step = _STEP_M / (_DEGREE_M if grid.crs.is_geographic else grid.crs.linear_units_factor[1])

    col, row = np.meshgrid(cols, rows)
    x, y = t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f

    def equal_area(dx: float, dy: float) -> tuple[np.ndarray, np.ndarray]:
        lon, lat = to_degrees.transform(x + dx, y + dy)
        return np.radians(lon), zone(np.radians(np.clip(lat, -90, 90)), a, b)

    (east_x, east_z), (west_x, west_z) = equal_area(step, 0), equal_area(-step, 0)
    (north_x, north_z), (south_x, south_z) = equal_area(0, step), equal_area(0, -step)
    by_x, by_y = _turned(east_x - west_x), _turned(north_x - south_x)
    ground = np.abs(by_x * (north_z - south_z) - by_y * (east_z - west_z)) / (2 * step) ** 2
    return np.where(np.isfinite(ground), ground, 0) * abs(t.determinant)


def _turned(angle: np.ndarray) -> np.ndarray:
    """Differences of longitude across the date line, as small as they are."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
