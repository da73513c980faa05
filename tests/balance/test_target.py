import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raremap.balance.options import TargetOptions
from raremap.balance.target import project, target_shares
from raremap.errors import ConfigError, RaremapWarning

NAMES = ("field", "wood", "pond", "mine")
NATURAL = np.array([0.6, 0.3, 0.08, 0.02])
amounts = hnp.arrays(float, 4, elements=st.floats(1e-4, 1))
scores = hnp.arrays(float, 4, elements=st.one_of(st.floats(0, 1), st.just(np.nan)))


def target(natural=NATURAL, f1=None, offsets=None, **options):
    return target_shares(natural, NAMES, TargetOptions.model_validate(options), f1, offsets)


@given(amounts, st.floats(0, 1))
def test_without_scores_the_target_is_a_power_of_the_natural_shares(natural, a):
    expected = (natural / natural.sum()) ** a
    assert target(natural / natural.sum(), a=a) == pytest.approx(expected / expected.sum())


def test_the_ends_of_the_power_are_uniform_and_natural():
    assert target(a=0) == pytest.approx(np.full(4, 0.25))
    assert target(a=1) == pytest.approx(NATURAL)


def test_an_absent_class_leaves_the_support_whatever_the_power():
    natural = np.array([0.7, 0.0, 0.2, 0.1])
    assert target(natural, a=0) == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    f1 = np.array([0.5, 0.0, 0.5, 0.5])
    assert target(natural, f1, a=0, gamma=2) == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])


def test_scores_move_the_target_by_the_formula_where_no_bound_holds():
    f1, a, gamma = np.array([0.8, 0.7, 0.5, 0.4]), 0.5, 1.5
    expected = NATURAL**a * (1 - f1) ** gamma
    found = target(f1=f1, a=a, gamma=gamma, floor=0, cap=100)
    assert found == pytest.approx(expected / expected.sum())
    offsets = np.array([0.0, 0.3, -0.2, 1.0])
    expected = expected * np.exp(offsets)
    found = target(f1=f1, offsets=offsets, a=a, gamma=gamma, floor=0, cap=100)
    assert found == pytest.approx(expected / expected.sum())


def test_a_class_without_a_score_keeps_its_share():
    f1 = np.array([0.9, 0.2, np.nan, 0.5])
    assert target(f1=f1, a=0.5, gamma=1, floor=0, cap=100)[2] == pytest.approx(target(a=0.5)[2])
    assert target(f1=np.full(4, np.nan), a=0.5, gamma=1) == pytest.approx(target(a=0.5))


def test_perfect_scores_leave_the_target_alone():
    assert target(f1=np.ones(4), a=0.5, gamma=2) == pytest.approx(target(a=0.5))


@given(amounts, scores, st.floats(0, 1), st.floats(0, 8), st.floats(0, 0.99), st.floats(1, 10))
def test_floors_and_caps_hold(natural, f1, a, gamma, floor, cap):
    natural = natural / natural.sum()
    static = target(natural, a=a)
    q = target(natural, f1, a=a, gamma=gamma, floor=floor, cap=cap)
    assert q.sum() == pytest.approx(1)
    assert (q <= cap * static * (1 + 1e-9)).all()
    assert (q >= np.minimum(floor / 4, static) * (1 - 1e-9)).all()


@given(amounts)
def test_a_cap_of_one_is_the_target_without_scores_however_it_is_rounded(natural):
    f1 = np.array([0.1, 0.5, 0.9, 0.3])
    natural = natural / natural.sum()
    assert target(natural, f1, a=0.7, gamma=1, cap=1) == pytest.approx(target(natural, a=0.7))


def test_named_shares_are_taken_and_the_others_divide_the_rest():
    q = target(a=1, shares={"pond": 0.2, "mine": 0.1})
    assert q == pytest.approx([0.7 * 0.6 / 0.9, 0.7 * 0.3 / 0.9, 0.2, 0.1])
    assert target(shares={"field": 0}) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    assert target(shares={"pond": 0.25, "mine": 0.75}) == pytest.approx([0, 0, 0.25, 0.75])
    every = {"field": 0.1, "wood": 0.1, "pond": 0.1, "mine": 0.1}
    assert target(shares=every) == pytest.approx(np.full(4, 0.25)), "nobody is left to take the rest"


def test_a_named_class_that_is_absent_gives_its_share_away_with_a_warning():
    natural = np.array([0.5, 0.3, 0.2, 0.0])
    with pytest.warns(RaremapWarning, match="names mine, of which there is no training pixel"):
        q = target(natural, shares={"mine": 0.5, "pond": 0.4})
    assert q == pytest.approx([0.3, 0.3, 0.4, 0])
    assert target(natural, shares={"mine": 0.0}) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_what_cannot_be_a_target_is_refused():
    with pytest.raises(ConfigError, match=r"shares names 'ponds', which is not a class; .*pond"):
        target(shares={"ponds": 0.1})
    with pytest.raises(ConfigError, match="no class has a training pixel"):
        target(np.zeros(4))
    with pytest.raises(ConfigError, match="gives 0 to field, wood, and no other class"):
        target(np.array([0.4, 0.6, 0, 0]), shares={"field": 0, "wood": 0})
    with pytest.raises(ValueError, match="sum to 1 at most"):
        TargetOptions(shares={"pond": 0.7, "mine": 0.7})


@given(amounts, amounts, amounts)
def test_projected_shares_keep_their_proportions_except_at_a_bound(q, one, two):
    low = np.minimum(one, two) / 4
    high = np.maximum(one, two) + 0.25
    found = project(q, low, high)
    assert found.sum() == pytest.approx(1)
    assert (found >= low * (1 - 1e-9)).all()
    assert (found <= high * (1 + 1e-9)).all()
    # The nearest shares by KL (Karush, Kuhn, Tucker): one factor for all between the bounds; those held up
    # would have a smaller one, those held down a larger one.
    factor, at_low, at_high = found / q, found <= low * (1 + 1e-9), found >= high * (1 - 1e-9)
    between = factor[~at_low & ~at_high]
    if len(between):
        assert between == pytest.approx(np.full(len(between), between[0]), rel=1e-6)
        assert (factor[at_low & ~at_high] >= between[0] * (1 - 1e-6)).all()
        assert (factor[at_high & ~at_low] <= between[0] * (1 + 1e-6)).all()


def test_bounds_that_leave_no_room_are_refused():
    with pytest.raises(ValueError, match="no shares lie between"):
        project(np.full(2, 0.5), np.full(2, 0.6), np.ones(2))
    with pytest.raises(ValueError, match="no shares lie between"):
        project(np.full(2, 0.5), np.zeros(2), np.full(2, 0.4))
