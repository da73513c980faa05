"""Columns of tables: which are found, of which kind, and what becomes of odd values."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from raremap.errors import LabelError, TableError
from raremap.tabular.columns import Column, Columns, Faults, category, find_columns
from raremap.tabular.encode import Encoder
from raremap.tabular.labels import read_truth
from raremap.tabular.read import coordinates, open_parts, read_table


def _table(**columns: object) -> pa.Table:
    return pa.table({k: pa.array(v) for k, v in columns.items()})


def test_kinds_follow_the_type_and_what_is_named():
    table = _table(
        slope=[1.0, 2.0, 3.0, 4.0], rock=["a", "b", "a", "b"], code=[7, 7, 9, 9], aspect=[0, 1, 2, 3],
        flat=[5, 5, 5, 5], gone=pa.array([None] * 4, pa.float64()), gone_too=[float("nan")] * 4,
        day=pa.array([1, 2, 3, 4], pa.date32()), wet=[True, False, True, None], blank=["", "NA", " ", ""],
    )  # fmt: skip
    found = find_columns(table, ["code"], [], "t.csv")
    assert {c.name: c.kind for c in found.columns} == {
        "slope": "numeric", "rock": "categorical", "code": "categorical", "aspect": "numeric", "wet": "numeric",
    }  # fmt: skip
    assert found.columns.columns[2].categories == ("7", "9")
    assert set(found.left_out) == {"flat", "gone", "gone_too", "day", "blank"}
    assert found.left_out["gone"] == "all its values are missing"
    assert [n for n in found.notes if "'aspect'" in n]
    assert not [n for n in found.notes if "'code'" in n]


def test_text_that_names_rows_is_left_out_unless_named_categorical():
    table = _table(unit=[f"unit {i}" for i in range(40)], slope=np.arange(40.0))
    assert "look like names" in find_columns(table, [], [], "t.csv").left_out["unit"]
    assert len(find_columns(table, ["unit"], [], "t.csv").columns.columns[0].categories) == 40


def test_rows_are_numbers_codes_and_nan():
    columns = Columns((Column("slope", "numeric"), Column("rock", "categorical", ("3", "granite", "slate"))))
    table = _table(rock=["slate", None, "3.0", "chalk", "NA"], slope=[1.5, None, float("inf"), -2.0, 1e39])
    faults = Faults()
    values = columns.values(table, faults)
    nan = np.nan
    np.testing.assert_array_equal(values, np.float32([[1.5, 2], [nan, nan], [nan, 0], [-2, nan], [nan, nan]]))
    assert dict(faults.infinite) == {"slope": 2}
    assert dict(faults.new) == {"rock": 1}
    assert "such as 'chalk'" in faults.lines()[1]


def test_codes_are_the_same_from_numbers_text_dictionaries_and_arrays():
    columns = Columns((Column("code", "categorical", ("2", "10", "83")),))
    expected = np.float32([[2], [0], [1], [np.nan]])
    for values in (
        pa.array([83, 2, 10, None]), pa.array([83.0, 2.0, 10.0, None]), pa.array(["83", "2.0", " 10", None]),
        pa.array(["83", "2", "10", ""]).dictionary_encode(),
    ):  # fmt: skip
        np.testing.assert_array_equal(columns.values(pa.table({"code": values}), Faults()), expected)
    np.testing.assert_array_equal(columns.of_arrays(np.float32([[83, 2, 10, np.nan]]), Faults()), expected)


def test_missing_columns_and_text_among_numbers_are_told():
    columns = Columns((Column("slope", "numeric"), Column("rain", "numeric")))
    with pytest.raises(
        TableError, match=r"^t\.csv has no column 'slope' \(and 1 more: rain\), which the model"
    ):
        columns.check(["slop"], "t.csv")
    with pytest.raises(TableError, match="column 'slope' holds string, the model has learned it as numbers"):
        columns.values(_table(slope=["steep"], rain=[1.0]), Faults(), "t.csv")


def test_the_encoder_fills_flags_scales_and_spreads_by_hand():
    columns = Columns(
        (Column("a", "numeric"), Column("k", "categorical", ("x", "y")), Column("b", "numeric"))
    )
    nan = np.nan
    values = np.float32([[1, 0, 10], [3, nan, 10], [nan, 1, 40], [5, 1, 40]])
    encoder = Encoder.fit(values, columns, fill=True, standardise=False)
    assert encoder.names(columns) == ["a", "b", "a missing", "k missing", "k=x", "k=y"]
    np.testing.assert_array_equal(
        encoder(values), [[1, 10, 0, 0, 1, 0], [3, 10, 0, 1, 0, 0], [3, 40, 1, 0, 0, 1], [5, 40, 0, 0, 0, 1]]
    )
    again = Encoder.from_dict(encoder.to_dict())
    np.testing.assert_array_equal(again(values), encoder(values))
    scaled = Encoder.fit(values, columns, fill=True, standardise=True)(values)
    np.testing.assert_allclose(scaled[:, 1], [-1, -1, 1, 1])
    np.testing.assert_allclose(scaled[:, 0], (np.array([1, 3, 3, 5]) - 3) / np.sqrt(2), rtol=1e-6)
    kept = Encoder.fit(values, columns, fill=False, standardise=False)
    assert np.isnan(kept(values)[2, 0])
    assert kept.names(columns) == ["a", "b", "k missing", "k=x", "k=y"]


@pytest.mark.parametrize(
    ("values", "positive", "expected"),
    [
        ([0, 1, 0], None, [False, True, False]),
        ([True, False, False], None, [True, False, False]),
        (["FALSE", "TRUE", "FALSE"], None, [False, True, False]),
        ([1.0, 0.0, None], None, [True, False]),
        (["slide", "none", "flow"], "slide", [True, False, False]),
        ([1, 2, 2], "2", [False, True, True]),
    ],
)
def test_labels_become_booleans(values, positive, expected):
    truth = read_truth(_table(y=values), "y", positive, "t.csv")
    assert truth.positive.tolist() == expected


@pytest.mark.parametrize(
    ("values", "positive", "line"),
    [
        ([1, 1, 1], None, "holds '1' only; a model needs rows of both classes"),
        (["yes", "no"], None, "holds 'no', 'yes', expected 0 and 1 or true and false; say which value"),
        ([0, 1, 2], None, "expected 0 and 1 or true and false"),
        (["slide"] * 2 + ["no"] * 3, None, "say which value is looked for, such as --positive 'slide'"),
        (["a"] * 3 + ["none", "slide", None, "NA"], None, "such as --positive 'none' or --positive 'slide'"),
        ([0, 1], "slide", "has no value 'slide', it holds '0', '1'"),
        ([None, None], None, "is empty"),
    ],
)
def test_labels_that_cannot_be_are_told(values, positive, line):
    with pytest.raises(LabelError, match=r"^t\.csv: the label column 'y' ") as caught:
        read_truth(_table(y=values), "y", positive, "t.csv")
    assert line in str(caught.value)


def test_a_label_of_many_values_is_no_label_and_none_is_proposed():
    with pytest.raises(
        LabelError, match=r"holds 349 different values \('0', .* …\), expected two classes"
    ) as caught:
        read_truth(_table(y=np.arange(349)), "y", None, "t.csv")
    assert "--positive '" not in str(caught.value)
    assert read_truth(_table(y=np.arange(349)), "y", "17", "t.csv").positive.sum() == 1


def test_more_than_two_classes_are_one_against_the_rest_and_told():
    truth = read_truth(_table(y=["slide", "fall", "none", None]), "y", "slide", "t.csv")
    assert any("'slide' is positive, all others (fall, none) are negative" in n for n in truth.notes)
    assert any(n.startswith("1 rows have no label") for n in truth.notes)


def test_the_same_table_from_every_kind_of_file(tmp_path):
    import geopandas as gpd

    frame = pd.DataFrame({"slope": [1.5, None, 3.0], "rock": ["a", "b", None], "y": [0, 1, 0]})
    places = gpd.GeoDataFrame(frame, geometry=gpd.points_from_xy([10, 20, 30], [5, 6, 7]), crs=32717)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "s.csv", index=False, sep=";")
    places.to_file(tmp_path / "t.gpkg")
    places.to_parquet(tmp_path / "t.parquet")
    columns = Columns((Column("slope", "numeric"), Column("rock", "categorical", ("a", "b"))))
    nan = np.nan
    for name in ("t.csv", "s.csv", "t.gpkg", "t.parquet"):
        source = read_table(tmp_path / name)
        np.testing.assert_array_equal(
            columns.values(source.table, Faults()), np.float32([[1.5, 0], [nan, 1], [3, nan]])
        )
        with open_parts(tmp_path / name, types=columns.types()) as parts:
            streamed = pa.Table.from_batches(list(parts.batches))
        np.testing.assert_array_equal(
            columns.values(streamed, Faults()), columns.values(source.table, Faults())
        )
        if source.xy is not None:
            assert source.xy.tolist() == [[10, 5], [20, 6], [30, 7]]
    assert read_table(tmp_path / "t.gpkg").xy is not None


def test_coordinates_are_found_by_name_and_taken_out(tmp_path):
    frame = pd.DataFrame({"Lon": [1.0, 2.0], "lat": [3.0, 4.0], "slope": [5, 6]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    source, used = coordinates(read_table(tmp_path / "t.csv"), None, None)
    assert (used, source.degrees) == (("Lon", "lat"), True)
    assert source.xy is not None
    assert source.xy.tolist() == [[1, 3], [2, 4]]
    assert not source.unsure
    frame.columns = ["Longitud", "Latitud", "slope"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert coordinates(read_table(tmp_path / "t.csv"), "Longitud", "Latitud")[0].degrees
    frame.columns = ["x", "y", "slope"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert coordinates(read_table(tmp_path / "t.csv"), None, None)[0].unsure


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("gone.csv", None, "does not exist"),
        ("t.xlsx", "a", "is no table that can be read"),
        ("t.csv", "a,b\n", "has no rows"),
        ("t.parquet", "not parquet", "cannot be read"),
        ("t.gpkg", "not a package", "cannot be read"),
        ("u.csv", "a,b\n1,2\n1,2,3\n", "cannot be read"),
    ],
)
def test_tables_that_cannot_be_read_are_told_in_one_line(tmp_path, name, text, line):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(TableError) as caught:
        read_table(tmp_path / name)
    assert line in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_are_read_as_pandas_reads_them(tmp_path, separator):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"x": rng.uniform(7e5, 8e5, 30), "n": range(30), "rock": ["a", "b,c"] * 15, "d": "01.02.2020"}
    )
    frame.loc[3, "x"] = None
    frame.to_csv(tmp_path / "t.csv", index=False, sep=separator, decimal=",", float_format="%.3f")
    expected = pd.read_csv(tmp_path / "t.csv", sep=separator, decimal=",")
    found = read_table(tmp_path / "t.csv").table
    assert str(found.schema.field("x").type) == "double"
    pd.testing.assert_frame_equal(found.to_pandas(), expected)
    with open_parts(tmp_path / "t.csv", types={"x": pa.float64()}) as parts:
        typed = pa.Table.from_batches(list(parts.batches))
    np.testing.assert_array_equal(typed["x"].to_numpy(), expected.x)


def _stray(*texts: str) -> pa.Table:
    return _table(slope=[*(f"{i}.5" for i in range(40)), *texts], rain=np.arange(40.0 + len(texts)))


def test_texts_among_numbers_are_told_with_their_row_and_what_to_do():
    line = r"^t\.csv: column 'slope' holds numbers, but '\?' in row 41 and 1 more rows; if .* say --missing '\?', else mend"
    with pytest.raises(TableError, match=line):
        find_columns(_stray("?", "-"), [], [], "t.csv")
    with pytest.raises(TableError, match="but 'steep' in row 90; if"):
        find_columns(_stray("steep"), [], [], "t.csv", np.arange(40 + 1) + 50)
    commas = _table(slope=[f"{i},5" for i in range(40)], rain=np.arange(40.0))
    with pytest.raises(
        TableError, match=r"numbers with a decimal comma \('0,5' in row 1\), expected a point"
    ):
        find_columns(commas, [], [], "t.csv")
    # Codes, names and text that is named stay what they were.
    assert find_columns(_stray("?"), ["slope"], [], "t.csv").columns.columns[0].kind == "categorical"
    names = _table(unit=[f"{i}" if i % 2 else f"{i}b" for i in range(40)], rain=np.arange(40.0))
    assert "look like names" in find_columns(names, [], [], "t.csv").left_out["unit"]
    codes = _table(rock=["1", "2", "3", "x"] * 10, rain=np.arange(40.0))
    assert find_columns(codes, [], [], "t.csv").columns.columns[0].categories == ("1", "2", "3", "x")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_what_is_named_missing_is(tmp_path, name):
    """Texts in a CSV and numbers in any file, in attributes and label; the same for rows to be scored."""
    rock, y, nan = ["a", "b", "?", "a"], ["1", "0", "1", "?"], np.nan
    slope = ["1.5", "?", "-9999", "4"] if name == "t.csv" else [1.5, None, -9999.0, 4.0]
    frame = pd.DataFrame({"slope": slope, "rock": rock, "y": y})
    frame.to_csv(tmp_path / name, index=False) if name == "t.csv" else frame.to_parquet(tmp_path / name)
    missing = ("?", "-9999")
    source = read_table(tmp_path / name, missing=missing)
    assert source.table["slope"].to_pylist() == [1.5, None, None, 4]
    assert read_truth(source.table, "y", None, name).labelled.tolist() == [True, True, True, False]
    columns = Columns((Column("slope", "numeric"), Column("rock", "categorical", ("a", "b"))), missing)
    expected = np.float32([[1.5, 0], [nan, 1], [nan, nan], [4, 0]])
    faults = Faults()
    with open_parts(tmp_path / name, types=columns.types(), missing=missing) as parts:
        streamed = pa.Table.from_batches(list(parts.batches))
    np.testing.assert_array_equal(columns.values(streamed, faults), expected)
    np.testing.assert_array_equal(
        columns.values(pa.table({"slope": ["1.5", " ?", "-9999", "4"], "rock": rock}), faults), expected
    )
    assert not faults.lines()
    only = Columns(columns.columns[:1], missing)
    np.testing.assert_array_equal(only.of_arrays(np.float32([[1.5, -9999]]), faults), [[1.5], [nan]])


def test_a_text_among_numbers_in_parts_is_told_with_its_row(tmp_path, monkeypatch):
    from raremap.tabular import read

    monkeypatch.setattr(read, "_CSV_BYTES", 1 << 10)
    cells = [f"{i}.5" for i in range(2000)]
    cells[1499] = "steep"
    (tmp_path / "t.csv").write_text("unit,slope\n" + "".join(f"u,{c}\n" for c in cells))
    line = r"t\.csv: row 1,500 has 'steep' in column 'slope', expected a number; mend it"
    with (
        pytest.raises(TableError, match=line),
        open_parts(tmp_path / "t.csv", types={"slope": pa.float64()}) as parts,
    ):
        list(parts.batches)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (["a", "b", "a"], "has two columns 'a'; each needs"),
        (["a", "", ""], "has two columns without a name; each"),
    ],
)
def test_columns_of_one_name_are_told(tmp_path, name, columns, line):
    """Whole or in parts, also where the second holds text and the first numbers."""
    rows = pa.table([[1.0, 2.0], [3.0, 4.0], ["x", "y"]], names=columns)
    if name == "t.parquet":
        pa.parquet.write_table(rows, tmp_path / name)
    else:
        separator = "," if name == "t.csv" else "\t"
        lines = [columns, ["1", "3", "x"], ["2", "4", "y"]]
        (tmp_path / name).write_text("".join(separator.join(r) + "\n" for r in lines))
    with pytest.raises(TableError) as caught:
        read_table(tmp_path / name)
    assert line in str(caught.value)
    with (
        pytest.raises(TableError, match="has two columns"),
        open_parts(tmp_path / name, types={"a": pa.float64()}) as parts,
    ):
        list(parts.batches)


def test_a_category_is_the_same_however_it_is_written():
    assert [category(v) for v in (7, 7.0, "7", "7.00", True, None, "n/a")] == [
        "7",
        "7",
        "7",
        "7",
        "True",
        "",
        "",
    ]


def test_what_lies_beyond_the_training_is_counted_by_column():
    rng = np.random.default_rng(0)
    trained = rng.normal(30, 8, (5000, 2)).astype(np.float32)
    trained[7, 0] = -9999  # one wrong value makes no range
    known = Columns(
        (Column("slope", "numeric"), Column("rain", "numeric"), Column("rock", "categorical", ("a",)))
    )
    columns = known.ranged(np.column_stack([trained, np.zeros(5000)]))
    assert columns.columns[0].range == tuple(np.sort(trained[:, 0])[[4, -5]])
    assert columns.columns[2].range is None
    again = Columns.from_dict(json.loads(json.dumps(columns.to_dict())))
    assert again == columns
    faults = Faults()
    slope = np.radians(trained[:200, 0].astype(float))
    slope[:4] = [np.nan, np.inf, 30, 30]
    rain = np.where(np.arange(200) < 20, 500.0, 30.0)
    table = pa.table({"slope": slope, "rain": rain, "rock": ["a"] * 200})
    for part in (table.slice(0, 50), table.slice(50)):
        again.values(part, faults)
    assert faults.beyond.count == {"slope": 196, "rain": 20}
    line = faults.lines()[-1]
    assert line.startswith("'slope' lies outside what the model has met in 99 % of the rows (")
    assert "30 here); so do 'rain' in 10 %; are the units of measure the same?" in line
    few = Faults()
    again.values(
        pa.table({"slope": [30.0] * 100, "rain": [500.0] * 4 + [30.0] * 96, "rock": ["a"] * 100}), few
    )
    assert few.beyond.count == {"rain": 4}
    assert few.lines() == []


def test_columns_of_older_bundles_have_no_range():
    old = Columns.from_dict([{"name": "slope", "kind": "numeric"}])
    faults = Faults()
    old.values(pa.table({"slope": [1e9]}), faults)
    assert faults.lines() == []
    assert faults.beyond.count == {}
