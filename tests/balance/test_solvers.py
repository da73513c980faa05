import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from raremap.balance.mixture import fill
from raremap.balance.options import BalanceOptions
from raremap.balance.solvers import solve

KINDS = (
    "uniform",
    "diao",
    "mixture",
    "repeat_factor",
    "rare_class",
    "copies",
    "inverse_frequency",
)
WITHOUT_TARGET = [k for k in KINDS if k not in ("diao", "mixture")]


def options(kind, **more):
    return TypeAdapter(BalanceOptions).validate_python({"kind": kind, **more})


def solved(kind, counts, target=None, composite=None, rare=None, **more):
    counts = np.asarray(counts, float)
    k = counts.shape[1]
    target = np.full(k, 1 / k) if target is None else np.asarray(target)
    if rare is None:
        rare = counts.sum(0) / counts.sum() < 0.5 / k
    return solve(options(kind, **more), counts, target, np.asarray(rare), composite)


def census(seed, n=80, k=4, uneven=True):
    rng = np.random.default_rng(seed)
    base = 0.4 ** np.arange(k)
    size = rng.integers(50, 1000, n) if uneven else np.full(n, 1000)
    x = np.array(
        [rng.multinomial(s, d) for s, d in zip(size, rng.dirichlet(2 * base, n), strict=True)], float
    )
    x[:k] += 20 * np.eye(k)
    return x


def divergence(counts, repeats, q):
    p = repeats @ counts
    return float((q * np.log(q / (p / p.sum()))).sum())


@pytest.mark.parametrize("kind", ["uniform", "diao", "mixture", "copies", "inverse_frequency"])
def test_a_balanced_census_and_a_uniform_target_give_uniform_weights(kind):
    counts = np.array([[50.0, 30, 20], [30, 20, 50], [20, 50, 30]] * 6)
    found = solved(kind, counts)
    assert found.weights == pytest.approx(np.full(18, 1 / 18))
    assert found.repeats == pytest.approx(np.ones(18))


@pytest.mark.parametrize("kind", ["diao", "mixture"])
@pytest.mark.parametrize("score", ["gain", "density"])
def test_pure_tiles_reach_the_target(kind, score):
    counts = 100.0 * np.eye(3)[[0] * 8 + [1] * 4 + [2] * 2]
    more = {"score": score} if kind == "diao" else {"gap": 1e-9}
    found = solved(kind, counts, max_repeats=8, **more)
    assert divergence(counts, found.repeats, np.full(3, 1 / 3)) == pytest.approx(0, abs=1e-8)


def test_a_large_penalty_changes_nothing():
    counts = census(0)
    assert solved("mixture", counts, rho=1e7).repeats == pytest.approx(np.ones(80), rel=1e-4)


@pytest.mark.parametrize("kind", ["diao", "mixture", "inverse_frequency"])
@given(st.integers(0, 2**31), st.floats(1, 12))
@settings(max_examples=25)
def test_no_tile_is_drawn_more_often_than_its_cap(kind, seed, most):
    found = solved(kind, census(seed, 40), max_repeats=most)
    assert found.repeats.max() <= most * (1 + 1e-9)
    assert found.weights.sum() == pytest.approx(1)
    assert (found.repeats >= 0).all()
    if kind == "diao":
        assert (found.repeats == np.round(found.repeats)).all()
        assert found.repeats.min() == 1
        assert (np.diff(found.path) <= 0).all()


@pytest.mark.parametrize("score", ["gain", "density"])
@given(st.integers(0, 2**31))
@settings(max_examples=25)
def test_diao_brings_the_pixels_nearer_to_any_target_it_is_given(score, seed):
    counts = census(seed)
    q = np.random.default_rng(seed).dirichlet(np.ones(4))
    found = solved("diao", counts, q, score=score)
    assert found.path[0] == pytest.approx(divergence(counts, np.ones(80), q))
    assert found.path[-1] == pytest.approx(divergence(counts, found.repeats, q))
    assert found.path[-1] <= found.path[0]


def test_the_budget_of_diao_is_counted_in_tiles():
    counts = census(1)
    assert solved("diao", counts, budget=0.25).repeats.sum() == 80 + 20
    assert solved("diao", counts, budget=0).repeats.sum() == 80
    assert "the budget is spent" in solved("diao", counts, budget=0.25).note
    spread = solved("diao", counts, max_repeats=20, budget=4, min_effective=0.8).repeats
    assert spread.sum() ** 2 / np.square(spread).sum() >= 0.8 * 80


@given(st.integers(0, 2**31))
@settings(max_examples=25)
def test_mixture_comes_nearer_to_any_target_than_diao_and_never_leads_away(seed):
    """Over the pixels, as a loss counts them, in tiles of which some have twenty times the labels of others."""
    counts = census(seed)
    q = np.random.default_rng(seed).dirichlet(np.ones(4))
    diao, mixture = (solved(kind, counts, q) for kind in ("diao", "mixture"))
    found = divergence(counts, mixture.repeats, q)
    assert found <= divergence(counts, np.ones(80), q) + 1e-12
    assert found <= diao.path[-1] + 1e-3


def test_repeat_factors_are_those_of_detectron2():
    # RepeatFactorTrainingSampler.repeat_factors_from_category_frequency: f(c) is the share of images with c,
    # r(c) = max(1, sqrt(t / f(c))), r(I) = max over c in I of r(c). Here f = 1, 3/4, 1/4, 0 and t = 0.9.
    counts = [[90, 10, 0, 0], [99, 1, 0, 0], [50, 40, 10, 0], [100, 0, 0, 0]]
    found = solved("repeat_factor", counts, threshold=0.9)
    assert found.repeats == pytest.approx([1.2**0.5, 1.2**0.5, 3.6**0.5, 1.0])
    assert solved("repeat_factor", counts).repeats.tolist() == [1, 1, 1, 1], "0.001 asks for nothing here"


def test_rare_classes_are_drawn_by_a_softmax_of_their_shares():
    # f = 0.6, 0.3, 0.1: exp((1 - f) / 0.2) = 7.389, 33.115, 90.017, of 130.521.
    counts = [[300, 0, 0], [200, 100, 0], [90, 105, 5], [10, 95, 95]]
    chance = np.array([7.3891, 33.1155, 90.0171]) / 130.5217
    found = solved("rare_class", counts, temperature=0.2, min_pixels=90)
    # 90 pixels of a: tiles 0, 1, 2; of b: 1, 2, 3; of c: 3.
    expected = [
        chance[0] / 3,
        chance[0] / 3 + chance[1] / 3,
        chance[0] / 3 + chance[1] / 3,
        chance[1] / 3 + chance[2],
    ]
    assert found.weights == pytest.approx(expected, rel=1e-4)
    # Nobody has 200 pixels of b or c: then any tile that holds some will do.
    lenient = solved("rare_class", counts, temperature=0.2, min_pixels=200)
    assert lenient.weights[0] == pytest.approx(chance[0] / 2, rel=1e-4)
    assert lenient.weights[2] == pytest.approx(chance[1] / 3 + chance[2] / 2, rel=1e-4)


def test_a_low_temperature_draws_the_rarest_class_and_never_an_absent_one():
    counts = [[300, 0, 0, 0], [200, 100, 0, 0], [190, 5, 5, 0]]
    assert solved("rare_class", counts, min_pixels=1).weights == pytest.approx([0, 0, 1], abs=0.02)


def test_copies_are_of_tiles_with_more_than_a_share_of_a_rare_class():
    counts = [[90, 10, 0], [89, 11, 0], [80, 0, 20], [100, 0, 0], [0, 0, 5]]
    found = solved("copies", counts, rare=[False, True, True], share=0.1, copies=3)
    assert found.repeats.tolist() == [1, 4, 4, 1, 4]
    assert found.note == "3 tiles copied 3 times"
    only = solved("copies", counts, rare=[False, True, False], copies=1)
    assert only.repeats.tolist() == [1, 2, 1, 1, 1]
    assert solved("copies", counts, rare=[False] * 3).repeats.tolist() == [1] * 5


def test_inverse_frequency_weighs_tiles_by_their_densities():
    counts = np.array([[80.0, 20, 0], [60, 30, 10], [30, 10, 10], [90, 5, 5]])
    natural = counts.sum(0) / counts.sum()
    for power in (0.5, 1.0):
        expected = np.array([(t / t.sum() / natural**power).sum() for t in counts])
        found = solved("inverse_frequency", counts, power=power)
        assert found.weights == pytest.approx(expected / expected.sum())
    tight = solved("inverse_frequency", counts, max_repeats=1.2)
    assert tight.repeats.max() == pytest.approx(1.2)
    free = solved("inverse_frequency", counts)
    below = tight.repeats < 1.2 - 1e-9
    ratio = tight.repeats[below] / free.repeats[below]
    assert ratio == pytest.approx(np.full(below.sum(), ratio[0]))


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=30), st.floats(1, 5))
def test_capped_weights_keep_their_proportions_below_the_cap(weights, times):
    w = np.array(weights) / sum(weights)
    cap = times / len(w)
    found = fill(w.copy(), np.full(len(w), cap))
    assert found.sum() == pytest.approx(1)
    assert found.max() <= cap * (1 + 1e-9)
    below = found < cap * (1 - 1e-9)
    factor = found[below] / w[below]
    if len(factor):
        assert factor == pytest.approx(np.full(len(factor), factor[0]))
        assert (cap / w[~below] <= factor[0] * (1 + 1e-9)).all()


def with_composites(counts, *more):
    """The census with further rows."""
    counts = np.vstack([counts, more]).astype(float)
    return counts, np.arange(len(counts)) >= len(counts) - len(more)


@pytest.mark.parametrize("kind", WITHOUT_TARGET)
def test_solvers_without_a_target_draw_no_composite_and_look_at_none(kind):
    tiles = census(2)
    counts, composite = with_composites(tiles, [0, 0, 0, 500], [10, 0, 300, 20])
    rare = tiles.sum(0) / tiles.sum() < 0.125
    found = solved(kind, counts, composite=composite, rare=rare)
    assert (found.repeats[composite] == 0).all()
    assert found.repeats[~composite] == pytest.approx(solved(kind, tiles, rare=rare).repeats)


@pytest.mark.parametrize("kind", ["diao", "mixture"])
def test_composites_are_not_drawn_where_the_tiles_are_even_by_themselves(kind):
    tiles = np.array([[50.0, 30, 20], [30, 20, 50], [20, 50, 30]] * 6)
    counts, composite = with_composites(tiles, [60, 20, 20], [10, 10, 80])
    found = solved(kind, counts, composite=composite, copy_paste={"repeats": 3})
    assert found.repeats == pytest.approx(np.where(composite, 0, 1))


@pytest.mark.parametrize("kind", ["diao", "mixture"])
def test_composites_are_drawn_where_they_bring_the_target_nearer(kind):
    tiles = np.array([[95.0, 5]] * 20 + [[85.0, 15]])
    counts, composite = with_composites(tiles, [60, 40], [99, 1], [70, 30])
    found = solved(kind, counts, composite=composite, max_repeats=3, copy_paste={"repeats": 2})
    # Each up to its own cap, times the natural weight of a tile; that of the plain one stays far below.
    assert found.repeats[-3:] == pytest.approx([2, 0, 2], abs=0.2)
    assert found.repeats.max() <= 3 * (1 + 1e-9)
    without = solved(kind, tiles, max_repeats=3)
    q = np.full(2, 0.5)
    assert divergence(counts, found.repeats, q) < divergence(tiles, without.repeats, q)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers_come_out_again_and_one_tile_is_enough(kind):
    counts = census(4)
    assert solved(kind, counts).repeats.tolist() == solved(kind, counts).repeats.tolist()
    assert solved(kind, [[3.0, 1.0]]).weights == pytest.approx([1])
