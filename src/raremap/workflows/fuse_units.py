"""The units of `table_fuse` on its scenes: rasters of unit numbers with a table of rows, or polygons with attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import SceneError, TableError, nearest, refuse

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from raremap.maps.zonal import Units
    from raremap.tabular.read import Source

_RASTERS = frozenset({".tif", ".tiff"})


@dataclass(frozen=True)
class Laid:
    """The rows of all units, their polygons where they have any, and how each scene's pixels find them.

    `crs` is that of the polygons, or of places that are told of units of rasters (`_crs_of`).
    """

    source: Source
    readers: list[Units]
    shapes: np.ndarray | None
    crs: Any
    grids: list[Any]
    key: np.ndarray


def lay(
    scenes: list[str],
    units: list[str],
    rows: str | Path | None,
    key: str,
    scene_column: str | None,
    layer: str | None,
    missing: Sequence[str] = (),
) -> Laid:
    """Find the rows of all units and the pixels of each; raises `TableError` where the files do not fit each other.

    `units` are rasters, one a scene in the order of `scenes`, with `rows` beside them; or one file of polygons. `missing`
    are what stands for no value in the rows.
    """
    from raremap.scene.raster import open_image

    grids = []
    for path in scenes:
        with open_image(path) as reader:
            grids.append(reader.grid)
    if all(Path(p).suffix.lower() in _RASTERS for p in units):
        return _lay_rasters(scenes, grids, units, rows, key, scene_column, layer, missing)
    if len(units) > 1:
        raise TableError(
            f"{len(units)} files of units are given; give one raster a scene, or one file of polygons"
        )
    if rows is not None:
        raise TableError(
            f"{units[0]} holds polygons, whose own columns are the rows; leave {rows} out, or give rasters of units"
        )
    refuse(f"on polygons ({units[0]})", scene_column=scene_column)
    return _lay_polygons(Path(units[0]), grids, key, layer, missing)


def _lay_rasters(
    scenes: list[str], grids: list[Any], units: list[str], rows: str | Path | None, key: str,
    scene_column: str | None, layer: str | None, missing: Sequence[str],
) -> Laid:  # fmt: skip
    from raremap.maps.zonal import RasterUnits
    from raremap.tabular.read import read_table

    if rows is None:
        raise TableError("rasters of unit numbers need the table of their rows; give --rows")
    if len(units) != len(scenes):
        raise TableError(
            f"{len(units)} rasters of units for {len(scenes)} scenes; give one a scene, in the same order"
        )
    source = read_table(rows, layer, missing)
    names = source.table.column_names
    for column in (key, *([scene_column] if scene_column else [])):
        if column not in names:
            raise TableError(f"{rows} has no column '{column}'; {nearest(column, names)}")
    if scene_column is None and len(scenes) > 1:
        raise TableError(
            f"{len(scenes)} scenes share {rows}; say with --scene-column which scene a row belongs to"
        )
    try:
        numbers = np.asarray(source.table[key].to_pylist()).astype(np.int64)
    except (TypeError, ValueError):
        raise TableError(
            f"{rows}: column '{key}' does not hold whole numbers of units in every row"
        ) from None
    stems = np.array([str(v) for v in source.table[scene_column].to_pylist()]) if scene_column else None
    readers: list[Units] = []
    for path, grid, raster in zip(scenes, grids, units, strict=True):
        stem = Path(path).stem
        own = np.arange(len(numbers)) if stems is None else np.flatnonzero(stems == stem)
        if not len(own):
            raise TableError(
                f"{rows} has no row whose '{scene_column}' is '{stem}', as scene {path} is called"
            )
        if len(np.unique(numbers[own])) < len(own):
            raise TableError(
                f"{rows}: units of scene {stem} come twice in column '{key}'; each needs one row"
            )
        readers.append(RasterUnits(raster, grid, numbers[own], own))
    return Laid(source, readers, None, _crs_of(scenes, grids), grids, numbers)


def _crs_of(scenes: list[str], grids: list[Any]) -> Any:
    """The scenes' own CRS, or EPSG:4326 where they have several, such as two UTM zones: one file holds places of one.

    Raises `SceneError` where only some have one.
    """
    from rasterio.crs import CRS

    first = grids[0].crs
    for path, grid in zip(scenes, grids, strict=True):
        if (grid.crs is None) != (first is None):
            without, other = (path, scenes[0]) if grid.crs is None else (scenes[0], path)
            raise SceneError(
                f"{without} has no CRS, {other} has one; write it into the file, or fuse them one by one"
            )
    return first if all(g.crs == first for g in grids) else CRS.from_epsg(4326)


def check_key(path: str | Path, names: Sequence[str], key: str) -> None:
    """Raise `TableError` where units are to be called by a column that is not there; without a column `unit` they are counted."""
    if key != "unit" and key not in names:
        raise TableError(f"{path} has no column '{key}'; {nearest(key, names)}")


def read_polygons(path: Path, layer: str | None) -> GeoDataFrame:
    """Units as polygons with their attributes; raises `TableError` where a row has none."""
    import geopandas as gpd

    if path.suffix.lower() in (".parquet", ".geoparquet", ".pq"):
        frame = gpd.read_parquet(path)
    else:
        frame = gpd.read_file(path, layer=layer)
    if (
        not isinstance(frame, gpd.GeoDataFrame)
        or not frame.geometry.geom_type.isin(["Polygon", "MultiPolygon"]).all()
    ):
        raise TableError(
            f"{path} does not hold polygons in every row; units are rasters of numbers, or polygons"
        )
    return frame


def _lay_polygons(path: Path, grids: list[Any], key: str, layer: str | None, missing: Sequence[str]) -> Laid:
    from raremap.maps.zonal import PolygonUnits
    from raremap.tabular.read import read_table

    source = read_table(path, layer, missing)
    check_key(path, source.table.column_names, key)
    frame = read_polygons(path, layer)
    if frame.crs is None and any(g.crs is not None for g in grids):
        raise TableError(f"{path} has no CRS, the scenes have one; write it into the file")
    shapes = []
    for grid in grids:
        moved = frame if grid.crs is None or frame.crs is None else frame.to_crs(grid.crs.to_wkt())
        shapes.append(moved.geometry.to_numpy())
    readers: list[Units] = [PolygonUnits(s, g) for s, g in zip(shapes, grids, strict=True)]
    names = frame[key].to_numpy() if key in frame.columns else np.arange(len(frame))
    return Laid(source, readers, frame.geometry.to_numpy(), frame.crs, grids, names)
