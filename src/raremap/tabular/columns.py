"""`Columns`: which attributes a model reads, and a table's or a raster's rows as numbers in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute

from raremap.errors import TableError, nearest
from raremap.tabular.ranges import Beyond, range_of

pc: Any = pyarrow.compute  # its functions are made when it is loaded; checkers of types do not see them

FEW = 12
"""Whole numbers of no more distinct values are named in the report: they may be codes. Of more, a label is no classes."""

_MOST_CATEGORIES = 255
_STRAY = 0.1  # texts for each number, up to which a column is one of numbers
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "#n/a", "#na"})


@dataclass(frozen=True)
class Column:
    """An attribute: numeric, or categorical with its categories as text in order.

    `range` is that of its numbers in training (`range_of`); None where it is not known.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    categories: tuple[str, ...] = ()
    range: tuple[float, float] | None = None


@dataclass
class Faults:
    """What was met in rows (or pixels), by column: infinite values and new categories, which are missing, and numbers `beyond`.

    Infinite pixels are no data.
    """

    unit: Literal["rows", "pixels"] = "rows"
    infinite: Counter[str] = field(default_factory=Counter)
    new: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    beyond: Beyond = field(default_factory=Beyond)

    def lines(self) -> list[str]:
        """One line for each, for warnings; one for all that lies beyond the training, where that is sizeable."""
        infinite = {"rows": "values; taken as missing", "pixels": "pixels; taken as no data"}[self.unit]
        beyond = self.beyond.line(self.unit)
        lines = [f"column '{c}' has {n:,} infinite {infinite}" for c, n in self.infinite.items()]
        lines += [
            f"column '{c}' has {n:,} {self.unit} of categories not met in training (such as '{self.examples[c]}'); "
            "taken as missing"
            for c, n in self.new.items()
        ]
        return [*lines, beyond] if beyond else lines


@dataclass(frozen=True)
class Columns:
    """The attributes of a model, in order.

    Rows become float32 `[n, p]`: numbers as they are, categories as their index, NaN where missing. `missing` are texts
    and numbers, as text, that stand for no value.
    """

    columns: tuple[Column, ...]
    missing: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Any:
        return iter(self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(c.name for c in self.columns)

    @property
    def categorical(self) -> np.ndarray:
        """Which are categorical, bool `[p]`."""
        return np.array([c.kind == "categorical" for c in self.columns], bool)

    def types(self) -> dict[str, pa.DataType]:
        """Arrow types in which a CSV's columns are read."""
        return {c.name: pa.float64() if c.kind == "numeric" else pa.string() for c in self.columns}

    def check(self, names: Sequence[str], where: str) -> None:
        """Raise `TableError` where an attribute is not among `names`."""
        missing = [n for n in self.names if n not in names]
        if missing:
            more = f" (and {len(missing) - 1} more: {', '.join(missing[1:6])})" if missing[1:] else ""
            raise TableError(
                f"{where} has no column '{missing[0]}'{more}, which the model reads; {nearest(missing[0], names)}"
            )

    def values(
        self, table: pa.Table | pa.RecordBatch, faults: Faults, where: str = "the table"
    ) -> np.ndarray:
        """A table's rows as numbers; what cannot be told is missing and counted in `faults`."""
        out = np.empty((table.num_rows, len(self)), np.float32)
        for i, column in enumerate(self.columns):
            found = table.column(column.name)
            if column.kind == "categorical":
                out[:, i] = _codes(found, column, faults, self.missing)
            else:
                numbers = _numbers(found, column.name, where, self.missing)
                out[:, i] = _finite(numbers, column, faults, self.missing)
        return out

    def of_arrays(self, bands: np.ndarray, faults: Faults) -> np.ndarray:
        """Rows `[n, p]` of arrays `[p, n]`, such as the pixels of a raster's bands in this order."""
        out = np.empty((bands.shape[1], len(self)), np.float32)
        for i, (column, band) in enumerate(zip(self.columns, bands, strict=True)):
            if column.kind == "categorical":
                there, inverse = np.unique(band, return_inverse=True)
                codes = _of_uniques(there.tolist(), np.bincount(inverse), column, faults, self.missing)
                out[:, i] = codes[inverse]
            else:
                out[:, i] = _finite(band, column, faults, self.missing)
        return out

    def ranged(self, values: np.ndarray) -> Columns:
        """The same with the ranges of their numbers in the training rows `[n, p]`."""
        columns = (
            replace(c, range=range_of(values[:, i])) if c.kind == "numeric" else c
            for i, c in enumerate(self.columns)
        )
        return replace(self, columns=tuple(columns))

    def to_dict(self) -> list[dict[str, Any]]:
        """JSON-ready form."""
        return [
            {
                "name": c.name,
                "kind": c.kind,
                **({"categories": list(c.categories)} if c.categories else {}),
                **({"range": list(c.range)} if c.range else {}),
            }
            for c in self.columns
        ]

    @classmethod
    def from_dict(cls, data: list[dict[str, Any]], missing: Sequence[str] = ()) -> Columns:
        """What `to_dict` gave; older bundles have no ranges."""
        ranges = [d.get("range") for d in data]
        columns = tuple(
            Column(d["name"], d["kind"], tuple(d.get("categories", ())), (r[0], r[1]) if r else None)
            for d, r in zip(data, ranges, strict=True)
        )
        return cls(columns, tuple(missing))


@dataclass(frozen=True)
class Found:
    """The attributes of a table, and what is to be told of how they were found."""

    columns: Columns
    notes: tuple[str, ...]
    left_out: dict[str, str]

    def without_empty(self, values: np.ndarray) -> tuple[Found, np.ndarray]:
        """Without columns of `values [n, p]` in which nothing is left once infinite values are taken away.

        Raises `TableError` where that leaves none.
        """
        empty = np.asarray(np.isnan(values).all(0))
        if not empty.any():
            return self, values
        gone = {
            c.name: "all its values are missing or infinite"
            for c, e in zip(self.columns, empty, strict=True)
            if e
        }
        columns = replace(self.columns, columns=tuple(c for c in self.columns if c.name not in gone))
        if not len(columns):
            raise TableError("all attributes are missing or infinite in every row")
        return Found(columns, self.notes, self.left_out | gone), values[:, ~empty]


def find_columns(
    table: pa.Table,
    categorical: Sequence[str],
    out: Sequence[str],
    where: str,
    rows: np.ndarray | None = None,
) -> Found:
    """Which columns are attributes, and of which kind, by their type.

    Text and dictionaries are categorical, numbers and booleans numeric unless named in `categorical`. Whole numbers of
    few distinct values stay numeric, and are told. Left out, with the reason: columns in `out`, empty ones, constant
    ones, dates and other types, and text of which hardly any value comes twice (names, identifiers).

    Raises `TableError` where a column of numbers holds a few texts; `rows [n]` are the rows' numbers in the file.
    """
    names = table.column_names
    for name in categorical:
        if name not in names:
            raise TableError(f"{where} has no column '{name}' to be categorical; {nearest(name, names)}")
    columns: list[Column] = []
    notes: list[str] = []
    left: dict[str, str] = {}
    for name in names:
        if name in out:
            continue
        values = table[name]
        if not name:
            left[name] = "it has no name"
            continue
        if values.null_count == len(values) or _all_nan(values):
            left[name] = "all its values are missing"
            continue
        kind = values.type
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        number |= pa.types.is_decimal(kind)
        if not (text or number):
            left[name] = f"it holds {kind}, neither numbers nor text"
            continue
        distinct = pc.count_distinct(
            values.cast(kind.value_type) if pa.types.is_dictionary(kind) else values
        ).as_py()
        if distinct < 2:
            left[name] = "all its values are the same"
        elif text or name in categorical:
            kept = _categories(values)
            if name not in categorical:
                _no_stray(values, len(kept), name, where, rows)
            if len(kept) < 2:
                left[name] = "all its values are the same" if kept else "all its values are missing"
            elif name in categorical and len(kept) > _MOST_CATEGORIES:
                raise TableError(
                    f"{where}: column '{name}' has {len(kept)} categories, {_MOST_CATEGORIES} at most are possible; "
                    "leave it numeric, or join categories"
                )
            elif name not in categorical and _names_rows(values, len(kept)):
                left[name] = (
                    f"{len(kept)} different texts, which look like names; name it categorical to use it"
                )
            else:
                columns.append(Column(name, "categorical", kept))
        else:
            columns.append(Column(name, "numeric"))
            if pa.types.is_integer(kind) and distinct <= FEW:
                notes.append(
                    f"column '{name}' holds whole numbers of {distinct} different values and is taken as numeric; "
                    "name it categorical if they are codes"
                )
    if not columns:
        raise TableError(f"{where} has no attribute to learn from; its columns are {', '.join(names)}")
    return Found(Columns(tuple(columns)), tuple(notes), left)


@dataclass(frozen=True)
class Stray:
    """Texts that are no numbers, in `rows` rows: the first, and where it stands (from 0).

    Of them `commas` would be numbers if a decimal comma were a point; `numbers` rows are as they stand.
    """

    text: str
    at: int
    rows: int
    commas: int
    numbers: int


def stray(values: Any) -> Stray | None:
    """What is no number in a column of text; None where all is, or missing."""
    there, index = coded(values)
    texts = [category(v) for v in there]
    kinds = np.array([_kind(t) for t in texts])[index]
    none = (kinds == "text") | (kinds == "comma")
    if not none.any():
        return None
    at = int(np.argmax(none))
    return Stray(
        texts[index[at]], at, int(none.sum()), int((kinds == "comma").sum()), int((kinds == "number").sum())
    )


def _kind(text: str) -> Literal["", "number", "comma", "text"]:
    if not text or _number(text) is not None:
        return "number" if text else ""
    return "text" if _number(text.replace(",", ".", 1)) is None else "comma"


def _no_stray(values: Any, categories: int, name: str, where: str, rows: np.ndarray | None) -> None:
    """Raise `TableError` where nearly all texts of many are numbers: as categories they would be lost."""
    if categories <= FEW or (found := stray(values)) is None:
        return
    row = found.at + 1 if rows is None else rows[found.at]
    others = found.rows - found.commas
    if found.commas > _STRAY * found.numbers and others <= _STRAY * (found.numbers + found.commas):
        raise TableError(
            f"{where}: column '{name}' holds numbers with a decimal comma ('{found.text[:30]}' in row {row:,}), expected a "
            f"point; --categorical {name} if these are codes, or --drop {name}"
        )
    if found.rows > _STRAY * found.numbers:
        return
    more = f" and {found.rows - 1:,} more rows" if found.rows > 1 else ""
    raise TableError(
        f"{where}: column '{name}' holds numbers, but '{found.text[:30]}' in row {row:,}{more}; if that stands for no value say "
        f"--missing '{found.text[:30]}', else mend it; --categorical {name} if these are codes, or --drop {name}"
    )


def _names_rows(values: Any, categories: int) -> bool:
    """Whether texts are too many to be categories, or hardly any comes twice."""
    there = len(values) - values.null_count
    return categories > _MOST_CATEGORIES or (there > 10 and 2 * categories > there)


def _all_nan(values: Any) -> bool:
    return pa.types.is_floating(values.type) and bool(pc.all(pc.is_nan(pc.drop_null(values))).as_py())


def _categories(values: Any) -> tuple[str, ...]:
    texts = {category(v) for v in pc.unique(values).to_pylist()} - {""}
    try:
        return tuple(sorted(texts, key=float))
    except ValueError:
        return tuple(sorted(texts))


def category(value: Any, missing: Sequence[str] = ()) -> str:
    """A category as text: the same for 7, 7.0, "7" and "7.0"; nothing for what is missing, as `missing` are.

    >>> category(7.0), category(" schist "), category("7.0"), category(None), category(float("nan"))
    ('7', 'schist', '7', '', '')
    """
    if value is None or value != value:
        return ""
    text = str(value).strip()
    if text.lower() in _MISSING or text in missing:
        return ""
    try:
        number = float(text)
    except ValueError:
        return text
    if number in _numbers_of(missing):
        return ""
    return str(int(number)) if number.is_integer() else text


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)  # Python reads 1_000, no one else does
    except ValueError:
        return None


def _numbers_of(texts: Sequence[str]) -> list[float]:
    return [number for text in texts if (number := _number(text)) is not None]


def without(table: pa.Table, missing: Sequence[str]) -> pa.Table:
    """A table with nothing in place of the texts and numbers `missing`."""
    for i, name in enumerate(table.column_names if missing else ()):
        values = table.column(i)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            gone = pc.is_in(pc.utf8_trim_whitespace(values), value_set=pa.array(missing, values.type))
        elif pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            numbers = pa.array(_numbers_of(missing), pa.float64())
            gone = pc.is_in(values.cast(numbers.type, safe=False), value_set=numbers)
        else:
            continue
        if pc.any(gone).as_py():
            table = table.set_column(i, name, pc.if_else(gone, pa.scalar(None, values.type), values))
    return table


def coded(values: Any) -> tuple[list[Any], np.ndarray]:
    """Distinct values with None behind them, and the index int `[n]` of each row's."""
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    found = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
    index = pc.fill_null(found.indices, len(found.dictionary)).to_numpy(zero_copy_only=False).astype(np.intp)
    return [*found.dictionary.to_pylist(), None], index


def _codes(values: Any, column: Column, faults: Faults, missing: Sequence[str]) -> np.ndarray:
    there, index = coded(values)
    return _of_uniques(there, np.bincount(index, minlength=len(there)), column, faults, missing)[index]


def _of_uniques(
    there: list[Any], counts: np.ndarray, column: Column, faults: Faults, missing: Sequence[str]
) -> np.ndarray:
    """Codes float32 of distinct values that come `counts` times."""
    known = {text: i for i, text in enumerate(column.categories)}
    codes = np.full(len(there), np.nan, np.float32)
    for i, value in enumerate(there):
        text = category(value, missing)
        if text in known:
            codes[i] = known[text]
        elif text and counts[i]:
            faults.new[column.name] += int(counts[i])
            faults.examples.setdefault(column.name, text)
    return codes


def _numbers(values: Any, name: str, where: str, missing: Sequence[str]) -> np.ndarray:
    if missing and pa.types.is_string(values.type):
        values = pc.utf8_trim_whitespace(values)
        gone = pc.is_in(values, value_set=pa.array(["", *missing], values.type))
        values = pc.if_else(gone, pa.scalar(None, values.type), values)
    try:
        return pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise TableError(
            f"{where}: column '{name}' holds {values.type}, the model has learned it as numbers; give it as numbers"
        ) from None


def _finite(values: np.ndarray, column: Column, faults: Faults, missing: Sequence[str]) -> np.ndarray:
    """As float32, where infinite values (also those that are too great for it) are missing and counted."""
    with np.errstate(over="ignore"):
        out = np.array(values, np.float32)
    if missing:
        out[np.isin(values, _numbers_of(missing))] = np.nan
    infinite = np.isinf(out)
    if infinite.any():
        faults.infinite[column.name] += int(infinite.sum())
        out[infinite] = np.nan
    if column.range is not None:
        faults.beyond.add(column.name, out, column.range)
    return out
