"""How much ground the cells of a grid cover."""

from __future__ import annotations

import numpy as np

from raremap.scene.grid import Grid


def cell_areas(grid: Grid) -> np.ndarray | None:
    """Square metres of a cell in each row, float64 `[height]`; None where the grid has no CRS.

    Where the CRS is in degrees the area is that on its ellipsoid; else it is as the projection measures it
    (`pixel_areas` has the ground's own).
    """
    if grid.crs is None:
        return None
    if not grid.crs.is_geographic:
        metres = grid.crs.linear_units_factor[1]
        return np.full(grid.height, abs(grid.transform.determinant) * metres**2)
    from pyproj import CRS

    ellipsoid = CRS.from_wkt(grid.crs.to_wkt()).ellipsoid
    assert ellipsoid is not None, "a geographic CRS has an ellipsoid"
    t = grid.transform
    middle = t.d * grid.width / 2  # of a turned grid: the latitudes along its middle
    lat = np.radians(np.clip(t.f + middle + t.e * np.arange(grid.height + 1), -90, 90))
    zones = zone(lat, ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre)
    return np.abs(np.diff(zones)) * np.radians(abs(t.a))


def zone(lat: np.ndarray, a: float, b: float) -> np.ndarray:
    """Square metres of an ellipsoid of half axes `a` and `b` from the equator to latitudes, a radian of longitude.

    Snyder 1987, eq. 3-12; with the longitude it makes equal-area coordinates.
    """
    e = np.sqrt(1 - (b / a) ** 2)
    sine = np.sin(lat)
    north = (1 - e**2) * sine / (1 - (e * sine) ** 2)
    north += (1 - e**2) * (np.arctanh(e * sine) / e if e else sine)
    return north * a**2 / 2
