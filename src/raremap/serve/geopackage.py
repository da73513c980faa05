"""A stranger's GeoPackage, read with SQLite alone: rows of one plain table, and their polygons.

A database can name code: views, virtual tables that open files or call servers, triggers, columns that are computed. GDAL
would run some of it. Here nothing but plain tables is read, by statements of our own, and anything else that SQLite
would do on the way is forbidden (https://sqlite.org/security.html).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from raremap.errors import TableError, nearest

MAGIC = b"SQLite format 3\0"
_MOST_COLUMNS, _MOST_VALUE = 1000, 32 << 20
_SECONDS = 20.0
_SPARE = 1 << 20
_READ = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ})
_QUIET = ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "query_only=ON", "temp_store=MEMORY")


@dataclass(frozen=True)
class Layer:
    """A layer's values by column, its geometries as they stand in the file (None without), and its CRS as text."""

    values: dict[str, list[Any]]
    geometry: list[bytes | None] | None
    crs: str | None
    names: tuple[str, ...]


def read_layer(
    path: Path, name: str, wanted: Callable[[tuple[str, ...]], list[str]], layer: str | None, most_rows: int,
    geometry: bool = False,
) -> Layer:  # fmt: skip
    """The columns that `wanted` picks of a layer's; `name` is how messages call the file.

    Raises `TableError`: no complete GeoPackage, several layers and none named, a layer that is no plain table, more rows
    than allowed, a geometry that is asked for and not there.
    """
    try:
        with _opened(path) as db:
            table, shape, crs = _layer(db, name, layer)
            if geometry and shape is None:
                raise TableError(f"{name}: layer '{table}' has no geometry; units are polygons")
            columns = _columns(db, table, name)
            names = tuple(c for c in columns if c != shape)
            picked = wanted(names)
            asked = [*picked, *([shape] if geometry and shape is not None else [])]
            rows = _rows(db, table, asked, name, most_rows, 2 * path.stat().st_size + _SPARE)
    except (sqlite3.Error, OverflowError) as error:
        raise TableError(f"{name} is no GeoPackage that can be read ({str(error)[:80]})") from None
    series = list(zip(*rows, strict=True))
    for column, values in zip(picked, series, strict=False):
        if any(isinstance(v, bytes) for v in values):
            raise TableError(f"{name}: column '{column}' holds bytes, expected numbers or text")
    return Layer(
        {c: list(v) for c, v in zip(picked, series, strict=False)},
        list(series[-1]) if geometry else None,
        crs,
        names,
    )


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    until = time.monotonic() + _SECONDS
    address = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as db:
        for limit, value in (
            (sqlite3.SQLITE_LIMIT_ATTACHED, 0), (sqlite3.SQLITE_LIMIT_LENGTH, _MOST_VALUE),
            (sqlite3.SQLITE_LIMIT_COLUMN, 2 * _MOST_COLUMNS), (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 1 << 20),
        ):  # fmt: skip
            db.setlimit(limit, value)
        for pragma in _QUIET:
            db.execute(f"PRAGMA {pragma}")
        db.set_progress_handler(lambda: time.monotonic() > until, 10_000)
        db.set_authorizer(_allowed)
        yield db


def _allowed(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Reading tables and asking for a table's columns; nothing else."""
    plain = action in _READ or (action == sqlite3.SQLITE_PRAGMA and first == "table_xinfo")
    return sqlite3.SQLITE_OK if plain else sqlite3.SQLITE_DENY


def _layer(db: sqlite3.Connection, name: str, layer: str | None) -> tuple[str, str | None, str | None]:
    """A layer's table, its geometry's column and its CRS."""
    plain = {
        str(n) for kind, n, root, sql in db.execute("SELECT type, name, rootpage, sql FROM sqlite_master")
        if kind == "table" and root and not str(sql).lower().lstrip().startswith("create virtual")
    }  # fmt: skip
    if "gpkg_contents" not in plain:
        raise TableError(f"{name} is a database of SQLite and no GeoPackage; write it with ogr2ogr")
    kinds = db.execute("SELECT table_name, data_type FROM gpkg_contents LIMIT 1000").fetchall()
    layers = [str(n) for n, kind in kinds if kind in ("features", "attributes")]
    if not layers:
        raise TableError(f"{name} has no layer of rows")
    if layer is None and len(layers) > 1:
        raise TableError(
            f"{name} holds {len(layers)} layers ({', '.join(n[:40] for n in layers[:6])}); name one in the field 'layer'"
        )
    if layer is not None and layer not in layers:
        raise TableError(f"{name} has no layer '{layer[:40]}'; {nearest(layer, layers)}")
    table = layers[0] if layer is None else layer
    if table not in plain:
        raise TableError(
            f"{name}: layer '{table[:40]}' is a view, a virtual table or missing; write it as a plain layer with ogr2ogr"
        )
    if "gpkg_geometry_columns" not in plain:
        return table, None, None
    found = db.execute(
        "SELECT column_name, srs_id FROM gpkg_geometry_columns WHERE table_name = ?", (table,)
    ).fetchone()
    if found is None:
        return table, None, None
    crs = None
    if "gpkg_spatial_ref_sys" in plain:
        crs = db.execute(
            "SELECT organization, organization_coordsys_id FROM gpkg_spatial_ref_sys WHERE srs_id = ?", (found[1],)
        ).fetchone()  # fmt: skip
    return table, str(found[0]), f"{crs[0]}:{crs[1]}".upper() if crs else None


def _columns(db: sqlite3.Connection, table: str, name: str) -> list[str]:
    columns = db.execute(f"PRAGMA table_xinfo({_quoted(table)})").fetchall()
    if not 0 < len(columns) <= _MOST_COLUMNS:
        raise TableError(f"{name} has {len(columns):,} columns, expected 1 to {_MOST_COLUMNS:,}")
    computed = [str(c[1]) for c in columns if c[6]]
    if computed:
        raise TableError(f"{name}: column '{computed[0][:40]}' is computed; write it as a plain one")
    return [str(c[1]) for c in columns]


def _rows(
    db: sqlite3.Connection, table: str, columns: list[str], name: str, most_rows: int, most_bytes: int
) -> list[tuple[Any, ...]]:
    """All rows. Pages of a damaged tree may be met again and again: what comes out is bounded by what went in."""
    rows, held = [], 0
    for row in db.execute(f"SELECT {', '.join(map(_quoted, columns))} FROM {_quoted(table)}"):
        held += sum(len(v) for v in row if isinstance(v, (str, bytes)))
        if held > most_bytes:
            raise TableError(f"{name} says more than it holds; it is damaged, write it again with ogr2ogr")
        rows.append(row)
        if len(rows) > most_rows:
            raise TableError(f"{name} has more than {most_rows:,} rows; send it in parts")
    if not rows:
        raise TableError(f"{name} has no rows")
    return rows


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
