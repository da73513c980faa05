import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from tests.batches import ground
from tests.rasters import write

from raremap.balance import make
from raremap.balance.crops import CropCounter, CropGrid, aim, even_chance, pixel_chances
from raremap.balance.make import make_plan
from raremap.balance.mixture import lean
from raremap.balance.options import InverseFrequency, Mixture, Uniform
from raremap.balance.plan import SamplingPlan
from raremap.balance.sampler import Stream
from raremap.batches.dataset import TrainSamples
from raremap.labels import IGNORE
from raremap.scene.normalize import Normalization
from raremap.scene.sources import ScenesOptions
from raremap.scene.window import Window
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare
from raremap.tiles.reader import TileReader


def grid_of(size, *masks, k=3):
    counter = CropCounter(size, k)
    for mask in masks:
        counter.add(mask)
    return counter.grid()


def random_masks(seed, number=3, k=3, most=32):
    """Masks of uneven sizes with patches of classes and ignored ground, a labelled pixel at least."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(number):
        height, width = rng.integers(1, most, 2)
        mask = np.full((height, width), rng.choice([0, IGNORE]), np.uint8)
        for _ in range(6):
            r, c = rng.integers(height), rng.integers(width)
            mask[r : r + rng.integers(1, 12), c : c + rng.integers(1, 12)] = rng.choice([*range(k), IGNORE])
        mask[rng.integers(height), rng.integers(width)] = rng.integers(k)
        masks.append(mask)
    return masks


def corners(grid, tile, shape):
    """Every corner that a draw may take from each of the tile's positions, equally likely."""
    shifts = range(-(grid.step // 2), grid.step - grid.step // 2)
    last = [max(0, n - grid.size) for n in shape]
    for j in range(grid.first[tile], grid.first[tile + 1]):
        yield (
            j,
            [
                (min(max(grid.top[j] + a, 0), last[0]), min(max(grid.left[j] + b, 0), last[1]))
                for a, b in itertools.product(shifts, shifts)
            ],
        )


@given(st.integers(0, 2**31), st.integers(1, 20))
@settings(max_examples=15)
def test_counts_are_those_of_the_crops_that_a_position_may_become(seed, size):
    masks = random_masks(seed)
    grid = grid_of(size, *masks)
    assert grid.first[-1] == len(grid.counts) == len(grid.top)
    for tile, mask in enumerate(masks):
        for j, places in corners(grid, tile, mask.shape):
            cut = [mask[r : r + size, c : c + size] for r, c in places]
            assert len({p.shape for p in cut}) == 1, "crops of a tile are all of one size"
            expected = np.mean([np.bincount(p[p < 3], minlength=3) for p in cut], axis=0)
            assert grid.counts[j] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_positions_reach_every_pixel_and_a_tile_smaller_than_the_crop_has_one():
    grid = grid_of(16, np.zeros((37, 50), np.uint8), np.zeros((16, 16), np.uint8), np.zeros((5, 9), np.uint8))
    first = slice(grid.first[0], grid.first[1])
    assert grid.step == 4
    assert sorted(set(grid.top[first].tolist())) == [0, 4, 8, 12, 16, 20, 21]
    assert grid.left[first].max() == 50 - 16
    assert np.diff(grid.first).tolist() == [7 * 10, 1, 1]
    assert grid.counts[-2:, 0].tolist() == [256, 45]


@given(st.integers(0, 2**31), st.integers(1, 24))
@settings(max_examples=30)
def test_even_chances_are_the_same_for_all_positions_of_a_tile_that_meet_a_label(seed, size):
    grid = grid_of(size, *random_masks(seed))
    for tile in range(3):
        here = slice(grid.first[tile], grid.first[tile + 1])
        labelled = grid.counts[here].sum(1) > 0
        assert grid.chance[here] == pytest.approx(labelled / labelled.sum())


@given(st.integers(0, 2**31), st.integers(2, 24))
@settings(max_examples=12)
def test_a_draw_lies_in_the_tile_within_half_a_step_of_a_position_with_a_chance(seed, size):
    masks = random_masks(seed, most=60)
    grid = aim(grid_of(size, *masks), np.full(3, 1 / 3), np.full(3, 1 / 3), 4.0)
    rng = np.random.default_rng(seed)
    for tile, mask in enumerate(masks):
        height, width = mask.shape
        may = {p for j, places in corners(grid, tile, mask.shape) if grid.chance[j] > 0 for p in places}
        for _ in range(20):
            top, left = grid.draw(tile, Window(7, 5, height, width), rng)
            assert (top, left) in may
            assert 0 <= top <= max(0, height - size)
            assert 0 <= left <= max(0, width - size)


def divergence(grid, weights, q):
    pooled = weights @ grid.seen()
    here = (q > 0) & (pooled > 0)
    return (q[here] * np.log(q[here] / (pooled[here] / pooled.sum()))).sum()


@given(st.integers(0, 2**31), st.integers(1, 20), st.floats(1, 8), st.booleans())
@settings(max_examples=80)
def test_aiming_never_leads_away_from_the_target(seed, size, cap, lacking):
    rng = np.random.default_rng(seed)
    even = grid_of(size, *random_masks(seed, number=5))
    weights = rng.dirichlet(np.ones(5))
    q = rng.dirichlet(np.ones(3))
    if lacking:
        q = np.array([0.0, q[1], 1 - q[1]])
    aimed = aim(even, weights, q, cap)
    sums = np.add.reduceat(aimed.chance, aimed.first[:-1])
    assert sums == pytest.approx(np.ones(5))
    assert (aimed.chance >= 0).all()
    assert (aimed.chance <= cap * even.chance * (1 + 1e-9)).all()
    assert (aimed.chance[even.counts.sum(1) == 0] == 0).all(), "what meets no label is never drawn"
    assert divergence(aimed, weights, q) <= divergence(even, weights, q) + 1e-12


def test_aiming_from_the_aimed_grid_is_aiming_from_the_even_one():
    even = grid_of(8, *random_masks(1, number=5))
    weights, q = np.full(5, 0.2), np.full(3, 1 / 3)
    once = aim(even, weights, np.array([0.1, 0.1, 0.8]), 4.0)
    assert aim(once, weights, q, 4.0).chance.tolist() == aim(even, weights, q, 4.0).chance.tolist()


@given(st.integers(0, 2**31), st.floats(1.05, 6))
@settings(max_examples=40)
def test_the_chances_of_a_round_are_the_optimum_that_scipy_finds(seed, cap):
    rng = np.random.default_rng(seed)
    n = 9
    gain, cost = rng.dirichlet(np.ones(n)), rng.uniform(0, 3, n)
    chance, most = np.full(n, 1 / n), np.full(n, min(cap, 9.0) / n)
    lean(np.array([0, n]), gain, cost, most, chance)
    value = lambda v: float((cost * v - gain * np.log(v)).sum())  # noqa: E731
    best = minimize(
        value,
        np.full(n, 1 / n),
        jac=lambda v: cost - gain / v,
        bounds=[(1e-9, m) for m in most],
        constraints={"type": "eq", "fun": lambda v: v.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert chance.sum() == pytest.approx(1)
    assert value(np.maximum(chance, 1e-300)) <= best.fun + 1e-6


def test_aiming_comes_near_the_best_that_any_chances_reach():
    even = grid_of(8, *random_masks(12, number=3, most=26))
    weights, q, cap = np.full(3, 1 / 3), np.array([0.2, 0.4, 0.4]), 3.0
    own = np.repeat(weights, np.diff(even.first))
    counts = even.counts.astype(float)

    def value(v):
        pooled = (own * v) @ counts
        slope = own * (counts.sum(1) / pooled.sum() - counts @ (q / pooled))
        return (q * np.log(q / (pooled / pooled.sum()))).sum(), slope

    inside = np.repeat(np.eye(3), np.diff(even.first), axis=1)
    best = minimize(
        value,
        even.chance,
        jac=True,
        bounds=[(0, m) for m in cap * even.chance],
        constraints={"type": "eq", "fun": lambda v: inside @ v - 1, "jac": lambda v: inside},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 300},
    )
    found = divergence(aim(even, weights, q, cap), weights, q)
    start = divergence(even, weights, q)
    assert best.fun < start - 0.02, "there is something to gain"
    assert found - best.fun < 0.1 * (start - best.fun)


def test_a_tile_of_nothing_that_is_asked_for_is_left_even():
    masks = [np.zeros((20, 20), np.uint8), np.ones((20, 20), np.uint8)]
    masks[1][:4] = 2
    even = grid_of(8, *masks)
    aimed = aim(even, np.full(2, 0.5), np.array([0.0, 0.5, 0.5]), 4.0)
    first = slice(even.first[0], even.first[1])
    assert aimed.chance[first].tolist() == even.chance[first].tolist()
    assert aimed.chance.tolist() != even.chance.tolist()


def test_what_a_crop_of_a_tile_holds_on_average_is_weighed_by_its_chance():
    counts = np.array([[10, 0], [4, 6], [0, 8]], np.float32)
    chance, first = np.array([0.25, 0.75, 1]), np.array([0, 2, 3])
    grid = CropGrid(4, 1, first, *np.zeros((2, 3), int), counts, np.zeros(3), chance)
    assert grid.seen().tolist() == [[5.5, 4.5], [0, 8]]
    # Half of the crops of the first tile are empty and drawn again: 1 + 1/2 + ... + 1/16 crops a sample.
    again = replace(grid, empty=np.array([0.5, 0.5, 0]))
    assert again.seen().tolist() == [[5.5 * 31 / 16, 4.5 * 31 / 16], [0, 8]]
    assert even_chance(replace(grid, counts=counts * [[0], [1], [1]])).tolist() == [0, 1, 1]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 24), st.integers(0, 2**31))
def test_pixels_are_seen_as_often_as_the_crops_that_hold_them(height, width, size, seed):
    rng = np.random.default_rng(seed)
    mask = rng.choice(np.array([0, 1, IGNORE], np.uint8), (height, width))
    mask[0, 0] = 1
    counter = CropCounter(size, 2)
    counter.add(mask)
    grid = aim(counter.grid(), np.ones(1), np.array([0.2, 0.8]), 4)
    expected = np.zeros(mask.shape)
    shifts = range(-(grid.step // 2), grid.step - grid.step // 2)
    for top, left, chance in zip(grid.top, grid.left, grid.chance, strict=True):
        for down, right in itertools.product(shifts, shifts):
            r = min(max(top + down, 0), max(0, height - size))
            c = min(max(left + right, 0), max(0, width - size))
            expected[r : r + size, c : c + size] += chance / len(shifts) ** 2
    seen = pixel_chances(grid, 0, mask.shape, grid.chance)
    assert seen == pytest.approx(expected)
    assert [seen[mask == c].sum() for c in (0, 1)] == pytest.approx(grid.seen()[0].tolist(), rel=1e-5)


def patches(seed, height, width, spots):
    """Rock with some scree and a few spots of water, a strip without label."""
    rng = np.random.default_rng(seed)
    mask = np.full((height, width), 3, np.uint8)
    mask[:, : width // 3] = 4
    for _ in range(spots):
        r, c = rng.integers(height - 6), rng.integers(width - 6)
        mask[r : r + 5, c : c + 5] = 9
    mask[:6] = 0
    return mask


def scenes(folder, masks):
    """A catalog of a scene of one tile for each mask in source values."""
    for i, mask in enumerate(masks):
        image = np.stack([mask, mask]).astype(np.uint16) + 1
        origin = (4e5 + 5000 * i, 4.6e6)
        write(folder / f"img/s{i}.tif", image, origin, names=("number", "other"))
        write(folder / f"mask/s{i}.tif", mask, origin)
    return prepare(
        ScenesOptions(images="img/*.tif", masks="mask/*.tif", root=str(folder)),
        ground.SCHEME,
        TileOptions(size=64, min_valid=0),
        SplitOptions(block_px=64, folds=2),
        quiet=True,
    )


def samples_of(catalog, plan, crop):
    """What training draws, as it is stored."""
    reader, stream = TileReader(catalog, np.arange(len(catalog))), Stream(plan, 3)
    return TrainSamples(reader, catalog, stream, Normalization.identity(2), crop, ground.STILL, 3)


def drawn_shares(samples, number):
    """Pooled shares of the drawn masks, and their standard error by blocks of draws."""
    counts = np.array([np.bincount(samples[i]["mask"].ravel(), minlength=256)[:3] for i in range(number)])
    blocks = counts.reshape(20, -1, 3).sum(1)
    spread = (blocks / blocks.sum(1, keepdims=True)).std(0, ddof=1)
    return counts.sum(0) / counts.sum(), spread / np.sqrt(20)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        Uniform(),
        Mixture(kind="mixture"),
        Uniform(aim=True),
        Mixture(kind="mixture", aim=1),
        Mixture(kind="mixture", aim=1, target={"shares": {"water": 0.6}}, max_repeats=2),
        InverseFrequency(kind="inverse_frequency", aim=True),
    ],
    ids=[
        "uniform",
        "mixture",
        "uniform, aimed",
        "mixture, aimed",
        "mixture to a share",
        "inverse frequency, aimed",
    ],
)
def test_drawn_crops_hold_the_shares_that_the_plan_says(tmp_path, options):
    """With labels at the borders, in tiles of several sizes: where crops lie decides what is seen."""
    sizes = [(64, 64), (50, 64), (64, 41), (20, 64)]
    catalog = scenes(tmp_path, [patches(i, *size, spots=i + 1) for i, size in enumerate(sizes)])
    chosen = np.ones(len(catalog), bool)
    plan = make_plan(catalog, chosen, options, crop=24, seed=0)
    assert (plan.grid is None) == (options.aim == 0)
    samples = samples_of(catalog, plan, 24)
    found, error = drawn_shares(samples, 5000)
    assert (np.abs(found - plan.shares) < 4 * error + 1e-4).all()
    tiles = plan.weights @ plan.counts
    assert (np.abs(found - tiles / tiles.sum()) > 4 * error).any(), "counts of tiles are not what is seen"
    assert samples[0]["prior"] == pytest.approx(plan.shares, rel=1e-6)


def test_crops_that_are_drawn_again_deliver_what_the_plan_says(tmp_path):
    """One tile is labelled in a corner alone, so that most of its crops are empty, one all over."""
    corner, rock = np.zeros((48, 48), np.uint8), np.full((48, 48), 3, np.uint8)
    corner[:14, :14], corner[2:6, 2:6] = 4, 9
    catalog = scenes(tmp_path, [corner, rock])
    plan = make_plan(catalog, np.ones(2, bool), Uniform(), crop=16, seed=0)
    found, error = drawn_shares(samples_of(catalog, plan, 16), 4000)
    assert (np.abs(found - plan.shares) < 4 * error).all()
    once = plan.weights @ plan.delivered
    # As if an empty crop were delivered: 196 of 33² starts meet the corner (14 rows, 14 columns).
    once = once - 0.5 * plan.delivered[0] * (1 - 1 / sum((1 - 196 / 33**2) ** t for t in range(5)))
    assert (np.abs(found - once / once.sum()) > 4 * error).any(), "to draw again makes a difference"


def test_some_tiles_tell_how_crops_and_tiles_differ(tmp_path, monkeypatch):
    """Spots lie in the middle, so that crops hold more of them than tiles do, in each tile alike but for chance."""
    rng = np.random.default_rng(0)
    masks = [np.where(rng.random((40, 40)) < 0.3, 4, 9).astype(np.uint8) for _ in range(24)]
    for mask in masks:
        mask[14:26, 14:26] = np.where(rng.random((12, 12)) < 0.5, 3, mask[14:26, 14:26])
    catalog = scenes(tmp_path, masks)
    chosen = np.ones(24, bool)
    exact = make_plan(catalog, chosen, Uniform(), crop=20, seed=0)
    monkeypatch.setattr(make, "_LOOKED_AT", 8)
    plan = make_plan(catalog, chosen, Uniform(), crop=20, seed=0)
    same = (plan.delivered == exact.delivered).all(1)
    assert same.sum() == 8
    tiles = catalog.counts.sum(0) / catalog.counts.sum()
    used = exact.shares > 0
    assert np.abs(exact.shares - tiles).max() > 0.02, "to look at crops makes a difference"
    assert plan.shares[used] == pytest.approx(exact.shares[used], rel=0.02)


@pytest.mark.slow
def test_whole_tiles_hold_the_shares_that_the_plan_says(tmp_path):
    catalog = ground.make(tmp_path)
    chosen = np.ones(len(catalog), bool)
    target = {"shares": {"water": 0.345}}
    plan = make_plan(
        catalog, chosen, Mixture(kind="mixture", aim=1, target=target, gap=1e-6), crop=32, seed=0
    )
    assert plan.grid is None
    assert not np.allclose(plan.shares, SamplingPlan.uniform(catalog, chosen).shares, atol=1e-3)
    samples = samples_of(catalog, plan, 32)
    found, error = drawn_shares(samples, 3000)
    assert (np.abs(found - plan.shares) < 4 * error + 1e-4).all()
