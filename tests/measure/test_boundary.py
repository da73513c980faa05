"""Boundary F1 against distances by scipy, and by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from raremap.labels import IGNORE
from raremap.measure.boundary import boundary_counts, boundary_f1


def outline(index: np.ndarray, labelled: np.ndarray, c: int) -> np.ndarray:
    """Outline pixels by looking at each neighbour."""
    h, w = index.shape
    out = np.zeros((h, w), bool)
    for r in range(h):
        for x in range(w):
            if not labelled[r, x] or index[r, x] != c:
                continue
            near = [(r - 1, x), (r + 1, x), (r, x - 1), (r, x + 1)]
            out[r, x] = any(
                0 <= a < h and 0 <= b < w and labelled[a, b] and index[a, b] != c for a, b in near
            )
    return out


@given(st.integers(0, 10**6), st.integers(1, 3))
def test_counts_equal_those_by_euclidean_distance(seed: int, tolerance: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, 3, (2, 9, 11)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.15] = IGNORE
    labelled = truth != IGNORE
    counts = boundary_counts(truth, predicted, 3, tolerance)
    for c in range(3):
        true, found = outline(truth, labelled, c), outline(predicted, labelled, c)

        def near(edge: np.ndarray) -> np.ndarray:
            return distance_transform_edt(~edge) <= tolerance if edge.any() else np.zeros_like(edge)

        expected = found.sum(), (found & near(true)).sum(), true.sum(), (true & near(found)).sum()
        np.testing.assert_array_equal(counts[c], expected)


def test_a_square_moved_by_two_pixels_is_right_and_by_three_is_not() -> None:
    truth = np.zeros((30, 30), np.uint8)
    truth[10:20, 10:20] = 1
    assert boundary_f1(boundary_counts(truth, truth, 2)).tolist() == [1.0, 1.0]
    assert boundary_f1(boundary_counts(truth, np.roll(truth, 2, 0), 2))[1] == 1.0
    assert boundary_f1(boundary_counts(truth, np.roll(truth, 3, 0), 2))[1] < 0.8


def test_edges_of_the_image_and_of_ignored_ground_are_no_outline() -> None:
    truth = np.zeros((8, 8), np.uint8)
    truth[:, 4] = IGNORE
    truth[:, 5:] = 1
    counts = boundary_counts(truth, truth, 2)
    assert counts.sum() == 0
    assert np.isnan(boundary_f1(counts)).all()


def test_a_class_that_is_never_predicted_scores_zero() -> None:
    truth = np.zeros((6, 6), np.uint8)
    truth[2:4, 2:4] = 1
    assert boundary_f1(boundary_counts(truth, np.zeros_like(truth), 2))[1] == 0
