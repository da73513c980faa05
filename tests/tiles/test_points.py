"""Point labels: how many, where, the same in any order, and what training is told of the true shares."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError
from scipy import ndimage
from tests.workflows.scenes import make

from raremap.balance.make import make_plan
from raremap.balance.options import Uniform
from raremap.errors import ConfigError, RaremapWarning
from raremap.labels import IGNORE
from raremap.scene.window import Window
from raremap.tiles.options import PerClassPoints, PerObjectPoints, SplitOptions, UniformPoints
from raremap.tiles.points import point, tile_rng
from raremap.tiles.reader import TileReader
from raremap.tiles.splits import uses as uses_of

X = IGNORE
EIGHT = np.ones((3, 3), int)
# Class 0: one object of eleven pixels; class 1: two, of four and of one pixel; class 2: one of two, joined by a corner.
MASK = np.array(
    [
        [0, 0, 0, 0, X, X],
        [0, 1, 1, 0, X, 1],
        [0, 1, 1, 0, X, X],
        [0, X, X, 0, 2, X],
        [0, X, X, X, X, 2],
    ],
    np.uint8,
)

masks = arrays(
    np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.sampled_from([0, 0, 0, 1, 2, X])
)
kinds = st.sampled_from(
    [
        UniformPoints(count=3),
        UniformPoints(share=0.2),
        PerClassPoints(count=2),
        PerObjectPoints(),
        PerObjectPoints(count=5),
    ]
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def objects(mask: np.ndarray):
    """Class and pixels of each object, by scipy."""
    for c in set(np.unique(mask)) - {IGNORE}:
        parts, number = ndimage.label(mask == c, EIGHT)  # pyright: ignore[reportGeneralTypeIssues]
        for i in range(1, number + 1):
            yield int(c), parts == i


def counts(mask: np.ndarray) -> list[int]:
    return [int((mask == c).sum()) for c in range(3)]


def test_counts_by_hand() -> None:
    assert counts(MASK) == [11, 5, 2]
    assert counts(PerObjectPoints()(MASK, rng())) == [1, 2, 1]
    assert counts(PerObjectPoints(count=3)(MASK, rng())) == [3, 4, 2]
    assert counts(PerClassPoints(count=3)(MASK, rng())) == [3, 3, 2]
    assert sum(counts(UniformPoints(count=7)(MASK, rng()))) == 7
    assert sum(counts(UniformPoints(share=0.5)(MASK, rng()))) == 9
    assert sum(counts(UniformPoints(share=0.001)(MASK, rng()))) == 1


@given(masks, kinds, st.integers(0, 3), st.integers(0, 2), st.integers(0, 5))
def test_points_lie_on_their_class_and_never_on_ignored_ground(mask, options, margin, radius, seed) -> None:
    options = options.model_copy(update={"margin": margin, "radius": radius})
    before = mask.copy()
    out = options(mask, rng(seed))
    np.testing.assert_array_equal(mask, before)
    kept = out != IGNORE
    np.testing.assert_array_equal(out[kept], mask[kept])
    assert kept.any() == (mask != IGNORE).any()


@given(masks, st.integers(1, 4), st.integers(0, 3), st.integers(0, 5))
def test_each_object_has_its_points(mask, count, margin, seed) -> None:
    out = PerObjectPoints(count=count, margin=margin)(mask, rng(seed))
    for c, pixels in objects(mask):
        number = int((out[pixels] == c).sum())
        # A disk of the margin moved over the object, where the ground beyond the tile is no boundary.
        deep = pixels if margin == 0 else ndimage.binary_erosion(pixels, disk(margin), border_value=1)
        assert number == min(count, max(1, int(deep.sum())))
        if deep.any():
            assert deep[pixels & (out != IGNORE)].all()
        else:
            depth = np.where(pixels, ndimage.distance_transform_edt(pixels), 0)
            assert depth[pixels & (out != IGNORE)].tolist() == [depth.max()]


@given(masks, st.integers(1, 4), st.integers(0, 5))
def test_each_class_has_its_points(mask, count, seed) -> None:
    out = PerClassPoints(count=count)(mask, rng(seed))
    assert counts(out) == [min(count, n) for n in counts(mask)]


@given(masks, st.integers(1, 3), st.integers(0, 5))
def test_a_disk_is_cut_to_the_object_of_its_point(mask, radius, seed) -> None:
    alone = PerObjectPoints()(mask, rng(seed))
    out = PerObjectPoints(radius=radius)(mask, rng(seed))
    for _, pixels in objects(mask):
        (center,) = np.argwhere(pixels & (alone != IGNORE))
        near = ((np.indices(mask.shape) - center[:, None, None]) ** 2).sum(0) <= radius**2
        np.testing.assert_array_equal(pixels & (out != IGNORE), pixels & near)


@given(masks, st.sampled_from(["per_class", "per_object"]), st.integers(0, 2), st.integers(0, 5))
def test_fewer_points_are_some_of_the_more(mask, kind, margin, seed) -> None:
    make_ = {"per_class": PerClassPoints, "per_object": PerObjectPoints}[kind]
    few, more = (make_(count=n, margin=margin)(mask, rng(seed)) != IGNORE for n in (1, 3))
    assert (more | ~few).all()


def disk(radius: int) -> np.ndarray:
    i, j = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return i * i + j * j <= radius * radius


def test_every_pixel_of_an_object_is_as_likely_as_the_others() -> None:
    """A hundred draws of one of four pixels, forty times: each is met about a quarter of the time."""
    mask = np.full((3, 3), X, np.uint8)
    mask[0, :2] = mask[1, :2] = 1
    met = Counter(int(np.flatnonzero(PerObjectPoints()(mask, rng(i)) != IGNORE)[0]) for i in range(4000))
    assert sorted(met) == [0, 1, 3, 4]
    assert all(abs(n / 4000 - 0.25) < 0.03 for n in met.values())  # four standard errors


def test_a_tile_without_labels_has_no_point() -> None:
    empty = np.full((4, 4), IGNORE, np.uint8)
    for options in (UniformPoints(count=3), PerClassPoints(margin=1), PerObjectPoints(radius=2, margin=1)):
        assert (options(empty, rng()) == IGNORE).all()


@pytest.mark.parametrize(
    ("make_", "message"),
    [
        (lambda: PerObjectPoints(count=0), "greater than or equal to 1"),
        (lambda: PerClassPoints(count=-1), "greater than or equal to 1"),
        (lambda: UniformPoints(share=0), "greater than 0"),
        (lambda: UniformPoints(), "give count, the pixels of a tile, or share"),
        (lambda: UniformPoints(count=3, share=0.1), "not both"),
        (lambda: PerObjectPoints(shares={"a": 0.5, "b": 0.6}), r"sum to 1; these sum to 1\.1"),
        (lambda: PerObjectPoints(shares=(0.5, -0.1, 0.6)), "from 0 to 1"),
        (lambda: PerObjectPoints(shares="guessed"), "counted"),
    ],
)
def test_what_cannot_be_meant_is_refused(make_, message) -> None:
    with pytest.raises(ValidationError, match=message):
        make_()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (
            {"meadow": 0.5, "forst": 0.5},
            "points.shares names 'forst', which is not a class; did you mean 'forest'",
        ),
        ({"meadow": 0.5, "forest": 0.5}, "points.shares leaves out 'water'"),
        ((0.5, 0.5), "points.shares has 2 numbers for 3 classes"),
    ],
)
def test_shares_are_of_the_classes(shares, message) -> None:
    with pytest.raises(ConfigError, match=message):
        PerObjectPoints(shares=shares).by_class(("meadow", "forest", "water"))


# --- in a catalog


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory):
    return make(tmp_path_factory.mktemp("scenes"), split=SplitOptions(folds=3))[0]


@pytest.fixture(scope="module")
def uses(catalog):
    return uses_of(catalog)


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_training_reads_the_points_that_are_counted_in_any_crop_and_others_read_everything(
    catalog, uses, memory
) -> None:
    options = PerObjectPoints(count=2, margin=1)
    seen = point(catalog, uses, options, seed=0)
    rows = np.arange(len(catalog))
    dense, sparse = TileReader(catalog, rows, memory), TileReader(seen, rows, memory)
    for row in rows[::-1]:
        full, mask = dense.whole(int(row))[2], sparse.whole(int(row))[2]
        if uses[row] == "train":
            tile_id = catalog.table["tile_id"].iloc[row]
            np.testing.assert_array_equal(mask, options(full, tile_rng(tile_id, 0)))
            assert (mask != IGNORE).sum() < (full != IGNORE).sum()
        else:
            np.testing.assert_array_equal(mask, full)
        np.testing.assert_array_equal(np.bincount(mask[mask != IGNORE], minlength=3), seen.counts[row])
        tile = seen.windows[row]
        inner = Window(tile.row_off + 5, tile.col_off + 9, 11, 7)
        np.testing.assert_array_equal(sparse.crop(int(row), inner)[2], mask[5:16, 9:16])


def test_points_follow_from_seed_and_tile_alone(catalog, uses) -> None:
    few = np.where(np.cumsum(uses == "train") <= 3, uses, "dropped")
    options = UniformPoints(count=9)
    everything, some = point(catalog, uses, options, 0), point(catalog, few, options, 0)
    other = point(catalog, uses, options, 1)
    assert len(some.points) == 3
    for row, where in some.points.items():
        np.testing.assert_array_equal(where, everything.points[row])
        assert where.tolist() != other.points[row].tolist()
    assert len({tuple(p.tolist()) for p in everything.points.values()}) == len(everything.points)
    assert everything.fingerprint not in (other.fingerprint, catalog.fingerprint)


def test_a_tile_without_labels_is_left_as_it_is(catalog, uses) -> None:
    from dataclasses import replace

    row = int(np.flatnonzero(uses == "train")[0])
    counts = catalog.counts.copy()
    counts[row] = 0
    empty = replace(catalog, table=catalog.table.assign(counts=list(counts)))
    seen = point(empty, uses, PerClassPoints(), 0)
    assert row not in seen.points
    assert seen.counts[row].sum() == 0
    nothing = replace(catalog, table=catalog.table.assign(counts=list(counts * 0)))
    assert point(nothing, uses, PerClassPoints(), 0).points == {}


def plan(seen, uses):
    return make_plan(seen, uses == "train", Uniform(), crop=32, seed=0)


def test_given_shares_are_the_plans_natural_ones_and_the_points_its_stream(catalog, uses) -> None:
    given = {"meadow": 0.7, "forest": 0.25, "water": 0.05}
    seen = point(catalog, uses, PerClassPoints(count=4, shares=given), 0)
    made = plan(seen, uses)
    assert made.natural.tolist() == pytest.approx([0.7, 0.25, 0.05])
    assert made.shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.01)


def test_uniform_points_estimate_the_shares_tile_by_tile(catalog, uses) -> None:
    """Many points of unequal tiles: the labelled ground of each is its weight, whatever its number of points."""
    seen = point(catalog, uses, UniformPoints(count=300), 0)
    truth = catalog.counts[uses == "train"].sum(0)
    assert plan(seen, uses).natural == pytest.approx(truth / truth.sum(), abs=0.01)
    rows = np.flatnonzero(uses == "train")
    by_hand = sum(
        catalog.counts[r].sum() * seen.counts[r] / seen.counts[r].sum() for r in rows if seen.counts[r].sum()
    )
    assert seen.natural == pytest.approx(by_hand / by_hand.sum())


def test_points_that_do_not_tell_the_shares_are_not_taken_for_them(catalog, uses) -> None:
    for options in (PerObjectPoints(), UniformPoints(count=9, margin=1), PerClassPoints(shares="estimated")):
        assert options.estimates
        assert point(catalog, uses, options, 0).natural is None
    assert not UniformPoints(count=9).estimates
    assert not PerClassPoints(shares="counted").estimates


def test_a_share_of_nothing_for_a_class_with_points_is_refused(catalog, uses) -> None:
    with pytest.raises(ConfigError, match=r"gives 'water' a share of 0, but \d+ training pixels are of it"):
        point(catalog, uses, PerClassPoints(shares=(0.5, 0.5, 0)), 0)


def test_a_class_with_a_share_and_no_point_is_told(catalog, uses, tmp_path: Path) -> None:
    from dataclasses import replace

    dry = replace(catalog, hidden={int(r): (2,) for r in np.flatnonzero(uses == "train")})
    with pytest.warns(RaremapWarning, match=r"gives 'water' 0\.2 of the ground, but no training point"):
        seen = point(dry, uses, PerClassPoints(shares=(0.6, 0.2, 0.2)), 0)
    assert seen.natural == pytest.approx((0.75, 0.25, 0))


def test_a_class_that_no_point_is_of_is_told(catalog, uses) -> None:
    train = uses == "train"
    rarest = int(catalog.counts[train].sum(0).argmin())
    name, number = catalog.scheme.names[rarest], int(catalog.counts[train].sum(0)[rarest])
    for seed in range(20):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", RaremapWarning)
            lost = point(catalog, uses, UniformPoints(count=1), seed).counts[train].sum(0)[rarest] == 0
        assert lost == any(
            f"no training point is of '{name}' ({number:,} pixels)" in str(w.message) for w in told
        )
        if lost:
            return
    raise AssertionError("every seed found the rarest class")
