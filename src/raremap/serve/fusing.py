"""One fused prediction from end to end, as the worker makes it: a scene and units to a folder of results."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.files import written
from raremap.jobs import heard
from raremap.serve import results
from raremap.serve.mapping import FETCHED, about, noted, scene_of

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.tabular.model import TableModel

_FUSED = 0.95


def fuse_scene(
    bundle: Bundle | Ensemble,
    table: TableModel,
    task: dict[str, Any],
    folder: Path,
    tell: Callable[[float], None],
    device: str = "auto",
) -> dict[str, Any]:
    """Copy the upload (or fetch the scene), fuse what both models say of its units; gives what `Job.result` holds.

    Raises `RaremapError`, in one line.
    """
    from raremap.workflows.table_fuse import table_fuse
    from raremap.workflows.unit_terrain import lacking

    units, made = folder / results.UNITS_IN, folder / "fused"
    missing = lacking(table.columns.names, _names(units))
    with noted(folder, task) as before:
        taken = scene_of(bundle, task | {"dem": bool(missing)}, folder, tell)
    if missing:
        _complete(units, missing, folder / FETCHED / "terrain")
    with (
        noted(folder, task) as notes,
        heard(lambda share: tell(taken.begun + share * (_FUSED - taken.begun))),
    ):
        done = table_fuse(
            bundle, table, taken.path, units, made, key=task["key"], fusion=task["fusion"],
            landslide=task["landslide"], double_check=task["double_check"], device=device, quiet=True,
        )  # fmt: skip
    for path, name in (
        (done.maps[0], results.MAP),
        (done.alarms, results.ALARMS),
        (done.units, results.UNITS),
    ):
        path.replace(folder / name)
    shutil.rmtree(made)
    shutil.rmtree(folder / FETCHED, ignore_errors=True)
    results.draw_fused(folder)
    return {
        "fused": {
            "units": done.count, "known": done.known, "alarms": done.alarm_count, "double_check": done.double_check,
            "notes": notes,
        },
        "least": done.fusion.least(done.double_check),
        "notes": [*before, *notes],
        **about(taken),
    }  # fmt: skip


def _names(units: Path) -> list[str]:
    from pyarrow import parquet

    return parquet.read_schema(units).names


def _complete(units: Path, missing: list[str], terrain: Path) -> None:
    """Give units the attributes that follow from the heights which came with the scene."""
    import geopandas as gpd

    from raremap.workflows.unit_terrain import add_terrain

    frame = add_terrain(gpd.read_parquet(units), missing, terrain / "dem.tif", terrain / "slope.tif")
    with written(units) as fresh:
        frame.to_parquet(fresh)
