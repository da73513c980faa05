"""Scores of a pooled matrix, against scikit-learn, by hand, and by their identities."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from raremap.labels import IGNORE
from raremap.measure.confusion import confusion
from raremap.measure.scores import Scores

K = 4
NAMES = ("meadow", "forest", "water", "quarry")
MATRICES = hnp.arrays(np.int64, (K, K), elements=st.integers(0, 30))


def maps(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A random true map with ignored pixels, and a predicted one; classes from `classes` on are absent."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (13, 17)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.2] = IGNORE
    predicted = np.where(rng.random(truth.shape) < 0.5, rng.integers(0, K, truth.shape), truth % K)
    return truth, predicted.astype(np.uint8)


@given(st.integers(0, 10**6), st.integers(2, K))
def test_scores_equal_scikit_learn_on_random_maps_with_ignored_pixels(seed: int, classes: int) -> None:
    truth, predicted = maps(seed, classes)
    scores = Scores(confusion(truth, predicted, K), NAMES)
    t, p = truth[truth != IGNORE], predicted[truth != IGNORE]
    present = np.unique(t)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        t, p, labels=present, zero_division=0
    )
    iou = metrics.jaccard_score(t, p, labels=present, average=None, zero_division=0)
    for ours, theirs in (
        (scores.precision, precision),
        (scores.recall, recall),
        (scores.f1, f1),
        (scores.iou, iou),
        (scores.support, support),
    ):
        np.testing.assert_allclose(ours[present], theirs)
    assert scores.macro_f1 == pytest.approx(f1.mean())
    assert scores.miou == pytest.approx(iou.mean())
    assert scores.overall_accuracy == pytest.approx(metrics.accuracy_score(t, p))
    assert scores.overall_accuracy == pytest.approx(metrics.f1_score(t, p, average="micro"))
    assert scores.balanced_accuracy == pytest.approx(recall.mean())


@given(MATRICES)
def test_f1_and_iou_are_one_figure_in_two_forms_and_iou_is_the_smaller(matrix: np.ndarray) -> None:
    scores = Scores(matrix, NAMES)
    present = scores.support > 0
    assume(present.any())
    f1, iou = scores.f1[present], scores.iou[present]
    np.testing.assert_allclose(iou, f1 / (2 - f1))
    assert (iou <= np.minimum(scores.precision, scores.recall)[present] + 1e-12).all()
    assert scores.miou <= scores.macro_f1 + 1e-12


@given(MATRICES)
def test_every_mean_is_over_the_classes_with_support_alone(matrix: np.ndarray) -> None:
    matrix[2] = 0
    scores = Scores(matrix, NAMES, rare=("water", "quarry"))
    for values in (scores.precision, scores.recall, scores.f1, scores.iou, scores.area_ratio):
        np.testing.assert_array_equal(np.isnan(values), scores.support == 0)
    assert "water" in scores.absent
    if scores.support[3] > 0:
        assert scores.rare_f1 == scores.f1[3]
    else:
        assert np.isnan(scores.rare_f1)


def test_a_map_of_four_by_four_counted_by_hand() -> None:
    truth = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [2, 2, 1, 1], [255, 255, 1, 255]], np.uint8)
    predicted = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [2, 0, 3, 1], [3, 3, 1, 0]], np.uint8)
    scores = Scores(confusion(truth, predicted, K), NAMES, rare=("water", "quarry"))
    # meadow: 6 true, 6 given, 5 right; forest: 5, 5, 4; water: 2, 1, 1; quarry: none true, 1 given.
    np.testing.assert_allclose(scores.recall[:3], [5 / 6, 4 / 5, 1 / 2])
    np.testing.assert_allclose(scores.precision[:3], [5 / 6, 4 / 5, 1])
    np.testing.assert_allclose(scores.f1[:3], [5 / 6, 4 / 5, 2 / 3])
    np.testing.assert_allclose(scores.iou[:3], [5 / 7, 4 / 6, 1 / 2])
    np.testing.assert_allclose(scores.area_ratio[:3], [1, 1, 1 / 2])
    assert scores.absent == ("quarry",)
    assert scores.predicted[3] == 1
    assert scores.macro_f1 == pytest.approx((5 / 6 + 4 / 5 + 2 / 3) / 3)
    assert scores.overall_accuracy == pytest.approx(10 / 13)
    assert scores.balanced_accuracy == pytest.approx((5 / 6 + 4 / 5 + 1 / 2) / 3)
    assert scores.rare_f1 == pytest.approx(2 / 3)
    assert scores.common_f1 == pytest.approx((5 / 6 + 4 / 5) / 2)


def test_a_class_that_is_never_given_has_precision_zero_and_not_nan() -> None:
    scores = Scores(np.array([[5, 0], [3, 0]]), ("a", "b"))
    assert scores.precision[1] == scores.f1[1] == scores.iou[1] == 0


def test_nothing_counted_scores_nan_everywhere_and_null_in_json() -> None:
    data = Scores(np.zeros((2, 2), np.int64), ("a", "b")).to_dict()
    assert data["macro_f1"] is None
    assert data["overall_accuracy"] is None
    assert data["by_class"]["a"]["f1"] is None
    assert data["absent"] == ["a", "b"]
    json.dumps(data, allow_nan=False)


def test_json_keeps_what_was_predicted_of_an_absent_class() -> None:
    data = Scores(np.array([[5, 2], [0, 0]]), ("a", "b"), rare=("b",)).to_dict()
    assert data["by_class"]["b"]["f1"] is None
    assert data["by_class"]["b"]["predicted"] == 2
    assert data["micro_f1"] == data["overall_accuracy"] == pytest.approx(5 / 7)
    assert data["rare_f1"] is None
