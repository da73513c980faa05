"""Fusion against evidence whose posterior is known, and against hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from raremap.errors import SplitError
from raremap.tabular.calibration import log_odds, sigmoid
from raremap.tabular.folds import by_group
from raremap.tabular.fusion import SPREAD, Fusion, best_pair
from raremap.tabular.gains import cross_fit, gains

STRENGTH = np.array([2.0, 1.5])
"""Log-odds of evidence that is normal in both classes: their distance is their variance."""


def evidence(n: int, prior: float, shared: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-likelihood ratios `[n, 2]` with covariance `shared`, truth, and the posterior's log-odds.

    For two normal classes of one covariance S at ±d/2 the posterior is log-odds(prior) + (S⁻¹ d) · z.
    """
    rng = np.random.default_rng(seed)
    y = rng.random(n) < prior
    spread = np.array([[STRENGTH[0], shared], [shared, STRENGTH[1]]])
    z = rng.multivariate_normal(np.zeros(2), spread, n) + np.where(y[:, None], STRENGTH / 2, -STRENGTH / 2)
    return z, y, log_odds(prior) + z @ np.linalg.solve(spread, STRENGTH)


@pytest.mark.parametrize("shared", [0.0, 0.6, 1.2])
def test_the_fused_log_odds_are_the_known_posterior(shared):
    z, y, posterior = evidence(60_000, 0.05, shared)
    fusion = Fusion.fit(z[:, 0] + log_odds(0.05), z[:, 1] + log_odds(0.05), y)
    exact = np.linalg.solve([[STRENGTH[0], shared], [shared, STRENGTH[1]]], STRENGTH)
    np.testing.assert_allclose(fusion.weights, exact, atol=0.08)
    fused = fusion.logits(z[:, 0] + log_odds(0.05), z[:, 1] + log_odds(0.05))
    assert np.sqrt(np.mean((fused - posterior) ** 2)) < 0.12
    assert abs(fusion.bias) < 0.1


def test_shared_evidence_counts_once():
    z, y, _ = evidence(60_000, 0.05, 1.2)
    base = log_odds(0.05)
    fusion = Fusion.fit(z[:, 0] + base, z[:, 1] + base, y)
    summed = sigmoid(base + z.sum(1))
    fused = fusion.probabilities(z[:, 0] + base, z[:, 1] + base)
    sure = fused > 0.3
    assert abs(fused[sure].mean() - y[sure].mean()) < 0.03
    assert summed[sure].mean() - y[sure].mean() > 0.1
    assert sum(fusion.weights) < 1.5


def test_twice_the_same_evidence_is_that_evidence():
    z, y, _ = evidence(20_000, 0.1, 0.0)
    one = z[:, 0] + log_odds(0.1)
    fusion = Fusion.fit(one, one, y)
    np.testing.assert_allclose(fusion.weights, 0.5, atol=0.02)
    np.testing.assert_allclose(fusion.logits(one, one), fusion.image(one), atol=0.02)


def test_the_prior_that_a_side_carries_changes_nothing():
    z, y, _ = evidence(3000, 0.1, 0.5)
    plain = Fusion.fit(z[:, 0], z[:, 1], y)
    carrying = Fusion.fit(z[:, 0] + log_odds(0.4), z[:, 1] + log_odds(0.01), y)
    there = carrying.logits(z[:, 0] + log_odds(0.4), z[:, 1] + log_odds(0.01))
    np.testing.assert_allclose(there, plain.logits(z[:, 0], z[:, 1]), atol=1e-5)


def test_the_mean_probability_is_the_share_of_positives():
    z, y, _ = evidence(2000, 0.08, 0.7)
    p = Fusion.fit(z[:, 0], z[:, 1], y).probabilities(z[:, 0], z[:, 1])
    assert p.mean() == pytest.approx(y.mean(), abs=1e-6)


def test_another_prior_enters_once():
    z, y, _ = evidence(60_000, 0.05, 0.6)
    fusion = Fusion.fit(z[:, 0], z[:, 1], y)
    other, truth, posterior = evidence(60_000, 0.3, 0.6, seed=1)
    p = fusion.probabilities(other[:, 0], other[:, 1], prior=0.3)
    assert p.mean() == pytest.approx(truth.mean(), abs=0.01)
    assert np.abs(p - sigmoid(posterior)).max() < 0.05


def test_few_rows_take_both_for_the_same():
    z, y, _ = evidence(12, 0.5, 0.0, seed=3)
    few = Fusion.fit(z[:, 0], z[:, 1], y)
    assert np.abs(np.array(few.weights) - 0.5).max() < 2 * SPREAD


def test_weights_are_those_of_scipy():
    from scipy.optimize import minimize

    z, y, _ = evidence(400, 0.2, 0.5)
    fusion = Fusion.fit(z[:, 0], z[:, 1], y)
    sides = np.column_stack(fusion.sides(z[:, 0], z[:, 1])) - log_odds(y.mean())

    def loss(w):
        s = log_odds(y.mean()) + sides @ w[:2] + w[2]
        return np.logaddexp(0, s).sum() - s[y].sum() + ((w[:2] - 0.5) ** 2).sum() / (2 * SPREAD**2)

    best = minimize(loss, np.zeros(3), tol=1e-12).x
    np.testing.assert_allclose([*fusion.weights, fusion.bias], best, atol=1e-4)


def test_a_row_that_one_side_does_not_know_is_the_others():
    z, y, _ = evidence(2000, 0.2, 0.5)
    z[0, 0] = z[1, 1] = z[2] = np.nan
    fusion = Fusion.fit(z[:, 0], z[:, 1], y)
    fused = fusion.logits(z[:, 0], z[:, 1])
    assert fused[0] == fusion.table(z[0, 1])
    assert fused[1] == fusion.image(z[1, 0])
    assert np.isnan(fused[2])
    assert np.isfinite(fused[3:]).all()
    assert not fusion.alarms(z[:, 0], z[:, 1]).double_check[:3].any()


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="0 of 4 rows are positive; both classes are needed"):
        Fusion.fit(np.arange(4.0), np.arange(4.0), np.zeros(4, bool))


def test_the_double_check_asks_both():
    # Positives are high on both sides; each side alone has a false high.
    image = np.array([5.0, 5.0, 5.0, 0.0, 0.0])
    table = np.array([5.0, 5.0, 0.0, 5.0, 0.0])
    truth = np.array([True, True, False, False, False])
    assert best_pair(image, table, truth) == (5.0, 5.0)


def test_a_pair_is_the_best_of_all_pairs():
    from sklearn.metrics import f1_score

    z, y, _ = evidence(120, 0.3, 0.3, seed=5)
    a, b = best_pair(z[:, 0], z[:, 1], y)
    here = f1_score(y, (z[:, 0] >= a) & (z[:, 1] >= b))
    best = max(f1_score(y, (z[:, 0] >= u) & (z[:, 1] >= v)) for u in z[y, 0] for v in z[y, 1])
    assert here == pytest.approx(best)


def test_a_fusion_is_the_same_after_reading_it_back():
    import json

    z, y, _ = evidence(300, 0.2, 0.5)
    fusion = Fusion.fit(z[:, 0], z[:, 1], y)
    assert Fusion.from_dict(json.loads(json.dumps(fusion.to_dict()))) == fusion


def places_of(n: int, count: int) -> np.ndarray:
    return np.arange(n) % count


def test_independent_evidence_gains_over_both_sides():
    z, y, _ = evidence(4000, 0.1, 0.0)
    found = gains(cross_fit(z[:, 0], z[:, 1], y, by_group(places_of(4000, 40))), replicates=200)
    for side in ("image", "table"):
        assert found.gains[f"fused over {side}"]["average_precision"].low > 0
    assert found.verdict.startswith("fusion gains:")
    assert found.calibration["fused"] < found.calibration["sum of both as they came"]


def test_a_table_of_noise_gains_nothing_and_it_is_said():
    z, y, _ = evidence(3000, 0.1, 0.0)
    noise = np.random.default_rng(9).normal(size=3000)
    found = gains(cross_fit(z[:, 0], noise, y, by_group(places_of(3000, 40))), replicates=200)
    assert "nothing over the image alone" in found.verdict or "loses to the image" in found.verdict
    assert abs(found.gains["fused over image"]["average_precision"].value) < 0.02


def test_no_row_is_scored_by_a_fit_that_saw_its_place():
    z, y, _ = evidence(400, 0.3, 0.0)
    place = places_of(400, 10)
    before = cross_fit(z[:, 0], z[:, 1], y, by_group(place))
    other = y.copy()
    own = place == 4
    other[np.flatnonzero(own)[:6]] = y[np.flatnonzero(own)[:6]][
        ::-1
    ]  # the same count of positives: the same folds
    after = cross_fit(z[:, 0], z[:, 1], other, by_group(place))
    np.testing.assert_array_equal(before.logits["fused"][own], after.logits["fused"][own])


def test_too_few_places_are_told():
    z, y, _ = evidence(400, 0.3, 0.0)
    with pytest.raises(SplitError, match="positive rows lie in 3 groups, too few for 5 folds"):
        cross_fit(z[:, 0], z[:, 1], y, by_group(places_of(400, 3)))
    found = gains(cross_fit(z[:, 0], z[:, 1], y, by_group(places_of(400, 8))), replicates=50)
    assert found.verdict.startswith("whether fusion gains cannot be said, too few places")
