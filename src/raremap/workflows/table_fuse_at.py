"""`raremap table fuse --date`: a place and a date to one answer of both models."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date as Date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import ConfigError, TableError, refuse
from raremap.files import written

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.tabular.model import TableModel
    from raremap.workflows.table_fuse import Fused

IMAGERY, UNITS = "imagery", "units.parquet"


def table_fuse_at(
    bundle: Bundle | Ensemble | str | Path,
    table_bundle: TableModel | str | Path,
    date: str,
    out: str | Path,
    fusion: str | Path,
    at: str | Sequence[float] | None = None,
    buffer_m: float | None = None,
    units: str | Path | None = None,
    cell_m: float | None = None,
    key: str = "unit",
    landslide: str | None = None,
    double_check: bool = False,
    prior: float | None = None,
    source: str = "earth-search",
    device: str = "auto",
    layer: str | None = None,
    quiet: bool = False,
) -> Fused:
    """Fetch the scene of a place that is nearest to `date`, and fuse what both models say of its units.

    `units` is a file of polygons with attributes. Those that it lacks and that follow from heights (`DERIVED`: slope, height,
    relief, area) are taken from Copernicus GLO-30. Without it units are squares of `cell_m` (100), and the table's model must
    read nothing else. The place is `buffer_m` (1000) to each side of `at` (LON,LAT), or the extent of the units. `fusion` is a
    fusion.json that was fitted before; `source` as of `acquire`.

    Writes under `out` what `table_fuse` does, the scene under imagery/, and units.parquet where units were made or
    completed. Raises `TableError` where an attribute is missing, `AcquireError` and `SceneError` where nothing is found.
    """
    from raremap.ensembles import load_bundle
    from raremap.scene.raster import open_image
    from raremap.tabular.model import TableModel
    from raremap.workflows.fuse_units import check_key
    from raremap.workflows.nearest import acquire_nearest
    from raremap.workflows.table_fuse import read_fusion, table_fuse
    from raremap.workflows.unit_terrain import add_terrain, lacking, squares

    try:
        day = Date.fromisoformat(date)
    except ValueError:
        raise ConfigError(f"the date is '{date}', expected one such as 2024-07-01") from None
    if at is None and units is None:
        raise ConfigError("give --at LON,LAT, or --units, whose extent is the place")
    if at is None:
        refuse("without --at", buffer_m=buffer_m)
    if units is None:
        refuse("without --units", layer=layer, key=None if key == "unit" else key)
    else:
        refuse("on units that are given", cell_m=cell_m)
    buffer_m, cell_m = 1000.0 if buffer_m is None else buffer_m, 100.0 if cell_m is None else cell_m
    if cell_m <= 0:
        raise ConfigError(f"cells of {cell_m:g} m are none; give a length above 0")
    image_model = load_bundle(bundle) if isinstance(bundle, (str, Path)) else bundle
    model = TableModel.load(table_bundle) if isinstance(table_bundle, (str, Path)) else table_bundle
    read_fusion(Path(fusion)).landslide_of(image_model.scheme.names, landslide)
    given = _units(Path(units), layer) if units is not None else None
    there = tuple(given.columns) if given is not None else ()
    if given is not None:
        check_key(str(units), there, key)
    missing = lacking(model.columns.names, there)
    model.columns.check([*there, *missing], str(units) if units is not None else "a square of ground")
    out = Path(out)
    place: dict[str, Any] = (
        {"point": at, "buffer_m": buffer_m} if at is not None else {"bbox": _extent(given, units)}
    )
    found = acquire_nearest(out / IMAGERY, day, image_model, source=source, dem=bool(missing), **place)
    scene = found.images[0]
    path = Path(units) if units is not None else out / UNITS
    if given is None or missing:
        with open_image(scene) as reader:
            frame = squares(reader.grid, cell_m) if given is None else given
        if missing:
            assert found.dem is not None
            assert found.slope is not None
            frame = add_terrain(frame, missing, found.dem, found.slope)
        path, layer = out / UNITS, None
        with written(path) as fresh:
            frame.to_parquet(fresh)
    return table_fuse(
        image_model, model, scene, path, out, key=key, fusion=fusion, landslide=landslide, double_check=double_check,
        prior=prior, device=device, layer=layer, quiet=quiet,
    )  # fmt: skip


def _units(path: Path, layer: str | None) -> GeoDataFrame:
    from raremap.tabular.read import read_table
    from raremap.workflows.fuse_units import read_polygons

    read_table(path, layer)  # tells in one line what is wrong with the file
    frame = read_polygons(path, layer)
    if frame.crs is None:
        raise TableError(f"{path} has no CRS, which units of a place need; write it into the file")
    return frame


def _extent(units: Any, path: Any) -> tuple[float, float, float, float]:
    west, south, east, north = (float(v) for v in units.to_crs(4326).total_bounds)
    if not west < east:
        raise TableError(f"{path} has no extent; give polygons")
    return west, south, east, north
