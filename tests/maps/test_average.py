"""Means over turns and resolutions against whole scenes that are turned by numpy and resized by torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.rasters import write

from raremap.maps.average import Voice, averaged
from raremap.maps.options import PredictOptions
from raremap.maps.resize import resized
from raremap.maps.stream import LanedNetwork, RoomyNetwork, stream
from raremap.scene.features.options.filters import Median, Sobel
from raremap.scene.features.options.indices import Ndvi
from raremap.scene.features.options.terrain import Aspect, Hillshade
from raremap.scene.features.reader import featured
from raremap.scene.features.views import Views, viewed
from raremap.scene.raster import open_image
from raremap.scene.turn import TURNS

# What the codes of a turn are, said by numpy.
NUMPY = {c: (c % 4, c >= 4) for c in TURNS}


def turned(array: np.ndarray, code: int) -> np.ndarray:
    quarter, mirrored = NUMPY[code]
    array = np.rot90(array, quarter, (-2, -1))
    return np.flip(array, -1) if mirrored else array


def turned_back(array: np.ndarray, code: int) -> np.ndarray:
    quarter, mirrored = NUMPY[code]
    array = np.flip(array, -1) if mirrored else array
    return np.rot90(array, -quarter, (-2, -1))


def uneven(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Probabilities that depend on the pixel, on its left neighbour and on where in its window it lies."""
    first = image[:, 0].astype(np.float32) / 300
    left = np.roll(first, 1, -1)
    rows, cols = np.indices(valid.shape[-2:]).astype(np.float32)
    one = 0.1 + 0.3 * first + 0.3 * left + 0.2 * ((3 * rows + cols) % 7) / 7
    return np.stack([one, (1 - one) * 0.25, (1 - one) * 0.75], 1).astype(np.float32)


def alike(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Probabilities of a pixel and the mean of its eight neighbours in the window: the same after any turn."""
    x = torch.from_numpy(np.ascontiguousarray(image[:, :1], np.float32)) / 255
    around = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    one = (0.5 * x + 0.5 * around)[:, 0].numpy()
    return np.stack([one, (1 - one) * 0.25, (1 - one) * 0.75], 1)


def scene(tmp_path, height: int, width: int, bands: int = 2, seed: int = 0) -> np.ndarray:
    image = np.random.default_rng(seed).integers(1, 256, (bands, height, width), dtype=np.uint8)
    write(tmp_path / "scene.tif", image)
    return image


def gathered(path, network, options: PredictOptions, sets=((),)) -> np.ndarray:
    with open_image(path) as plain:
        reader = viewed(plain, sets, options.turns)
        probs = np.full((3, reader.grid.height, reader.grid.width), np.nan)
        for strip in stream(reader, network, 3, options):
            probs[:, *strip.window.slices()] = strip.probs
    return probs


@pytest.mark.parametrize(("tta", "codes"), [("flips", (0, 2, 4, 6)), ("d4", TURNS)])
def test_it_is_the_mean_over_maps_of_turned_scenes_turned_back(tmp_path, tta, codes) -> None:
    # Windows of 32 every 24 end where the scene does, so that a turned scene has the turned windows.
    image = scene(tmp_path, 32 + 2 * 24, 32 + 4 * 24)
    options = PredictOptions(window=32, overlap=0.25, tta=tta)
    network = averaged([Voice(uneven)], ["a", "b"], options)
    found = gathered(tmp_path / "scene.tif", network, options)
    expected = np.zeros(found.shape)
    for code in codes:
        path = write(tmp_path / f"turned{code}.tif", turned(image, code).copy())
        expected += turned_back(gathered(path, uneven, PredictOptions(window=32, overlap=0.25)), code)
    np.testing.assert_allclose(found, expected / len(codes), atol=1e-6)
    plain = gathered(tmp_path / "scene.tif", uneven, PredictOptions(window=32, overlap=0.25))
    assert np.abs(found - plain).max() > 0.05  # or the test could not fail


@pytest.mark.parametrize("size", [(1, 1), (7, 90), (75, 101)])
def test_turns_change_nothing_of_a_network_that_turns_along(tmp_path, size) -> None:
    scene(tmp_path, *size)
    plain = PredictOptions(window=32)
    for tta in ("flips", "d4"):
        options = PredictOptions(window=32, tta=tta)
        found = gathered(tmp_path / "scene.tif", averaged([Voice(alike)], ["a", "b"], options), options)
        np.testing.assert_allclose(found, gathered(tmp_path / "scene.tif", alike, plain), atol=1e-6)


FEATURES = (
    Ndvi(), Sobel(of="red"), Median(of="nir", size=4), Aspect(dem="nir", pixel_m=10), Hillshade(dem="nir", pixel_m=10),
)  # fmt: skip


@pytest.mark.parametrize("code", TURNS)
def test_features_after_a_turn_are_those_of_the_turned_scene(tmp_path, code) -> None:
    image = np.random.default_rng(1).integers(1, 256, (2, 40, 33)).astype(np.uint8)
    image[:, 5:9, 10:14] = 0
    straight = write(tmp_path / "a.tif", image, names=("red", "nir"), nodata=0)
    other = write(tmp_path / "b.tif", turned(image, code).copy(), names=("red", "nir"), nodata=0)
    with open_image(straight) as plain, open_image(other) as lying:
        views = Views.of(plain.bands, [FEATURES], TURNS)
        reader = viewed(plain, [FEATURES], TURNS)
        rows = views.rows(0, code)
        found, valid = reader.read(reader.grid.window)
        expected, usable = featured(lying, FEATURES).read(lying.grid.window)
    np.testing.assert_array_equal(turned(valid, code), usable)
    np.testing.assert_allclose(turned(found[rows], code)[:, usable], expected[:, usable], atol=2e-5)
    assert views.anew == ("sobel", "median", "aspect", "hillshade")


def test_a_feature_that_survives_a_turn_is_made_once() -> None:
    views = Views.of(["red", "nir"], [[Ndvi()], [Ndvi(), Sobel(of="red")]], (0, 4))
    assert views.names == ("red", "nir", "ndvi", "sobel_x", "sobel_y", "sobel_x", "sobel_y")
    assert views.rows(0, 0).tolist() == views.rows(0, 4).tolist() == [0, 1, 2]
    assert views.rows(1, 0).tolist() == [0, 1, 2, 3, 4]
    assert views.rows(1, 4).tolist() == [0, 1, 2, 5, 6]


def test_a_map_with_features_that_survive_no_turn_is_the_mean_over_turned_scenes(tmp_path) -> None:
    image = np.random.default_rng(2).integers(1, 256, (2, 56, 80)).astype(np.uint8)
    write(tmp_path / "scene.tif", image, names=("red", "nir"))
    features = (Sobel(of="red"), Hillshade(dem="nir", pixel_m=10))

    def shaded(channels, valid):
        one = np.clip(0.4 + channels[:, 2] / 6000 + 0.2 * channels[:, 4], 0.01, 0.99).astype(np.float32)
        return np.stack([one, (1 - one) / 2, (1 - one) / 2], 1)

    options = PredictOptions(window=32, tta="d4")
    network = averaged([Voice(shaded, features)], ["red", "nir"], options)
    found = gathered(tmp_path / "scene.tif", network, options, [features])
    expected = np.zeros(found.shape)
    for code in TURNS:
        path = write(tmp_path / f"turned{code}.tif", turned(image, code).copy(), names=("red", "nir"))
        expected += turned_back(gathered(path, shaded, PredictOptions(window=32), [features]), code) / 8
    np.testing.assert_allclose(found, expected, atol=1e-6)


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), to=st.tuples(st.integers(1, 60), st.integers(1, 60))
)
def test_resizing_is_torchs_with_antialiasing(height, width, to) -> None:
    assume(to[1] > 1)  # torch 2.15 leaves the rows as they are where one column is wanted
    values = np.random.default_rng(0).normal(size=(2, 3, height, width)).astype(np.float32)
    found, valid = resized(values, np.ones((2, height, width), bool), to)
    expected = F.interpolate(torch.from_numpy(values), to, mode="bilinear", antialias=True).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert valid.all()


def test_what_is_not_valid_moves_no_resized_pixel() -> None:
    rng = np.random.default_rng(0)
    values, valid = rng.normal(size=(1, 2, 12, 10)).astype(np.float32), rng.random((1, 12, 10)) > 0.3
    other = np.where(valid[:, None], values, np.float32("nan"))
    for to in ((6, 5), (5, 7), (24, 20)):
        one, there = resized(values, valid, to)
        two, also = resized(other, valid, to)
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(there, also)
    # To two pixels: centres at 1 and 3, weights 1 - distance / 2.
    values, valid = np.array([[[[1.0, 5.0, 9.0, 7.0]]]], np.float32), np.array([[[True, False, True, True]]])
    found, _ = resized(values, valid, (1, 2))
    np.testing.assert_allclose(found[0, 0, 0, 0], (0.75 * 1 + 0.25 * 9) / (0.75 + 0.25), rtol=1e-6)
    np.testing.assert_allclose(found[0, 0, 0, 1], (0.75 * 9 + 0.75 * 7) / 1.5, rtol=1e-6)


def by_pixel(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """A network that looks at single pixels, and not linearly."""
    one = (image[:, 0].astype(np.float32) / 256) ** 2
    return np.stack([one, (1 - one) * 0.25, (1 - one) * 0.75], 1)


@pytest.mark.parametrize("blend", ["hann", "mean"])
def test_resolutions_are_those_of_the_whole_scene_inside_of_windows(tmp_path, blend) -> None:
    image = scene(tmp_path, 32 + 2 * 24, 32 + 3 * 24)
    options = PredictOptions(window=32, overlap=0.25, scales=(1.0, 0.5), blend=blend)
    found = gathered(tmp_path / "scene.tif", averaged([Voice(by_pixel)], ["a", "b"], options), options)
    whole = torch.from_numpy(image[None].astype(np.float32))
    size = whole.shape[-2:]
    half = F.interpolate(whole, (size[0] // 2, size[1] // 2), mode="bilinear", antialias=True).numpy()
    said = torch.from_numpy(by_pixel(half, half[:, 0] > 0))
    up = F.interpolate(said, tuple(size), mode="bilinear").numpy()
    expected = (by_pixel(image[None], image[None, 0] > 0) + up)[0] / 2
    # Three pixels at a window's own border do not know what lies beyond it.
    inside = np.ones(size, bool)
    for axis, length in enumerate(size):
        for start in range(0, length - 31, 24):
            for edge in (start, start + 32):
                if 0 < edge < length:
                    near = [slice(None)] * 2
                    near[axis] = slice(edge - 3, edge + 3)
                    inside[tuple(near)] = False
    assert 0.3 < inside.mean() < 0.8
    np.testing.assert_allclose(found[:, inside], expected[:, inside], atol=1e-5)
    assert np.abs(found - expected).mean() < 0.02


def test_probabilities_sum_to_one_wherever_a_pixel_is_valid(tmp_path) -> None:
    image = np.random.default_rng(3).integers(1, 256, (1, 61, 50)).astype(np.float32)
    image[:, np.random.default_rng(4).random((61, 50)) < 0.5] = np.nan
    image[:, 20:45, 10:30] = np.nan
    write(tmp_path / "scene.tif", image, nodata=np.nan)

    def checked(channels, valid):
        return by_pixel(np.where(valid[:, None], channels, 0), valid)

    options = PredictOptions(window=32, tta="d4", scales=(1.0, 0.5, 1.5))
    found = gathered(tmp_path / "scene.tif", averaged([Voice(checked)], ["a"], options), options)
    there = ~np.isnan(image[0])
    np.testing.assert_allclose(found[:, there].sum(0), 1, atol=1e-5)


def test_a_mean_of_several_networks_moves_each_to_its_factors() -> None:
    probs = np.array([0.5, 0.3, 0.2], np.float32)

    def said(image, valid):
        return np.broadcast_to(probs[:, None, None], (len(image), 3, *valid.shape[-2:])).copy()

    options = PredictOptions()
    factors = np.array([1.0, 1.0, 4.0], np.float32)
    network = averaged([Voice(said), Voice(said, factors=factors)], ["a"], options)
    moved = probs * factors / (probs * factors).sum()
    found = network(np.zeros((2, 1, 4, 5), np.float32), np.ones((2, 4, 5), bool))
    np.testing.assert_allclose(found[1, :, 2, 3], (probs + moved) / 2, rtol=1e-6)


def test_a_network_alone_is_given_as_it_is_and_lanes_are_kept() -> None:
    assert averaged([Voice(by_pixel)], ["a"], PredictOptions()) is by_pixel

    class Laned:
        lanes, precision, entered = 3, "bf16", 0

        def enter_lane(self) -> None:
            self.entered += 1

        def __call__(self, image, valid):
            return by_pixel(image, valid)

    laned = Laned()
    network = averaged([Voice(laned)], ["a"], PredictOptions(tta="flips"))
    assert isinstance(network, LanedNetwork)
    assert (network.lanes, network.precision) == (3, "bf16")
    network.enter_lane()
    assert laned.entered == 1
    assert averaged([Voice(laned), Voice(by_pixel)], ["a"], PredictOptions()).lanes == 1


def test_the_room_of_a_device_is_that_of_all_its_voices() -> None:
    class Roomy:
        def __init__(self, most: int | None) -> None:
            self.most = most

        def at_once(self, ask, most):
            ask(most)
            return most - 1

        def __call__(self, image, valid):
            return by_pixel(image, valid)

    asked = []
    network = averaged([Voice(Roomy(None)), Voice(Roomy(4))], ["a"], PredictOptions())
    assert isinstance(network, RoomyNetwork)
    assert (network.at_once(asked.append, 9), asked, network.most) == (8, [9], 4)
    plain = averaged([Voice(by_pixel), Voice(by_pixel)], ["a"], PredictOptions())
    assert (plain.at_once(asked.append, 9), plain.most) == (None, None)


@pytest.mark.parametrize("scales", [(), (1.0, 1.0), (0.0,), (-1.0,), (9.0,), (float("nan"),)])
def test_scales_that_make_no_sense_are_refused(scales) -> None:
    with pytest.raises(ValidationError, match=r"expected different numbers from 0\.1 to 4"):
        PredictOptions(scales=scales)
