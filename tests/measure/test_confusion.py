"""The confusion matrix, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import confusion_matrix

from raremap.labels import IGNORE
from raremap.measure.confusion import confusion

SHAPE = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(st.data(), st.integers(2, 12), SHAPE)
def test_it_equals_scikit_learn_on_the_pixels_that_count(
    data: st.DataObject, k: int, shape: tuple[int, int]
) -> None:
    truth = data.draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([*range(k), IGNORE])))
    predicted = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, k - 1)))
    counted = truth != IGNORE
    expected = np.zeros((k, k), int)
    if counted.any():
        expected = confusion_matrix(truth[counted], predicted[counted], labels=range(k))
    np.testing.assert_array_equal(confusion(truth, predicted, k), expected)


def test_ignored_pixels_change_nothing_whatever_is_predicted_there() -> None:
    truth = np.array([[0, 1, 255], [2, 255, 1]], np.uint8)
    one, other = np.array([[0, 1, 0], [1, 2, 1]], np.uint8), np.array([[0, 1, 255], [1, 77, 1]], np.uint8)
    np.testing.assert_array_equal(confusion(truth, one, 3), confusion(truth, other, 3))
    assert confusion(truth, one, 3).sum() == 4


def test_many_classes_do_not_wrap_around_in_a_byte() -> None:
    truth = np.array([200, 0], np.uint8)
    matrix = confusion(truth, np.array([253, 1], np.uint8), 254)
    assert matrix[200, 253] == 1
    assert matrix[0, 1] == 1


def test_it_adds_up_over_parts() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 50, 40)).astype(np.uint8)
    parts = sum(confusion(truth[r : r + 7], predicted[r : r + 7], 4) for r in range(0, 50, 7))
    np.testing.assert_array_equal(parts, confusion(truth, predicted, 4))


def test_shapes_that_differ_and_predictions_of_no_class_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        confusion(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)
    with pytest.raises(ValueError, match="predicted index 2"):
        confusion(np.zeros(1, np.uint8), np.full(1, 2, np.uint8), 2)
