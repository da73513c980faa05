"""Attributes of units that follow from heights: slope, height, relief, area; and squares where there are no units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from raremap.scene.grid import Grid

Terrain = Literal["dem", "slope", "ground"]
Statistic = Literal["mean", "max", "range", "area"]

DERIVED: dict[str, tuple[Terrain, Statistic]] = {
    **{n: ("slope", "mean") for n in ("slope", "slope_mean", "slope_deg")},
    "slope_max": ("slope", "max"),
    **{n: ("dem", "mean") for n in ("dem", "height", "height_m", "height_mean", "elevation", "elevation_m")},
    **{n: ("dem", "range") for n in ("relief", "relief_m")},
    "area_m2": ("ground", "area"),
}
"""Names by which these attributes are known: degrees, metres, square metres."""


def lacking(wanted: Sequence[str], there: Sequence[str]) -> list[str]:
    """Attributes that units do not have and that follow from heights."""
    return [n for n in wanted if n not in there and n in DERIVED]


def add_terrain(units: GeoDataFrame, names: Sequence[str], dem: Path, slope: Path) -> GeoDataFrame:
    """The units with these attributes of `DERIVED` from rasters of heights and slopes; NaN off the rasters."""
    from raremap.scene.raster import open_image

    with open_image(dem) as reader:
        grid = reader.grid
    assert grid.crs is not None, "the grid of a place has a CRS"
    units = units.to_crs(grid.crs.to_wkt())
    found = {kind: _zonal(units, grid, path) for kind, path in (("dem", dem), ("slope", slope))}
    for name in names:
        kind, statistic = DERIVED[name]
        units[name] = units.area.to_numpy() if kind == "ground" else found[kind][statistic]
    return units


def squares(grid: Grid, side_m: float) -> GeoDataFrame:
    """Squares over a grid in metres, numbered in the column `unit` by rows from the upper left.

    At the right and lower border less than half a square is left out, so that no sliver is a unit.
    """
    import geopandas as gpd
    import shapely

    assert grid.crs is not None, "the grid of a place has a CRS"
    left, bottom, right, top = grid.bounds()
    across, down = max(1, round((right - left) / side_m)), max(1, round((top - bottom) / side_m))
    row, col = (a.ravel() for a in np.indices((down, across)))
    x, y = left + col * side_m, top - row * side_m
    shapes = shapely.box(x, y - side_m, x + side_m, y)
    return gpd.GeoDataFrame({"unit": np.arange(len(x))}, geometry=shapes, crs=grid.crs.to_wkt())


def _zonal(units: GeoDataFrame, grid: Grid, path: Path) -> dict[str, Any]:
    """Mean, greatest value and range of a raster over each unit, strip by strip; NaN where there is none."""
    from raremap.maps.strips import strips
    from raremap.maps.zonal import PolygonUnits
    from raremap.scene.raster import open_image

    of_units = PolygonUnits(units.geometry.to_numpy(), grid)
    n = len(units)
    count, total = np.zeros(n), np.zeros(n)
    least, most = np.full(n, np.inf), np.full(n, -np.inf)
    with open_image(path) as reader:
        for window in strips(grid):
            image, valid = reader.read(window)
            index = of_units.read(window)
            here = valid & (index >= 0) & np.isfinite(image[0])
            i, v = index[here], image[0][here].astype(np.float64)
            count += np.bincount(i, minlength=n)
            total += np.bincount(i, v, minlength=n)
            np.minimum.at(least, i, v)
            np.maximum.at(most, i, v)
    none = count == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        out = {"mean": total / count, "max": most, "range": most - least}
    return {k: np.where(none, np.nan, v) for k, v in out.items()}
