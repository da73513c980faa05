"""Pictures: the right colours in the right places."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raremap.labels import IGNORE, LabelScheme
from raremap.reports.pictures import Panel, class_uri, difference_picture, map_picture, photo_uri, true_color

SCHEME = LabelScheme(
    {1: "grass", 2: "water", 3: "mine"}, colors={"grass": "#88CC66", "water": "#2244CC", "mine": "#CC2222"}
)


def decoded(uri: str) -> Image.Image:
    head, data = uri.split(",", 1)
    assert head.startswith("data:image/")
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(
    "bands", [("nir", "blue", "green", "red"), ("B8", "B2", "B3", "B4"), ("x", "B02", "B03", "B04")]
)
def test_red_green_and_blue_are_found_by_name(bands: tuple[str, ...]) -> None:
    image = np.zeros((4, 2, 2))
    image[3, 0, 0] = image[2, 0, 1] = image[1, 1, 0] = 100
    picture = true_color(image, np.ones((2, 2), bool), bands)
    assert picture[0, 0].tolist() == [255, 0, 0]
    assert picture[0, 1].tolist() == [0, 255, 0]
    assert picture[1, 0].tolist() == [0, 0, 255]


def test_the_stretch_is_of_valid_pixels_and_keeps_the_order_of_the_bands() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(1000, 3000, (3, 50, 50)).astype(np.uint16)
    valid = np.ones((50, 50), bool)
    valid[:10] = False
    image[:, :10] = 65535
    picture = true_color(image, valid, ("red", "green", "blue"))
    assert (picture[:10] == 255).all()
    seen = picture[10:].astype(int)
    assert 0.01 < (seen == 0).mean() < 0.03
    assert 0.01 < (seen == 255).mean() < 0.03
    middle = 1000 + 2000 * (seen / 255 * 0.96 + 0.02)
    inside = (seen > 0) & (seen < 255)
    assert abs(middle - image[:, 10:].transpose(1, 2, 0))[inside].max() < 30


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 1, 1), (5, 2, 2)])
def test_any_number_of_bands_gives_a_picture(shape: tuple[int, ...]) -> None:
    image = np.full(shape, np.nan, np.float32)
    valid = np.zeros(shape[1:], bool)
    assert true_color(image, valid, [f"band{i}" for i in range(shape[0])]).shape == (*shape[1:], 3)
    image[:, 0, 0], valid[0, 0] = 0.3, True
    assert true_color(image, valid, [f"band{i}" for i in range(shape[0])]).dtype == np.uint8


def test_class_pictures_have_the_schemes_colours_and_holes_where_unlabelled() -> None:
    index = np.array([[0, 1, 2], [2, IGNORE, 0]], np.uint8)
    rgba = np.array(decoded(class_uri(index, SCHEME.rgb)).convert("RGBA"))
    np.testing.assert_array_equal(rgba[0, :, :3], SCHEME.rgb)
    assert rgba[1, 1, 3] == 0
    assert (rgba[index != IGNORE][:, 3] == 255).all()


def test_large_pictures_are_made_small_enough_for_a_page() -> None:
    index = np.zeros((900, 1800), np.uint8)
    assert decoded(class_uri(index, SCHEME.rgb)).size == (512, 256)
    assert decoded(photo_uri(np.zeros((900, 1800, 3), np.uint8))).size == (512, 256)


def test_red_is_where_a_label_and_the_prediction_differ() -> None:
    truth = np.array([[0, 1, IGNORE]], np.uint8)
    predicted = np.array([[0, 0, 2]], np.uint8)
    panel = Panel("best", "", np.full((1, 3, 3), 90, np.uint8), truth, predicted)
    red = (difference_picture(panel) == (214, 39, 40)).all(2)
    assert red.tolist() == [[False, True, False]]


@pytest.mark.parametrize("shape", [(60, 80), (300, 20), (1, 1), (3, 2500)])
def test_a_map_stands_beside_its_scene_with_a_legend_of_what_occurs(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (3, *shape))
    index = np.full(shape, 2, np.uint8)
    index[:, : shape[1] // 2] = 0
    path = map_picture(
        tmp_path / "deep" / "map.png",
        image,
        np.ones(shape, bool),
        ("red", "green", "blue"),
        SCHEME,
        {"map": index},
        pixels=200,
    )
    with Image.open(path) as file:
        picture = np.array(file.convert("RGB"))
    assert max(picture.shape) < 700
    there = {tuple(c) for c in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert (0xCC, 0x22, 0x22) in there
    assert (0x22, 0x44, 0xCC) not in there
