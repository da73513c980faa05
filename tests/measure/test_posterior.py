"""The posterior of a stratified sample, against scipy's distributions and known ground."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, betabinom, gamma

from raremap.measure.posterior import bounds, simulate
from raremap.measure.stratified import Stratified, accuracy

TAILS = np.array([0.025, 0.975])
MANY = 10**9


def of_cells(counts: np.ndarray, pixels: np.ndarray) -> tuple[Stratified, np.ndarray, np.ndarray]:
    """A sample whose strata are the map's classes, from points by map class and reference."""
    called, true = (np.repeat(i, counts.ravel()) for i in np.indices(counts.shape).reshape(2, -1))
    names = [str(h) for h in range(len(counts))]
    return Stratified(called, np.ones(len(called)), pixels, pixels, names), called, true


def middle(draws: np.ndarray) -> np.ndarray:
    return np.quantile(draws, TAILS)


def test_in_one_stratum_it_is_the_interval_of_jeffreys() -> None:
    true = np.arange(100) < 3
    sample = Stratified(np.zeros(100, int), np.ones(100), np.array([MANY]), np.array([MANY]), ["all"])
    ground = simulate(sample, np.zeros(100, bool), true, np.random.default_rng(0), 40_000)
    np.testing.assert_allclose(middle(ground.area) / MANY, beta.ppf(TAILS, 3.5, 97.5), rtol=0.03)
    assert not ground.hit.any()
    assert np.isnan(ground.users).all()


def test_users_accuracy_is_that_of_the_classs_own_stratum() -> None:
    sample, called, true = of_cells(np.array([[45, 5], [0, 400]]), np.array([MANY, 50 * MANY]))
    ground = simulate(sample, called == 0, true == 0, np.random.default_rng(0), 40_000)
    np.testing.assert_allclose(middle(ground.users), beta.ppf(TAILS, 45.5, 5.5), rtol=0.01)


def test_strata_that_show_no_omission_share_one_doubt() -> None:
    # A class that the map calls nowhere, 4 strata alike: as sure as one stratum with all their points.
    sample, called, _ = of_cells(np.eye(4, dtype=int) * 100, np.full(4, MANY))
    nowhere = np.zeros(len(called), bool)
    ground = simulate(sample, nowhere, nowhere, np.random.default_rng(0), 40_000)
    most = np.quantile(ground.area, 0.975) / (4 * MANY)
    assert most == pytest.approx(gamma.ppf(0.975, 0.5) / 400, rel=0.05)
    assert most == pytest.approx(beta.ppf(0.975, 0.5, 400.5), rel=0.05)


def test_only_pixels_that_were_not_visited_are_in_doubt() -> None:
    true = np.arange(50) < 4
    sample = Stratified(np.zeros(50, int), np.ones(50), np.array([80]), np.array([80]), ["all"])
    ground = simulate(sample, np.zeros(50, bool), true, np.random.default_rng(0), 20_000)
    np.testing.assert_allclose(middle(ground.area), 4 + betabinom.ppf(TAILS, 30, 4.5, 46.5))
    assert ground.area.min() == pytest.approx(4)
    np.testing.assert_allclose(ground.area, np.round(ground.area))


def test_a_stratum_labelled_whole_leaves_no_doubt() -> None:
    sample, called, true = of_cells(np.array([[3, 1], [2, 4]]), np.array([4, 6]))
    ground = simulate(sample, called == 0, true == 0, np.random.default_rng(0), 100)
    assert (np.unique(ground.hit), np.unique(ground.missed), np.unique(ground.false)) == (3, 2, 1)
    np.testing.assert_allclose(ground.producers, 3 / 5)


def test_more_points_than_pixels_leave_none_either() -> None:
    # Points of one's own, without a design, may lie twice in a pixel.
    sample, called, true = of_cells(np.array([[4, 1], [10, 90]]), np.array([4, MANY]))
    found = accuracy(sample, called, true, "ab", np.array([4, MANY]))
    assert (found.users[0].se, found.users[0].low, found.users[0].high) == (0, 0.8, 0.8)


def test_a_stratum_without_ground_changes_nothing() -> None:
    called, true = np.array([0, 0, 0]), np.array([True, False, False])
    draws = [
        simulate(
            Stratified(
                called, np.ones(3), np.array([9, 0][:strata]), np.array([9, 0][:strata]), "ab"[:strata]
            ),
            called == 1,
            true,
            np.random.default_rng(0),
        ).area
        for strata in (1, 2)
    ]
    np.testing.assert_array_equal(*draws)


def test_points_that_cover_next_to_nothing_add_no_certainty() -> None:
    # Half of the points cover a millionth of what the others do.
    covers = np.where(np.arange(100) % 2, 1e-6, 1.0)
    true = np.arange(100) < 20
    sample = Stratified(np.zeros(100, int), covers, np.array([1e9]), np.array([MANY]), ["all"])
    ground = simulate(sample, np.zeros(100, bool), true, np.random.default_rng(0), 40_000)
    np.testing.assert_allclose(middle(ground.area) / 1e9, beta.ppf(TAILS, 10.5, 40.5), rtol=0.02)


def test_a_bound_has_no_error_of_a_kind_that_no_point_met() -> None:
    pixels = np.array([MANY, 50 * MANY])
    sample, called, true = of_cells(np.array([[45, 5], [0, 400]]), pixels)  # no omission
    low, high = simulate(sample, called == 0, true == 0, np.random.default_rng(0), 40_000).area_bounds(
        0.9 * MANY
    )
    assert low / MANY == pytest.approx(beta.ppf(0.025, 45.5, 5.5), rel=0.01)
    assert high / MANY > 0.9 + 50 * beta.ppf(0.9, 0.5, 400.5)
    sample, called, true = of_cells(np.array([[50, 0], [3, 397]]), pixels)  # no false alarm
    low, high = simulate(sample, called == 0, true == 0, np.random.default_rng(0), 40_000).area_bounds(
        MANY * (1 + 50 * 3 / 400)
    )
    assert high / MANY == pytest.approx(1 + 50 * beta.ppf(0.975, 3.5, 397.5), rel=0.02)
    assert low / MANY == pytest.approx(1 + 50 * beta.ppf(0.025, 3.5, 397.5), rel=0.05)


def test_an_interval_holds_its_estimate() -> None:
    assert bounds(np.linspace(1, 2, 1001), 0.0) == (0.0, pytest.approx(1.975))
    assert bounds(np.linspace(1, 2, 1001), 3.0) == (pytest.approx(1.025), 3.0)
    assert bounds(np.array([np.nan, 1.0, 1.0]), 1.0) == (1.0, 1.0)  # draws without the class have no accuracy
    assert np.isnan(bounds(np.linspace(1, 2, 11), np.nan)).all()


def test_a_rare_class_is_held_where_the_normal_interval_sees_no_doubt() -> None:
    # 0.5 % of the ground, a fifth of it missed by the map: 0.4 omissions are expected among 400 points of the rest.
    rng = np.random.default_rng(3)
    pixels = np.array([5 * 10**6, 995 * 10**6])
    share_true = np.array([0.8, 0.001])  # in the class's stratum, and in the rest
    area = float(pixels @ share_true)
    held = {"normal": 0, "jeffreys": 0}
    for _ in range(200):
        counts = rng.binomial([50, 400], share_true)
        sample, called, true = of_cells(
            np.array([[counts[0], 50 - counts[0]], [counts[1], 400 - counts[1]]]), pixels
        )
        plain = sample.share((true == 0).astype(float)).scaled(sample.area)
        low, high = simulate(sample, called == 0, true == 0, rng, 400).area_bounds(plain.value)
        held["normal"] += plain.low <= area <= plain.high
        held["jeffreys"] += low <= area <= high
    assert held["normal"] < 0.5 * 200
    assert held["jeffreys"] > 0.95 * 200 - 4 * np.sqrt(200 * 0.95 * 0.05)


def test_a_map_that_misses_nothing_is_held_too() -> None:
    # 0.1 % of the ground: half a point of omission that nobody saw would be a third of it.
    rng = np.random.default_rng(4)
    pixels = np.array([125 * 10**4, 99_875 * 10**4])
    held = 0
    for hits in rng.binomial(50, 0.8, 200).tolist():
        sample, called, true = of_cells(np.array([[hits, 50 - hits], [0, 800]]), pixels)
        low, high = simulate(sample, called == 0, true == 0, rng, 400).area_bounds(hits / 50 * pixels[0])
        held += low <= 0.8 * pixels[0] <= high
    assert held > 0.95 * 200 - 4 * np.sqrt(200 * 0.95 * 0.05)


def test_a_class_that_no_point_shows_may_still_be_there() -> None:
    sample, called, true = of_cells(np.diag([300, 300, 0]), np.array([MANY, MANY, 0]))
    found = accuracy(sample, called, true, "abc", np.array([MANY, MANY, 0]))
    assert (found.areas[2].value, found.areas[2].low) == (0, 0)
    # At most three points in a thousand, by the rule of three; Jeffreys' bound is a little lower.
    assert 2 / 600 < found.areas[2].high / sample.area < 3 / 600
    assert np.isnan(found.producers[2].high)
    assert found.producers[0].value == 1
    assert found.producers[0].low < 0.999


def test_the_interval_may_be_chosen_and_is_the_same_each_time() -> None:
    sample, called, true = of_cells(np.array([[45, 5], [2, 398]]), np.array([MANY, 50 * MANY]))
    arguments = (sample, called, true, "ab", np.array([MANY, 50 * MANY]))
    normal, first, again = (accuracy(*arguments, interval=i) for i in ("normal", "jeffreys", "jeffreys"))
    assert first.areas == again.areas
    for a, b in zip((*normal.areas, *normal.users), (*first.areas, *first.users), strict=True):
        assert (a.value, a.se) == (b.value, b.se)
    assert normal.areas[0].high == pytest.approx(normal.areas[0].value + 1.96 * normal.areas[0].se, rel=1e-4)
    assert first.areas[0].high > normal.areas[0].high  # skewed: more may be missed than was seen
    assert first.areas[0].low > normal.areas[0].low
