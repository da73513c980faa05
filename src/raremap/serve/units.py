"""Slope units of a stranger: polygons with their attributes, copied into a file of our own making."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raremap.errors import TableError
from raremap.serve.geopackage import MAGIC, read_layer
from raremap.serve.polygons import read_polygons
from raremap.serve.rows import typed
from raremap.tabular.columns import Columns

Bounds = tuple[float, float, float, float]
_EPSG = re.compile(r"EPSG:(\d{4,6})")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def ingest_units(
    path: Path, out: Path, called: str, columns: Columns, key: str, most_rows: int, layer: str | None = None,
    spare: Sequence[str] = (),
) -> Bounds:  # fmt: skip
    """Write the units of a GeoPackage to `out` (GeoParquet): polygons, attributes, and the column `key` where it is there.

    Attributes in `spare` may be missing. Gives west, south, east and north in degrees. Raises `TableError`: no GeoPackage
    of polygons, an attribute missing or no number, a CRS that is none of the EPSG's, a place off the globe.
    """
    import geopandas as gpd

    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise TableError(f"{called} is no GeoPackage; send the units as polygons in a .gpkg file")

    def wanted(names: tuple[str, ...]) -> list[str]:
        columns.check([*names, *spare], called)
        return [n for n in dict.fromkeys([*columns.names, key]) if n in names]

    layer_of = read_layer(path, called, wanted, layer, most_rows, geometry=True)
    assert layer_of.geometry is not None
    found = _EPSG.fullmatch(layer_of.crs or "")
    if found is None:
        raise TableError(
            f"{called} has no coordinate system of the EPSG; write it with ogr2ogr -t_srs EPSG:4326"
        )
    table = typed(layer_of.values, columns, called)
    frame: dict[str, Any] = {n: table[n].to_pandas() for n in table.column_names}
    if key in layer_of.values and key not in frame:
        frame[key] = [_harmless(v) for v in layer_of.values[key]]
    shapes = read_polygons(layer_of.geometry, called)
    units = gpd.GeoDataFrame(frame, geometry=shapes, crs=_crs(int(found[1]), called))
    bounds = _bounds(units, called)
    units.to_parquet(out)
    return bounds


def apart(one: Bounds, other: Bounds) -> bool:
    """Whether two boxes share no ground."""
    return one[0] > other[2] or one[2] < other[0] or one[1] > other[3] or one[3] < other[1]


def _harmless(value: Any) -> Any:
    """A name that a spreadsheet does not take for a formula: the key is written into units.csv."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value


def _crs(code: int, called: str) -> Any:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return CRS.from_epsg(code)
    except CRSError:
        raise TableError(f"{called} is in EPSG:{code}, which is not known; write it in EPSG:4326") from None


def _bounds(units: Any, called: str) -> Bounds:
    from pyproj.exceptions import ProjError
    from rasterio.errors import RasterioError
    from rasterio.warp import transform_bounds

    left, bottom, right, top = (float(v) for v in units.total_bounds)
    try:
        west, south, east, north = transform_bounds(units.crs.to_wkt(), "EPSG:4326", left, bottom, right, top)
    except (RasterioError, ProjError):
        west = south = east = north = math.nan
    if not all(map(math.isfinite, (west, south, east, north))) or max(abs(west), abs(east)) > 360 or max(abs(south), abs(north)) > 90:  # fmt: skip
        raise TableError(f"{called} has units outside of the globe; check its coordinate system")
    return west, south, east, north
