"""A reference sample as a GeoPackage: points to label, and beside them, out of sight, the design they were drawn by.

Layer `points`: `id`, `reference` (empty: to be filled in) and `note`. Tables: `sample_points` (stratum, map value
and pixel of each id), `sample_strata` (pixels, ground and points of each stratum), `sample_design` (what was asked), and
`layer_styles`, by which QGIS offers the classes by name.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import SampleError, reason
from raremap.files import written
from raremap.maps.packagestyle import store_style
from raremap.maps.pointstyle import point_style

if TYPE_CHECKING:
    from rasterio.crs import CRS

    from raremap.maps.classmap import ClassMap
    from raremap.maps.strata import Drawn

LAYER = "points"


@dataclass(frozen=True)
class Stratum:
    """A stratum: how many pixels, how much ground (`area`, in the design's unit) and how many points it has."""

    name: str
    pixels: int
    area: float
    points: int


@dataclass(frozen=True)
class Design:
    """What a sample was drawn by: strata, the stratum of each point by its id, and further facts."""

    strata: tuple[Stratum, ...]
    stratum_of: dict[int, int]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """Points with what was found there: `ids [n]`, coordinates `xy [n, 2]` in `crs`, `answers` (None: not labelled).

    `design` is None where the file does not say how the points were drawn.
    """

    path: Path
    ids: np.ndarray
    xy: np.ndarray
    crs: CRS | None
    answers: tuple[Any, ...]
    design: Design | None


def write_reference(
    path: str | Path,
    source: ClassMap,
    drawn: Drawn,
    strata: Sequence[Stratum],
    facts: dict[str, Any],
    shown: bool = False,
) -> None:
    """Write a sample's GeoPackage; `shown` puts stratum and map class among the points' own fields.

    Raises `OutputError` where it cannot be written.
    """
    import geopandas as gpd
    import pandas as pd
    import pyogrio
    from shapely import points

    grid = source.grid
    t = grid.transform
    col, row = drawn.cols + 0.5, drawn.rows + 0.5
    ids = np.arange(1, len(col) + 1)
    table: dict[str, Any] = {
        "id": ids,
        "reference": pd.array([None] * len(ids), dtype="Int32"),
        "note": pd.array([None] * len(ids), dtype="string"),
    }
    if shown:
        table["stratum"] = [strata[h].name for h in drawn.stratum]
        table["map_class"] = [source.names[i] for i in drawn.index]
    geometry = points(t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f)
    frame = gpd.GeoDataFrame(table, geometry=geometry, crs=grid.crs)
    with written(path) as fresh:
        fresh.unlink()  # an empty file is not a GeoPackage to GDAL
        pyogrio.write_dataframe(frame, fresh, layer=LAYER, driver="GPKG")
        with closing(sqlite3.connect(fresh)) as base, base:
            _table(
                base, "sample_strata", "stratum INTEGER PRIMARY KEY, name TEXT, pixels INTEGER, area REAL, points INTEGER",
                ((h, s.name, s.pixels, s.area, s.points) for h, s in enumerate(strata)),
            )  # fmt: skip
            values = np.array(source.values)[drawn.index]
            _table(
                base, "sample_points", "id INTEGER PRIMARY KEY, stratum INTEGER, map_value INTEGER, row INTEGER, col INTEGER",
                zip(*(a.tolist() for a in (ids, drawn.stratum, values, drawn.rows, drawn.cols)), strict=True),
            )  # fmt: skip
            _table(
                base, "sample_design", "id INTEGER PRIMARY KEY, key TEXT, value TEXT",
                ((i, k, json.dumps(v)) for i, (k, v) in enumerate(facts.items())),
            )  # fmt: skip
            style = point_style(dict(zip(source.values, source.names, strict=True)))
            store_style(base, LAYER, "reference", style)


def _table(base: sqlite3.Connection, name: str, columns: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """A table without places, known to readers of GeoPackages."""
    base.execute(f"CREATE TABLE {name} ({columns})")
    marks = ", ".join("?" * len(columns.split(", ")))
    base.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
    base.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, srs_id) VALUES (?, 'attributes', ?, 0)",
        (name, name),
    )


def read_reference(path: str | Path) -> Reference:
    """The points of a sample, labelled or not; raises `SampleError`."""
    import pyogrio
    import rasterio.crs

    path = Path(path)
    if not path.exists():
        raise SampleError(f"{path} does not exist; `raremap sample` makes points to label")
    try:
        layers = [str(name) for name in pyogrio.list_layers(path)[:, 0]]
        frame = pyogrio.read_dataframe(path, layer=LAYER if LAYER in layers else None)
    except Exception as error:
        raise SampleError(f"{path} cannot be read as points ({reason(error)})") from None
    column = next((c for c in frame.columns if c.lower() == "reference"), None)
    if column is None or "geometry" not in frame or not (frame.geometry.geom_type == "Point").all():
        raise SampleError(
            f"{path} is not a sample: it needs points with a column 'reference', it has {', '.join(frame.columns)}"
        )
    design = _design(path)
    named = next((c for c in frame.columns if c.lower() == "id"), None)
    if design is not None and named is None:
        raise SampleError(f"{path} has lost the column 'id', by which the points belong to their strata")
    ids = frame[named] if named is not None else np.arange(len(frame))
    crs = rasterio.crs.CRS.from_wkt(frame.crs.to_wkt()) if frame.crs is not None else None
    return Reference(
        path=path,
        ids=np.asarray(ids),
        xy=np.stack([frame.geometry.x, frame.geometry.y], 1),
        crs=crs,
        answers=tuple(None if _empty(v) else v for v in frame[column]),
        design=design,
    )


def _empty(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value)) or (isinstance(value, str) and not value.strip())


def _design(path: Path) -> Design | None:
    """The design that a GeoPackage holds; None where it holds none."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
            strata = base.execute(
                "SELECT name, pixels, area, points FROM sample_strata ORDER BY stratum"
            ).fetchall()
            of = base.execute("SELECT id, stratum FROM sample_points").fetchall()
            facts = base.execute("SELECT key, value FROM sample_design").fetchall()
    except sqlite3.Error:
        return None
    return Design(tuple(Stratum(*s) for s in strata), dict(of), {k: json.loads(v) for k, v in facts})
