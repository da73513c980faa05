"""Shares of classes by hand: their steps, their largest one, what a cell labelled in part counts as."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raremap.labels import IGNORE, LabelScheme
from raremap.scene.shares import areas, in_steps, largest, one_hot, planes, without


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None, None]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((1, 0, 0), (200, 0, 0)),
        ((0.3, 0.3, 0.4), (60, 60, 80)),
        ((0.3, 0.3, 0), (100, 100, 0)),  # 60 % labelled: a whole cell of what is known of it
        ((0.25, 0.24, 0), (0, 0, 0)),  # less than half: unlabelled
        ((0.5, 0, 0), (200, 0, 0)),
        ((1 / 3, 1 / 3, 1 / 3), (67, 67, 66)),
        ((0.004, 0.004, 0.992), (1, 1, 198)),
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_parts_of_a_cell_in_steps(parts, expected):
    assert in_steps(column(*parts)).ravel().tolist() == list(expected)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=12), st.floats(0.1, 1))
def test_shares_of_a_labelled_cell_sum_to_the_whole_and_are_off_by_less_than_a_step(numbers, labelled):
    total = sum(numbers)
    parts = np.array(numbers, float) / max(total, 1) * labelled
    found = in_steps(parts[:, None, None].astype(np.float32)).ravel().astype(int)
    if total and labelled > 0.501:
        assert found.sum() == 200
        assert np.abs(found - 200 * np.array(numbers) / total).max() < 1.01
    elif total == 0 or labelled < 0.499:
        assert not found.any()


def test_the_largest_share_is_the_class_and_ties_go_to_the_rare_then_to_the_last_listed():
    scheme = LabelScheme({0: "a", 1: "b", 2: "c"})
    shares = np.array([[100, 66, 0, 0], [100, 67, 100, 0], [0, 67, 100, 0]], np.uint8)[:, None]
    assert largest(shares, scheme).tolist() == [[1, 2, 2, IGNORE]]
    named = LabelScheme({0: "a", 1: "b", 2: "c"}, rare=("b",))
    assert largest(shares, named).tolist() == [[1, 1, 1, IGNORE]]


def test_shares_of_one_class_are_its_index_back():
    index = np.array([[0, 2], [IGNORE, 1]], np.uint8)
    found = one_hot(index, 3)
    assert found[:, 0, 1].tolist() == [0, 0, 200]
    assert not found[:, 1, 0].any()
    assert np.array_equal(largest(found, LabelScheme({0: "a", 1: "b", 2: "c"})), index)


def test_hidden_ground_is_unlabelled_and_the_half_rule_holds():
    shares = np.array([[200, 120, 80], [0, 80, 120]], np.uint8)[:, None]
    assert without(shares, [1])[:, 0].T.tolist() == [[200, 0], [200, 0], [0, 0]]


def test_areas_and_planes_leave_ignored_cells_out():
    shares = np.array([[50, 200, 100], [150, 0, 100]], np.uint8)[:, None]
    index = np.array([[1, 0, IGNORE]], np.uint8)
    assert areas(index, shares, 2).tolist() == [1.25, 0.75]
    assert areas(index, shares, 2, np.array([[2.0, 0.5, 7.0]])).tolist() == [1.0, 1.5]
    assert areas(index, None, 2, np.array([[2.0, 0.5, 7.0]])).tolist() == [0.5, 2.0]
    assert {c: p.tolist() for c, p in planes(index, shares)} == {0: [[0.25, 1, 0]], 1: [[0.75, 0, 0]]}
    assert {c: p.tolist() for c, p in planes(index, None)} == {0: [[0, 1, 0]], 1: [[1, 0, 0]]}
