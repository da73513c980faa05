"""True shares from scores under other shares: on a world whose posteriors are known, and its edges."""

from __future__ import annotations

import numpy as np
import pytest

from raremap.measure.shares import calibrated, estimate_shares

MEANS = np.array([0.0, 1.5, 3.5])


def scores(truth: np.ndarray, prior: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The exact posterior under `prior` of one Gaussian band a pixel, `[n, K]`."""
    x = MEANS[truth] + rng.normal(size=len(truth))
    joint = np.exp(-0.5 * (x[:, None] - MEANS) ** 2) * prior
    return joint / joint.sum(1, keepdims=True)


@pytest.mark.parametrize("truth", [(0.9, 0.09, 0.01), (1 / 3, 1 / 3, 1 / 3), (0.02, 0.08, 0.9)])
@pytest.mark.parametrize("prior", [(1 / 3, 1 / 3, 1 / 3), (0.1, 0.2, 0.7)])
def test_it_finds_the_shares_of_the_ground_whatever_shares_were_learned(truth, prior) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 20_000, p=truth)
    found = estimate_shares(scores(labels, np.array(prior), rng), np.array(prior))
    realised = np.bincount(labels, minlength=3) / len(labels)
    assert np.abs(found.shares - realised).max() < 0.015
    assert found.shares.sum() == pytest.approx(1)
    assert found.rounds < 1000


def test_counting_the_most_likely_classes_would_be_far_off() -> None:
    """What the estimate is for: with points of all classes alike, the map claims too much of the rare one."""
    rng = np.random.default_rng(1)
    labels, prior = rng.choice(3, 20_000, p=(0.9, 0.09, 0.01)), np.full(3, 1 / 3)
    probs = scores(labels, prior, rng)
    counted = np.bincount(probs.argmax(1), minlength=3) / len(labels)
    found = estimate_shares(probs, prior).shares
    assert counted[2] > 0.015
    assert counted[1] > 0.2
    assert found == pytest.approx((0.9, 0.09, 0.01), abs=0.012)


def test_it_is_the_maximum_of_the_likelihood() -> None:
    rng = np.random.default_rng(2)
    prior = np.array([0.5, 0.3, 0.2])
    probs = scores(rng.choice(3, 500, p=(0.2, 0.5, 0.3)), prior, rng)

    def likelihood(shares: np.ndarray) -> float:
        return float(np.log(probs / prior @ shares).sum())

    found = estimate_shares(probs, prior).shares
    others = rng.dirichlet(np.ones(3), 2000)
    assert all(likelihood(found) >= likelihood(o) for o in others)


def test_sure_scores_are_counted_and_a_class_without_prior_has_no_share() -> None:
    probs = np.eye(3)[[0, 0, 1, 0]]
    assert estimate_shares(probs, np.array([0.5, 0.5, 0.0])).shares == pytest.approx((0.75, 0.25, 0))


def test_without_a_pixel_there_is_nothing_to_estimate() -> None:
    with pytest.raises(ValueError, match="no pixel"):
        estimate_shares(np.empty((0, 3)), np.ones(3))


@pytest.mark.parametrize(("sharper", "bias"), [(0.5, (0, 0, 1.0)), (3.0, (0.5, 0, -1.0))])
@pytest.mark.parametrize("held_out", [(0.6, 0.3, 0.1), (0.2, 0.3, 0.5)])
def test_scores_that_are_too_sure_or_not_sure_enough_are_made_honest_first(sharper, bias, held_out) -> None:
    rng = np.random.default_rng(3)
    truth, prior = np.array([0.9, 0.09, 0.01]), np.array([0.3, 0.3, 0.4])

    def off(probs: np.ndarray) -> np.ndarray:
        z = np.exp(sharper * np.log(probs) + np.array(bias))
        return z / z.sum(1, keepdims=True)

    honest = scores(rng.choice(3, 20_000, p=truth), prior, rng)
    known = rng.choice(3, 20_000, p=held_out)
    repaired = calibrated(off(honest), off(scores(known, prior, rng)), known, prior)
    assert np.abs(repaired - honest).mean() < 0.02
    wrong = np.abs(estimate_shares(off(honest), prior).shares - truth).max()
    right = np.abs(estimate_shares(repaired, prior).shares - truth).max()
    assert right < 0.02 < 0.05 < wrong


def test_a_class_that_no_labelled_pixel_holds_and_no_labelled_pixels_at_all_are_finite() -> None:
    rng = np.random.default_rng(4)
    prior = np.full(3, 1 / 3)
    probs = scores(rng.choice(3, 500), prior, rng)
    known = rng.choice(2, 500)
    assert np.isfinite(calibrated(probs, scores(known, prior, rng), known, prior)).all()
    nothing = np.empty((0, 3)), np.empty(0, np.uint8)
    np.testing.assert_array_equal(calibrated(probs, *nothing, prior), probs)
