"""Majority, opening and closing, against scipy on whole scenes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from raremap.errors import ConfigError
from raremap.maps import strips
from raremap.maps.filters import closing, disc, majority, opening
from raremap.scene.grid import Grid

NONE = 255


def scene(seed, classes=4):
    rng = np.random.default_rng(seed)
    index = ndimage.zoom(rng.integers(0, classes, (8, 9)), 4, order=0).astype(np.uint8)
    index[rng.random(index.shape) < 0.2] = 1
    index[rng.random(index.shape) < 0.05] = NONE
    return index


def half_open(mask, element):
    """Opening by scipy, the class going on beyond the scene."""
    eroded = ndimage.binary_erosion(mask, element, border_value=1)
    return ndimage.binary_dilation(eroded, element)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(3))
def test_opening_is_scipys_and_gives_the_rest_to_the_nearest_other_class(seed, side):
    index, element = scene(seed), disc(side * 10, (10, 10), "open")
    got = opening(1, element)(index)
    here = index == 1
    stays = half_open(here | (index == NONE), element) & here
    assert np.array_equal((got == 1), stays | (here & (got == 1)))
    gone = here & ~stays
    other = (index != 1) & (index != NONE)
    distance, at = ndimage.distance_transform_edt(~other, return_indices=True)
    changed = gone & (got != 1)
    for y, x in np.argwhere(changed):
        near = np.hypot(*np.meshgrid(np.arange(len(index)) - y, np.arange(index.shape[1]) - x, indexing="ij"))
        ring = other & np.isclose(near, distance[y, x])
        assert got[y, x] in index[ring]
    assert (distance[gone & (got == 1)] > side - 1).all()
    assert np.array_equal(got[~gone], index[~gone])
    assert at is not None


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_closing_is_scipys(side):
    index, element = scene(0), disc(side * 10, (10, 10), "close")
    got = closing(2, element)(index)
    here = index == 2
    grown = ndimage.binary_dilation(here, element)
    filled = ndimage.binary_erosion(grown | (index == NONE), element, border_value=1)
    assert np.array_equal(got, np.where((filled | here) & (index != NONE), 2, index))
    assert (got[here] == 2).all()


@pytest.mark.parametrize("side", [3, 7])
def test_the_majority_is_that_of_the_window_around_each_pixel(side):
    index = scene(1)
    got, half = majority(side, 4)(index), side // 2
    for y, x in np.argwhere(index != NONE):
        part = index[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
        counts = np.bincount(part[part != NONE], minlength=4)
        own = counts[index[y, x]] == counts.max()
        assert got[y, x] == (index[y, x] if own else counts.argmax())
    assert np.array_equal(got == NONE, index == NONE)


SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))
STEPS = st.one_of(
    st.sampled_from([3, 5, 7]).map(lambda side: majority(side, 4)),
    st.builds(lambda k, s: opening(k, disc(10, (10 / s[0], 10 / s[1]), "")), st.integers(0, 3), SIDES),
    st.builds(lambda k, s: closing(k, disc(10, (10 / s[0], 10 / s[1]), "")), st.integers(0, 3), SIDES),
)


@given(st.lists(STEPS, min_size=1, max_size=3), st.integers(0, 9), st.data())
def test_a_piece_with_what_is_around_it_agrees_with_the_whole(steps, seed, data):
    index = whole = scene(seed)
    reach = sum(step.reach for step in steps)
    top, left = (data.draw(st.integers(0, n - 1)) for n in index.shape)
    above, before = max(0, top - reach), max(0, left - reach)
    piece = index[above : top + 3 + reach, before : left + 2 + reach]
    for step in steps:
        whole, piece = step(whole), step(piece)
    got = piece[top - above :, left - before :][:3, :2]
    assert np.array_equal(got, whole[top : top + 3, left : left + 2])


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 20), st.integers(1, 4000))
def test_tiles_cover_each_pixel_once_and_are_bounded_with_what_is_around(height, width, reach, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "_TILE", most)
        found = strips.tiles(Grid(height, width), reach)
    count = np.zeros((height, width), int)
    for window in found:
        count[window.slices()] += 1
        rows = min(height, window.row_end + reach) - max(0, window.row_off - reach)
        cols = min(width, window.col_end + reach) - max(0, window.col_off - reach)
        assert rows * cols <= max(most, 16 * reach**2)
    assert (count == 1).all()
    assert found[0].height >= min(height, 2 * reach)
    assert found[0].width >= min(width, 2 * reach)


def test_a_wide_scene_is_filtered_in_a_few_times_its_pixels():
    grid, reach = Grid(20_000, 100_000), 300
    seen = sum((w.height + 2 * reach) * (w.width + 2 * reach) for w in strips.tiles(grid, reach))
    assert seen < 2 * grid.height * grid.width  # in strips of 64 MB it was 38 times


def test_a_disc_is_as_wide_as_its_size_and_no_wider_than_bearable():
    assert disc(30, (10, 10), "").tolist() == [[1] * 3] * 3
    assert disc(20, (10, 10), "").shape == (2, 2)
    assert disc(50, (10, 5), "").shape == (5, 10)
    assert disc(50, (10, 10), "")[0].tolist() == [0, 1, 1, 1, 0]
    with pytest.raises(ConfigError, match="open forest of 5000 m is 500 pixels wide"):
        disc(5000, (10, 10), "open forest")
