"""Label weights and vector labels through the catalog: what the census counts is what the reader gives."""

from __future__ import annotations

import pickle

import geopandas as gpd
import numpy as np
import pytest
from shapely.geometry import box
from tests import project
from tests.rasters import write

from raremap.config import Experiment
from raremap.errors import ConfigError, RaremapWarning, SceneError
from raremap.labels import IGNORE, LabelScheme
from raremap.scene.sources import ScenesOptions, find_scenes
from raremap.scene.window import Window
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare
from raremap.tiles.reader import TileReader
from raremap.workflows.prepare import catalog_of

SCHEME = LabelScheme(project.CLASSES, ignore=[0])


def made(folder, **scenes):
    options = ScenesOptions(**{"root": str(folder), "images": "img/*.tif", "masks": "mask/*.tif", **scenes})
    return prepare(options, SCHEME, TileOptions(size=32), SplitOptions(block_m=1000, folds=3), quiet=True)


def weigh(folder, dtype=np.float32, scenes=3):
    rng = np.random.default_rng(0)
    out = {}
    for i in range(scenes):
        weight = rng.choice(np.array([0, 1, 2], dtype), (64, 64))
        write(folder / f"weight/s{i}.tif", weight, (4e5 + i * 5000.0, 4.6e6))
        out[f"s{i}"] = weight
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_labels_of_weight_0_are_ignored_and_the_others_keep_their_weight(tmp_path, dtype, memory):
    project.make(tmp_path, scenes=3)
    weights = weigh(tmp_path, dtype)
    plain, catalog = made(tmp_path), made(tmp_path, weights="weight/*.tif")
    catalog.save(tmp_path / "c.parquet")
    catalog = Catalog.load(tmp_path / "c.parquet")
    reader = pickle.loads(pickle.dumps(TileReader(catalog, np.arange(len(catalog)), memory)))
    bare = TileReader(plain, np.arange(len(plain)), memory)
    for row, window in enumerate(catalog.windows):
        truth = weights[str(catalog.scene_names[row])][window.slices()]
        mask, unweighed = reader.whole(row)[2], bare.whole(row)[2]
        assert (mask == np.where(truth == 0, IGNORE, unweighed)).all()
        assert catalog.counts[row].sum() == (mask != IGNORE).sum()
        assert reader.weight(row).dtype == np.float32
        assert (reader.weight(row) == truth).all()
        part = Window(window.row_off + 3, window.col_off + 5, 9, 11)
        assert (reader.weight(row, part) == truth[3:12, 5:16]).all()
        assert bare.weight(row) is None


def test_weights_that_are_no_weights(tmp_path):
    project.make(tmp_path, scenes=3)
    weigh(tmp_path)
    at = (4e5 + 5000.0, 4.6e6)
    for array, match in (
        (np.full((64, 64), -1, np.int16), r"s1\.tif hold -1; a weight is a number from 0"),
        (np.full((64, 60), 1, np.uint8), r"weights .*s1\.tif have size 60x64, expected 64x64"),
        (np.ones((2, 64, 64), np.uint8), r"s1\.tif have 2 bands, expected one"),
    ):
        write(tmp_path / "weight/s1.tif", array, at)
        with pytest.raises(SceneError, match=match):
            made(tmp_path, weights="weight/*.tif")
    (tmp_path / "weight/s1.tif").unlink()
    with pytest.raises(SceneError, match=r"image .*s1\.tif has no weights"):
        made(tmp_path, weights="weight/*.tif")


def test_nan_and_nodata_weigh_nothing(tmp_path):
    project.make(tmp_path, scenes=3)
    weigh(tmp_path)
    array = np.ones((64, 64), np.float32)
    array[:10], array[10:20] = np.nan, -9
    write(tmp_path / "weight/s1.tif", array, (4e5 + 5000.0, 4.6e6), nodata=-9)
    catalog = made(tmp_path, weights="weight/*.tif")
    assert catalog.counts[catalog.scene_names == "s1"].sum() == 64 * 44


def polygons(folder, name="labels.gpkg"):
    """One layer over all scenes: a square of water in each, and slides in the first."""
    shapes = [box(4e5 + i * 5000, 4.6e6 - 300, 4e5 + i * 5000 + 300, 4.6e6) for i in range(3)]
    shapes.append(box(4e5 + 400, 4.6e6 - 500, 4e5 + 450, 4.6e6 - 400))
    frame = gpd.GeoDataFrame({"c": ["water"] * 3 + ["slide"]}, geometry=shapes, crs="EPSG:25831")
    frame.to_crs("EPSG:4326").to_file(folder / name)


def test_one_layer_labels_all_scenes(tmp_path):
    project.make(tmp_path, scenes=3)
    polygons(tmp_path)
    catalog = made(tmp_path, masks="labels.gpkg", vector={"attribute": "c", "background": "land"})
    total = {s: catalog.counts[catalog.scene_names == s].sum(0).tolist() for s in ("s0", "s2")}
    assert total == {"s0": [4096 - 950, 900, 50], "s2": [4096 - 900, 900, 0]}
    catalog.save(tmp_path / "c.parquet")
    again = Catalog.load(tmp_path / "c.parquet")
    assert again.scenes == catalog.scenes
    assert np.bincount(TileReader(again, np.arange(1)).whole(0)[2].ravel()).tolist() == [1024 - 900, 900]
    again.check_sources()
    sparse = made(tmp_path, masks="labels.gpkg", vector={"attribute": "c"})
    assert sparse.counts.sum(0).tolist() == [0, 2700, 50]


def test_a_change_of_the_layer_or_its_options_makes_a_new_catalog(tmp_path):
    project.make(tmp_path, scenes=3)
    polygons(tmp_path)
    e = project.experiment(tmp_path, tmp_path / "run", scenes={
        "root": str(tmp_path), "images": "img/*.tif", "masks": "labels.gpkg",
        "vector": {"attribute": "c", "background": "land"}})  # fmt: skip
    first = catalog_of(e, quiet=True)
    assert catalog_of(e, quiet=True).fingerprint == first.fingerprint
    other = e.changed({"scenes": {"vector": {"background": "slide"}}})
    assert catalog_of(other, quiet=True).counts.sum(0).tolist() != first.counts.sum(0).tolist()
    gpd.GeoDataFrame({"c": ["slide"]}, geometry=[box(4e5, 4.59e6, 5e5, 4.6e6)], crs="EPSG:25831").to_file(
        tmp_path / "labels.gpkg"
    )
    assert catalog_of(e, quiet=True).counts.sum(0)[1] == 0


def test_a_scene_that_the_layer_does_not_reach_is_told(tmp_path):
    project.make(tmp_path, scenes=4)
    polygons(tmp_path)
    with pytest.warns(RaremapWarning, match=r"labels\.gpkg has no feature on the scene"):
        catalog = made(tmp_path, masks="labels.gpkg", vector={"attribute": "c"})
    assert "s3" not in catalog.scene_names
    assert catalog.dropped["no labelled pixel"] > 4


def test_masks_and_vector_must_agree(tmp_path):
    project.make(tmp_path, scenes=3)
    base = {"out": "x", "labels": {"classes": project.CLASSES, "ignore": [0]}}
    for scenes, match in (
        ({"masks": "a.gpkg"}, "are vector layers; say in vector which attribute is the class"),
        ({"masks": "a.tif", "vector": {"attribute": "c"}}, "are no vector layers; remove vector"),
        ({"masks": "a.tif", "weights": ["a", "b"]}, "1 image patterns but 2 of weights"),
        ({"masks": "a.gpkg", "vector": {}}, "either attribute"),
        ({"masks": "a.gpkg", "vector": {"atribute": "c"}}, "did you mean 'attribute'"),
    ):
        with pytest.raises(ConfigError, match=match):
            Experiment.from_dict({**base, "scenes": {"images": "img/*.tif", **scenes}})


def test_scenes_without_a_mask_can_be_left_out(tmp_path):
    project.make(tmp_path, scenes=3)
    (tmp_path / "mask/s1.tif").unlink()
    options = ScenesOptions(root=str(tmp_path), images="img/*.tif", masks="mask/*.tif", without_mask="skip")
    with pytest.warns(RaremapWarning, match=r"1 of 3 scenes have no mask and are left out, .*s1\.tif"):
        assert [s.name for s in find_scenes(options)] == ["s0", "s2"]
    assert len(find_scenes(options, masks=False)) == 3
