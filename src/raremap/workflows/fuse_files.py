"""What `table_fuse` writes: the table of all units, the alarms among them, and a map a scene."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import RaremapWarning
from raremap.files import written
from raremap.jobs import progress

if TYPE_CHECKING:
    from raremap.maps.zonal import Summary, Units
    from raremap.tabular.fusion import Alarms
    from raremap.workflows.fuse_units import Laid

SCORES = ("fused", "image", "table")


def centres(laid: Laid, summary: Summary, scene_of: np.ndarray) -> np.ndarray:
    """Where each unit is `[n, 2]`, in `laid.crs`: a point in its polygon, or the mean of its pixels (NaN without any)."""
    import shapely
    from rasterio.warp import transform

    if laid.shapes is not None:
        inside = shapely.point_on_surface(laid.shapes)
        return np.column_stack([shapely.get_x(inside), shapely.get_y(inside)])
    xy = np.full((len(scene_of), 2), np.nan)
    for number, grid in enumerate(laid.grids):
        own, t = scene_of == number, grid.transform
        col, row = summary.col[own], summary.row[own]
        x, y = t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f
        if grid.crs != laid.crs:
            x, y = transform(grid.crs, laid.crs, x, y)[:2]
        xy[own] = np.column_stack([x, y])
    return xy


def code_of(crs: Any) -> str:
    """A CRS by its code (EPSG:32717), or by its name where it has none; nothing where there is no CRS."""
    from pyproj import CRS

    if crs is None:
        return ""
    known = CRS.from_user_input(crs.to_wkt())
    code = known.to_authority()
    return ":".join(code) if code else known.name


def write_units(
    out: Path, laid: Laid, probs: dict[str, np.ndarray], alarms: Alarms, chosen: np.ndarray, summary: Summary,
    scene_of: np.ndarray, paths: list[str], key: str,
) -> tuple[Path, Path]:  # fmt: skip
    """units.csv of all, alarms.gpkg of the alarms, the surest first; x and y are in `laid.crs`, which the column crs names."""
    import geopandas as gpd
    import pandas as pd
    import shapely

    xy = centres(laid, summary, scene_of)
    frame = pd.DataFrame(
        {
            key: laid.key,
            "scene": np.array([*(Path(p).stem for p in paths), ""], object)[scene_of],
            "x": xy[:, 0],
            "y": xy[:, 1],
            "crs": code_of(laid.crs),
            "pixels": summary.pixels,
            **{f"p_{name}": p for name, p in probs.items()},
            "alarm": alarms.fused.astype(np.int8),
            "double_check": alarms.double_check.astype(np.int8),
        }
    )
    units, target = out / "units.csv", out / "alarms.gpkg"
    with written(units) as fresh:
        frame.to_csv(fresh, index=False, float_format="%.10g")  # millimetres of a northing
    shapes = laid.shapes if laid.shapes is not None else np.asarray(shapely.points(np.nan_to_num(xy)))
    # A unit that no scene shows has no place unless it is a polygon.
    placed = chosen & (np.isfinite(xy).all(1))
    if lost := int((chosen & ~placed).sum()):
        warnings.warn(
            f"{lost:,} alarms are of units that no scene shows; they stand in {units} alone",
            RaremapWarning,
            stacklevel=3,
        )
    order = np.flatnonzero(placed)[np.argsort(-probs["fused"][placed], kind="stable")]
    crs = laid.crs.to_wkt() if laid.crs is not None else None
    table = gpd.GeoDataFrame(frame.iloc[order].reset_index(drop=True), geometry=shapes[order], crs=crs)
    kind = "Point" if laid.shapes is None else "MultiPolygon"
    with written(target) as fresh:
        fresh.unlink()  # GDAL wants no empty file
        table.to_file(
            fresh,
            driver="GPKG",
            layer="alarms",
            engine="pyogrio",
            geometry_type=kind,
            promote_to_multi=kind != "Point",
        )
    return units, target


def write_map(
    out: Path,
    scene: str,
    grid: Any,
    units: Units,
    probs: dict[str, np.ndarray],
    tags: Mapping[str, str],
    quiet: bool,
) -> Path:
    """Each unit's probabilities on the scene's grid, window by window; `tags` are what the map says of itself."""
    from raremap.maps.strips import strips
    from raremap.scene.cog import CogWriter

    target = out / f"{Path(scene).stem}.fused.tif"
    values = np.stack([probs[name] for name in SCORES]).astype(np.float32)
    values = np.concatenate([values, np.full((len(SCORES), 1), np.nan, np.float32)], 1)  # row -1: no unit
    said = {"TIFFTAG_SOFTWARE": f"raremap {version('raremap')}", **tags}
    with (
        CogWriter(target, grid, "float32", SCORES, float("nan"), overviews="average", tags=said) as writer,
        progress(target.name, grid.height, quiet) as bar,
    ):
        for window in strips(grid, 32):
            writer.write(window, values[:, units.read(window)])
            bar.advance(window.height)
    return target
