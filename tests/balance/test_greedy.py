"""The greedy loop against a plain search that scores every tile each time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raremap.balance import greedy
from raremap.balance.greedy import solve_greedy

SCORES = pytest.mark.parametrize("score", ["gain", "density"])
UNEVEN = pytest.mark.parametrize("uneven", [False, True], ids=["equal sizes", "unequal sizes"])


def divergence(q, pooled):
    here = q > 0
    return (q[here] * np.log(q[here] / (pooled[here] / pooled.sum()))).sum()


def scored(x, q, pooled, score):
    """What the loop compares, tile by tile, from its definition."""
    if score == "density":
        p = pooled / pooled.sum()
        return np.array(
            [((t / t.sum()) * np.divide(q, p, where=q > 0, out=np.zeros(len(q)))).sum() for t in x]
        )
    return np.array([divergence(q, pooled) - divergence(q, pooled + t) for t in x])


def tiles(seed, n, k=4, uneven=False, whole=20):
    """Counts of small whole numbers, so that tiles are often equal; some tiles have no label, some one class."""
    rng = np.random.default_rng(seed)
    base = 0.5 ** np.arange(k)
    x = np.array([rng.multinomial(whole, p) for p in rng.dirichlet(2 * base / base.sum(), n)], float)
    pure = rng.random(n) < 0.2
    x[pure] = whole * np.eye(k)[rng.integers(0, k, pure.sum())]
    if uneven:
        x *= rng.integers(1, 4, n)[:, None]
    x[rng.random(n) < 0.1] = 0
    x[:k] = whole * np.eye(k)
    return x


def target(seed, k=4):
    q = np.random.default_rng(seed).dirichlet(np.full(k, 3.0))
    return q if seed % 3 else np.full(k, 1 / k)


@SCORES
@given(st.integers(0, 2**31), st.integers(6, 30), st.booleans())
@settings(max_examples=40)
def test_each_choice_is_the_best_by_definition_and_the_path_is_the_divergence(score, seed, n, uneven):
    x, q = tiles(seed, n, uneven=uneven), target(seed)
    most = np.random.default_rng(seed).integers(1, 5, n)
    found = solve_greedy(x, q, most, budget=3 * n, score=score)
    repeats = np.ones(n, int)
    assert found.kl[0] == pytest.approx(divergence(q, repeats @ x))
    for step, i in enumerate(found.chosen):
        may = np.flatnonzero((repeats < most) & (x.sum(1) > 0))
        values = scored(x[may], q, repeats @ x, score)
        assert i in may
        assert values[may.tolist().index(i)] >= values.max() - 1e-12
        repeats[i] += 1
        assert found.kl[step + 1] == pytest.approx(divergence(q, repeats @ x), abs=1e-10)
        assert found.kl[step + 1] <= found.kl[step]
    assert found.repeats.tolist() == repeats.tolist()
    if found.stopped == "no repeat gains more":
        may = np.flatnonzero((repeats < most) & (x.sum(1) > 0))
        values = scored(x[may], q, repeats @ x, score)
        gains = scored(x[may], q, repeats @ x, "gain")
        assert gains[values >= values.max() - 1e-12].min() <= 1e-12
    else:
        used = (repeats[x.sum(1) > 0] == most[x.sum(1) > 0]).all()
        assert used or len(found.chosen) == 3 * n or found.kl[-1] <= 0


@SCORES
@UNEVEN
@pytest.mark.parametrize("active", [1, 3, 10**6])
@given(seed=st.integers(0, 2**31), n=st.integers(6, 60))
@settings(max_examples=30)
def test_lazy_makes_the_choices_of_the_plain_search(score, uneven, active, seed, n):
    x, q = tiles(seed, n, uneven=uneven), target(seed)
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 3, n)
    first[: len(q)] = 1
    given_ = dict(most=rng.integers(0, 6, n), budget=2 * n, first=first, score=score)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "_ACTIVE", active)
        lazy = solve_greedy(x, q, **given_)
    plain = solve_greedy(x, q, **given_, lazy=False)
    assert lazy.chosen.tolist() == plain.chosen.tolist()
    assert lazy.kl.tolist() == plain.kl.tolist()
    assert lazy.stopped == plain.stopped


@SCORES
@UNEVEN
@pytest.mark.parametrize("ties", [False, True], ids=["all different", "ties"])
def test_lazy_is_plain_while_the_stream_grows_through_many_bounds(monkeypatch, score, uneven, ties):
    monkeypatch.setattr(greedy, "_ACTIVE", 50)
    rng = np.random.default_rng(3)
    n, k = 1500, 6
    base = 0.5 ** np.arange(k)
    size = rng.uniform(200, 1000, (n, 1)) if uneven else 1000.0
    x = rng.dirichlet(4 * base, n) * size
    if ties:
        x = np.floor(x / 100) + np.array([1.0, 0, 0, 0, 0, 0])
        x[:, 0] += 0 if uneven else x.sum(1).max() - x.sum(1)
        x[k:][rng.random(n - k) < 0.3] = x[-1]
        x[:k] = x.sum(1).max() * np.eye(k)
    q = np.full(k, 1 / k)
    lazy, plain = (
        solve_greedy(x, q, np.full(n, 4), budget=600, score=score, lazy=lazy) for lazy in (True, False)
    )
    assert len(lazy.chosen) > 250
    assert lazy.chosen.tolist() == plain.chosen.tolist()
    assert lazy.kl.tolist() == plain.kl.tolist()


@SCORES
def test_equal_tiles_take_turns(score):
    x = np.array([[9.0, 1], [10, 0], [0, 10], [10, 0], [0, 10], [0, 10], [10, 0], [10, 0], [10, 0], [10, 0]])
    found = solve_greedy(x, np.full(2, 0.5), np.full(10, 4), 50, score=score)
    assert found.chosen.tolist() == [2, 4, 5, 2]
    assert found.kl[-1] < found.kl[0]
    more = solve_greedy(x, np.array([0.2, 0.8]), np.full(10, 4), 7, score=score)
    assert more.chosen.tolist() == [2, 4, 5, 2, 4, 5, 2], "each up to its most, then no more"


@SCORES
def test_equal_tiles_with_unlike_beginnings_draw_level(score):
    x = np.array([[30.0, 0], [0, 10], [0, 10], [0, 10]])
    first = np.array([1, 2, 0, 1])
    found = solve_greedy(x, np.array([0.2, 0.8]), np.array([9, 4, 3, 4]), 20, first, score=score)
    assert found.chosen[:6].tolist() == [2, 2, 3, 1, 2, 3]
    assert (found.repeats <= [9, 4, 3, 4]).all()


def test_of_many_equal_tiles_a_million_choices_are_made_in_seconds():
    """Each choice that looked at all its equals would take hours."""
    x = np.zeros((60_000, 3))
    x[np.arange(60_000), np.repeat([0, 0, 0, 0, 1, 2], 10_000)] = 100
    found = solve_greedy(x, np.full(3, 1 / 3), np.full(60_000, 4), 10**6)
    assert len(found.chosen) == 60_000
    assert found.kl[-1] == pytest.approx(0, abs=1e-9)
    assert found.repeats.tolist() == [1] * 40_000 + [4] * 20_000


@SCORES
@UNEVEN
def test_tiles_without_labels_are_never_repeated(score, uneven):
    x = tiles(5, 40, uneven=uneven)
    empty = x.sum(1) == 0
    assert empty.any()
    found = solve_greedy(x, np.full(4, 0.25), np.full(40, 9), 10**4, score=score)
    assert (found.repeats[empty] == 1).all()
    without = solve_greedy(x[~empty], np.full(4, 0.25), np.full((~empty).sum(), 9), 10**4, score=score)
    assert np.flatnonzero(~empty)[without.chosen].tolist() == found.chosen.tolist()


@SCORES
def test_a_balanced_census_is_left_alone(score):
    x = np.array([[5.0, 3, 2], [3, 2, 5], [2, 5, 3]] * 4)
    found = solve_greedy(x, np.full(3, 1 / 3), np.full(12, 4), 100, score=score)
    assert found.repeats.tolist() == [1] * 12
    assert found.kl == pytest.approx([0], abs=1e-12)


@SCORES
def test_pure_tiles_reach_the_target(score):
    x = 100.0 * np.eye(3)[[0] * 6 + [1] * 3 + [2]]
    found = solve_greedy(x, np.full(3, 1 / 3), np.full(10, 6), 100, score=score)
    assert found.kl[-1] == pytest.approx(0, abs=1e-12)
    assert (found.repeats @ x).tolist() == [600, 600, 600]


def test_it_ends_at_the_first_of_its_limits():
    x, q = tiles(1, 60), np.full(4, 0.25)
    most = np.full(60, 5)
    free = solve_greedy(x, q, most, 10**4)
    assert free.stopped == "no repeat gains more"
    spent = solve_greedy(x, q, most, 7)
    assert spent.stopped == "the budget is spent"
    assert spent.chosen.tolist() == free.chosen[:7].tolist()
    assert solve_greedy(x, q, most, 0).stopped == "the budget is spent"
    low = solve_greedy(x, q, most, 10**4, kl=free.kl[5] + 1e-12)
    assert low.stopped == "KL is low enough"
    assert len(low.chosen) == 5
    assert len(solve_greedy(x, q, most, 10**4, kl=free.kl[0]).chosen) == 0
    full = solve_greedy(x, q, np.where(np.arange(60) < 8, 2, 1), 10**4)
    assert full.stopped in ("every tile is repeated as often as it may be", "no repeat gains more")
    assert full.repeats.max() <= 2
    assert solve_greedy(x, q, np.ones(60), 5).stopped == "every tile is repeated as often as it may be"


def test_it_ends_before_the_effective_size_falls_too_low():
    x, q = tiles(1, 60), np.full(4, 0.25)
    worth = lambda r: r.sum() ** 2 / np.square(r).sum()  # noqa: E731
    free = solve_greedy(x, q, np.full(60, 9), 10**4)
    assert worth(free.repeats) < 45
    found = solve_greedy(x, q, np.full(60, 9), 10**4, min_effective=45)
    assert found.stopped == "the effective size would fall too low"
    assert worth(found.repeats) >= 45
    further = found.repeats.copy()
    further[free.chosen[len(found.chosen)]] += 1
    assert worth(further) < 45


def test_a_least_gain_is_for_each_share_of_the_stream_that_is_added():
    x, q = tiles(2, 60, uneven=True), np.full(4, 0.25)
    free = solve_greedy(x, q, np.full(60, 5), 10**4)
    found = solve_greedy(x, q, np.full(60, 5), 10**4, min_gain=0.2)
    number = len(found.chosen)
    assert 0 < number < len(free.chosen)
    pooled = np.concatenate([[x.sum()], x.sum() + x[free.chosen].sum(1).cumsum()])
    rate = -np.diff(free.kl) / (x[free.chosen].sum(1) / pooled[1:])
    assert (rate[:number] > 0.2).all()
    assert rate[number] <= 0.2


def test_rows_that_begin_with_no_repeat_come_in_by_their_gain():
    x = np.array([[90.0, 10], [90, 10], [60, 40], [95, 5]])
    found = solve_greedy(x, np.full(2, 0.5), np.full(4, 2), 4, first=np.array([1, 1, 0, 0]))
    assert found.chosen.tolist() == [2, 2]
    assert found.repeats.tolist() == [1, 1, 2, 0]


def test_a_class_that_no_tile_holds_cannot_be_asked_for():
    with pytest.raises(ValueError, match="a class that no tile to begin with holds"):
        solve_greedy(np.array([[1.0, 0]]), np.full(2, 0.5), np.full(1, 4), 1)
    with pytest.raises(ValueError, match="a class that no tile to begin with holds"):
        solve_greedy(np.array([[1.0, 0], [1, 1]]), np.full(2, 0.5), np.full(2, 4), 1, first=np.array([1, 0]))


@SCORES
def test_a_class_that_nobody_asks_for_only_takes_room(score):
    x = tiles(4, 40)
    q = np.array([0.0, 0.5, 0.3, 0.2])
    found = solve_greedy(x, q, np.full(40, 5), 200, score=score)
    assert found.kl[-1] == pytest.approx(divergence(q, found.repeats @ x))
    assert found.kl[-1] < found.kl[0]
    assert found.repeats[x[:, 0] == x.sum(1)].max() == 1
