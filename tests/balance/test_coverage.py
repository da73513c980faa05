"""How likely pixels are to be delivered, against all crops one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raremap.balance.coverage import TRIES, anywhere, box_sums, coverage, delivered
from raremap.labels import IGNORE


@given(st.integers(1, 60), st.integers(1, 30), st.integers(1, 8))
def test_coverage_is_a_share_of_draws(length, size, step):
    starts = np.arange(0, max(1, length - size + 1), step)
    expected = np.zeros((len(starts), length))
    for i, start in enumerate(starts):
        for shift in range(-(step // 2), step - step // 2):
            begin = min(max(start + shift, 0), max(0, length - size))
            expected[i, begin : begin + size] += 1 / step
    assert coverage(starts, length, size, step) == pytest.approx(expected)


@given(st.integers(1, 60), st.integers(1, 70))
def test_a_crop_anywhere_covers_pixels_as_often_as_its_starts_do(length, size):
    starts = range(max(0, length - size) + 1)
    expected = [sum(s <= p < s + size for s in starts) / len(starts) for p in range(length)]
    assert anywhere(length, size) == pytest.approx(expected)


@given(st.integers(1, 14), st.integers(1, 14), st.integers(1, 9), st.floats(0, 1), st.integers(0, 2**31))
@settings(max_examples=60)
def test_what_a_sample_delivers_is_the_mean_over_all_crops_and_tries(height, width, size, labelled, seed):
    rng = np.random.default_rng(seed)
    mask = np.where(rng.random((height, width)) < labelled, 0, IGNORE).astype(np.uint8)
    mask[rng.integers(height), rng.integers(width)] = 1
    starts = [(r, c) for r in range(max(0, height - size) + 1) for c in range(max(0, width - size) + 1)]

    def mean(tries):
        """Of crops drawn at most so often: an empty one is left for the next, unless it is the last."""
        total = np.zeros(mask.shape)
        for r, c in starts:
            box = np.s_[r : r + size, c : c + size]
            if (mask[box] != IGNORE).any() or tries == 1:
                total[box] += 1
            else:
                total += mean_of[tries - 1]
        return total / len(starts)

    mean_of = {}
    for tries in range(1, TRIES + 1):
        mean_of[tries] = mean(tries)
    here = mask != IGNORE
    assert delivered(mask, size)[here] == pytest.approx(mean_of[TRIES][here])


def test_box_sums_are_those_of_all_boxes():
    values = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    expected = [[values[r : r + 3, c : c + 4].sum() for c in range(6)] for r in range(5)]
    assert box_sums(values, 3, 4) == pytest.approx(np.array(expected), rel=1e-5)
