"""What pixels come from, counted by hand on three tiles of 16² with a few houses in the grass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.balance import houses

from raremap.balance.composites import Composites
from raremap.balance.crops import CropGrid
from raremap.balance.diagnosis import diagnose
from raremap.balance.objects import build_bank
from raremap.balance.options import CopyPasteOptions, Diao
from raremap.balance.paste import paste_mask
from raremap.balance.sources import effective_size
from raremap.labels import IGNORE
from raremap.tiles.catalog import Catalog


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    return houses.catalog_of(tmp_path_factory.mktemp("three"), houses.masks())


def test_effective_sizes_are_those_counted_by_hand(catalog):
    d = diagnose(houses.plan_of(catalog, [1, 2, 1]), catalog)
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
    d = diagnose(houses.plan_of(catalog, [0, 1, 1]), catalog)
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
    label = houses.masks()[background].astype(int) - 1
    label[label < 0] = IGNORE
    mask = paste_mask(label.astype(np.uint8), part, 1, 0, 1.0, *at)
    counts = np.bincount(mask.ravel(), minlength=256)[:2].astype(float)
    one = [np.array([v]) for v in (index, 0, 1.0, *at)]
    composites = Composites(np.array([background]), *([v] for v in one), counts[None], {"no room": 3})
    tiles = houses.plan_of(catalog, [1, 1, 1])
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
    whole = CropGrid(16, 4, np.arange(5), *np.zeros((2, 4), int), plan.counts, np.zeros(4), np.ones(4))
    assert diagnose(replace(plan, grid=whole), catalog).objects.stream[1] == pytest.approx(
        d.objects.stream[1]
    )


def test_an_object_across_the_border_of_two_tiles_counts_as_two(tmp_path):
    mask = np.ones((16, 32), np.uint8)
    mask[4:6, 14:18] = 2
    catalog = houses.catalog_of(tmp_path, [mask])
    d = diagnose(houses.plan_of(catalog, [1, 1]), catalog)
    assert d.objects.number[1] == 2


def test_without_a_rare_class_there_is_no_pass(catalog, monkeypatch):
    monkeypatch.setattr("raremap.balance.sources.TileReader", None)
    d = diagnose(replace(houses.plan_of(catalog, [1, 1, 1]), rare=np.zeros(2, bool)), catalog)
    assert np.isnan(d.objects.number).all()
    assert d.places.number.tolist() == [3, 2]


def test_aimed_crops_count_by_the_chance_to_be_seen(catalog):
    """In the first tile the crop holds the house of 2 pixels alone, in the second all of it."""
    grid = CropGrid(
        size=8,
        step=1,
        first=np.array([0, 1, 2, 3]),
        top=np.array([8, 4, 8]),
        left=np.array([8, 4, 8]),
        counts=np.array([[62, 2], [56, 8], [64, 0]], np.float32),
        empty=np.zeros(3),
        chance=np.ones(3),
    )
    d = diagnose(houses.plan_of(catalog, [1, 1, 1], grid=grid), catalog)
    assert d.places.stream[1] == pytest.approx((2 + 8) ** 2 / (2**2 + 8**2))
    assert d.objects.stream[1] == pytest.approx((2 + 8) ** 2 / (2**2 + 8**2))
