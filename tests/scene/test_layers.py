"""Bands in files of their own: heights beside imagery."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from tests.rasters import write

from raremap.errors import SceneError
from raremap.labels import LabelScheme
from raremap.scene.raster import open_image
from raremap.scene.sources import ScenesOptions, find_scenes
from raremap.scene.window import Window
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare

RNG = np.random.default_rng(0)
WHOLE = Window(0, 0, 40, 60)


@pytest.fixture
def image(tmp_path):
    """uint16 imagery with zeros as gaps, and one band that is dark in an ordinary pixel."""
    array = RNG.integers(1, 5000, (2, 40, 60)).astype(np.uint16)
    array[:, :5] = 0
    array[0, 20, 20] = 0
    return write(tmp_path / "img" / "a.tif", array, names=["red", "nir"], nodata=0)


@pytest.fixture
def heights(tmp_path):
    """float32 heights of 0 (the sea) where the image has data, and without data in one column."""
    array = RNG.normal(500, 100, (40, 60)).astype(np.float32)
    array[30:] = 0
    array[:, 59] = -9999
    return write(tmp_path / "dem" / "a.tif", array, nodata=-9999)


def test_a_layer_follows_the_bands_and_keeps_its_own_nodata(image, heights):
    with open_image(image, layers={"dem": heights}) as reader:
        pixels, valid = reader.read(WHOLE)
        assert reader.bands == ("red", "nir", "dem")
        assert (reader.read_valid(WHOLE) == valid).all()
    with rasterio.open(image) as a, rasterio.open(heights) as b:
        assert (pixels == np.concatenate([a.read(), b.read()])).all()
    expected = np.ones((40, 60), bool)
    expected[:5] = False  # the image's gap, though heights are known there
    expected[:, 59] = False  # the layer's gap, though the image is there
    assert (valid == expected).all()


def test_layers_are_picked_like_bands_and_then_judge_alone_or_not_at_all(image, heights):
    with open_image(image, bands=["nir"], layers={"dem": heights}) as reader:
        assert reader.read(WHOLE)[1][:, 59].any()
    with open_image(image, bands=["dem", "red"], layers={"dem": heights}) as reader:
        valid = reader.read(WHOLE)[1]
        assert reader.bands == ("dem", "red")
        assert not valid[:5].any()
        assert not valid[20, 20]  # of the image only the band that is 0 there is left
    with open_image(image, bands=["dem"], layers={"dem": heights}) as reader:
        assert reader.read(WHOLE)[1][:, :59].all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pixel": 20.0}, "dem.tif has"),
        ({"bands": 3}, "has 3 bands, expected one"),
        ({"name": "red"}, "is called like a band"),
        ({"missing": True}, "does not exist"),
    ],
)
def test_a_layer_that_does_not_fit_is_told(image, tmp_path, change, told):
    path = tmp_path / "dem.tif"
    if "missing" not in change:
        shape = (change.get("bands", 1), 40, 60)
        write(path, np.ones(shape, np.float32), pixel=change.get("pixel", 10.0))
    with pytest.raises(SceneError, match=told):
        open_image(image, layers={change.get("name", "dem"): path})


def test_layers_are_found_by_the_wildcards_of_the_images(image, heights, tmp_path):
    write(tmp_path / "dem" / "of_another_scene.tif", np.ones((4, 4), np.float32))
    options = ScenesOptions(root=str(tmp_path), images="img/*.tif", layers={"dem": "dem/*.tif"})
    (scene,) = find_scenes(options, masks=False)
    assert scene.layers == (("dem", str(heights)),)
    heights.unlink()
    with pytest.raises(SceneError, match=r"img/a\.tif has no layer dem: no file like .*of_another_scene"):
        find_scenes(options, masks=False)


def test_a_layer_without_a_date_is_that_of_all_dates(tmp_path):
    for date in ("2024-04-01", "2024-08-01"):
        write(tmp_path / date / "a.tif", np.ones((8, 8), np.uint8))
    write(tmp_path / "dem" / "a.tif", np.ones((8, 8), np.float32))
    more = {"root": str(tmp_path), "images": "{date}/*.tif"}
    for kind, count in (("separate", 2), ("stack", 1)):
        scenes = find_scenes(
            ScenesOptions(**more, layers={"dem": "dem/*.tif"}, dates={"kind": kind}), masks=False
        )
        assert [s.layers for s in scenes] == [(("dem", str(tmp_path / "dem" / "a.tif")),)] * count
    write(tmp_path / "dem" / "2024-04-01" / "a.tif", np.ones((8, 8), np.float32))
    write(tmp_path / "dem" / "2024-08-01" / "a.tif", np.ones((8, 8), np.float32))
    dated = ScenesOptions(**more, layers={"dem": "dem/{date}/*.tif"}, dates={"kind": "stack"})
    with pytest.raises(SceneError, match="both the layer 'dem'"):
        find_scenes(dated, masks=False)


def test_one_pattern_for_each_of_images(tmp_path):
    with pytest.raises(ValueError, match="2 image patterns but 1 of the layer 'dem'"):
        ScenesOptions(images=["a/*.tif", "b/*.tif"], layers={"dem": "dem/*.tif"})


def test_a_catalog_keeps_layers_and_sees_that_one_has_changed(image, heights, tmp_path):
    write(tmp_path / "mask" / "a.tif", RNG.integers(0, 2, (40, 60)).astype(np.uint8))
    scenes = ScenesOptions(
        root=str(tmp_path), images="img/*.tif", masks="mask/*.tif", layers={"dem": "dem/*.tif"}
    )
    scheme = LabelScheme({0: "other", 1: "slide"})
    catalog = prepare(scenes, scheme, TileOptions(size=20), SplitOptions(folds=2, block_m=200))
    catalog = Catalog.load(catalog.save(tmp_path / "catalog.parquet"))
    assert catalog.bands == ("red", "nir", "dem")
    record = catalog.scenes["a"]
    with record.open_image() as reader:
        assert reader.read(WHOLE)[0][2, 0, 0] == rasterio.open(heights).read(1)[0, 0]
    before = record.current_fingerprint()
    write(heights, np.zeros((40, 60), np.float32))
    assert record.current_fingerprint() != before
