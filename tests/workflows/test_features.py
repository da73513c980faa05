"""Features from the experiment to the map: as if they had stood in the files as bands."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from tests import project
from tests.rasters import write

from raremap.bundle import Bundle
from raremap.errors import BundleError, ConfigError, SceneError
from raremap.scene.features.reader import featured
from raremap.scene.raster import open_image
from raremap.workflows.evaluate import evaluate
from raremap.workflows.predict import predict
from raremap.workflows.prepare import catalog_of
from raremap.workflows.train import train_experiment

FEATURES = [
    "grey",
    {"kind": "gaussian", "size": 4},
    {"kind": "median", "size": 3},
    {"kind": "canny", "low": 15, "high": 28, "reach": 4},
    "sobel",
    "local",
]
STILL = {"dihedral": False, "gain": 0.0, "offset": 0.0}
STEPS = ("train.steps=3", "train.monitor_every=3", "train.checkpoint_every=3")


def test_features_give_the_map_that_bands_in_the_file_give(tmp_path):
    project.make(tmp_path / "raw")
    scenes = {
        "root": str(tmp_path / "raw"),
        "images": "img/*.tif",
        "masks": "mask/*.tif",
        "features": FEATURES,
    }
    experiment = project.experiment(tmp_path / "raw", tmp_path / "a", *STEPS, scenes=scenes, augment=STILL)
    for path in sorted((tmp_path / "raw/img").glob("*.tif")):
        with featured(open_image(path), experiment.scenes.features) as image, rasterio.open(path) as file:
            channels, _ = image.read(image.grid.window)
            origin = (file.transform.c, file.transform.f)
        write(tmp_path / "made/img" / path.name, channels, origin, names=image.bands)
        mask = path.parents[1] / "mask" / path.name
        with rasterio.open(mask) as file:
            write(tmp_path / "made/mask" / path.name, file.read(1), origin)
    other = project.experiment(tmp_path / "made", tmp_path / "b", *STEPS, augment=STILL)
    train_experiment(experiment, quiet=True)
    train_experiment(other, quiet=True)
    bundle, bands = Bundle.load(tmp_path / "a/bundle"), Bundle.load(tmp_path / "b/bundle")
    assert bundle.bands == ("red", "green", "blue")
    assert bundle.features == experiment.scenes.features
    assert bundle.channels == bands.bands
    assert bundle.normalization == bands.normalization
    for each, folder in ((bundle, "raw"), (bands, "made")):
        scene = tmp_path / folder / "img/s1.tif"
        predict(each, scene, tmp_path / f"{folder}.tif", probabilities="float32", window=24, quiet=True)
    for name in ("{}.tif", "{}.probs.tif"):
        with (
            rasterio.open(tmp_path / name.format("raw")) as a,
            rasterio.open(tmp_path / name.format("made")) as b,
        ):
            np.testing.assert_array_equal(a.read(), b.read())
    one, two = (
        evaluate(each, catalog_of(e, quiet=True), quiet=True)
        for each, e in ((bundle, experiment), (bands, other))
    )
    np.testing.assert_array_equal(one.plain.matrices, two.plain.matrices)

    item = json.loads((tmp_path / "a/bundle/model.json").read_text())["properties"]
    assert [f["kind"] for f in item["raremap:features"]] == [
        "grey", "gaussian", "median", "canny", "sobel", "local"
    ]  # fmt: skip
    described = item["mlm:input"][0]["bands"]
    assert described[:3] == ["red", "green", "blue"]
    assert [b["name"] for b in described[3:]] == list(bundle.channels[3:])
    assert item["mlm:input"][0]["input"]["shape"][1] == 12
    assert "Made of them: grey, gaussian" in (tmp_path / "a/bundle/README.md").read_text()

    poor = write(tmp_path / "poor.tif", np.ones((2, 40, 40), np.uint8), names=("red", "green"))
    with pytest.raises(BundleError, match="has no band 'blue'"):
        predict(bundle, poor, tmp_path / "none.tif", quiet=True)


def test_a_missing_band_is_told_before_anything_is_trained(tmp_path):
    project.make(tmp_path, scenes=3)
    scenes = {"root": str(tmp_path), "images": "img/*.tif", "masks": "mask/*.tif", "features": ["ndvi"]}
    experiment = project.experiment(tmp_path, tmp_path / "run", scenes=scenes)
    with pytest.raises(SceneError, match=r"the feature 'ndvi' needs the band 'nir'.*red, green, blue"):
        train_experiment(experiment, quiet=True)
    assert not (tmp_path / "run/plan.parquet").exists()


def test_an_unknown_feature_is_told_in_one_line(tmp_path):
    scenes = {"root": str(tmp_path), "images": "img/*.tif", "masks": "mask/*.tif", "features": ["ndwii"]}
    with pytest.raises(ConfigError, match="no feature is called 'ndwii'; did you mean 'ndwi'"):
        project.experiment(tmp_path, tmp_path / "run", scenes=scenes)
    scenes["features"] = [{"kind": "gaussian", "sise": 3}]
    with pytest.raises(
        ConfigError, match=r"unknown key .*'sise'|unknown key 'scenes.features.0.gaussian.sise'"
    ):
        project.experiment(tmp_path, tmp_path / "run", scenes=scenes)
