"""PR-AUC against scikit-learn and calibration error against a count of cells."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from raremap.labels import IGNORE
from raremap.measure.ranking import BINS, average_precision, calibration_error, probability_counts


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


@pytest.mark.parametrize("share", [0.002, 0.05])
@pytest.mark.parametrize(
    ("shift", "scale"),
    [(0, 1), (-4, 1), (-8, 1), (-12, 1), (-16, 1), (12, 1), (0, 0.25), (0, 4), (-6, 2), (-6, 0.5)],
)
def test_it_is_scikit_learns_however_small_or_sure_the_same_scores_make_the_probabilities(
    share: float, shift: float, scale: float
) -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(200_000) < share).astype(np.uint8)
    odds = (rng.normal(0, 1, len(truth)) + 2.5 * truth) * scale + shift
    probs = (1 / (1 + np.exp(np.stack([odds, -odds])))).astype(np.float32)
    for probs_of in (probs, np.stack([probs[0] / 2, probs[1], probs[0] / 2])):  # of three classes too
        ours = average_precision(probability_counts(probs_of, truth))[1]
        assert ours == pytest.approx(average_precision_score(truth, odds), abs=0.004)


def test_inside_a_step_precision_is_integrated_over_recall() -> None:
    # 4 pixels, 3 of them hits, then 8 pixels with 1 hit: by hand, 3/4·3/4 and 1/4·∫(3+t)/(4+8t) dt.
    counts = np.zeros((1, BINS, 2))
    counts[0, 300], counts[0, 200], counts[0, 10] = (1, 3), (7, 1), (50, 0)
    t = (np.arange(100_000) + 0.5) / 100_000
    by_hand = 0.75 * 0.75 + 0.25 * np.mean((3 + t) / (4 + 8 * t))
    assert average_precision(counts)[0] == pytest.approx(by_hand, abs=1e-9)


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
