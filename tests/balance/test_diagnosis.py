"""Figures of a plan, counted by hand on three tiles of 16² with a few houses in the grass."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.rasters import write

from raremap.balance.composites import Composites
from raremap.balance.crops import CropCounter, CropGrid, aim
from raremap.balance.diagnosis import diagnose, effective_size, pixel_chances
from raremap.balance.objects import build_bank
from raremap.balance.options import CopyPasteOptions, Diao
from raremap.balance.paste import paste_mask
from raremap.balance.plan import SamplingPlan
from raremap.labels import IGNORE, LabelScheme
from raremap.scene.sources import ScenesOptions
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare

SCHEME = LabelScheme({1: "grass", 2: "house"}, ignore=(0,))
RARE = np.array([False, True])


def masks() -> list[np.ndarray]:
    """Houses of 4 and 2 pixels; of 8 and of 2 that touch by a corner; none, and a row without labels."""
    first, second, third = np.ones((3, 16, 16), np.uint8)
    first[2:4, 2:4] = first[10, 10:12] = 2
    second[4:6, 4:8] = second[12, 12] = second[13, 13] = 2
    third[0] = 0
    return [first, second, third]


def catalog_of(folder: Path, scenes: list[np.ndarray]) -> Catalog:
    for i, mask in enumerate(scenes):
        origin = (4e5 + 5000 * i, 4.6e6)
        write(folder / f"img/s{i}.tif", np.stack([mask * 40, 200 - mask * 30]).astype(np.uint8), origin)
        write(folder / f"mask/s{i}.tif", mask, origin)
    return prepare(
        ScenesOptions(images="img/*.tif", masks="mask/*.tif", root=str(folder)),
        SCHEME,
        TileOptions(size=16, min_valid=0),
        SplitOptions(block_px=16, folds=2),
        quiet=True,
    )


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    return catalog_of(tmp_path_factory.mktemp("three"), masks())


def plan_of(catalog: Catalog, repeats: list[float], **more) -> SamplingPlan:
    counts, drawn = catalog.counts, np.array(repeats)
    return SamplingPlan(
        tile_ids=catalog.table["tile_id"].to_numpy(),
        weights=drawn / drawn.sum(),
        repeats=drawn,
        counts=counts,
        natural=counts.sum(0) / counts.sum(),
        target=np.array([0.5, 0.5]),
        rare=RARE,
        **more,
    )


def test_shares_and_divergences_agree_with_scipy(catalog):
    d = diagnose(plan_of(catalog, [1, 2, 1]), catalog)
    natural, stream = np.array([736, 16]) / 752, np.array([245.5, 6.5]) / 252
    assert d.natural == pytest.approx(natural)
    assert d.stream == pytest.approx(stream)
    target, uniform = np.array([0.5, 0.5]), np.array([0.5, 0.5])
    for found, p in ((d.before, natural), (d.after, stream)):
        assert found.entropy == pytest.approx(stats.entropy(p))
        assert found.kl_target_from == pytest.approx(stats.entropy(target, p))
        assert found.kl_from_target == pytest.approx(stats.entropy(p, target))
        assert found.kl_uniform_from == pytest.approx(stats.entropy(uniform, p))
        assert found.kl_from_uniform == pytest.approx(stats.entropy(p, uniform))
        assert found.variation == pytest.approx(stats.variation(p))
    assert d.before.imbalance_ratio == pytest.approx(736 / 16)


def test_effective_sizes_are_those_counted_by_hand(catalog):
    d = diagnose(plan_of(catalog, [1, 2, 1]), catalog)
    assert d.effective_tiles == pytest.approx(1 / (0.25**2 + 0.5**2 + 0.25**2))
    # Houses: 6 pixels in the first place, 10 in the second, drawn twice as often.
    assert d.places.number.tolist() == [3, 2]
    assert d.places.natural[1] == pytest.approx(16**2 / (6**2 + 10**2))
    assert d.places.stream[1] == pytest.approx((6 + 20) ** 2 / (6**2 + 20**2))
    # Four objects: 4 and 2 pixels, 8 and 2 (by a corner one).
    assert d.objects.number[1] == 4
    assert d.objects.natural[1] == pytest.approx(16**2 / (4**2 + 2**2 + 8**2 + 2**2))
    assert d.objects.stream[1] == pytest.approx(26**2 / (4**2 + 2**2 + 16**2 + 4**2))
    assert np.isnan(d.objects.number[0])
    assert (d.tiles, d.repeated, d.unused, d.largest_repeats) == (3, 1, 0, 2.0)


def test_tiles_that_are_never_drawn_count_as_sources_before_and_not_after(catalog):
    d = diagnose(plan_of(catalog, [0, 1, 1]), catalog)
    assert d.unused == 1
    assert d.places.number[1] == 2
    assert d.places.stream[1] == pytest.approx(1)
    assert d.objects.number[1] == 4
    assert d.objects.stream[1] == pytest.approx(10**2 / (8**2 + 2**2))


@pytest.mark.parametrize(
    ("background", "corner", "places", "objects"),
    [
        # On grass: the first place gives 6 + 4, the second 10; the object of 4 is seen twice.
        (2, (8, 8), [10, 10], [8, 2, 8, 2]),
        # Over half of the house of 8, which is left with 4 there: the second place gives 10 + 6.
        (1, (4, 4), [10, 16], [8, 2, 12, 4]),
        # Over the row without labels: half of the object is lost, and that is what it contributes.
        (2, (0, 8), [8, 10], [6, 2, 8, 2]),
    ],
)
def test_pasted_pixels_belong_to_the_place_and_the_object_they_were_cut_from(
    catalog, background, corner, places, objects
):
    options = CopyPasteOptions(min_area=2, ring=1)
    bank = build_bank(catalog, np.arange(3), [1], options, seed=0)
    index = int(np.flatnonzero(bank.table["area"] == 4)[0])
    home, part = bank.table.iloc[index], bank.patch(index)[2]
    assert home["place"] == str(catalog.table["place"].iloc[0])
    top, left = (int(v[0]) for v in np.nonzero(part))
    at = (corner[0] - top, corner[1] - left)
    label = masks()[background].astype(int) - 1
    label[label < 0] = IGNORE
    mask = paste_mask(label.astype(np.uint8), part, 1, 0, 1.0, *at)
    counts = np.bincount(mask.ravel(), minlength=256)[:2].astype(float)
    one = [np.array([v]) for v in (index, 0, 1.0, *at)]
    composites = Composites(np.array([background]), *([v] for v in one), counts[None], {"no room": 3})
    tiles = plan_of(catalog, [1, 1, 1])
    plan = replace(
        tiles,
        tile_ids=np.append(tiles.tile_ids, tiles.tile_ids[background]),
        weights=np.full(4, 0.25),
        repeats=np.ones(4),
        counts=np.vstack([tiles.counts, counts]),
        options=Diao(kind="diao", copy_paste=options),
        composites=composites,
        bank=bank,
    )
    d = diagnose(plan, catalog)
    assert d.places.stream[1] == pytest.approx(effective_size(np.array(places, float)))
    assert d.objects.stream[1] == pytest.approx(effective_size(np.array(objects, float)))
    assert d.objects.natural[1] == pytest.approx(16**2 / (4**2 + 2**2 + 8**2 + 2**2))
    assert (d.composites, d.composites_drawn, d.composite_share) == (1, 1, 0.25)
    assert d.refused == {"no room": 3}
    # Where crops lie evenly at every pixel, nothing changes.
    whole = CropGrid(16, 4, np.arange(5), *np.zeros((2, 4), int), plan.counts, np.ones(4))
    assert diagnose(replace(plan, grid=whole), catalog).objects.stream[1] == pytest.approx(
        d.objects.stream[1]
    )


def test_an_object_across_the_border_of_two_tiles_counts_as_two(tmp_path):
    mask = np.ones((16, 32), np.uint8)
    mask[4:6, 14:18] = 2
    catalog = catalog_of(tmp_path, [mask])
    d = diagnose(plan_of(catalog, [1, 1]), catalog)
    assert d.objects.number[1] == 2


def test_without_a_rare_class_there_is_no_pass(catalog, monkeypatch):
    monkeypatch.setattr("raremap.balance.diagnosis.TileReader", None)
    d = diagnose(replace(plan_of(catalog, [1, 1, 1]), rare=np.zeros(2, bool)), catalog)
    assert np.isnan(d.objects.number).all()
    assert d.places.number.tolist() == [3, 2]


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


def test_aimed_crops_count_by_the_chance_to_be_seen(catalog):
    """In the first tile the crop holds the house of 2 pixels alone, in the second all of it."""
    grid = CropGrid(
        size=8,
        step=1,
        first=np.array([0, 1, 2, 3]),
        top=np.array([8, 4, 8]),
        left=np.array([8, 4, 8]),
        counts=np.array([[62, 2], [56, 8], [64, 0]], np.float32),
        chance=np.ones(3),
    )
    d = diagnose(plan_of(catalog, [1, 1, 1], grid=grid), catalog)
    assert d.places.stream[1] == pytest.approx((2 + 8) ** 2 / (2**2 + 8**2))
    assert d.objects.stream[1] == pytest.approx((2 + 8) ** 2 / (2**2 + 8**2))


def test_what_is_infinite_or_unknown_is_null_in_json(catalog):
    plan = replace(plan_of(catalog, [1, 2, 1]), target=np.array([1.0, 0.0]))
    data = diagnose(plan, catalog).to_dict()
    assert data["after"]["kl_from_target"] is None
    assert data["by_class"]["grass"]["objects"] is None
    assert data["by_class"]["house"]["objects"] == 4
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_the_table_reads_from_common_to_rare(catalog):
    plan = plan_of(catalog, [1, 2, 1], note="somebody chose so")
    lines = str(diagnose(plan, catalog)).splitlines()
    assert lines[0].split()[:4] == ["class", "natural", "target", "stream"]
    assert lines[1].split() == ["grass", "97.872%", "50.000%", "97.421%", "3", "3.0", "→", "2.7", "–", "–"]
    assert lines[2].split()[:5] == ["house", "*", "2.128%", "50.000%", "2.579%"]
    assert lines[2].split()[5:] == ["2", "1.9", "→", "1.6", "4", "2.9", "→", "2.3"]
    assert "uniform: somebody chose so" in lines
    assert "3 tiles: 1 drawn more than once a pass, 0 never, 2 times at most" in lines
    assert lines[-1] == "* rare"
    infinite = replace(plan, target=np.array([1.0, 0.0]))
    assert "inf" in str(diagnose(infinite, catalog))
