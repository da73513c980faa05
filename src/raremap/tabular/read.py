"""Tables from CSV, Parquet and GeoPackage, whole or in parts, as Arrow has them."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raremap.errors import TableError, nearest, reason
from raremap.tabular.columns import stray, without

CHUNK_ROWS = 1 << 17
_CSV_BYTES = 8 << 20
_CSV, _PARQUET = frozenset({".csv", ".tsv", ".txt"}), frozenset({".parquet", ".geoparquet", ".pq"})
_VECTOR = frozenset({".gpkg", ".geojson", ".json", ".shp", ".fgb"})
_X = ("x", "easting", "east", "lon", "longitude", "long", "coord_x", "x_coord")
_Y = ("y", "northing", "north", "lat", "latitude", "lat", "coord_y", "y_coord")
_FIRST = 1 << 18  # characters that a decimal comma is looked for in
_DECIMAL = {mark: re.compile(rf"[-+]?\d*{re.escape(mark)}\d+([eE][-+]?\d+)?") for mark in ",."}
_STRAY = re.compile(
    r"In CSV column #(\d+): Row #(\d+): CSV conversion error to double: invalid value '(.*)'", re.S
)
_DEGREES = "lon"  # as longitude, long and Longitud begin


@dataclass(frozen=True)
class Source:
    """An Arrow table without its geometry, with the places of its rows.

    `xy [n, 2]` are centroids of the geometry (None where there is none); their unit are `degrees`, or `unit_m` metres.
    """

    path: str
    table: pa.Table
    xy: np.ndarray | None = None
    degrees: bool = False
    unit_m: float = 1.0
    crs: str | None = None

    @property
    def unsure(self) -> bool:
        """Whether places are said to be in metres by nothing, and all look like degrees."""
        if self.xy is None or self.degrees or self.crs is not None:
            return False
        return bool((np.abs(self.xy[np.isfinite(self.xy).all(1)]) <= (180, 90)).all())


def read_table(path: str | Path, layer: str | None = None, missing: Sequence[str] = ()) -> Source:
    """A whole table; raises `TableError` in one line where it cannot be read or is empty.

    Texts and numbers of `missing` stand for no value.
    """
    with open_parts(path, layer, missing=missing) as parts:
        batches = list(parts.batches)
        table = without(pa.Table.from_batches(batches, parts.schema), missing)
    if not table.num_rows:
        raise TableError(f"{path} has no rows")
    xy = None
    if parts.geometry is not None and parts.geometry in table.column_names:
        import shapely

        middle = shapely.centroid(shapely.from_wkb(table[parts.geometry].to_numpy()))
        xy = np.column_stack([shapely.get_x(middle), shapely.get_y(middle)])
        table = table.drop_columns([parts.geometry])
    return Source(str(path), table, xy, parts.degrees, _metres(parts.crs), parts.crs)


@dataclass(frozen=True)
class Parts:
    """A table in parts: record batches of one schema, the geometry's column, and whether that is in degrees."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    geometry: str | None = None
    crs: str | None = None
    degrees: bool = False
    geometry_type: str = "Unknown"


@contextmanager
def open_parts(
    path: str | Path,
    layer: str | None = None,
    types: Mapping[str, pa.DataType] | None = None,
    missing: Sequence[str] = (),
) -> Iterator[Parts]:
    """A table part by part, in bounded memory; `types` are those of a CSV's columns (the rest is found out).

    With `types` columns that are not named are read as text, just as they stand. A CSV's numbers have a decimal comma
    where its first rows have, and texts of `missing` among them are none. Raises `TableError`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise TableError(f"table {path} does not exist; check the path")
    if suffix not in _CSV | _PARQUET | _VECTOR:
        raise TableError(f"{path} is no table that can be read; expected .csv, .parquet or .gpkg")
    if layer is not None and suffix not in _VECTOR:
        raise TableError(f"{path} has no layers; leave --layer out")
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        if suffix in _CSV:
            _named_once(header(path), path)  # before a value of the second is found wrong for the first
            opened = _csv(path, types, missing)
        else:
            opened = _parquet(path) if suffix in _PARQUET else _vector(path, layer)
        with opened as parts:
            _named_once(parts.schema.names, path)
            yield parts
    except (
        pa.ArrowInvalid, pa.ArrowKeyError, DataSourceError, DataLayerError, UnicodeDecodeError, csv.Error,
    ) as error:  # fmt: skip
        if "conversion error to double" in str(error):
            _tell_stray(path, types, missing)
        raise TableError(f"{path} cannot be read ({reason(error, 160)}); is it complete?") from None


@contextmanager
def _csv(
    path: Path, types: Mapping[str, pa.DataType] | None, missing: Sequence[str], threads: bool = True
) -> Iterator[Parts]:
    from pyarrow import csv as arrow

    separator = _separator(path)
    if types is not None:
        types = {name: types.get(name, pa.string()) for name in header(path)}
    convert = arrow.ConvertOptions(
        column_types=types, strings_can_be_null=types is None and bool(missing),
        null_values=[*arrow.ConvertOptions().null_values, *missing], decimal_point=_decimal_point(path, separator),
    )  # fmt: skip
    parse = arrow.ParseOptions(delimiter=separator)
    if types is None:
        # Types are found out from all rows: streaming would settle them by the first block.
        table = arrow.read_csv(path, parse_options=parse, convert_options=convert)
        yield Parts(table.schema, iter(table.to_batches()))
        return
    with arrow.open_csv(
        path,
        read_options=arrow.ReadOptions(block_size=_CSV_BYTES, use_threads=threads),
        parse_options=parse,
        convert_options=convert,
    ) as reader:
        yield Parts(reader.schema, iter(reader))


def _tell_stray(path: Path, types: Mapping[str, pa.DataType] | None, missing: Sequence[str]) -> None:
    """Raise `TableError` of a text among numbers; the rows are counted by one thread only."""
    try:
        with _csv(path, types, missing, threads=False) as parts:
            for _ in parts.batches:
                pass
    except pa.ArrowInvalid as error:
        found = _STRAY.search(str(error))
        if found is not None:
            name, row = header(path)[int(found[1])], int(found[2]) - 1  # the names are in its row 1
            raise TableError(
                f"{path}: row {row:,} has '{found[3][:30]}' in column '{name[:40]}', expected a number; mend it, or leave it "
                "empty where there is none"
            ) from None


def _named_once(names: Sequence[str], path: Path) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        called = f"two columns '{twice[:40]}'" if twice else "two columns without a name"
        raise TableError(f"{path} has {called}; each needs a name of its own")


def header(path: Path) -> list[str]:
    """Column names of a CSV."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        return next(csv.reader(file, delimiter=_separator(path)), [])


def _separator(path: Path) -> str:
    """The one of comma, semicolon and tabulator that the first line has most of."""
    with path.open(encoding="utf-8-sig") as file:
        line = file.readline()
    return max(",;\t", key=line.count)


def _decimal_point(path: Path, separator: str) -> str:
    """The comma where more cells of the first rows are numbers with it than with a point."""
    if separator == ",":
        return "."
    with path.open(encoding="utf-8-sig") as file:
        lines = file.read(_FIRST).split("\n")
    cells = [cell.strip(' "') for line in lines for cell in line.split(separator)]
    commas, points = (sum(bool(_DECIMAL[mark].fullmatch(c)) for c in cells) for mark in ",.")
    return "," if commas > points else "."


@contextmanager
def _parquet(path: Path) -> Iterator[Parts]:
    from pyarrow import parquet

    # Buffered ahead, all that was read of a file would stay in memory until its end.
    with parquet.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
        schema = file.schema_arrow
        geometry, crs, degrees = None, None, False
        if b"geo" in (schema.metadata or {}):
            about = json.loads(schema.metadata[b"geo"])
            geometry = about["primary_column"]
            stated = about["columns"][geometry].get("crs", "OGC:CRS84")
            crs = json.dumps(stated) if isinstance(stated, dict) else stated
            degrees = _in_degrees(crs)
        yield Parts(schema, file.iter_batches(CHUNK_ROWS), geometry, crs, degrees)


@contextmanager
def _vector(path: Path, layer: str | None) -> Iterator[Parts]:
    import pyogrio
    from pyogrio.raw import open_arrow

    names = [str(n) for n in pyogrio.list_layers(path)[:, 0]]
    if layer is None and len(names) > 1:
        raise TableError(f"{path} holds {len(names)} layers ({', '.join(names[:6])}); name one with --layer")
    if layer is not None and layer not in names:
        raise TableError(f"{path} has no layer '{layer}'; {nearest(layer, names)}")
    with open_arrow(path, layer=layer, use_pyarrow=True, batch_size=CHUNK_ROWS) as (meta, reader):
        geometry = (meta["geometry_name"] or "wkb_geometry") if meta["geometry_type"] else None
        kind = str(meta["geometry_type"] or "Unknown")
        yield Parts(reader.schema, iter(reader), geometry, meta["crs"], _in_degrees(meta["crs"]), kind)


def _in_degrees(crs: Any) -> bool:
    if not crs:
        return False
    from pyproj import CRS

    return CRS.from_user_input(crs).is_geographic


def _metres(crs: Any) -> float:
    """Metres in the unit of a projected CRS."""
    if not crs:
        return 1.0
    from pyproj import CRS

    found = CRS.from_user_input(crs)
    return float(found.axis_info[0].unit_conversion_factor) if found.is_projected and found.axis_info else 1.0


def crs_name(crs: str | None) -> str | None:
    """What a CRS is called."""
    if not crs:
        return None
    from pyproj import CRS

    return CRS.from_user_input(crs).name


def coordinates(source: Source, x: str | None, y: str | None) -> tuple[Source, tuple[str, ...]]:
    """The source with the places of its rows, and the columns that they were taken from.

    Columns named `x` and `y`, or found by a common pair of names; a geometry goes first.
    """
    names = source.table.column_names
    if x is None or y is None:
        if source.xy is not None:
            return source, ()
        lower = {n.lower(): n for n in names}
        pair = next(
            ((lower[a], lower[b]) for a, b in zip(_X, _Y, strict=True) if a in lower and b in lower), None
        )
        if pair is None:
            return source, ()
        x, y = pair
    assert x is not None
    assert y is not None
    for name in (x, y):
        if name not in names:
            raise TableError(f"{source.path} has no column '{name}' of coordinates; {nearest(name, names)}")
        if not pa.types.is_floating(kind := source.table.schema.field(name).type) and not pa.types.is_integer(
            kind
        ):
            found = stray(source.table[name]) if pa.types.is_string(kind) else None
            first = f" ('{found.text[:30]}' in row {found.at + 1:,})" if found else ""
            raise TableError(
                f"{source.path}: the column '{name}' of coordinates holds {kind}{first}, expected numbers"
            )
    xy = np.column_stack([source.table[n].to_numpy().astype(float) for n in (x, y)])
    return Source(source.path, source.table, xy, x.lower().startswith(_DEGREES)), (x, y)
