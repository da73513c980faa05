"""`raremap table train` and `predict`: from a table to probabilities and a map, and what is told on the way."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import rasterio
from tests.command import raremap
from tests.rasters import zipped

import raremap as rm
from raremap.errors import BundleError, ConfigError, OutputError, RaremapWarning, SceneError, TableError
from raremap.tabular.columns import Faults
from raremap.workflows.table_train import TableTraining

QUICK = {"model": "logistic", "tune": False, "folds": 3, "replicates": 50}


def frame(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """Slope units in 30 catchments; steep ones on slate slide."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "unit": [f"u{i}" for i in range(n)],
            "x": rng.uniform(0, 5000, n) + 7e5,
            "y": rng.uniform(0, 5000, n) + 9.5e6,
            "catchment": rng.integers(0, 30, n),
            "slope": rng.normal(30, 8, n),
            "rain": rng.gamma(5, 200, n),
            "rock": rng.choice([1, 2, 3], n),
        }
    )
    odds = (rows.slope - 36) / 4 + 1.5 * (rows.rock == 2)
    rows["slid"] = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(int)
    return rows


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    rows = frame()
    rows.to_csv(folder / "t.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RaremapWarning)
        done = rm.table_train(
            folder / "t.csv", folder / "run", label="slid", categorical=("rock",), group="catchment",
            drop=("unit",), quiet=True, **QUICK,
        )  # fmt: skip
    return folder, rows, done


def raster(
    path: Path, rows: pd.DataFrame, names: list[str], height: int, width: int, **more: object
) -> np.ndarray:
    """The first rows of a table as pixels, one band a column."""
    data = rows[names].to_numpy(np.float32)[: height * width].T.reshape(len(names), height, width)
    profile = {"driver": "GTiff", "height": height, "width": width, "count": len(names), "dtype": "float32",
               "crs": "EPSG:32717", "transform": rasterio.transform.from_origin(7e5, 9.5e6, 10, 10), **more}  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(data)
        file.descriptions = names
    return data


def test_training_leaves_a_bundle_a_report_and_scores_out_of_fold(work):
    folder, rows, done = work
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores = pd.read_csv(folder / "run/scores.csv")
    assert scores.truth.tolist() == rows.slid.tolist()
    e = json.loads((folder / "run/evaluation.json").read_text())
    value = e["intervals"]["auc"]["value"]
    assert value == pytest.approx(roc_auc_score(scores.truth, scores.probability))
    assert value > 0.75
    expected = average_precision_score(scores.truth, scores.probability)
    assert e["intervals"]["average_precision"]["value"] == pytest.approx(expected)
    assert not any(len(set(scores.fold[rows.catchment == c])) > 1 for c in range(30))
    assert [c["name"] for c in e["columns"]] == ["slope", "rain", "rock"]
    assert {c["name"]: c["kind"] for c in e["columns"]}["rock"] == "categorical"
    assert {i["name"] for i in e["importance"][:2]} == {"slope", "rock"}
    page = (folder / "run/report.html").read_text()
    for heading in (
        "Ranking and honesty",
        "Distributions by class",
        "Correlations",
        "Where it errs",
        "The folds",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert not re.search(r'(src|href)="https?:', page)
    assert "as the table has them, no CRS is stated" in page
    assert str(done).startswith(str(folder / "run/bundle"))


def test_rows_get_the_same_probability_from_every_kind_of_file(work, tmp_path):
    folder, rows, done = work
    import geopandas as gpd

    rows.to_parquet(tmp_path / "t.parquet")
    gpd.GeoDataFrame(rows, geometry=gpd.points_from_xy(rows.x, rows.y), crs=32717).to_file(
        tmp_path / "t.gpkg"
    )
    a = rm.table_predict(done.bundle, folder / "t.csv", tmp_path / "a.csv", quiet=True)
    rm.table_predict(done.bundle, tmp_path / "t.parquet", tmp_path / "b.parquet", keep=["unit"], quiet=True)
    rm.table_predict(done.bundle, tmp_path / "t.gpkg", tmp_path / "c.gpkg", quiet=True)
    with pytest.warns(
        RaremapWarning, match=r"d\.csv holds no geometry, .*; write \.gpkg or \.parquet to keep it"
    ):
        rm.table_predict(done.bundle, tmp_path / "t.gpkg", tmp_path / "d.csv", quiet=True)
    assert list(pd.read_csv(tmp_path / "d.csv")) == [*rows, "probability", "alarm"]
    first, second, third = (
        pd.read_csv(tmp_path / "a.csv"),
        pd.read_parquet(tmp_path / "b.parquet"),
        gpd.read_file(tmp_path / "c.gpkg"),
    )
    np.testing.assert_allclose(second.probability, first.probability, atol=1e-12)
    np.testing.assert_allclose(third.probability, first.probability, atol=1e-12)
    assert list(second) == ["unit", "probability", "alarm"]
    assert first.unit.tolist() == rows.unit.tolist()
    assert third.crs.to_epsg() == 32717
    assert a.count == 300
    assert a.alarms == first.alarm.sum() == (first.probability >= a.least).sum()
    direct = done.model.probabilities(done.model.columns.values(pa.Table.from_pandas(rows), Faults()))
    np.testing.assert_allclose(first.probability, direct, atol=1e-5)


def test_a_raster_gets_the_probabilities_of_its_rows(work, tmp_path):
    folder, rows, done = work
    names = ["rain", "rock", "slope"]  # in another order than the model's
    data = raster(tmp_path / "in.tif", rows, names, 14, 20)
    with rasterio.open(tmp_path / "in.tif", "r+") as file:
        hole = data[0].copy()
        hole[3, 4] = np.nan
        file.write(hole, 1)
    found = rm.table_predict(done.bundle, tmp_path / "in.tif", tmp_path / "map.tif", quiet=True)
    table = rm.table_predict(done.bundle, folder / "t.csv", tmp_path / "t.csv", quiet=True)
    expected = pd.read_csv(table.path).probability.to_numpy()[:280].reshape(14, 20).copy()
    expected[3, 4] = np.nan
    with rasterio.open(tmp_path / "map.tif") as file:
        np.testing.assert_allclose(file.read(1), expected, atol=1e-5)
        assert (file.crs.to_epsg(), file.dtypes[0], file.transform.a) == (32717, "float32", 10)
        assert file.descriptions[0] == "probability of slid"
        assert file.tags()["raremap_prior"]
    assert (found.count, found.nodata) == (279, 1)
    assert found.alarm_ha == pytest.approx(found.alarms / 100)
    rm.table_predict(done.bundle, tmp_path / "in.tif", tmp_path / "small.tif", dtype="uint8", quiet=True)
    with rasterio.open(tmp_path / "small.tif") as file:
        steps = file.read(1)
        assert (file.nodata, file.scales[0], steps[3, 4]) == (255, 0.004, 255)
        there = steps != 255
        np.testing.assert_allclose(steps[there] / 250, expected[there], atol=0.0021)


def test_files_of_one_attribute_each_are_a_raster_too(work, tmp_path):
    _, rows, done = work
    raster(tmp_path / "all.tif", rows, ["slope", "rain", "rock"], 10, 20)
    for name, nodata in (("slope", -9999), ("rain", -1), ("rock", 0)):
        raster(tmp_path / f"{name}.tif", rows, [name], 10, 20, nodata=nodata)
        with rasterio.open(tmp_path / f"{name}.tif", "r+") as file:
            file.descriptions = [""]
            hole = file.read(1)
            hole[0, {"slope": 0, "rain": 1, "rock": 2}[name]] = nodata
            file.write(hole, 1)
    one = rm.table_predict(done.bundle, tmp_path / "all.tif", tmp_path / "a.tif", quiet=True)
    paths = [tmp_path / f"{n}.tif" for n in ("rock", "slope", "rain")]
    many = rm.table_predict(done.bundle, paths, tmp_path / "b.tif", quiet=True)
    with rasterio.open(one.path) as a, rasterio.open(many.path) as b:
        expected = a.read(1)
        expected[0, :3] = np.nan
        np.testing.assert_array_equal(b.read(1), expected)
    far = rm.table_predict(done.bundle, [zipped(p) for p in paths], tmp_path / "c.tif", quiet=True)
    with rasterio.open(far.path) as c:
        np.testing.assert_array_equal(c.read(1), expected)


@pytest.mark.parametrize(("height", "width", "tiled"), [(33, 2100, False), (1100, 1050, True)])
def test_windows_cover_each_pixel_once(work, tmp_path, monkeypatch, height, width, tiled):
    """Maps of windows of any size are the same as the rows scored at once."""
    _, _, done = work
    rng = np.random.default_rng(0)
    n = height * width
    rows = pd.DataFrame(
        {"slope": rng.normal(30, 8, n), "rain": rng.gamma(5, 200, n), "rock": rng.choice([1, 2, 3], n)}
    )
    more = {"tiled": True, "blockxsize": 256, "blockysize": 256} if tiled else {}
    data = raster(tmp_path / "in.tif", rows, ["slope", "rain", "rock"], height, width, **more)
    monkeypatch.setattr("raremap.workflows.table_predict._PIXELS", 50_000)
    rm.table_predict(done.bundle, tmp_path / "in.tif", tmp_path / "map.tif", quiet=True)
    expected = done.model.probabilities(done.model.columns.of_arrays(data.reshape(3, -1), Faults()))
    with rasterio.open(tmp_path / "map.tif") as file:
        np.testing.assert_allclose(file.read(1).ravel(), expected, atol=1e-5)


def test_memory_does_not_grow_with_the_rows(work, tmp_path, monkeypatch):
    """Of a CSV no more than a part is held: the largest batch that the model sees is bounded."""
    from raremap.tabular import read
    from raremap.tabular.model import TableModel

    _, rows, done = work
    pd.concat([rows] * 60).to_csv(tmp_path / "long.csv", index=False)
    pd.concat([rows] * 60).to_parquet(tmp_path / "long.parquet", row_group_size=5000)
    monkeypatch.setattr(read, "_CSV_BYTES", 1 << 16)
    monkeypatch.setattr(read, "CHUNK_ROWS", 1000)
    once = done.model.columns.values(pa.Table.from_pandas(rows), Faults())
    seen: list[int] = []
    plain = TableModel.logits
    monkeypatch.setattr(TableModel, "logits", lambda self, v: (seen.append(len(v)), plain(self, v))[1])
    for name in ("long.csv", "long.parquet"):
        seen.clear()
        done_rows = rm.table_predict(done.bundle, tmp_path / name, tmp_path / "out.parquet", quiet=True)
        assert done_rows.count == sum(seen) == 18_000
        assert max(seen) <= 2000
        parts = pd.read_parquet(tmp_path / "out.parquet").probability
        np.testing.assert_allclose(parts, np.tile(done.model.probabilities(once), 60), atol=1e-5)


def test_odd_values_at_prediction_are_missing_and_told(work, tmp_path):
    _, rows, done = work
    odd = rows.copy()
    odd.loc[:4, "rock"] = 9
    odd["rain"] = odd.rain.astype(object)
    odd.loc[0, "rain"] = "inf"
    odd.to_csv(tmp_path / "odd.csv", index=False)
    with pytest.warns(RaremapWarning) as told:
        rm.table_predict(done.bundle, tmp_path / "odd.csv", tmp_path / "s.csv", quiet=True)
    lines = [str(w.message) for w in told]
    assert any("'rain' has 1 infinite values; taken as missing" in line for line in lines)
    assert any("'rock' has 5 rows of categories not met in training (such as '9')" in line for line in lines)
    gone = rows.copy()
    gone.loc[:4, "rock"] = None
    gone.loc[0, "rain"] = None
    gone.to_csv(tmp_path / "gone.csv", index=False)
    rm.table_predict(done.bundle, tmp_path / "gone.csv", tmp_path / "g.csv", quiet=True)
    np.testing.assert_array_equal(
        pd.read_csv(tmp_path / "s.csv").probability, pd.read_csv(tmp_path / "g.csv").probability
    )


def test_another_unit_than_the_trainings_is_warned_of_in_rows_and_pixels(work, tmp_path):
    _, rows, done = work
    found = rm.TableModel.load(done.bundle).columns.columns
    assert found[0].range == pytest.approx((rows.slope.min(), rows.slope.max()))
    radians = rows.assign(slope=np.radians(rows.slope))
    radians.to_csv(tmp_path / "r.csv", index=False)
    line = r"'slope' lies outside what the model has met in 100 % of the {} \(.* to .* in training, .* here\)"
    with pytest.warns(RaremapWarning, match=r"r\.csv: " + line.format("rows")):
        scored = rm.table_predict(done.bundle, tmp_path / "r.csv", tmp_path / "s.csv", quiet=True)
    assert scored.to_dict()["outside"] == {"slope": 300}
    raster(tmp_path / "r.tif", radians, ["slope", "rain", "rock"], 10, 20)
    with pytest.warns(RaremapWarning, match=r"r\.tif: " + line.format("pixels")):
        scored = rm.table_predict(done.bundle, tmp_path / "r.tif", tmp_path / "m.tif", quiet=True)
    assert scored.outside == {"slope": 200}
    assert f"| slope | numeric, {rows.slope.min():.4g} to " in (done.bundle / "README.md").read_text()


@pytest.mark.parametrize(
    ("dtype", "great", "nodata"), [("float32", np.inf, None), ("float64", -1e39, -1.7e308)]
)
def test_infinite_pixels_are_no_data_and_counted(work, tmp_path, dtype, great, nodata):
    """Also those that are too great for the float32 that models read; a value of no data is not counted."""
    _, rows, done = work
    raster(tmp_path / "in.tif", rows, ["slope", "rain", "rock"], 10, 20, dtype=dtype, nodata=nodata)
    expected = rm.table_predict(done.bundle, tmp_path / "in.tif", tmp_path / "a.tif", quiet=True)
    with rasterio.open(tmp_path / "in.tif", "r+") as file:
        band = file.read(2)
        band[0, :5] = great
        band[0, 7] = np.nan if nodata is None else nodata
        file.write(band, 2)
    with pytest.warns(RaremapWarning) as told:
        found = rm.table_predict(done.bundle, tmp_path / "in.tif", tmp_path / "b.tif", quiet=True)
    lines = [str(w.message) for w in told]
    assert lines == [f"{tmp_path / 'in.tif'}: column 'rain' has 5 infinite pixels; taken as no data"]
    assert (found.count, found.nodata) == (194, 6)
    with rasterio.open(expected.path) as a, rasterio.open(found.path) as b:
        wanted = a.read(1)
        wanted[0, [0, 1, 2, 3, 4, 7]] = np.nan
        np.testing.assert_array_equal(b.read(1), wanted)


def test_infinite_pixels_of_files_of_one_attribute_are_counted_too(work, tmp_path):
    """Each file has a value of no data of its own, which may be infinite itself."""
    _, rows, done = work
    for name, nodata in (("slope", -9999), ("rain", -np.inf), ("rock", 0)):
        raster(tmp_path / f"{name}.tif", rows, [name], 10, 20, nodata=nodata)
        with rasterio.open(tmp_path / f"{name}.tif", "r+") as file:
            band = file.read(1)
            band[0, :3] = nodata
            band[1, 0] = np.inf if name == "rain" else band[1, 0]
            file.write(band, 1)
    paths = [tmp_path / f"{n}.tif" for n in ("slope", "rain", "rock")]
    with pytest.warns(RaremapWarning, match="column 'rain' has 1 infinite pixels; taken as no data"):
        found = rm.table_predict(done.bundle, paths, tmp_path / "b.tif", quiet=True)
    assert (found.count, found.nodata) == (196, 4)


def _train(tmp_path: Path, rows: pd.DataFrame, **settings: object) -> list[str]:
    """Train on rows; gives what was told."""
    rows.to_csv(tmp_path / "t.csv", index=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        rm.table_train(
            tmp_path / "t.csv", tmp_path / "run", label="slid", quiet=True, **{**QUICK, **settings}
        )
    return [str(w.message) for w in told if issubclass(w.category, RaremapWarning)]


def test_what_flatters_or_is_left_out_is_told(tmp_path):
    rows = pd.concat([frame(200), frame(200).iloc[:20]])
    rows["empty"] = np.nan
    rows["rain"] = rows.rain.where(rows.index != 3, np.inf)
    told = _train(tmp_path, rows, drop=("catchment",))
    assert any(t.startswith("folds are random") and "--block-m" in t for t in told)
    assert any(re.match(r"\d+ rows have the same attributes as a row of another fold", t) for t in told)
    assert "column 'empty' was left out: all its values are missing" in told
    assert any(t.startswith("column 'unit' was left out: 200 different texts") for t in told)
    assert "column 'rain' has 2 infinite values; taken as missing" in told
    assert any(t.startswith("column 'rock' holds whole numbers of 3 different values") for t in told)
    assert "columns 'x' and 'y' are taken as coordinates, and not as attributes" in told
    page = (tmp_path / "run/report.html").read_text()
    assert "column &#39;empty&#39; was left out" in page


def test_scores_name_the_row_of_the_table(tmp_path):
    """Also where rows without a label are left out: joined to the table, each has its own truth and place."""
    rows = frame(120)
    rows.loc[::7, "slid"] = None
    _train(tmp_path, rows, drop=("catchment", "unit"))
    scores = pd.read_csv(tmp_path / "run/scores.csv")
    assert list(scores) == ["row", "truth", "fold", "x", "y", "probability"]
    lines = (tmp_path / "t.csv").read_text().splitlines()[1:]
    own = [lines[row - 1].split(",") for row in scores.row]
    assert [float(c[-1]) for c in own] == scores.truth.tolist()
    np.testing.assert_allclose([float(c[1]) for c in own], scores.x)
    assert len(scores) == rows.slid.notna().sum()


def test_what_stands_for_no_value_is_named_once(tmp_path):
    """In training; the bundle knows it. A column of numbers is one again, and scored as where the cells are empty."""
    rows = frame()
    rows["rain"] = rows.rain.round(1).astype(str).where(rows.index % 50 != 7, "?")
    with pytest.raises(
        TableError, match=r"column 'rain' holds numbers, but '\?' in row 8 and 5 more rows; if"
    ):
        _train(tmp_path, rows, group="catchment")
    _train(tmp_path, rows, group="catchment", missing=("?",))
    e = json.loads((tmp_path / "run/evaluation.json").read_text())
    rain = {c["name"]: c for c in e["columns"]}["rain"]
    assert rain["kind"] == "numeric"
    assert sum(
        m * n for m, n in zip(rain["missing"], (300 - e["positives"], e["positives"]), strict=True)
    ) == (pytest.approx(6))
    bundle = tmp_path / "run/bundle"
    rm.table_predict(bundle, tmp_path / "t.csv", tmp_path / "a.csv", quiet=True)
    rows.assign(rain=rows.rain.where(rows.rain != "?", "")).to_csv(tmp_path / "u.csv", index=False)
    rm.table_predict(bundle, tmp_path / "u.csv", tmp_path / "b.csv", quiet=True)
    a, b = pd.read_csv(tmp_path / "a.csv"), pd.read_csv(tmp_path / "b.csv")
    np.testing.assert_array_equal(a.probability, b.probability)


def test_blocks_of_ground_keep_neighbours_together(tmp_path):
    rows = frame()
    told = _train(tmp_path, rows, block_m=1000, model="boosting", drop=("catchment", "unit"))
    assert not any("random" in t for t in told)
    scores = pd.read_csv(tmp_path / "run/scores.csv")
    block = (scores.x // 1000).astype(int) * 100_000 + (scores.y // 1000).astype(int)
    assert scores.fold.groupby(block).nunique().max() == 1
    e = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert e["folds"]["places"] == block.nunique()


def test_columns_x_and_y_that_look_like_degrees_are_told(tmp_path):
    rows = frame().drop(columns=["catchment", "unit"])
    degrees = rows.assign(x=(rows.x - 7e5) / 111_195 - 79, y=(rows.y - 9.5e6) / 111_195)
    line = r"all rows lie in 2 blocks of 500 m, too few for 3 folds; the coordinates are .* look like degrees"
    with pytest.raises(rm.RaremapError, match=line):
        _train(tmp_path, degrees.assign(y=degrees.y - 0.02), block_m=500)
    told = _train(tmp_path, rows.assign(x=(rows.x - 7e5) / 50, y=(rows.y - 9.5e6) / 100), block_m=10)
    assert any("look like degrees" in t for t in told)  # or a plot of 100 m by 50 m


@pytest.mark.parametrize("balance", ["smote", "none"])
def test_tuning_and_balances_run_with_gaps(tmp_path, balance):
    rows = frame(150)
    rows.loc[::7, "rain"] = np.nan
    rows["rock"] = rows.rock.map({1: "granite", 2: "slate", 3: None})
    _train(
        tmp_path, rows, balance=balance, tune=True, inner_folds=2, group="catchment", calibration="isotonic"
    )
    e = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert len(e["tuning"]["folds"]) == 3
    assert all(len(f) == 4 for f in e["tuning"]["folds"])
    assert re.search(r"<section>\s*<h2>Settings tried</h2>", (tmp_path / "run/report.html").read_text())
    best = max(e["tuning"]["final"], key=lambda t: t["score"])
    assert e["chosen"]["c"] == best["c"]
    missing = {c["name"]: c["missing"] for c in e["columns"]}["rain"]
    gone = rows.rain.isna()
    assert missing == pytest.approx([gone[rows.slid == 0].mean(), gone[rows.slid == 1].mean()])


def test_the_true_prior_is_served_and_what_figures_are_for(tmp_path):
    """All that is told is for the share asked for, says so, and comes out of scores.csv with the weights given."""
    from sklearn.metrics import average_precision_score, f1_score, precision_score

    _train(tmp_path, frame(), prior=0.01, group="catchment")
    model = rm.TableModel.load(tmp_path / "run/bundle")
    assert model.serves == 0.01
    assert model.prior == pytest.approx(frame().slid.mean())
    found = rm.table_predict(model, tmp_path / "t.csv", tmp_path / "s.csv", quiet=True)
    assert found.mean is not None
    assert found.mean < 0.1
    e = json.loads((tmp_path / "run/evaluation.json").read_text())
    scores = pd.read_csv(tmp_path / "run/scores.csv")
    weight = np.where(scores.truth, e["weights"]["positive"], e["weights"]["negative"])
    assert np.average(scores.truth, weights=weight) == pytest.approx(0.01)
    assert np.average(scores.probability, weights=weight) == pytest.approx(
        e["calibration"]["after"]["mean"], rel=1e-6
    )
    expected = average_precision_score(scores.truth, scores.probability, sample_weight=weight)
    assert e["intervals"]["average_precision"]["value"] == pytest.approx(expected)
    assert precision_score(scores.truth, scores.probability > 0.5 * e["least"]) > 0.5  # as half are positive
    assert e["precision"] < 0.5
    f1 = 2 * e["precision"] * e["recall"] / (e["precision"] + e["recall"])
    assert e["intervals"]["f1"]["value"] == pytest.approx(f1)
    assert f1 < f1_score(scores.truth, scores.probability > e["least"])
    done = TableTraining(model, tmp_path / "run", e)
    assert "figures are for a share of 0.01, to which rows are weighted" in str(done)
    assert (
        "figures are for a share of 0.01, to which rows are"
        in (tmp_path / "run/bundle/README.md").read_text()
    )
    assert "Figures are for a share of positives of 0.01" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"label": "slidd"}, "has no label column 'slidd'; did you mean 'slid'?"),
        ({"model": "forrest"}, "there is no model 'forrest'; did you mean 'forest'?"),
        ({"group": "x", "block_m": 5.0}, "group and block_m are two ways to make folds; give one"),
        ({"folds": 1}, "folds: Input should be greater than or equal to 2"),
        ({"prior": 1.5}, "prior: Input should be less than 1"),
        ({"metric": "auc"}, "metric and inner_folds are of tuning, and tune is false; leave them out"),
        ({"group": "catchmen"}, "has no column 'catchmen' to group by; did you mean 'catchment'?"),
        ({"drop": ("rian",)}, "has no column 'rian' to leave out; did you mean 'rain'?"),
        ({"categorical": ("roc",)}, "has no column 'roc' to be categorical; did you mean 'rock'?"),
        ({"x": "east", "y": "y"}, "has no column 'east' of coordinates"),
        ({"layer": "a"}, "has no layers; leave --layer out"),
        ({"block_m": 1e7}, "positive rows lie in 1 block, too few for 3 folds"),
    ],
)
def test_wrong_settings_are_told_in_one_line(work, tmp_path, settings, line):
    folder, _, _ = work
    warnings.simplefilter("ignore", RaremapWarning)  # pytest gives each test filters of its own
    with pytest.raises(rm.RaremapError) as caught:
        rm.table_train(
            folder / "t.csv", tmp_path / "run", quiet=True, **{"label": "slid", **QUICK, **settings}
        )
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_inputs_of_a_prediction_are_told(work, tmp_path):
    folder, rows, done = work
    rows.drop(columns=["slope", "rain"]).to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(TableError, match=r"less\.csv has no column 'slope' \(and 1 more: rain\)"):
        rm.table_predict(done.bundle, tmp_path / "less.csv", tmp_path / "s.csv", quiet=True)
    rows.assign(slope="steep").to_csv(tmp_path / "text.csv", index=False)
    with pytest.raises(
        TableError, match=r"text\.csv: row 1 has 'steep' in column 'slope', expected a number"
    ):
        rm.table_predict(done.bundle, tmp_path / "text.csv", tmp_path / "s.csv", quiet=True)
    assert not (tmp_path / "s.csv").exists()
    raster(tmp_path / "less.tif", rows, ["slope", "rock"], 5, 5)
    with pytest.raises(SceneError, match=r"less\.tif has no band 'rain', which the model reads"):
        rm.table_predict(done.bundle, tmp_path / "less.tif", tmp_path / "m.tif", quiet=True)
    with pytest.raises(OutputError, match="no name for a map"):
        rm.table_predict(done.bundle, tmp_path / "less.tif", tmp_path / "m.csv", quiet=True)
    with pytest.raises(OutputError, match="would overwrite its own input"):
        rm.table_predict(done.bundle, tmp_path / "less.csv", tmp_path / "less.csv", quiet=True)
    with pytest.raises(OutputError, match="the rows have no geometry"):
        rm.table_predict(done.bundle, folder / "t.csv", tmp_path / "s.gpkg", quiet=True)
    with pytest.raises(ConfigError, match="the prior is 2, expected"):
        rm.table_predict(done.bundle, folder / "t.csv", tmp_path / "s.csv", prior=2, quiet=True)
    with pytest.raises(BundleError, match="does not exist"):
        rm.table_predict(tmp_path / "nowhere", folder / "t.csv", tmp_path / "s.csv", quiet=True)
    raster(tmp_path / "void.tif", rows.assign(slope=np.nan), ["slope", "rain", "rock"], 5, 5)
    with pytest.raises(SceneError, match="no pixel with data in all attributes"):
        rm.table_predict(done.bundle, tmp_path / "void.tif", tmp_path / "m.tif", quiet=True)
    assert not (tmp_path / "m.tif").exists()


@pytest.mark.parametrize(
    ("name", "more", "line"),
    [
        ("in.tif", {"keep": ("a",)}, "--keep has no effect on a raster (in.tif); leave it out"),
        ("in.tif", {"layer": "a"}, "--layer has no effect on a raster (in.tif); leave it out"),
        ("t.csv", {"dtype": "foo"}, "--dtype has no effect on the rows of a table (t.csv); leave it out"),
        ("t.csv", {"dtype": "float32"}, "--dtype has no effect on the rows of a table (t.csv); leave it out"),
        ("t.csv", {"bands": ["q"]}, "--bands has no effect on the rows of a table (t.csv); leave it out"),
    ],
)
def test_options_of_the_other_kind_of_input_are_refused(work, tmp_path, capsys, name, more, line):
    _, _, done = work
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}$"):
        rm.table_predict(done.model, name, tmp_path / "out.tif", quiet=True, **more)
    words = [(f"--{k}", v if isinstance(v, str) else v[0]) for k, v in more.items()]
    code, _, err = raremap(
        capsys, "table", "predict", done.bundle, name, *words[0], "-o", tmp_path / "out.tif", "-q"
    )
    assert (code, err) == (2, f"raremap: {line}\n")


def test_the_command_line(work, tmp_path, capsys):
    folder, _, _ = work
    words = [
        "--label",
        "slid",
        "--group",
        "catchment",
        "--model",
        "logistic",
        "--no-tune",
        "--folds",
        "3",
        "-q",
    ]
    code, out, err = raremap(
        capsys, "table", "train", folder / "t.csv", *words, "-o", tmp_path / "run", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["rows"] == 300
    assert "warning: column 'unit' was left out" in err
    code, out, _ = raremap(
        capsys, "table", "predict", tmp_path / "run/bundle", folder / "t.csv", "-o", tmp_path / "s.csv", "-q"
    )
    assert code == 0
    assert "300 rows, mean probability" in out
    code, _, err = raremap(
        capsys, "table", "train", folder / "t.csv", "--label", "catchment", "-o", tmp_path / "no"
    )
    assert code == 2
    assert err.startswith(f"raremap: {folder / 't.csv'}: the label column 'catchment' holds")
    assert len(err.splitlines()) == 1
    code, out, _ = raremap(capsys, "table", "train", "--help")
    assert "Example: raremap table train" in out


def test_ecuador_as_the_tutorial_has_it(real_data, tmp_path, monkeypatch, capsys):
    """The tutorial's lines run as they stand (but for a quick model): better than chance by far, and maps of the raster."""
    folder = real_data / "ecuador"
    if not folder.is_dir():
        pytest.skip(f"no ecuador in {real_data}")
    for name in ("lsl.csv", "ta.tif"):
        (tmp_path / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs/tables.md").read_text()
    lines = [line.split() for line in text.split("```")[1].splitlines() if line]
    for program, *words in lines:
        assert program == "raremap"
        quick = ["--model", "logistic", "--no-tune", "--folds", "3"] if words[1] == "train" else []
        code, _, err = raremap(capsys, *words, *quick, "-q")
        assert code == 0, err
    e = json.loads((tmp_path / "runs/ecuador/evaluation.json").read_text())
    assert e["intervals"]["auc"]["low"] > 0.65
    with rasterio.open("susceptibility.tif") as a, rasterio.open("true-share.tif") as b:
        assert np.isfinite(a.read(1)).sum() == np.isfinite(b.read(1)).sum() == 415 * 383 - 619
        assert (a.tags()["raremap_prior"], b.tags()["raremap_prior"]) == ("0.5", "0.01")
    assert len(pd.read_csv("scored.csv")) == 350
