"""Scaled samples against scipy's interpolation, plain means of areas, and slopes known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from tests import project
from tests.batches import ground

from raremap.batches.options import AugmentOptions
from raremap.batches.zoom import Zoom, shown, weights
from raremap.errors import ConfigError
from raremap.labels import IGNORE
from raremap.scene.features.channels import Channels
from raremap.scene.features.options import Median, Slope
from raremap.scene.features.pixels import Pixels
from raremap.scene.steps import Steps
from raremap.tiles.reader import Cut


def cut_of(image, mask, valid=None, features=(), inner=None, steps=None):
    bands = tuple(f"b{i}" for i in range(len(image)))
    valid = np.ones(image.shape[1:], bool) if valid is None else valid
    inner = inner or (slice(0, image.shape[1]), slice(0, image.shape[2]))
    return Cut(Channels(bands, features), Pixels(image, valid, bands, steps), inner, mask)


def test_larger_is_bilinear_as_scipy_has_it():
    rng = np.random.default_rng(0)
    image, mask = rng.normal(size=(2, 12, 9)).astype(np.float32), rng.integers(0, 3, (12, 9)).astype(np.uint8)
    found = Zoom((20, 16))(cut_of(image, mask))
    rows, cols = (np.arange(20) + 0.5) * 12 / 20 - 0.5, (np.arange(16) + 0.5) * 9 / 16 - 0.5
    at = np.meshgrid(rows, cols, indexing="ij")
    for band, expected in zip(found.image(), image, strict=True):
        np.testing.assert_allclose(band, map_coordinates(expected, at, order=1, mode="nearest"), atol=1e-5)
    np.testing.assert_array_equal(
        found.mask, mask[np.ix_(np.floor(rows + 0.5).astype(int), np.floor(cols + 0.5).astype(int))]
    )


def test_smaller_is_the_mean_of_the_area():
    rng = np.random.default_rng(0)
    image, mask = rng.normal(size=(1, 12, 9)).astype(np.float32), rng.integers(0, 3, (12, 9)).astype(np.uint8)
    found = Zoom((8, 6))(cut_of(image, mask)).image()[0]
    fine = image[0].repeat(2, 0).repeat(2, 1)  # in halves, of which three make a new pixel
    np.testing.assert_allclose(found, fine.reshape(8, 3, 6, 3).mean((1, 3)), atol=1e-6)


def test_invalid_pixels_bleed_nowhere_and_stay_ignored():
    image, mask = np.full((1, 12, 12), 5, np.float32), np.ones((12, 12), np.uint8)
    valid = np.ones((12, 12), bool)
    valid[3:6, 4:9] = False
    image[0, ~valid], mask[~valid] = 1e6, IGNORE
    for size in ((8, 8), (20, 17)):
        found = Zoom(size)(cut_of(image, mask, valid))
        assert 0 < (~found.valid).sum() < found.valid.size / 2
        np.testing.assert_allclose(found.image()[0][found.valid], 5, rtol=1e-6)
        np.testing.assert_array_equal(found.mask == IGNORE, ~found.valid)


def test_a_slope_stays_what_it_is_at_any_scale():
    # 3 m up every 10 m to the east: atan 0.3.
    dem = np.tile(np.arange(40) * 3.0, (40, 1)).astype(np.float32)[None]
    for size in ((24, 24), (13, 13)):
        cut = cut_of(
            dem,
            np.zeros((20, 20), np.uint8),
            features=(Slope(dem="b0"),),
            inner=(slice(10, 30), slice(10, 30)),
            steps=Steps.square(10.0),
        )
        found = Zoom(size)(cut).image()[1]
        assert found.shape == size
        # Pixels are flat: means over parts of them lie beside the slope, not on it.
        np.testing.assert_allclose(found, np.degrees(np.arctan(0.3)), rtol=1e-4 if size[0] > 20 else 1e-2)


@pytest.mark.parametrize("size", [(16, 16), (27, 25)])
def test_features_are_those_of_the_whole_scene_shown_so(size):
    rng = np.random.default_rng(2)
    image = rng.normal(size=(1, 60, 60)).astype(np.float32)
    feature = Median(of="b0", size=5)
    zoom, inner = Zoom(size), (slice(20, 40), slice(20, 40))
    margin = zoom.margin((20, 20), feature.margin)
    near = (slice(20 - margin, 40 + margin),) * 2
    part = cut_of(
        image[:, *near],
        np.zeros((20, 20), np.uint8),
        features=(feature,),
        inner=(slice(margin, margin + 20),) * 2,
    )
    wide = cut_of(image, np.zeros((20, 20), np.uint8), features=(feature,), inner=inner)
    far = Zoom(size)
    np.testing.assert_allclose(zoom(part).image()[1], _with_much_around(wide, far, 12), atol=1e-6)


def _with_much_around(cut, zoom, margin):
    """The feature where 12 shown pixels around it are made, more than it needs."""
    rows, cols = (weights(60, 20, 20, n, margin, margin) for n in zoom.size)
    image = shown(cut.pixels.image, cut.pixels.valid, rows, cols)
    made = cut.channels.compute(Pixels(image, np.ones(image.shape[1:], bool), ("b0",)))
    return made[1, margin:-margin, margin:-margin]


def test_scaled_samples_keep_the_class_of_their_pixels_and_fill_the_crop(tmp_path):
    catalog = ground.make(tmp_path)
    truth = ground.classes_by_number(tmp_path)
    still = dict(dihedral=False, gain=0, offset=0)
    near, far = (ground.samples(catalog, 20, AugmentOptions(scale=(s, s), **still)) for s in (2.0, 0.7))
    for draw in range(20):
        image, mask = near[draw]["image"], near[draw]["mask"]
        assert image.shape == (2, 20, 20)
        # The pixels of the corners are interpolated with nothing but themselves.
        for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            number = image[0][corner]
            assert number == 0 or truth[int(number)] == mask[corner]
        assert len(np.unique(mask)) > 1
        assert far[draw]["mask"].shape == (20, 20)
        assert (far[draw]["mask"][far[draw]["image"][0] == 0] == IGNORE).all()


def test_a_crop_that_needs_more_than_the_tile_shows_all_of_it(tmp_path):
    catalog = ground.make(tmp_path, sizes=[(21, 32)], size=32)
    sample = ground.samples(catalog, 32, AugmentOptions(dihedral=False, gain=0, offset=0, scale=(0.5, 0.5)))[
        0
    ]
    assert (sample["mask"][11:] == IGNORE).all()
    assert (sample["mask"][:, 16:] == IGNORE).all()
    assert (sample["image"][:, 11:] == 0).all()
    assert (sample["mask"][:11, :16] != IGNORE).mean() > 0.4


def test_a_pixel_size_that_would_not_follow_is_told(tmp_path):
    features = {
        "features": [{"kind": "slope", "dem": "red", "pixel_m": 10}],
        "images": "i/*.tif",
        "masks": "m/*.tif",
    }
    with pytest.raises(ConfigError, match=r"feature 'slope' has a pixel_m that does not; leave out one"):
        project.experiment(tmp_path, tmp_path, "augment.scale=[0.8,1.2]", scenes=features)


def test_scales_out_of_order_are_told():
    with pytest.raises(
        ValueError, match=r"scale goes from 1\.3 to 0\.8; expected two numbers from 0\.25 to 4"
    ):
        AugmentOptions(scale=(1.3, 0.8))
