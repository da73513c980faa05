"""`raremap table fuse` on blocks whose evidence is laid by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from tests.rasters import zipped

from raremap.bundle import Bundle
from raremap.errors import (
    BundleError,
    ConfigError,
    LabelError,
    RaremapError,
    RaremapWarning,
    SceneError,
    SplitError,
    TableError,
)
from raremap.labels import LabelScheme
from raremap.tabular.calibration import Calibration
from raremap.tabular.columns import Column, Columns
from raremap.tabular.fusion import Fusion
from raremap.tabular.model import TableModel
from raremap.workflows.table_fuse import table_fuse

SIDE, ACROSS = 5, 20
UNITS = ACROSS * ACROSS
GRID = dict(crs="EPSG:25831", transform=rasterio.transform.from_origin(500, 4_000_000, 10, 10))


class Slope:
    """A scorer that says the first attribute."""

    def raw(self, encoded: np.ndarray) -> np.ndarray:
        return encoded[:, 0]


def table_model() -> TableModel:
    return TableModel(
        Columns((Column("slope", "numeric"),)), lambda v: v, Slope(), 0.0, Calibration(), 0.2, 0.2, 0.0, "1"
    )  # type: ignore[arg-type]


def bundle(**more) -> Bundle:
    """Log-odds in, their softmax out."""
    net = torch.nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        net.weight[:] = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    return Bundle.from_module(
        net, LabelScheme({0: "other", 1: "landslide"}), ["band1"], prior=(0.9, 0.1), **more
    )


def write(path: Path, array: np.ndarray, nodata: float) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=array.shape[0], width=array.shape[1], count=1, dtype=array.dtype,
        nodata=nodata, **GRID,
    ) as file:  # fmt: skip
        file.write(array, 1)
    return path


class Ground:
    """A scene of log-odds, a raster of its units, and their rows in 40 groups."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.truth = rng.random(UNITS) < 0.25
        lift = np.where(self.truth, 1.0, -1.0)
        size = SIDE * ACROSS
        block = np.arange(size) // SIDE
        self.unit = (block[:, None] * ACROSS + block).astype(np.int32)
        self.image = (lift + rng.normal(0, 1, UNITS)).astype(np.float32)[self.unit]
        self.image += rng.normal(0, 0.3, self.image.shape).astype(np.float32)
        self.image[self.unit == 3] = -9999
        self.slope = lift + rng.normal(0, 1.2, UNITS)
        self.scene = write(folder / "april.tif", self.image, -9999)
        self.units = write(folder / "units.tif", self.unit + 100, -1)
        self.frame = pd.DataFrame(
            {
                "unit": np.arange(UNITS) + 100, "slope": self.slope, "landslide": self.truth.astype(int),
                "catchment": np.arange(UNITS) % 40,
            }
        )  # fmt: skip
        self.rows = folder / "rows.csv"
        self.frame.to_csv(self.rows, index=False)


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


def fuse(ground: Ground, out: Path, **more):
    fits = {} if "fusion" in more else {"label": "landslide", "group": "catchment"}
    asked = dict(rows=ground.rows, quiet=True) | fits | more
    return table_fuse(bundle(), table_model(), ground.scene, ground.units, out, **asked)


def by_hand(ground: Ground) -> np.ndarray:
    """Log-odds of the mean of each unit's four greatest probabilities."""
    p = 1 / (1 + np.exp(-np.maximum(ground.image.astype(float), -50)))
    top = [np.sort(p[ground.unit == u])[-4:].mean() for u in range(UNITS)]
    z = np.log(np.array(top) / (1 - np.array(top)))
    z[3] = np.nan
    return z


def test_scenes_and_units_are_read_by_names_that_are_no_paths(ground: Ground, tmp_path: Path) -> None:
    plain = pd.read_csv(fuse(ground, tmp_path / "out").units)
    scene, units = zipped(ground.scene), zipped(ground.units)
    done = table_fuse(
        bundle(),
        table_model(),
        scene,
        units,
        tmp_path / "far",
        rows=ground.rows,
        label="landslide",
        group="catchment",
        quiet=True,
    )
    pd.testing.assert_frame_equal(pd.read_csv(done.units), plain)
    assert [m.name for m in done.maps] == ["april.fused.tif"]


def test_units_map_and_alarms_are_those_of_a_fit_by_hand(ground: Ground, tmp_path: Path) -> None:
    done = fuse(ground, tmp_path / "out")
    z = by_hand(ground)
    expected = Fusion.fit(z, ground.slope, ground.truth)
    np.testing.assert_allclose(done.fusion.weights, expected.weights, atol=1e-3)
    units = pd.read_csv(done.units)
    p = expected.probabilities(z, ground.slope)
    np.testing.assert_allclose(units["p_fused"], p, atol=1e-3)
    assert units["p_image"].isna().sum() == 1
    assert units["pixels"][3] == 0
    assert units["p_fused"][3] == pytest.approx(units["p_table"][3])
    np.testing.assert_allclose(units["x"][21], 500 + 10 * 7.5)
    np.testing.assert_allclose(units["y"][21], 4_000_000 - 10 * 7.5)
    with rasterio.open(done.maps[0]) as file:
        assert file.descriptions == ("fused", "image", "table")
        assert {"raremap_image_model", "raremap_table_model"} <= file.tags().keys()
        assert np.isnan(file.nodata)
        np.testing.assert_allclose(file.read(1), p[ground.unit], atol=1e-3)
        assert np.isnan(file.read(2)[ground.unit == 3]).all()
    import geopandas as gpd

    alarms = gpd.read_file(done.alarms)
    assert len(alarms) == int((units["alarm"] == 1).sum()) - int(units["alarm"][3]) > 0
    assert alarms["p_fused"].is_monotonic_decreasing
    assert done.known == {"both": UNITS - 1, "image": 0, "table": 1}


def placed(ground: Ground, folder: Path, crs: str | None, east: float) -> tuple[Path, Path]:
    """Copies of the scene and its units with another CRS, the left edge at `east`."""
    made = []
    for source in (ground.scene, ground.units):
        made.append(folder / f"{source.stem}_{(crs or 'none').replace(':', '')}.tif")
        made[-1].write_bytes(source.read_bytes())
        with rasterio.open(made[-1], "r+") as file:
            file.crs = crs or rasterio.CRS()
            file.transform = rasterio.transform.from_origin(east, 9_700_000, 10, 10)
    return made[0], made[1]


def zones(ground: Ground, folder: Path, *crs: str | None) -> tuple[list[Path], list[Path]]:
    """The ground once in each CRS, its rows once for each."""
    pairs = [placed(ground, folder, c, 600_000 + 1000 * i) for i, c in enumerate(crs)]
    frames = [ground.frame.assign(scene=scene.stem) for scene, _ in pairs]
    pd.concat(frames).to_csv(ground.rows, index=False)
    return [scene for scene, _ in pairs], [units for _, units in pairs]


def test_alarms_of_two_zones_lie_where_they_are(ground: Ground, tmp_path: Path) -> None:
    import geopandas as gpd
    from pyproj import Transformer

    scenes, units = zones(ground, tmp_path, "EPSG:32717", "EPSG:32718")
    done = table_fuse(
        bundle(), table_model(), scenes, units, tmp_path / "out", rows=ground.rows, scene_column="scene",
        label="landslide", group="catchment", quiet=True,
    )  # fmt: skip
    told = pd.read_csv(done.units)
    assert (set(told["crs"]), done.crs) == ({"EPSG:4326"}, "EPSG:4326")
    assert "(places in EPSG:4326)" in str(done)
    row, col = np.divmod(np.arange(UNITS), ACROSS)
    for i, (scene, zone) in enumerate(zip(scenes, (32717, 32718), strict=True)):
        to = Transformer.from_crs(zone, 4326, always_xy=True)
        lon, lat = to.transform(600_000 + 1000 * i + 50 * col + 25, 9_700_000 - 50 * row - 25)
        own = told[told["scene"] == scene.stem]
        seen = own["pixels"].to_numpy() > 0
        # The middle of a unit's valid pixels; a millionth of a degree is a decimetre.
        np.testing.assert_allclose(own["x"][seen], lon[own["unit"][seen] - 100], atol=1e-6)
        np.testing.assert_allclose(own["y"][seen], lat[own["unit"][seen] - 100], atol=1e-6)
    alarms = gpd.read_file(done.alarms)
    assert alarms.crs.to_epsg() == 4326
    np.testing.assert_allclose(alarms.geometry.x, alarms["x"])
    with rasterio.open(done.maps[1]) as file:
        assert file.crs.to_epsg() == 32718


def test_scenes_of_one_zone_keep_it_and_one_without_a_crs_is_told(ground: Ground, tmp_path: Path) -> None:
    assert set(pd.read_csv(fuse(ground, tmp_path / "one").units)["crs"]) == {"EPSG:25831"}
    scenes, units = zones(ground, tmp_path, "EPSG:32717", None)
    with pytest.raises(SceneError, match=r"april_none\.tif has no CRS, .*april_EPSG32717\.tif has one"):
        table_fuse(
            bundle(), table_model(), scenes, units, tmp_path / "out", rows=ground.rows, scene_column="scene",
            label="landslide", group="catchment", quiet=True,
        )  # fmt: skip


def test_what_is_gained_is_told_with_intervals(ground: Ground, tmp_path: Path) -> None:
    done = fuse(ground, tmp_path / "out")
    assert done.gains is not None
    assert done.gains.places == 40
    assert done.gains.gains["fused over table"]["average_precision"].low > 0
    assert "fusion gains" in str(done)
    assert json.loads((tmp_path / "out/fusion.json").read_text())["gains"]["verdict"]


def test_a_fusion_is_used_again_without_truth(ground: Ground, tmp_path: Path) -> None:
    first = fuse(ground, tmp_path / "one")
    ground.frame.drop(columns="landslide").to_csv(ground.rows, index=False)
    again = fuse(ground, tmp_path / "two", fusion=tmp_path / "one/fusion.json")
    assert again.gains is None
    pd.testing.assert_frame_equal(pd.read_csv(first.units), pd.read_csv(again.units))


def test_a_fusion_serves_the_class_and_the_models_that_it_was_fitted_for(
    ground: Ground, tmp_path: Path
) -> None:
    file = fuse(ground, tmp_path / "one").fusion_file
    with pytest.raises(ConfigError, match=r"fitted for the class 'landslide', and 'other' is asked for"):
        fuse(ground, tmp_path / "two", fusion=file, landslide="other")
    others = replace(table_model(), info={"name": "rainfall"})
    with pytest.warns(
        RaremapWarning, match=r"fitted for the models .* and these are .* and rainfall: its calibration"
    ):
        table_fuse(
            bundle(), others, ground.scene, ground.units, tmp_path / "two", rows=ground.rows, fusion=file, quiet=True
        )  # fmt: skip


def test_units_without_truth_are_scored_and_not_fitted_on(ground: Ground, tmp_path: Path) -> None:
    frame = ground.frame.copy()
    frame["landslide"] = frame["landslide"].astype("Int64").where(frame["catchment"] < 30)
    frame.to_csv(ground.rows, index=False)
    done = fuse(ground, tmp_path / "out")
    assert done.gains is not None
    assert done.gains.places == 30
    assert pd.read_csv(done.units)["p_fused"].notna().all()


def squares(ground: Ground, crs: str = "EPSG:25831", side: float = 50):
    """The units as polygons with their rows, from the scene's upper left corner."""
    import geopandas as gpd
    import shapely

    with rasterio.open(ground.scene) as file:
        left, top = file.bounds.left, file.bounds.top
    row, col = np.divmod(np.arange(UNITS), ACROSS)
    x, y = left + side * col, top - side * row
    return gpd.GeoDataFrame(ground.frame, geometry=shapely.box(x, y - side, x + side, y), crs=crs)


def test_blocks_are_places_of_polygons_and_of_pixels_in_metres(ground: Ground, tmp_path: Path) -> None:
    squares(ground).to_file(tmp_path / "units.gpkg")
    # From 500 to 1,500 m and from 3,999,000 to 4,000,000: five by five blocks of 200 m, and half ones at the left.
    row, col = np.divmod(np.arange(UNITS), ACROSS)
    block = np.column_stack([(525 + 50 * col) // 200, (4_000_000 - 25 - 50 * row) // 200])
    expected = len(np.unique(block[np.arange(UNITS) != 3], axis=0))
    one = fuse(ground, tmp_path / "raster", group=None, block_m=200)
    two = table_fuse(
        bundle(), table_model(), ground.scene, tmp_path / "units.gpkg", tmp_path / "polygons", label="landslide",
        block_m=200, quiet=True,
    )  # fmt: skip
    assert one.gains is not None
    assert two.gains is not None
    assert one.gains.places == two.gains.places == expected == 30
    assert one.gains.to_dict()["figures"] == two.gains.to_dict()["figures"]


def test_blocks_are_of_metres_where_the_scene_is_in_feet(ground: Ground, tmp_path: Path) -> None:
    scene, units = placed(ground, tmp_path, "EPSG:2263", 0)
    done = table_fuse(
        bundle(), table_model(), scene, units, tmp_path / "out", rows=ground.rows, label="landslide",
        block_m=100, quiet=True,
    )  # fmt: skip
    assert done.gains is not None
    row, col = np.divmod(np.arange(UNITS), ACROSS)
    foot = 1200 / 3937  # the survey's
    block = np.column_stack([foot * (50 * col + 25) // 100, foot * (9_700_000 - 50 * row - 25) // 100])
    assert done.gains.places == len(np.unique(block, axis=0))


def test_the_example_of_the_help_runs(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from tests.command import raremap

    import raremap as rm
    from raremap.cli import tables
    from raremap.models.options import UNet
    from raremap.scene.normalize import Normalization

    monkeypatch.chdir(tmp_path)
    options = UNet(kind="unet", width=4, depth=1)
    torch.manual_seed(0)
    Bundle(
        module=options.build(1, 2).eval(), scheme=LabelScheme({0: "other", 1: "landslide"}), bands=("band1",),
        normalization=Normalization("standard", (0.0,), (1.0,)), options=options, prior=(0.9, 0.1),
    ).save("runs/net/bundle")  # fmt: skip
    rm.table_train(
        ground.rows, "runs/units", label="landslide", drop=("unit",), group="catchment", model="logistic", tune=False,
        replicates=20, quiet=True,
    )  # fmt: skip
    with rasterio.open(ground.scene, "r+") as file:
        file.transform = rasterio.transform.from_origin(500, 4_000_000, 30, 30)
    squares(ground, side=150).to_file("units.gpkg")
    example = next(line for line in str(tables.fuse.__doc__).splitlines() if "Example: raremap " in line)
    code, out, err = raremap(capsys, *example.split("Example: raremap ")[1].split(), "-q")
    assert code == 0, err
    assert "400 units: 399 known to both" in out
    assert (tmp_path / "fused/april.fused.tif").is_file()


def test_polygons_give_what_their_raster_gives(ground: Ground, tmp_path: Path) -> None:
    import geopandas as gpd

    path = tmp_path / "units.gpkg"
    squares(ground).to_crs(4326).to_file(path)
    one = fuse(ground, tmp_path / "raster")
    two = table_fuse(
        bundle(),
        table_model(),
        ground.scene,
        path,
        tmp_path / "polygons",
        label="landslide",
        group="catchment",
        quiet=True,
    )
    a, b = pd.read_csv(one.units), pd.read_csv(two.units)
    np.testing.assert_allclose(a["p_fused"], b["p_fused"], atol=1e-4)
    assert (gpd.read_file(two.alarms).geometry.geom_type == "MultiPolygon").all()


def test_the_double_check_wants_both(ground: Ground, tmp_path: Path) -> None:
    done = fuse(ground, tmp_path / "out", double_check=True)
    units = pd.read_csv(done.units)
    i, t = (1 / (1 + np.exp(-z)) for z in done.fusion.both)
    both = (units["p_image"] >= i - 1e-6) & (units["p_table"] >= t - 1e-6)
    np.testing.assert_array_equal(units["double_check"] == 1, both)
    assert done.alarm_count == int(both.sum())


def test_calibration_on_training_places_is_warned_of(ground: Ground, tmp_path: Path) -> None:
    trained = bundle(info={"places": {"train": ["7"]}})
    with pytest.warns(RaremapWarning, match="trained on 1 of the calibration places \\(7\\)"):
        table_fuse(
            trained, table_model(), ground.scene, ground.units, tmp_path / "out", rows=ground.rows, label="landslide",
            group="catchment", quiet=True,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("more", "error", "told"),
    [
        ({"label": None}, ConfigError, "give --label to fit the fusion on rows with truth, or --fusion"),
        ({"label": "slide"}, LabelError, "has no label column 'slide'"),
        ({"rows": None}, TableError, "rasters of unit numbers need the table of their rows; give --rows"),
        ({"key": "number"}, TableError, "has no column 'number'"),
        ({"group": "valley"}, TableError, "has no column 'valley' to group by"),
        ({"scene_column": "catchment"}, TableError, "has no row whose 'catchment' is 'april'"),
        (
            {"group": None},
            SplitError,
            "1 scene is too few for 5 folds; give --block-m, .* or --group, a column",
        ),
        ({"block_m": 100}, ConfigError, "--group and --block-m are two ways to make places; give one"),
        ({"group": None, "block_m": 0}, ConfigError, "blocks of 0 m are none"),
        ({"group": None, "block_m": 9e6}, SplitError, "positive rows lie in 1 block, too few for 5 folds"),
        ({"folds": 1}, ConfigError, "folds is 1, expected 2 or more"),
        (
            {"fusion": "f.json", "label": "landslide"},
            ConfigError,
            "give --label to fit .*, or --fusion with one",
        ),
        *(
            (
                {"fusion": "f.json", name: value},
                ConfigError,
                f"--{option} has no effect with --fusion, where nothing is",
            )
            for name, option, value in (
                ("group", "group", "nono"),
                ("block_m", "block-m", 5),
                ("positive", "positive", "3"),
                ("folds", "folds", 9),
                ("seed", "seed", 0),
                ("top", "top", 4),
            )
        ),
        ({"landslide": "slide"}, ConfigError, "the image model has no class 'slide'"),
        ({"prior": 1.5}, ConfigError, "the prior is 1.5, expected a share between 0 and 1"),
        ({"fusion": "nowhere.json"}, ConfigError, "fusion nowhere.json cannot be read"),
    ],
)
def test_wrong_input_is_told_in_a_line(ground: Ground, tmp_path: Path, more, error, told) -> None:
    with pytest.raises(error, match=told) as caught:
        fuse(ground, tmp_path / "out", **more)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_polygons_have_no_use_for_is_told(ground: Ground, tmp_path: Path) -> None:
    path = tmp_path / "units.gpkg"
    squares(ground).to_file(path)
    for more, told in (
        ({"scene_column": "u"}, r"--scene-column has no effect on polygons \(.*units\.gpkg\); leave it out"),
        ({"key": "units"}, r"has no column 'units'; did you mean 'unit'\?"),
    ):
        with pytest.raises(RaremapError, match=told):
            table_fuse(
                bundle(), table_model(), ground.scene, path, tmp_path / "out", label="landslide", block_m=100, quiet=True, **more
            )  # fmt: skip


def test_rows_to_be_fused_are_read_as_those_of_the_training(ground: Ground, tmp_path: Path) -> None:
    frame = ground.frame.astype({"slope": object})
    frame.loc[5, "slope"] = "?"
    frame.to_csv(ground.rows, index=False)
    model = table_model()
    model = replace(model, columns=replace(model.columns, missing=("?",)))
    done = table_fuse(
        bundle(), model, ground.scene, ground.units, tmp_path / "out", rows=ground.rows, label="landslide",
        group="catchment", quiet=True,
    )  # fmt: skip
    assert done.known == {"both": UNITS - 2, "image": 1, "table": 1}


def test_objects_of_a_map_have_no_slope_and_are_told_whence(ground: Ground, tmp_path: Path) -> None:
    path = tmp_path / "objects.gpkg"
    squares(ground).drop(columns="slope").assign(area_m2=2500.0, confidence=0.9).to_file(path)
    with pytest.raises(
        TableError, match=r"has no column 'slope', which the model reads; it follows from heights: .*--date"
    ):
        table_fuse(
            bundle(), table_model(), ground.scene, path, tmp_path / "out", label="landslide", block_m=100, quiet=True
        )  # fmt: skip


def test_a_bundle_of_the_other_kind_says_what_it_is(ground: Ground, tmp_path: Path) -> None:
    import raremap as rm

    run = tmp_path / "units"
    done = rm.table_train(
        ground.rows, run, label="landslide", drop=("unit",), group="catchment", model="logistic", tune=False, folds=3,
        replicates=20, quiet=True,
    )  # fmt: skip
    image = bundle().save(tmp_path / "net/bundle")
    for first, second, told in (
        (done.bundle, done.bundle, f"^{done.bundle} is a model of a table, expected one of imagery"),
        (run, image, f"^{run} is the folder of a run; give the bundle in it, {done.bundle}$"),
        (bundle(), image, f"^{image} is no model of a table; use raremap predict for models of imagery"),
        (bundle(), image.parent, f"^{image.parent} is the folder of a run; give the bundle in it, {image}$"),
        (bundle(), done.bundle / "model.onnx", "is a file; give the folder that `raremap table train` wrote"),
    ):
        with pytest.raises(BundleError, match=told):
            table_fuse(
                first, second, ground.scene, ground.units, tmp_path / "out", rows=ground.rows, label="l"
            )
    with pytest.raises(
        BundleError, match=r"model\.onnx is of a model of a table; give its folder to raremap table"
    ):
        rm.predict(done.bundle / "model.onnx", ground.scene, tmp_path / "map.tif", quiet=True)
    (tmp_path / "several").mkdir()
    (tmp_path / "several/ensemble.json").write_text("{}")
    with pytest.raises(
        BundleError, match="several is an ensemble of models of imagery; give the bundle of `raremap table"
    ):
        rm.table_predict(tmp_path / "several", ground.rows, tmp_path / "s.csv", quiet=True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--fusion", "F", "--group", "nono"), "--group has no effect with --fusion, where nothing is fitted; leave it out"),
        (("--fusion", "F", "--seed", "0"), "--seed has no effect with --fusion"),
        (("--label", "l", "--buffer-m", "5"), "--buffer-m has no effect without --date, whose scene is fetched"),
        (("--label", "l", "--source", "hub"), "--source has no effect without --date"),
    ],
)  # fmt: skip
def test_the_command_line_refuses_what_has_no_effect(
    capsys: pytest.CaptureFixture, tmp_path: Path, words, told
) -> None:
    from tests.command import raremap

    code, _, said = raremap(
        capsys,
        "table",
        "fuse",
        "a",
        "b",
        "--scenes",
        "s.tif",
        "--units",
        "u.gpkg",
        *words,
        "-o",
        tmp_path / "out",
    )
    assert (code, len(said.splitlines())) == (2, 1)
    assert told in said


def test_units_of_another_place_or_grid_are_told(ground: Ground, tmp_path: Path) -> None:
    small = write(tmp_path / "small.tif", ground.unit[:9], -1)
    ground.units, good = small, ground.units
    with pytest.raises(SceneError, match="warp them to its grid"):
        fuse(ground, tmp_path / "out")
    ground.units = good
    ground.frame.assign(unit=ground.frame["unit"] + 5000).to_csv(ground.rows, index=False)
    with pytest.raises(TableError, match="no unit lies on a valid pixel of the scenes"):
        fuse(ground, tmp_path / "out")


def test_a_table_without_the_models_columns_is_told(ground: Ground, tmp_path: Path) -> None:
    ground.frame.drop(columns="slope").to_csv(ground.rows, index=False)
    with pytest.raises(TableError, match="has no column 'slope', which the model reads"):
        fuse(ground, tmp_path / "out")
