"""Rows of a request as a model of tables reads them, and what it says of each."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raremap.errors import TableError, nearest
from raremap.serve import geopackage
from raremap.tabular.calibration import sigmoid
from raremap.tabular.columns import Column, Columns, Faults, category
from raremap.tabular.model import TableModel

_MOST_COLUMNS, _MOST_HEADER = 1000, 64 << 10
_REQUEST = "the request"


@dataclass(frozen=True)
class Rows:
    """Rows with the model's attributes, and the columns that come back beside the answer; `called` is for messages."""

    called: str
    table: pa.Table
    kept: dict[str, list[Any]]


def of_json(rows: Sequence[Mapping[str, Any]], columns: Columns, keep: Sequence[str]) -> Rows:
    """Rows that came as objects; an attribute that a row lacks is missing in it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    _few(names, _REQUEST)
    picked = _picked(names, columns, keep, _REQUEST)
    values = {name: [row.get(name) for row in rows] for name in picked}
    return Rows(_REQUEST, typed(values, columns, _REQUEST), {n: values[n] for n in keep})


def of_file(
    path: Path, called: str, columns: Columns, keep: Sequence[str], most_rows: int, layer: str | None = None
) -> Rows:
    """Rows of a CSV or a GeoPackage, told by what it holds; raises `TableError` in one line."""
    with path.open("rb") as file:
        start = file.read(_MOST_HEADER)
    if start.startswith(geopackage.MAGIC):
        found = geopackage.read_layer(
            path, called, lambda names: _picked(names, columns, keep, called), layer, most_rows
        )
        return Rows(called, typed(found.values, columns, called), {n: found.values[n] for n in keep})
    if layer is not None:
        raise TableError(f"{called} is no GeoPackage and has no layers; leave the field 'layer' out")
    names = _csv_header(start, called)
    _picked(names, columns, keep, called)
    table = _csv(path, called, columns, most_rows)
    return Rows(called, table.select(columns.names), {n: table[n].to_pylist() for n in keep})


def typed(values: Mapping[str, Sequence[Any]], columns: Columns, called: str) -> pa.Table:
    """The attributes among `values` as Arrow holds them: numbers, and categories as text.

    Raises `TableError` where a number is none.
    """
    arrays = {
        c.name: pa.array(_numbers(values[c.name], c, called, columns.missing)) if c.kind == "numeric" else _texts(values[c.name])
        for c in columns
        if c.name in values
    }  # fmt: skip
    return pa.table(arrays)


def answer(model: TableModel, rows: Rows, prior: float | None) -> dict[str, Any]:
    """Probability and alarm of each row, JSON-ready."""
    faults = Faults()
    logits = model.logits(model.columns.values(rows.table, faults, rows.called))
    probabilities, alarms = sigmoid(logits + model.moved(prior)), logits >= model.threshold
    kept = [
        dict(zip(rows.kept, row, strict=True)) for row in zip(*map(_plain, rows.kept.values()), strict=True)
    ]
    return {
        "prior": model.serves if prior is None else prior,
        "least": model.least(prior),
        "alarms": int(alarms.sum()),
        "mean": float(probabilities.mean()),
        "notes": faults.lines(),
        "rows": [
            {"probability": round(float(p), 6), "alarm": bool(a), "kept": kept[i] if kept else {}}
            for i, (p, a) in enumerate(zip(probabilities, alarms, strict=True))
        ],
    }  # fmt: skip


def _picked(names: Sequence[str], columns: Columns, keep: Sequence[str], called: str) -> list[str]:
    """The columns to read, of those there are."""
    columns.check(names, called)
    for name in keep:
        if name not in names:
            raise TableError(f"{called} has no column '{name[:40]}' to keep; {nearest(name, names)}")
    return list(dict.fromkeys([*columns.names, *keep]))


def _few(names: Sequence[str], called: str) -> None:
    if len(names) > _MOST_COLUMNS:
        raise TableError(f"{called} has {len(names):,} columns, at most {_MOST_COLUMNS:,} are taken")


def _csv_header(start: bytes, called: str) -> list[str]:
    """Column names; what is no text, and what has a first line without an end, is refused here."""
    line = start.split(b"\n", 1)[0]
    if len(line) >= _MOST_HEADER:
        raise TableError(
            f"{called} has a first line of more than {_MOST_HEADER // 1024} kB, expected names of columns"
        )
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or not text.strip():
        raise TableError(f"{called} is no CSV in UTF-8 and no GeoPackage; send one of these")
    try:
        names = next(csv.reader([text], delimiter=max(",;\t", key=text.count), strict=True))
    except csv.Error as error:
        raise TableError(f"{called}: the names of its columns cannot be read ({error})") from None
    _few(names, called)
    return [n.strip("\r") for n in names]


def _csv(path: Path, called: str, columns: Columns, most_rows: int) -> pa.Table:
    from raremap.tabular.read import open_parts

    batches, count = [], 0
    try:
        with open_parts(path, types=columns.types(), missing=columns.missing) as parts:
            for batch in parts.batches:
                count += batch.num_rows
                if count > most_rows:
                    raise TableError(f"{path} has more than {most_rows:,} rows; send it in parts")
                batches.append(batch)
            table = pa.Table.from_batches(batches, parts.schema)
    except TableError as error:
        raise TableError(str(error).replace(str(path), called)) from None
    if not table.num_rows:
        raise TableError(f"{called} has no rows")
    for name in table.column_names:
        if _breaks(table[name]):
            raise TableError(
                f"{called}: column '{name[:40]}' has a line break within a cell; is a quote left open?"
            )
    return table


def _breaks(values: pa.ChunkedArray) -> bool:
    """Whether any text goes on over a line: a quote that is left open takes all rows behind it into one cell."""
    if not pa.types.is_string(values.type):
        return False
    found = pc.call_function("match_substring", [values], pc.MatchSubstringOptions("\n"))
    return True in found.unique().to_pylist()


def _numbers(
    values: Sequence[Any], column: Column, called: str, missing: Sequence[str]
) -> list[float | None]:
    return [_number(v, i, column.name, called, missing) for i, v in enumerate(values, 1)]


def _number(value: Any, row: int, name: str, called: str, missing: Sequence[str]) -> float | None:
    if value is None or (isinstance(value, str) and not category(value, missing)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        raise TableError(
            f"{called}: row {row} has '{str(value)[:30]}' in column '{name}', expected a number"
        ) from None


def _texts(values: Sequence[Any]) -> pa.Array:
    return pa.array([None if v is None else str(v) for v in values], pa.string())


def _plain(values: Sequence[Any]) -> list[Any]:
    """Without what JSON has no word for."""
    return [None if isinstance(v, float) and not math.isfinite(v) else v for v in values]
