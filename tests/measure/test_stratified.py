"""Accuracy and areas from stratified reference points, against the literature."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raremap.errors import SampleError
from raremap.measure.allocation import allocate, allocate_for, sample_size
from raremap.measure.stratified import Accuracy, Stratified, accuracy

# Olofsson et al. 2014, tables 8 and 9: rows are the map's classes, columns the reference's.
NAMES = ("deforestation", "forest gain", "stable forest", "stable non-forest")
COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES = 0.09


def points(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map class and reference class of each point."""
    k = len(counts)
    rows, cols = np.divmod(np.arange(k * k), k)
    return np.repeat(rows, counts.ravel()), np.repeat(cols, counts.ravel())


def of_map(counts: np.ndarray, pixels: np.ndarray, pixel: float) -> Accuracy:
    """The estimates where the strata are the map's classes."""
    called, true = points(counts)
    names = NAMES[: len(counts)]
    sample = Stratified(called, np.full(len(called), pixel), pixels * pixel, pixels, names)
    return accuracy(sample, called, true, names, pixels * pixel, interval="normal")


def by_the_paper(counts: np.ndarray, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Values and standard errors by equations 1 to 11 of Olofsson et al. 2014, as they are printed."""
    n, pixels = counts.sum(1).astype(float), pixels.astype(float)
    weights = pixels / pixels.sum()
    p = weights[:, None] * counts / n[:, None]  # eq. 4
    hits = np.diag(p)
    user, producer = hits / p.sum(1), hits / p.sum(0)  # eqs 2, 3
    out = {"overall": hits.sum(), "user": user, "producer": producer, "area": p.sum(0)}  # eqs 1, 9
    out["overall_se"] = np.sqrt((weights**2 * user * (1 - user) / (n - 1)).sum())  # eq. 5
    out["user_se"] = np.sqrt(user * (1 - user) / (n - 1))  # eq. 6
    total = (pixels[:, None] * counts / n[:, None]).sum(0)
    q = counts / n[:, None]
    terms = pixels[:, None] ** 2 * q * (1 - q) / (n - 1)[:, None]
    others = terms.sum(0) - np.diag(terms)
    own = pixels**2 * (1 - producer) ** 2 * user * (1 - user) / (n - 1)
    out["producer_se"] = np.sqrt((own + producer**2 * others) / total**2)  # eq. 7
    shares = weights[:, None] * p / weights[:, None]
    inner = (weights[:, None] * shares - shares**2) / (n - 1)[:, None]
    out["area_se"] = np.sqrt(inner.sum(0))  # eq. 10
    return out


def test_the_worked_example_of_olofsson_2014_comes_out_as_printed() -> None:
    found = of_map(COUNTS, PIXELS, HECTARES)
    printed = [(21_158, 6_158), (11_686, 3_756), (285_770, 15_510), (581_386, 16_282)]
    for area, (value, half) in zip(found.areas, printed, strict=True):
        assert area.value == pytest.approx(value, abs=0.5)
        assert area.half == pytest.approx(half, abs=1.5)  # 1.96 there; no finite population's correction
        assert (area.low, area.high) == pytest.approx((value - half, value + half), abs=2)
    users = [(round(e.value, 2), round(e.half, 2)) for e in found.users]
    assert users == [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]
    # The paper prints 0.23 and 0.01 for the second and the last interval, which its equation 7 does not give.
    producers = [(round(e.value, 2), round(e.half, 2)) for e in found.producers]
    assert producers == [(0.75, 0.21), (0.85, 0.25), (0.93, 0.03), (0.96, 0.02)]
    assert (round(found.overall.value, 2), round(found.overall.half, 2)) == (0.95, 0.02)
    np.testing.assert_array_equal(found.counts, COUNTS)
    np.testing.assert_allclose(found.shares[0], [0.0176, 0, 0.0013, 0.0011], atol=5e-5)
    np.testing.assert_allclose(found.mapped, [18_000, 13_500, 288_000, 580_500])


def test_the_worked_example_of_stehman_2014_whose_strata_are_not_the_classes() -> None:
    stratum = np.repeat([0, 1, 2, 3], 10)
    called = np.array([*"AAAAAAABBB" + "ABBBBBBBBB" + "BBCCCCCCBB" + "DDDDDDDDDD"])
    true = np.array([*"AAAAACBABC" + "ABBBBBAABB" + "CCCCCDDBBA" + "DDDDDDDCCB"])
    index = {c: i for i, c in enumerate("ABCD")}
    pixels = np.array([40_000, 30_000, 20_000, 10_000])
    sample = Stratified(stratum, np.ones(40), pixels, pixels, "ABCD")
    found = accuracy(
        sample, np.array([index[c] for c in called]), np.array([index[c] for c in true]), "ABCD", pixels
    )
    # Pages 4932 to 4936 of the paper.
    assert found.areas[0].value / 1e5 == pytest.approx(0.35)
    assert found.areas[2].value / 1e5 == pytest.approx(0.20)
    assert found.overall.value == pytest.approx(0.63)
    assert found.users[1].value == pytest.approx(0.574, abs=5e-4)
    assert found.producers[1].value == pytest.approx(0.794, abs=5e-4)
    assert found.shares[1, 2] == pytest.approx(0.08)
    assert found.areas[0].se / 1e5 == pytest.approx(0.082, abs=5e-4)
    assert found.areas[2].se / 1e5 == pytest.approx(0.064, abs=5e-4)
    assert found.overall.se == pytest.approx(0.085, abs=5e-4)
    assert found.users[1].se == pytest.approx(0.125, abs=1e-3)
    assert found.producers[1].se == pytest.approx(0.116, abs=1e-3)


@given(st.lists(st.integers(0, 30), min_size=9, max_size=9))
def test_the_general_estimator_is_the_papers_where_strata_are_classes(cells: list[int]) -> None:
    counts = np.array(cells).reshape(3, 3) + np.eye(3, dtype=int) * 2
    pixels = np.array([10**9, 4 * 10**9, 7 * 10**9])  # so many that the correction is nothing
    found, paper = of_map(counts, pixels, 1.0), by_the_paper(counts, pixels)
    total = pixels.sum()
    for name, own, by in (
        ("area", found.areas, total),
        ("user", found.users, 1),
        ("producer", found.producers, 1),
        ("overall", [found.overall], 1),
    ):
        np.testing.assert_allclose([e.value for e in own], paper[name] * by, rtol=1e-9)
        np.testing.assert_allclose([e.se for e in own], paper[f"{name}_se"] * by, rtol=1e-5, atol=1e-9 * by)


def test_a_census_of_the_map_leaves_no_doubt() -> None:
    called, true = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
    sample = Stratified(called, np.full(5, 2.0), np.array([4.0, 6.0]), np.array([2, 3]), "ab")
    found = accuracy(sample, called, true, "ab", np.array([4.0, 6.0]))
    assert [(a.value, a.se) for a in found.areas] == [(pytest.approx(4), 0), (pytest.approx(6), 0)]


def test_pixels_of_different_ground_weigh_what_they_cover() -> None:
    # Half of the ground of the only stratum is drawn: class 1 lies on 3 of the 8 that were seen.
    ground = np.array([1.0, 3.0, 4.0])
    sample = Stratified(np.zeros(3, int), ground, np.array([80.0]), np.array([10**6]), ["all"])
    share = sample.share(np.array([0.0, 1.0, 0.0]))
    assert share.value == pytest.approx(3 / 8)
    residual = ground * (np.array([0, 1, 0]) - 3 / 8)  # Cochran 1977, equation 6.13
    assert share.se == pytest.approx(np.sqrt(residual @ residual / 2 / 3) / ground.mean(), rel=1e-5)


def test_a_class_that_nothing_shows_has_no_figure() -> None:
    called = np.array([0, 0, 1, 1])
    sample = Stratified(called, np.ones(4), np.array([50.0, 50.0]), np.array([50, 50]), "ab")
    found = accuracy(sample, called, np.zeros(4, int), "ab", np.array([50.0, 50.0]))
    assert np.isnan(found.producers[1].value)
    assert found.areas[1].value == 0
    assert found.producers[1].to_dict() == dict.fromkeys(("value", "se", "low", "high"))


@pytest.mark.parametrize(("points", "said"), [([0, 0], "no point"), ([0, 0, 1], "one point")])
def test_a_stratum_without_enough_points_is_named(points: list[int], said: str) -> None:
    with pytest.raises(
        SampleError, match=rf"stratum 'slide' \(2\.00% of the map\) has {said} with a reference"
    ):
        Stratified(
            np.array(points),
            np.ones(len(points)),
            np.array([98.0, 2.0]),
            np.array([98, 20]),
            ("rest", "slide"),
        )


def test_the_size_of_the_papers_sample() -> None:
    weights = PIXELS / PIXELS.sum()
    assert sample_size(weights, np.array([0.7, 0.6, 0.9, 0.95]), 0.01) == 641  # section 5.1.1
    counts = allocate(641, weights, np.array([0.7, 0.6, 0.9, 0.95]), PIXELS, minimum=0)
    assert counts.tolist() == [13, 10, 205, 413]  # table 5, proportional
    equal = allocate(640, weights, np.array([0.7, 0.6, 0.9, 0.95]), PIXELS, minimum=0, kind="equal")
    assert equal.tolist() == [160] * 4


def test_minima_cost_points_where_the_error_must_still_be_met() -> None:
    weights, expected = PIXELS / PIXELS.sum(), np.array([0.7, 0.6, 0.9, 0.95])
    best = allocate_for(0.01, weights, expected, PIXELS, minimum=2, kind="neyman")
    assert best.sum() == pytest.approx(641, abs=2)
    held = allocate_for(0.01, weights, expected, PIXELS, minimum=100)
    assert held[:2].tolist() == [100, 100]
    variance = (weights**2 * expected * (1 - expected) / held).sum()
    assert np.sqrt(variance) == pytest.approx(0.01, abs=2e-5)


def test_neyman_spends_where_the_doubt_is() -> None:
    weights, expected = np.array([0.5, 0.5]), np.array([0.5, 0.9])
    counts = allocate(400, weights, expected, np.array([10**6] * 2), minimum=0, kind="neyman")
    assert counts.tolist() == [250, 150]  # deviations 0.5 and 0.3


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=6).filter(any),
    st.integers(0, 900),
    st.integers(0, 60),
    st.sampled_from(["proportional", "neyman", "equal"]),
)
def test_an_allocation_keeps_its_bounds(pixels: list[int], total: int, minimum: int, kind: str) -> None:
    held = np.array(pixels)
    weights = held / held.sum()
    expected = np.linspace(0.6, 1.0, len(held))
    counts = allocate(total, weights, expected, held, minimum, kind)  # type: ignore[arg-type]
    assert (counts <= held).all()
    assert (counts >= np.minimum(minimum, held)).all()
    least = np.minimum(minimum, held).sum()
    reachable = held.sum() if kind != "neyman" else held[(expected < 1) & (held > 0)].sum()
    if total <= reachable:
        assert counts.sum() == max(total, least)


def test_intervals_hold_the_true_areas_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    mapped = rng.choice(3, 40_000, p=[0.6, 0.3, 0.1])
    true = np.where(rng.random(40_000) < 0.15, rng.choice(3, 40_000), mapped)
    pixels, areas = np.bincount(mapped), np.bincount(true)
    order = [np.flatnonzero(mapped == h) for h in range(3)]
    held, draws = np.zeros(3), 200
    for _ in range(draws):
        at = np.concatenate([rng.choice(o, 100, replace=False) for o in order])
        sample = Stratified(mapped[at], np.ones(300), pixels, pixels, "abc")
        found = accuracy(sample, mapped[at], true[at], "abc", pixels, interval="normal")
        held += [a.low <= t <= a.high for a, t in zip(found.areas, areas, strict=True)]
    # Within four standard deviations of a binomial count of 95 %.
    assert (np.abs(held - 0.95 * draws) < 4 * np.sqrt(draws * 0.95 * 0.05)).all()
