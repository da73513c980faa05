"""PR-AUC against scikit-learn and calibration error against a count of cells."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from raremap.labels import IGNORE
from raremap.measure.ranking import average_precision, calibration_error, probability_counts


def pixels(seed: int, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=(0.9, 0.08, 0.02)).astype(np.uint8)
    scores = rng.normal(size=(3, n))
    scores[truth, np.arange(n)] += 2
    scores[0] += 2
    probs = np.exp(scores)
    truth[rng.random(n) < 0.1] = IGNORE
    return (probs / probs.sum(0)).astype(np.float32), truth


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_scikit_learns_on_labelled_pixels(seed: int) -> None:
    probs, truth = pixels(seed)
    ours = average_precision(probability_counts(probs, truth))
    labelled = truth != IGNORE
    for c in range(3):
        theirs = average_precision_score(truth[labelled] == c, probs[c, labelled])
        assert ours[c] == pytest.approx(theirs, abs=0.004)


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    probs, truth = pixels(0)
    whole = probability_counts(probs, truth)
    parts = sum(probability_counts(probs[:, s], truth[s]) for s in (slice(0, 7000), slice(7000, None)))
    np.testing.assert_array_equal(whole, parts)
    assert whole.sum((1, 2)).tolist() == [(truth != IGNORE).sum()] * 3


def test_calibration_error_equals_a_count_by_cells() -> None:
    probs, truth = pixels(1)
    labelled = truth != IGNORE
    ours = calibration_error(probability_counts(probs, truth))
    for c in range(3):
        p, hit = probs[c, labelled], truth[labelled] == c
        cell = np.minimum((p * 15).astype(int), 14)
        theirs = sum(
            abs(hit[cell == b].mean() - p[cell == b].mean()) * (cell == b).mean() for b in np.unique(cell)
        )
        assert ours[c] == pytest.approx(theirs, abs=0.004)


def test_a_class_without_a_pixel_has_no_average_precision() -> None:
    probs, truth = pixels(2)
    truth[truth == 2] = 0
    ours = average_precision(probability_counts(probs, truth))
    assert np.isnan(ours[2])
    assert np.isfinite(ours[:2]).all()
