"""Fraction rasters as they come: by tag, name, value, order, percent and float, and what is wrong with them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import rasterio
from tests import soft
from tests.rasters import write

from raremap.errors import LabelError, SceneError
from raremap.labels import IGNORE, LabelScheme
from raremap.scene.grid import Grid
from raremap.scene.masks import open_labels
from raremap.scene.options import Fractions
from raremap.scene.raster import open_image
from raremap.scene.resample import rescale_labels
from raremap.scene.window import Window

SCHEME = soft.SCHEME
# land, water, slide: pure, half and half, 60 % labelled, 40 % labelled, three, none
PERCENT = np.array([[100, 50, 30, 20, 10, 0], [0, 50, 30, 20, 30, 0], [0, 0, 0, 0, 60, 0]], np.uint8).reshape(
    3, 2, 3
)
SHARES = [[200, 0, 0], [100, 100, 0], [100, 100, 0], [0, 0, 0], [20, 60, 120], [0, 0, 0]]
NAMES = ("land", "water", "slide")


def grid_of(path) -> Grid:
    with open_image(path) as image:
        return image.grid


def opened(path, scheme=SCHEME):
    return open_labels(path, scheme, grid_of(path))


def shares_of(path, scheme=SCHEME):
    with opened(path, scheme) as mask:
        assert mask.soft
        return mask.shares(Window(0, 0, 2, 3)).reshape(3, -1).T.tolist()


def test_percent_by_name_in_any_order(tmp_path):
    path = write(tmp_path / "f.tif", PERCENT[[2, 0, 1]], names=("slide", "land", "water"))
    assert shares_of(path) == SHARES
    with opened(path) as mask:
        assert mask.read(Window(0, 0, 2, 3)).tolist() == [[0, 1, 1], [IGNORE, 2, IGNORE]]
        assert mask.read(Window(1, 1, 1, 2)).tolist() == [[2, IGNORE]]
        assert pickle.loads(pickle.dumps(mask)).read(Window(0, 0, 1, 1)).tolist() == [[0]]


def test_floats_without_names_are_the_classes_in_order(tmp_path):
    parts = (PERCENT / 100).astype(np.float32)
    parts[:, 1, 2] = np.nan
    assert shares_of(write(tmp_path / "f.tif", parts)) == SHARES


def test_a_scale_says_what_a_whole_cell_is(tmp_path):
    path = write(tmp_path / "f.tif", PERCENT.astype(np.uint16) * 5, names=NAMES)
    with rasterio.open(path, "r+") as file:
        file.scales = (1 / 500,) * 3
    assert shares_of(path) == SHARES


@pytest.mark.parametrize(("dtype", "most"), [("uint8", 100), ("float32", 1)])
def test_a_nodata_tag_of_0_takes_no_cell_whose_other_classes_have_parts(tmp_path, dtype, most):
    parts = (PERCENT / (100 / most)).astype(dtype)
    assert shares_of(write(tmp_path / "f.tif", parts, names=NAMES, nodata=0)) == SHARES


def test_nodata_in_a_band_is_unlabelled(tmp_path):
    parts = np.where(PERCENT.sum(0) == 0, 255, PERCENT).astype(np.uint8)
    assert shares_of(write(tmp_path / "f.tif", parts, names=NAMES, nodata=255)) == SHARES


def test_bands_called_by_source_values_and_those_of_ignored_ground(tmp_path):
    """As the rescaling writes them where it was not told the classes: 0 is ground that the scheme ignores."""
    rest = 100 - PERCENT.sum(0, dtype=np.int64)
    path = write(tmp_path / "f.tif", np.stack([rest, *PERCENT]).astype(np.uint8), names=("0", "1", "2", "5"))
    assert shares_of(path) == SHARES


def test_what_the_rescaling_writes_is_read_back_as_it_was_written(tmp_path):
    labels = soft.make(tmp_path, 1)[0]
    grid = grid_of(tmp_path / "img/s0.tif")
    rescale_labels(tmp_path / "mask/s0.tif", grid, tmp_path / "f.tif", Fractions(), SCHEME)
    with rasterio.open(tmp_path / "f.tif") as file:
        written = file.read()
    with open_labels(tmp_path / "f.tif", SCHEME, grid) as mask:
        found = mask.shares(grid.window)
    assert np.array_equal(found, np.where(written == 255, 0, written))
    # 25 pixels a cell are whole steps: what is read is what the fine labels hold.
    assert np.array_equal(found / 200, soft.cells(labels))


def test_masks_of_one_band_and_pictures_stay_what_they_are(tmp_path):
    one = write(tmp_path / "m.tif", np.array([[1, 2]], np.uint8))
    assert not opened(one).soft
    picture = write(tmp_path / "p.tif", np.zeros((3, 2, 2), np.uint8), names=("red", "green", "blue"))
    assert not opened(picture, LabelScheme({"#000000": "a", "#FF0000": "b"})).soft


@pytest.mark.parametrize(
    ("bands", "names", "more", "says"),
    [
        ([0, 1, 2], ("land", "watter", "slide"), {}, "band 2 is called 'watter'.*did you mean 'water'"),
        ([0, 1, 2], ("land", "water", None), {}, r"band 3 has no name.*\(land, water, slide\)"),
        ([0, 1, 2], ("land", "water", "1"), {}, "bands 1 and 3 are both of 'land'"),
        ([0, 1], None, {"scale": 0.005}, "2 bands without names, the labels have 3 classes"),
        ([0, 1, 2], NAMES, {"scales": (0.01, 0.01, 0.02)}, "scales 0.01, 0.02"),
    ],
)
def test_bands_that_do_not_fit_the_classes_are_told(tmp_path, bands, names, more, says):
    path = write(tmp_path / "f.tif", PERCENT[bands], names=names and [n or "" for n in names])
    if more:
        with rasterio.open(path, "r+") as file:
            file.scales = more.get("scales") or (more["scale"],) * len(bands)
    with pytest.raises(LabelError, match=says) as caught:
        opened(path)
    assert "\n" not in str(caught.value)
    assert "f.tif" in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (PERCENT * 2, r"row 0, column 0 are 0 to 2 and sum to 2, expected parts of 1 \(100 in the file\)"),
        ((PERCENT / 100 - 0.2).astype(np.float32), "row 0, column 0 are -0.2 to 0.8"),
    ],
)
def test_cells_that_hold_more_than_themselves_or_less_than_nothing_are_told(tmp_path, parts, says):
    with opened(write(tmp_path / "f.tif", parts, names=NAMES)) as mask, pytest.raises(LabelError, match=says):
        mask.read(Window(0, 0, 2, 3))


def test_percent_that_was_rounded_up_in_every_band_is_a_whole_cell(tmp_path):
    rounded = np.array([34, 34, 33], np.uint8).reshape(3, 1, 1)
    with opened(write(tmp_path / "f.tif", rounded, names=NAMES)) as mask:
        assert int(mask.shares(Window(0, 0, 1, 1)).sum()) == 200


def test_fractions_on_another_grid_than_their_image_are_refused(tmp_path):
    image = write(tmp_path / "i.tif", np.ones((4, 4), np.uint8))
    path = write(tmp_path / "f.tif", PERCENT, names=NAMES)
    with pytest.raises(SceneError, match=r"fractions .*f\.tif has size .*raremap rescale"):
        open_labels(path, SCHEME, grid_of(image))
