"""Small components: strips against whole scenes, and the rule against hand-made maps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from tests.maps.whole import EIGHT, components, filled

from raremap.maps.components import Limits, Relabelling, SmallComponents

NONE = 255


def cleaned(index, areas, limits, eight, rows, probs=None):
    """By strips of `rows` rows."""
    small = SmallComponents(index.shape[1], limits, eight, probs is not None)
    areas = np.broadcast_to(areas, (len(index), areas.shape[1]))
    strips = [slice(top, top + rows) for top in range(0, len(index), rows)]
    for strip in strips:
        small.add(index[strip], areas[strip], None if probs is None else probs[:, strip])
    again = Relabelling(index.shape[1], small.finish(), limits, eight)
    return np.concatenate([again(index[strip]) for strip in strips])


def scene(rng, height, width, classes, coarse=1, nodata=0.1):
    cells = rng.integers(0, classes, (-(-height // coarse), -(-width // coarse)))
    index = np.kron(cells, np.ones((coarse, coarse), int))[:height, :width].astype(np.uint8)
    index[rng.random((height, width)) < nodata] = NONE
    return index


def limits(unit, doubtful=None, confidence=0.0):
    unit = np.array(unit, np.int64)
    return Limits(unit, np.zeros_like(unit) if doubtful is None else np.array(doubtful), confidence)


@pytest.mark.parametrize("eight", [True, False])
@pytest.mark.parametrize("seed", range(25))
def test_strips_give_what_the_whole_scene_gives(seed, eight):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 26, 2)
    classes = int(rng.integers(1, 6))
    index = scene(rng, height, width, classes, int(rng.integers(1, 4)), rng.choice([0, 0.1, 0.6]))
    areas = rng.integers(1, 4, (height, rng.choice([1, width])))
    probs = rng.integers(0, 9, (classes, height, width)).astype(np.uint16) if seed % 3 else None
    unit = rng.integers(0, 20, classes)
    doubtful = rng.integers(0, 40, classes) if seed % 3 == 2 else None
    expected = filled(index, areas, unit, eight, probs, doubtful, 4.0)
    for rows in (1, 3, 100):
        got = cleaned(index, areas, limits(unit, doubtful, 4.0), eight, rows, probs)
        assert np.array_equal(got, expected), rows


def test_what_remains_is_as_large_as_its_class_asks():
    rng = np.random.default_rng(0)
    index, unit = scene(rng, 60, 70, 4, nodata=0), [5, 9, 30, 2]
    got = cleaned(index, np.ones((1, 1), int), limits(unit), True, 8)
    parts = components(got, eight=True)
    assert parts
    assert all(part.sum() >= unit[got[part][0]] for part in parts)


def test_a_house_of_four_pixels_stays_and_a_crumb_of_forest_goes_to_the_longer_border():
    index = np.array(
        [
            [0, 0, 0, 0, 0, 0],
            [0, 1, 1, 0, 3, 3],
            [0, 1, 1, 0, 2, 3],
            [0, 0, 0, 0, 3, 3],
        ],
        np.uint8,
    )
    got = cleaned(index, np.full((1, 1), 100), limits([0, 400, 500, 0]), True, 2)
    assert np.array_equal(got, np.where(index == 2, 3, index))


def test_with_probabilities_the_likelier_neighbour_wins_over_the_longer_border():
    index = np.array([[3, 3, 3], [3, 2, 0], [3, 3, 3]], np.uint8)
    probs = np.zeros((4, 3, 3), np.uint16)
    probs[:, 1, 1] = [300, 400, 900, 200]  # class 1, likelier still, is not beside it
    got = cleaned(index, np.ones((1, 1), int), limits([0, 0, 2, 0]), True, 9, probs)
    assert got[1, 1] == 0
    assert cleaned(index, np.ones((1, 1), int), limits([0, 0, 2, 0]), True, 9)[1, 1] == 3


def test_a_crumb_in_no_data_stays():
    index = np.full((5, 5), NONE, np.uint8)
    index[2, 2] = 1
    assert np.array_equal(cleaned(index, np.ones((1, 1), int), limits([9, 9]), True, 2), index)


def test_a_line_of_corners_is_one_component_of_eight_and_none_of_four():
    index = np.eye(6, dtype=np.uint8)
    assert np.array_equal(cleaned(index, np.ones((1, 1), int), limits([0, 6]), True, 2), index)
    assert not cleaned(index, np.ones((1, 1), int), limits([0, 6]), False, 2).any()


@pytest.mark.parametrize("value", [NONE, 0])
def test_a_scene_of_one_class_or_of_none_stays_as_it_is(value):
    index = np.full((40, 30), value, np.uint8)
    assert np.array_equal(cleaned(index, np.ones((1, 1), int), limits([10_000]), True, 7), index)


def test_a_million_components_are_settled():
    side = 2000
    index = np.zeros((side, side), np.uint8)
    index[::2, ::2] = 1 + np.arange(side // 2) % 3  # a million single pixels, none beside another
    assert not cleaned(index, np.ones((1, 1), int), limits([0, 2, 2, 2]), True, 256).any()


def test_a_million_components_that_all_hang_together_are_settled():
    rng = np.random.default_rng(0)
    index = rng.integers(0, 12, (1100, 1100)).astype(np.uint8)
    got = cleaned(index, np.ones((1, 1), int), limits([4] * 12), True, 256)
    for k in range(12):
        sizes = np.bincount(ndimage.label(got == k, EIGHT)[0].ravel())[1:]
        assert sizes.min() >= 4
