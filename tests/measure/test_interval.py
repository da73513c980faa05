"""Intervals against scipy's bootstrap, by hand, and by what pairing promises."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from raremap.measure import interval as module
from raremap.measure.interval import FEW_PLACES, Interval, Method, Resample, interval, resample

METHODS = get_args(Method)


def accuracy(m: np.ndarray) -> np.ndarray:
    return m.trace(axis1=-2, axis2=-1) / m.sum((-2, -1))


def f1(m: np.ndarray) -> np.ndarray:
    """F1 of class 1, NaN where it has no true pixel."""
    both = m[..., 1, :].sum(-1) + m[..., :, 1].sum(-1)
    return np.divide(2 * m[..., 1, 1], both, out=np.full(both.shape, np.nan), where=m[..., 1, :].sum(-1) > 0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def equal_places(right: np.ndarray, size: int = 1000) -> np.ndarray:
    """One seed, two classes; place i has right[i] of `size` pixels right."""
    matrices = np.zeros((1, len(right), 2, 2), np.int64)
    matrices[0, :, 0, 0], matrices[0, :, 0, 1] = right, size - right
    return matrices


def random_matrices(seed: int, seeds: int = 3, places: int = 30) -> np.ndarray:
    return rng(seed).poisson([[40, 5], [3, 9]], (seeds, places, 2, 2))


SKEWED = rng(4).beta(4, 1, 40)
RIGHT = (1000 * SKEWED).astype(np.int64)


@pytest.mark.parametrize(("ours", "theirs"), [("percentile", "percentile"), ("bca", "BCa")])
def test_bounds_of_a_mean_over_places_equal_scipy(ours: Method, theirs: str) -> None:
    x = RIGHT / 1000
    expected = stats.bootstrap((x,), np.mean, n_resamples=20_000, method=theirs, rng=rng(1))
    draws = resample(accuracy, equal_places(RIGHT), rng=rng(2), replicates=20_000)
    assert draws.value == pytest.approx(x.mean())
    assert draws.drawn.std() == pytest.approx(expected.standard_error, rel=0.02)
    np.testing.assert_allclose(
        draws.bounds(ours, 0.95, 40), expected.confidence_interval, atol=0.04 * np.ptp(draws.drawn)
    )
    # Of scipy's own replicates the bounds are the very same.
    same = Resample(draws.value, expected.bootstrap_distribution, draws.without)
    np.testing.assert_allclose(same.bounds(ours, 0.95, 40), expected.confidence_interval)


def test_expanded_bounds_of_a_mean_are_near_those_of_student() -> None:
    x = (1000 * rng(5).normal(0.5, 0.1, 8)).astype(np.int64)
    low, high = resample(accuracy, equal_places(x), rng=rng(), replicates=20_000).bounds("expanded", 0.95, 8)
    student = stats.t(7, x.mean() / 1000, x.std(ddof=1) / 1000 / np.sqrt(8)).interval(0.95)
    # A mean of eight draws has lighter tails than the normal, so its far quantiles lie a little inside.
    assert high - low == pytest.approx(student[1] - student[0], rel=0.1)
    plain = resample(accuracy, equal_places(x), rng=rng(), replicates=20_000).bounds("percentile", 0.95, 8)
    assert low < plain[0] < plain[1] < high


def test_the_figure_is_the_mean_over_seeds_of_the_pooled_metric_by_hand() -> None:
    # Seed 1 pools to [[8, 2], [1, 3]]: F1 = 6/9. Seed 2 pools to [[9, 1], [2, 2]]: F1 = 4/7.
    first = [[[5, 1], [1, 3]], [[3, 1], [0, 0]]]
    second = [[[5, 1], [2, 2]], [[4, 0], [0, 0]]]
    matrices = np.array([first, second])
    assert interval(f1, matrices, holding=1, rng=rng()).value == pytest.approx((6 / 9 + 4 / 7) / 2)
    gain = interval(f1, matrices[:1], matrices[1:], holding=1, rng=rng())
    assert gain.value == pytest.approx(6 / 9 - 4 / 7)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_against_itself_gains_exactly_nothing(method: Method) -> None:
    matrices = random_matrices(0)
    same = interval(f1, matrices, matrices.copy(), holding=30, rng=rng(), method=method)
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_gain_at_every_place_has_no_width_however_places_differ(method: Method) -> None:
    x = rng(6).integers(100, 800, 30)
    shifted = interval(accuracy, equal_places(x + 50), equal_places(x), holding=30, rng=rng(), method=method)
    np.testing.assert_allclose((shifted.value, shifted.low, shifted.high), 0.05)
    alone = interval(accuracy, equal_places(x), holding=30, rng=rng(), method=method)
    assert alone.high - alone.low > 0.05


def test_seeds_alone_can_make_an_interval() -> None:
    by_seed = np.stack([equal_places(np.full(25, right))[0] for right in (500, 600, 700)])
    got = interval(accuracy, by_seed, holding=25, rng=rng(), method="percentile")
    # Three draws of three seeds: 1 in 27 each gives the lowest and the highest seed thrice.
    np.testing.assert_allclose((got.value, got.low, got.high), (0.6, 0.5, 0.7))


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_places_does_not_matter(method: Method) -> None:
    matrices, baseline = random_matrices(1), random_matrices(2)
    order = rng(3).permutation(30)
    here = interval(f1, matrices, baseline, holding=30, rng=rng(), method=method, replicates=20_000)
    there = interval(
        f1, matrices[:, order], baseline[:, order], holding=30, rng=rng(), method=method, replicates=20_000
    )
    assert here.value == there.value
    np.testing.assert_allclose((here.low, here.high), (there.low, there.high), atol=0.003)


def test_draws_without_the_class_are_left_out_and_counted() -> None:
    matrices = np.zeros((1, 4, 2, 2))
    matrices[0, :, 0, 0], matrices[0, 0, 1] = 10, (2, 3)
    draws = resample(f1, matrices, rng=rng(), replicates=20_000)
    assert draws.left_out / 20_000 == pytest.approx(0.75**4, abs=0.01)
    assert np.isnan(draws.without[0])
    got = interval(f1, np.concatenate([matrices] * 2, 1), holding=2, rng=rng(), method="bca")
    assert got.left_out > 0
    assert (got.low, got.high) == (0.75, 0.75)


def test_a_class_that_is_nowhere_has_no_figure_and_no_bounds() -> None:
    matrices = np.zeros((2, 25, 2, 2))
    matrices[..., 0, 0] = 1
    got = interval(f1, matrices, holding=0, rng=rng())
    assert np.isnan([got.value, got.low, got.high]).all()
    assert got.left_out == 2000
    assert str(got) == "undefined (too few places: 0)"
    assert json.loads(json.dumps(got.to_dict(), allow_nan=False))["low"] is None


@pytest.mark.parametrize("method", METHODS)
def test_one_place_says_nothing_about_others(method: Method) -> None:
    got = interval(f1, random_matrices(0, places=1), holding=1, rng=rng(), method=method)
    assert got.value > 0
    assert np.isnan([got.low, got.high]).all()


@pytest.mark.parametrize("method", METHODS)
def test_two_places_that_are_all_alike_do_not_crash(method: Method) -> None:
    got = interval(accuracy, equal_places(np.array([700, 700])), holding=2, rng=rng(), method=method)
    assert (got.low, got.high) == (0.7, 0.7)


def test_bca_stays_finite_where_all_replicates_lie_on_one_side() -> None:
    draws = Resample(0.0, np.linspace(1, 2, 100), np.array([0.0, 0.0, 9.0]))
    assert np.isfinite(draws.bounds("bca", 0.95, 3)).all()


def test_few_places_are_said_and_no_interval_is_shown() -> None:
    matrices, baseline = random_matrices(1), random_matrices(2)
    few = interval(f1, matrices, baseline, holding=FEW_PLACES - 1, rng=rng())
    assert few.few
    by_place = f1(matrices.sum(0)) - f1(baseline.sum(0))
    judged = [d for d in by_place if not np.isnan(d)]
    told = f"(higher in {sum(d > 0 for d in judged)} of {len(judged)} places)"
    assert str(few) == f"{few.value:+.3f} {told}"
    assert str(interval(f1, matrices, holding=7, rng=rng())).endswith("(too few places: 7)")
    assert few.low < few.value < few.high
    enough = interval(f1, matrices, baseline, holding=FEW_PLACES, rng=rng())
    assert not enough.few
    assert str(enough) == f"{enough.value:+.3f} [{enough.low:+.3f}, {enough.high:+.3f}]"
    assert str(interval(f1, matrices, holding=30, rng=rng()))[0] != "+"


def test_without_bounds_the_text_says_so() -> None:
    nan = float("nan")
    assert str(Interval(0.5, nan, nan, 0.95, 30, 30, few=False, method="bca")) == "0.500 (no interval)"


def test_the_same_generator_gives_the_same_numbers_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrices, baseline = random_matrices(1), random_matrices(2)
    whole = resample(f1, matrices, baseline, rng=rng(7))
    monkeypatch.setattr(module, "_BLOCK", 3001)
    parts = resample(f1, matrices, baseline, rng=rng(7))
    np.testing.assert_array_equal(whole.drawn, parts.drawn)
    np.testing.assert_array_equal(whole.without, parts.without)
    assert not np.array_equal(whole.drawn, resample(f1, matrices, baseline, rng=rng(8)).drawn)


def test_what_cannot_be_paired_or_counted_is_said() -> None:
    matrices = random_matrices(1)
    with pytest.raises(ValueError, match=r"the baseline's \(3, 29, 2, 2\); a paired interval needs the same"):
        interval(f1, matrices, matrices[:, 1:], holding=30, rng=rng())
    with pytest.raises(ValueError, match="holding is 31, there are 30 places"):
        interval(f1, matrices, holding=31, rng=rng())
    with pytest.raises(ValueError, match=r"expected \[seeds, places, classes, classes\]"):
        resample(f1, matrices[0], rng=rng())
