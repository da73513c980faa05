import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raremap.balance.dynamic import Follower
from raremap.balance.options import BalanceOptions, Mixture, RareClass, TargetOptions
from raremap.balance.plan import SamplingPlan
from raremap.balance.target import target_shares

NAMES = ("field", "wood", "pond")
COUNTS = np.array([[90.0, 8, 2], [70, 30, 0], [80, 10, 10], [100, 0, 0], [40, 55, 5], [95, 0, 5]])
f1s = hnp.arrays(float, 3, elements=st.one_of(st.floats(0, 1), st.just(np.nan)))


def plan_of(options: BalanceOptions | None = None, counts=COUNTS, **target) -> SamplingPlan:
    options = options or Mixture.model_validate({"kind": "mixture", "target": {"gamma": 1, **target}})
    natural = counts.sum(0) / counts.sum()
    ones = np.ones(len(counts))
    aimed_at = options.target if isinstance(options, Mixture) else TargetOptions()
    q = target_shares(natural, NAMES, aimed_at)
    plan = SamplingPlan(
        np.arange(len(counts)),
        ones / len(counts),
        ones,
        counts,
        natural,
        q,
        np.array([False, False, True]),
        options,
    )
    return plan.toward(q)


def test_the_scores_move_with_momentum_and_the_target_with_inertia():
    follower = Follower(plan_of(a=0.5, momentum=0.9, inertia=0.5, floor=0, cap=100), NAMES)
    static = (COUNTS.sum(0) / COUNTS.sum()) ** 0.5
    static /= static.sum()
    assert follower.target == pytest.approx(static)
    one = np.array([0.8, 0.6, 0.2])
    q1 = follower.update(one)
    fresh = static * (1 - one)
    assert q1 == pytest.approx(0.5 * static + 0.5 * fresh / fresh.sum()), "the first scores count in full"
    two = np.array([0.9, 0.6, 0.4])
    q2 = follower.update(two)
    moving = 0.9 * one + 0.1 * two
    fresh = static * (1 - moving)
    assert follower.moving == pytest.approx(moving)
    assert q2 == pytest.approx(0.5 * q1 + 0.5 * fresh / fresh.sum())


def test_a_class_that_the_monitor_places_do_not_hold_keeps_its_score():
    follower = Follower(plan_of(a=0.5, floor=0, cap=100), NAMES)
    before = follower.target[2]
    follower.update(np.array([0.8, 0.3, np.nan]))
    assert follower.target[2] == pytest.approx(before), "without a score it keeps its share"
    assert np.isnan(follower.moving[2])
    follower.update(np.array([0.8, 0.3, 0.5]))
    assert follower.moving[2] == 0.5
    follower.update(np.array([0.8, 0.3, np.nan]))
    assert follower.moving[2] == 0.5


def test_scores_that_stay_bad_bring_a_class_up_to_its_cap_and_no_further():
    plan = plan_of(cap=1.5)
    follower = Follower(plan, NAMES)
    assert plan.target == pytest.approx(np.full(3, 1 / 3))
    for _ in range(60):
        q = follower.update(np.array([0.9, 0.9, 0.0]))
    assert q[2] == pytest.approx(0.5)
    assert q[:2] == pytest.approx([0.25, 0.25])


@given(st.lists(f1s, min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 8))
def test_the_target_stays_shares_between_its_bounds(history, a, gamma):
    plan = plan_of(a=a, gamma=gamma)
    follower = Follower(plan, NAMES)
    static = plan.target
    for f1 in history:
        q = follower.update(f1)
        assert q.sum() == pytest.approx(1)
        assert (q <= 5 * static + 1e-9).all()
        assert (q >= np.minimum(0.2 / 3, static) - 1e-9).all()
    if gamma == 0:
        assert q == pytest.approx(static)


def test_a_class_absent_from_training_stays_out():
    counts = COUNTS * [1, 1, 0]
    follower = Follower(plan_of(counts=counts), NAMES)
    q = follower.update(np.array([0.5, 0.2, 0.0]))
    assert q[2] == 0
    assert q.sum() == pytest.approx(1)


def test_it_goes_on_from_its_state_as_written_in_a_checkpoint():
    scores = np.random.default_rng(0).random((8, 3))
    scores[2, 1] = scores[0, 2] = np.nan
    whole, part = Follower(plan_of(), NAMES), Follower(plan_of(), NAMES)
    for f1 in scores:
        expected = whole.update(f1)
    for f1 in scores[:4]:
        part.update(f1)
    resumed = Follower(plan_of(), NAMES)
    resumed.restore(json.loads(json.dumps(part.state())))
    for f1 in scores[4:]:
        found = resumed.update(f1)
    assert found.tolist() == expected.tolist()


def test_the_stream_solved_again_shows_more_of_what_is_mapped_badly():
    plan = plan_of()
    follower = Follower(plan, NAMES)
    again = plan.toward(follower.update(np.array([0.9, 0.9, 0.1])))
    assert again.shares[2] > plan.shares[2]
    assert again.weights.max() <= 4 / len(COUNTS) + 1e-9
    assert again.counts is plan.counts


def test_solvers_without_a_target_are_not_moved():
    plan = plan_of(RareClass(kind="rare_class"))
    q = Follower(plan, NAMES).update(np.array([0.9, 0.9, 0.1]))
    assert q == pytest.approx(plan.target)
    assert plan.toward(q).weights.tolist() == plan.weights.tolist()
