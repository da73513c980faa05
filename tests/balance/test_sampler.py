from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.batches import ground

from raremap.balance.options import Uniform
from raremap.balance.plan import SamplingPlan
from raremap.balance.sampler import Stream, WeightedOrder, draw_rng
from raremap.batches.dataset import TrainSamples
from raremap.batches.loader import TrainBatches
from raremap.scene.normalize import Normalization
from raremap.tiles.reader import TileReader


def plan_of(*weights):
    w = np.array(weights, float)
    counts = np.ones((len(w), 2))
    half = np.full(2, 0.5)
    return SamplingPlan(
        np.arange(len(w)), w / w.sum(), w, counts, half, half, np.zeros(2, bool), options=Uniform()
    )


def test_draws_follow_the_weights_and_depend_on_seed_and_number_alone():
    weights = np.array([1.0, 2, 3, 4])
    sampler = WeightedOrder(weights, seed=3)
    draws = [sampler[i] for i in range(4000)]
    counts = np.array([draws.count(r) for r in range(4)]) / 4000
    assert counts == pytest.approx(weights / 10, abs=0.01)
    again = WeightedOrder(weights, seed=3)
    assert [again[i] for i in reversed(range(500))] == draws[:500][::-1]
    assert [WeightedOrder(weights, seed=4)[i] for i in range(500)] != draws[:500]


def test_equal_weights_give_each_tile_once_a_round():
    sampler = WeightedOrder(np.ones(10), seed=0)
    for block in range(5):
        assert sorted(sampler[block * 10 + i] for i in range(10)) == list(range(10))


@given(st.integers(0, 2**31), st.integers(1, 40))
@settings(max_examples=40)
def test_a_block_of_draws_has_each_row_within_one_of_its_share(seed, n):
    weights = np.random.default_rng(seed).dirichlet(np.full(n, 0.3))
    sampler = WeightedOrder(weights, seed)
    for block in range(3):
        counts = np.bincount([sampler[block * n + i] for i in range(n)], minlength=n)
        assert (np.abs(counts - n * weights) < 1 + 1e-9).all()


def test_a_row_without_weight_is_never_drawn():
    sampler = WeightedOrder(np.array([0.0, 1, 0, 2, 0]), seed=1)
    assert {sampler[i] for i in range(1000)} == {1, 3}


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_weights_that_cannot_be_drawn_by_are_refused(weights):
    with pytest.raises(ValueError, match="finite weights"):
        WeightedOrder(np.array(weights), 0)


def test_the_numbers_of_a_draw_are_its_own():
    assert draw_rng(1, 5).random() == draw_rng(1, 5).random()
    assert len({draw_rng(seed, draw).random() for seed in range(5) for draw in range(5)}) == 25


def test_a_stream_that_follows_another_plan_changes_from_there_on():
    before, after = plan_of(1, 1, 1, 1), plan_of(0, 0, 1, 3)
    alone, stream = Stream(before, 5), Stream(before, 5)
    first = [alone[i] for i in range(60)]
    stream.follow(after, 20)
    drawn = [stream[i] for i in range(60)]
    assert [r for _, r in drawn[:20]] == [r for _, r in first[:20]]
    assert all(p is before for p, _ in drawn[:20])
    assert all(p is after for p, _ in drawn[20:])
    assert {r for _, r in drawn[20:]} == {2, 3}
    assert stream.plan is after


def test_a_stream_resumed_from_its_latest_plan_draws_as_if_it_had_gone_on():
    plans = plan_of(1, 1, 1, 1), plan_of(1, 2, 1, 1), plan_of(0, 1, 2, 3)
    whole = Stream(plans[0], 5)
    whole.follow(plans[1], 12)
    whole.follow(plans[2], 30)
    resumed = Stream(plans[0], 5)
    resumed.follow(plans[2], 30)
    assert [resumed[i] for i in range(30, 90)] == [whole[i] for i in range(30, 90)]


def test_following_again_at_an_earlier_draw_forgets_what_came_after():
    plans = plan_of(1, 1, 1), plan_of(1, 0, 0), plan_of(0, 1, 0)
    stream = Stream(plans[0], 0)
    stream.follow(plans[1], 30)
    stream.follow(plans[2], 10)
    assert {stream[i][1] for i in range(10, 60)} == {1}


@pytest.mark.slow
def test_the_stream_is_the_same_whatever_the_workers_also_after_it_follows_another_plan(tmp_path):
    catalog = ground.make(tmp_path)
    chosen = np.ones(len(catalog), bool)
    even = SamplingPlan.uniform(catalog, chosen)
    weights = np.linspace(0, 1, len(catalog))
    tilted = replace(even, weights=weights / weights.sum())

    def batches(workers):
        stream = Stream(even, 2)
        samples = TrainSamples(
            TileReader(catalog, np.arange(len(catalog))),
            catalog,
            stream,
            Normalization.identity(2),
            24,
            ground.TURNED,
            2,
        )
        found = []
        for step, batch in enumerate(TrainBatches(samples, 0, 8, 4, workers, False, every=2), start=1):
            found.append(tuple(batch[key].numpy().tobytes() for key in ("image", "mask", "prior")))
            if step == 4:
                stream.follow(tilted, step * 4)
        return found

    alone = batches(0)
    assert len(set(alone)) == 8
    assert batches(1) == alone
    assert batches(2) == alone
    assert alone[3][2] != alone[4][2], "the prior travels with the batch"
