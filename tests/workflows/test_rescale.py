"""`raremap rescale` and `scenes.rescale`: fine masks on the way to a catalog."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import rasterio
from tests.rasters import write

import raremap as rm
from raremap.cli import app
from raremap.config import Experiment
from raremap.errors import ConfigError, RaremapWarning, SceneError
from raremap.scene.gdal import fingerprint
from raremap.workflows.prepare import catalog_of, prepare


def ground(folder, names="ab"):
    """Images of 64² pixels of 10 m, and masks of classes 1 and 2 at 2 m; class 2 in a quarter of each."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        origin = (4e5 + 3000 * i, 4.6e6)
        write(folder / "img" / f"{name}.tif", rng.integers(1, 99, (3, 64, 64)).astype(np.uint8), origin)
        mask = np.ones((320, 320), np.uint8)
        mask[:160, :160] = 2
        write(folder / "mask" / f"{name}.tif", mask, origin, pixel=2.0)


def experiment(folder, **scenes):
    return Experiment.from_dict(
        {
            "out": str(folder / "run"),
            "scenes": {"images": "img/*.tif", "masks": "mask/*.tif", "root": str(folder), **scenes},
            "labels": {"classes": {1: "rest", 2: "rare"}},
            "tiles": {"size": 32},
            "split": {"block_px": 32, "folds": 2},
        }
    )


def test_fine_masks_are_rescaled_once_and_again_when_they_change(tmp_path):
    ground(tmp_path)
    exp = experiment(tmp_path, rescale={"kind": "area"})
    catalog = prepare(exp, quiet=True)
    assert catalog.counts.sum(0).tolist() == [2 * 3072, 2 * 1024]
    made = tmp_path / "run" / "labels" / "a.tif"
    assert catalog.scenes["a"].mask == str(made)
    written = made.stat().st_mtime_ns
    assert catalog_of(exp, quiet=True).fingerprint == catalog.fingerprint
    assert made.stat().st_mtime_ns == written
    write(tmp_path / "mask" / "a.tif", np.full((320, 320), 2, np.uint8), pixel=2.0)
    assert catalog_of(exp, quiet=True).counts.sum(0).tolist() == [3072, 4096 + 1024]
    other = experiment(tmp_path, rescale={"kind": "mode", "min_cover": 1})
    assert catalog_of(other, quiet=True).counts.sum() == 8192
    with rasterio.open(made) as file:
        assert file.tags()["rescaled"] == "mode"


def test_one_raster_serves_all_scenes_and_what_it_leaves_out_is_counted(tmp_path):
    ground(tmp_path, "abc")
    whole = np.zeros((320, 3320), np.uint8)  # a to c at 2 m, with gaps of 2.36 km; b is unlabelled
    whole[:, :320], whole[:160, :160] = 1, 2
    whole[:, 3000:], whole[:160, 3000:3160] = 1, 2
    write(tmp_path / "labels.tif", whole, (4e5, 4.6e6), pixel=2.0, nodata=0)
    one = {"masks": "labels.tif", "rescale": {"kind": "area"}}
    catalog = prepare(experiment(tmp_path, **one), quiet=True)
    assert catalog.counts.sum(0).tolist() == [2 * 3072, 2 * 1024]
    assert set(catalog.scene_names) == {"a", "c"}
    assert catalog.dropped == {"no labelled pixel": 4}
    made = tmp_path / "run/labels/b.tif"
    written = made.stat().st_mtime_ns
    assert prepare(experiment(tmp_path, **one), quiet=True).fingerprint == catalog.fingerprint
    assert made.stat().st_mtime_ns == written
    with pytest.raises(
        SceneError, match=r"labels\.tif goes with a; one raster serves all scenes with scenes\.rescale"
    ):
        prepare(experiment(tmp_path, masks="labels.tif"), quiet=True)


def test_scenes_beyond_the_one_raster_are_left_out_and_told(tmp_path):
    ground(tmp_path, "abc")
    whole = np.ones((320, 320), np.uint8)
    whole[:160, :160] = 2
    write(tmp_path / "labels.tif", whole, (4e5 + 3000, 4.6e6), pixel=2.0)
    exp = experiment(tmp_path, masks="labels.tif", rescale={"kind": "area"})
    with pytest.warns(
        RaremapWarning, match=r"2 of 3 scenes lie beyond .*labels\.tif .* the first is .*a\.tif"
    ):
        catalog = prepare(exp, quiet=True)
    assert set(catalog.scene_names) == {"b"}
    with pytest.warns(RaremapWarning, match="2 of 3"):
        assert catalog_of(exp, quiet=True).fingerprint == catalog.fingerprint
    write(tmp_path / "labels.tif", whole, (9e5, 4.6e6), pixel=2.0)
    with pytest.raises(SceneError, match=r"labels\.tif does not overlap .*a\.tif; check"):
        prepare(exp, quiet=True)


def test_dates_of_one_place_share_a_rescaled_mask(tmp_path):
    for date in ("2024-04-12", "2024-08-20"):
        ground(tmp_path / date, "a")
        (tmp_path / date / "mask").rename(tmp_path / "mask") if date == "2024-04-12" else None
    exp = experiment(tmp_path, images="{date}/img/*.tif", rescale={"kind": "area"})
    catalog = prepare(exp, quiet=True)
    assert catalog.counts.sum(0).tolist() == [2 * 3072, 2 * 1024]
    assert {s.mask for s in catalog.scenes.values()} == {str(tmp_path / "run/labels/a@2024-04-12.tif")}
    assert [p.name for p in (tmp_path / "run/labels").iterdir()] == ["a@2024-04-12.tif"]


def test_masks_on_the_images_grid_are_left_alone(tmp_path):
    ground(tmp_path)
    write(tmp_path / "mask" / "a.tif", np.ones((64, 64), np.uint8), (4e5, 4.6e6))
    catalog = prepare(experiment(tmp_path, rescale={"kind": "nearest"}), quiet=True)
    assert catalog.scenes["a"].mask == os.path.normpath(tmp_path / "mask" / "a.tif")


def test_a_finer_mask_is_refused_with_the_way_out_where_nothing_is_asked(tmp_path):
    ground(tmp_path)
    with pytest.raises(SceneError, match=r"a\.tif has size 320x320.*scenes\.rescale: \{kind: area\}"):
        prepare(experiment(tmp_path), quiet=True)


def test_fractions_are_made_on_the_way_and_made_again_for_another_cover(tmp_path):
    ground(tmp_path)
    fine = np.ones((320, 320), np.uint8)
    fine[:161, :162] = 2
    write(tmp_path / "mask" / "a.tif", fine, pixel=2.0)
    exp = experiment(tmp_path, rescale={"kind": "fractions"})
    catalog = prepare(exp, quiet=True)
    assert catalog.counts.sum(0) == pytest.approx([4096 * 2 - 1024 - 161 * 162 / 25, 1024 + 161 * 162 / 25])
    assert catalog_of(exp, quiet=True).fingerprint == catalog.fingerprint
    hard = catalog_of(experiment(tmp_path, rescale={"kind": "mode"}), quiet=True)
    assert (catalog.soft, hard.soft) == (True, False)
    assert hard.counts.sum(0).tolist() == [2 * 3072, 2 * 1024]


def test_vector_layers_are_not_rescaled(tmp_path):
    with pytest.raises(ConfigError, match="rescale is for mask rasters") as caught:
        experiment(tmp_path, masks="m.gpkg", vector={"attribute": "class"}, rescale={"kind": "area"})
    assert "\n" not in str(caught.value)


def test_the_command_prints_areas_before_and_after(tmp_path, capsys):
    ground(tmp_path)
    arguments = [
        "rescale", str(tmp_path / "mask/a.tif"), "--like", str(tmp_path / "img/a.tif"), "-o", str(tmp_path / "o.tif"), "-q",
    ]  # fmt: skip
    app([*arguments, "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    # A quarter of 640 m x 640 m is 10.24 ha.
    assert said["unit"] == "ha"
    assert said["classes"]["2"] == {
        "value": 2,
        "before": pytest.approx(10.24),
        "after": pytest.approx(10.24),
        "cells": 1024,
    }
    app([*arguments, "--method", "mode", "--ignore", "1"], standalone_mode=False)
    text = capsys.readouterr().out
    assert "10.24" in text
    assert "no data in 3,072 of 4,096 cells" in text


def test_from_python_with_a_named_scheme_and_wrong_options(tmp_path):
    ground(tmp_path)
    mask, image = tmp_path / "mask" / "a.tif", tmp_path / "img" / "a.tif"
    made = rm.rescale(mask, image, tmp_path / "o.tif", scheme="catalonia", quiet=True)
    assert made.result.classes[2].name == "woody_crops"
    with pytest.raises(ConfigError, match="no method is called 'arae'; did you mean 'area'"):
        rm.rescale(mask, image, tmp_path / "o.tif", method="arae")
    with pytest.raises(ConfigError, match="method mode has no option 'block'"):
        rm.rescale(mask, image, tmp_path / "o.tif", method="mode", block=3)
    with pytest.raises(ConfigError, match="min_cover 7: input should be less"):
        rm.rescale(mask, image, tmp_path / "o.tif", min_cover=7)


def test_a_fine_mask_that_was_changed_in_its_middle_is_rescaled_again(tmp_path):
    ground(tmp_path, "a")
    fine = np.ones((2560, 2560), np.uint8)  # more than the two MiB that a checksum is of
    path = write(tmp_path / "mask" / "a.tif", fine, pixel=0.25)
    exp = experiment(tmp_path, rescale={"kind": "mode"})
    made = tmp_path / "run" / "labels" / "a.tif"
    prepare(exp, quiet=True)
    before = fingerprint(path)
    with rasterio.open(path, "r+") as file:
        file.write(np.full((40, 2560), 2, np.uint8), 1, window=((1280, 1320), (0, 2560)))
    assert fingerprint(path) == before
    prepare(exp, quiet=True)
    with rasterio.open(made) as file:
        assert (file.read(1)[32] == 2).all()


def test_a_catalog_is_read_again_once_no_data_is_no_longer_set(tmp_path):
    ground(tmp_path, "a")
    image = np.full((1, 64, 64), 9, np.uint8)
    image[:, :8] = 7
    write(tmp_path / "img" / "a.tif", image)
    labelled = [
        catalog_of(experiment(tmp_path, rescale={"kind": "mode"}, nodata=nodata), quiet=True).counts.sum()
        for nodata in (None, 7, 7.0, None)
    ]
    assert labelled == [4096, 4096 - 512, 4096 - 512, 4096]
