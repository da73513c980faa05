"""Temperature, shrinkage, two-class histograms, and the exhaustive search that the bias has to match."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from raremap.measure.decision import Decision
from raremap.measure.fitting import _metric, best_bias, fit_decision
from raremap.measure.options import DecisionOptions
from raremap.measure.sample import LogOddsHistogram, PixelSample, keep_pixels


def honest(
    n: int, places: int, seed: int, k: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels whose class is drawn by their probabilities."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 1.5, (n, k))
    probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    truth = (probs.cumsum(1) < rng.random((n, 1))).sum(1).clip(max=k - 1)
    return probs, truth, rng.integers(0, places, n), np.ones(n)


def sharpened(probs: np.ndarray, temperature: float) -> np.ndarray:
    out = probs ** (1 / temperature)
    return out / out.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_temperature_that_spoiled_honest_probabilities_is_found(temperature: float) -> None:
    probs, truth, place, weight = honest(20_000, 6, 0)
    spoiled = sharpened(probs, temperature)
    decision = fit_decision(spoiled, truth, place, weight, DecisionOptions())
    assert decision.temperature == pytest.approx(1 / temperature, rel=0.05)
    mended = decision.posterior(spoiled.T.astype(np.float32)).T
    assert log_loss(truth, mended) == pytest.approx(log_loss(truth, probs), abs=0.002)


def test_honest_probabilities_keep_their_temperature() -> None:
    kept = [fit_decision(*honest(1500, 6, s), DecisionOptions()).temperature for s in range(10)]
    assert kept.count(1.0) >= 7  # one standard error: noise passes now and then
    assert np.abs(np.log(kept)).max() < 0.15


@pytest.mark.parametrize(("k", "scale"), [(3, 3.0), (3, 4.0), (6, 4.0), (2, 3.0)])
def test_the_temperature_of_a_network_that_is_far_too_sure_is_found(k: int, scale: float) -> None:
    rng = np.random.default_rng(0)
    n = 30_000
    scores = rng.normal(0, 2.5, (n, k))
    scores[:, 0] += 4 * (k == 2)
    probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    truth = (probs.cumsum(1) < rng.random((n, 1))).sum(1).clip(max=k - 1)
    place = rng.integers(0, 8, n)
    sure = np.exp(scale * (scores - scores.max(1, keepdims=True)))
    sure = (sure / sure.sum(1, keepdims=True)).astype(np.float32)
    kept = keep_pixels(k, n * k, 0)
    for p in range(8):
        kept.add(sure[place == p].T, truth[place == p], p)
    assert fit_decision(*kept.arrays(), DecisionOptions()).temperature == pytest.approx(scale, rel=0.04)


@pytest.mark.parametrize("metric", ["macro_f1", "miou"])
@pytest.mark.parametrize("seed", range(3))
def test_the_bias_is_within_a_tenth_of_a_point_of_an_exhaustive_search(seed: int, metric: str) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, 600, p=(0.8, 0.15, 0.05))
    logs = rng.normal(size=(600, 3))
    logs[np.arange(600), truth] += 1.5
    logs[:, 0] += 2
    score = _metric(DecisionOptions(metric=metric), ())

    def value(bias: np.ndarray) -> float:
        index = truth * 3 + (logs + bias).argmax(1)
        return float(score(np.bincount(index, minlength=9).reshape(3, 3)))

    grid = np.linspace(-1, 4, 101)
    best = max(value(np.array([0, b, c])) for b, c in product(grid, grid))
    assert value(best_bias(logs, truth, np.ones(600), score)) > best - 0.001


@pytest.mark.parametrize("k", [2, 3])
def test_without_imbalance_a_bias_is_seldom_kept_and_is_small(k: int) -> None:
    fits = [fit_decision(*honest(3000, 6, s, k), DecisionOptions()) for s in range(60)]
    kept = [np.ptp(d.bias) for d in fits if d.fitted]
    # One standard error: chance passes in about one of seven, and what passes is next to nothing.
    assert len(kept) <= 12
    assert max(kept) < 0.5


def test_a_bias_is_shrunk_where_the_class_has_few_objects() -> None:
    rng = np.random.default_rng(0)
    n = 8000
    truth = rng.choice(3, n, p=(0.85, 0.1, 0.05))
    scores = rng.normal(size=(n, 3))
    scores[np.arange(n), truth] += 2
    scores[:, 0] += 3
    probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    pixels = probs, truth, rng.integers(0, 8, n), np.ones(n)
    options = DecisionOptions(shrink=20)
    free = fit_decision(*pixels, options.model_copy(update={"shrink": 0.0}), objects=[900, 20, 5])
    shrunk = fit_decision(*pixels, options, objects=[900, 20, 5])
    assert shrunk.objects == (900, 20, 5)
    np.testing.assert_allclose(shrunk.bias, np.array(free.bias) * [900 / 920, 0.5, 0.2], atol=0.05)


def test_a_histogram_of_two_classes_finds_the_threshold_of_all_pixels() -> None:
    rng = np.random.default_rng(0)
    n = 50_000
    truth = (rng.random(n) < 0.03).astype(int)
    odds = rng.normal(-2, 1.5, n) + 2.5 * truth
    probs = np.stack([1 / (1 + np.exp(odds)), 1 / (1 + np.exp(-odds))], 1)
    place = rng.integers(0, 9, n)
    kept = LogOddsHistogram()
    for start in range(0, n, 7000):
        part = slice(start, start + 7000)
        for p in np.unique(place[part]):
            here = np.flatnonzero(place[part] == p) + start
            kept.add(probs[here].T, truth[here], int(p))
    p, t, where, weight = kept.arrays()
    assert weight.sum() == n
    assert np.bincount(t, weight).tolist() == np.bincount(truth).tolist()
    assert np.bincount(where, weight).tolist() == np.bincount(place).tolist()
    options = DecisionOptions(shrink=0)
    decision = fit_decision(p, t, where, weight, options)
    f1 = f1_score(
        truth, odds + decision.bias[1] * decision.temperature - decision.bias[0] > 0, average="macro"
    )
    every = [f1_score(truth, odds > c, average="macro") for c in np.quantile(odds, np.linspace(0.5, 1, 400))]
    assert f1 > max(every) - 0.001


def test_two_classes_are_counted_and_more_are_sampled() -> None:
    assert isinstance(keep_pixels(2, 1000, 0), LogOddsHistogram)
    assert isinstance(keep_pixels(3, 1000, 0), PixelSample)
    assert [len(a) for a in LogOddsHistogram().arrays()] == [0, 0, 0, 0]


def test_given_shares_move_probabilities_by_bayes() -> None:
    # Two surfaces, as bright as N(0, 1) and N(1, 1): their posteriors at any shares are known.
    from scipy.stats import norm

    x = np.linspace(-3, 4, 50)
    likelihood = np.stack([norm.pdf(x), norm.pdf(x - 1)])

    def posterior(shares: tuple[float, float]) -> np.ndarray:
        joint = likelihood * np.array(shares)[:, None]
        return joint / joint.sum(0)

    learned = posterior((0.9, 0.1)).astype(np.float32)
    moved = Decision((0.0, 1.5)).moved_to((0.6, 0.4), prior=(0.9, 0.1))
    np.testing.assert_allclose(moved.posterior(learned), posterior((0.6, 0.4)), atol=1e-5)
    np.testing.assert_array_equal(moved.apply(learned[:, None])[0], posterior((0.6, 0.4)).argmax(0))
    assert moved.fitted
    ruled_out = moved.moved_to((1.0, 0.0), prior=(0.9, 0.1))
    assert not ruled_out.apply(learned[:, None]).any()
    np.testing.assert_array_equal(ruled_out.posterior(learned), np.stack([np.ones(50), np.zeros(50)]))


def test_a_class_that_had_no_share_cannot_be_given_one() -> None:
    with pytest.raises(ValueError, match="for a class that had none"):
        Decision((0.0,) * 3).moved_to((0.8, 0.1, 0.1), prior=(0.9, 0.1, 0.0))
    same = Decision((0.0,) * 3).moved_to((0.6, 0.4, 0.0), prior=(0.6, 0.4, 0.0))
    probs = np.array([0.5, 0.2, 0.3], np.float32)[:, None, None]
    np.testing.assert_allclose(same.posterior(probs).ravel(), [5 / 7, 2 / 7, 0], rtol=1e-6)


def test_classes_in_fewer_than_two_calibration_places_are_told() -> None:
    decision = Decision((0.0,) * 3, held=(9, 1, 0))
    assert "fewer than two calibration places hold b (1), c (0)" in decision.scarce(("a", "b", "c"))
    assert Decision((0.0,) * 3, held=(9, 2, 3)).scarce(("a", "b", "c")) == ""
    assert Decision((0.0,) * 3).scarce(("a", "b", "c")) == ""


def test_temperature_changes_probabilities_and_not_the_classes() -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(4), (6, 7)).transpose(2, 0, 1).astype(np.float32)
    warm = Decision((0.0,) * 4, temperature=3.0)
    np.testing.assert_array_equal(warm.apply(probs), probs.argmax(0))
    expected = probs ** (1 / 3)
    np.testing.assert_allclose(warm.posterior(probs), expected / expected.sum(0), rtol=1e-5)
    assert Decision((0.0,) * 4).posterior(probs) is probs
    assert Decision.from_dict(warm.to_dict()) == warm
