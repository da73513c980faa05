import hashlib
import logging
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage
from tests.balance.little import GRASS, HOUSE, POND, WOOD, catalog_of, options, village

from raremap.balance.census import kl, shares
from raremap.balance.composites import Composites, propose
from raremap.balance.locations import (
    COVER,
    IMPLAUSIBLE,
    NO_ROOM,
    PROTECTED,
    RESOLUTION,
    SEASON,
    SLOPE,
    TAKEN,
    UNLABELLED,
    Backgrounds,
    Filter,
    shape_of,
)
from raremap.balance.objects import build_bank
from raremap.balance.paste import edge, placed, render
from raremap.balance.proposal import Proposal
from raremap.errors import CatalogError
from raremap.labels import IGNORE
from raremap.tiles.reader import TileReader

TARGET = np.array([0.3, 0.3, 0.2, 0.2])


@pytest.fixture(scope="module")
def villages(tmp_path_factory):
    return catalog_of(tmp_path_factory.mktemp("villages"), [village(i) for i in range(12)])


def made(catalog, rows=None, target=TARGET, seed=0, classes=(HOUSE, POND), **given):
    rows = np.arange(len(catalog)) if rows is None else np.asarray(rows)
    o = options(**given)
    bank = build_bank(catalog, rows, classes, o, seed)
    return bank, propose(catalog, rows, bank, np.asarray(target, float), o, seed), o


def fingerprint(c: Composites) -> str:
    parts = [c.row, c.counts, *c.objects, *c.code, *c.scale, *c.top, *c.left]
    return hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest()


@pytest.mark.parametrize("placement", ["filtered", "random"])
@pytest.mark.parametrize("seed", range(3))
def test_planned_counts_are_those_of_the_rendered_mask(villages, placement, seed):
    bank, got, o = made(villages, seed=seed, placement=placement, share=1.0)
    assert len(got) == 12
    reader = TileReader(villages, np.arange(12))
    for m in range(len(got)):
        image, valid, mask = render(reader, int(got.row[m]), got.pasted(m), bank, o)
        before, was_valid, was = reader.whole(int(got.row[m]))
        assert np.bincount(mask.ravel(), minlength=256)[:4].tolist() == got.counts[m].tolist()
        changed = mask != was
        assert changed.sum() == sum(
            placed(bank.patch(p.object)[2], p.code, p.scale).sum() for p in got.pasted(m)
        )
        assert (valid == was_valid).all()
        assert (was[changed] != IGNORE).all()
        assert valid[changed].all()
        assert (image[:, was == IGNORE] == before[:, was == IGNORE]).all()
        assert set(np.unique(was[changed])) <= {GRASS, WOOD}
        assert set(np.unique(mask[changed])) <= {
            HOUSE,
            POND,
        }


def test_only_whole_objects_are_pasted_each_on_open_ground(villages):
    bank, got, o = made(villages, share=2.0)
    reader = TileReader(villages, np.arange(12))
    assert bank.table.touches.any()
    for m in range(len(got)):
        mask = reader.whole(int(got.row[m]))[2]
        taken = np.zeros(mask.shape, bool)
        for p in got.pasted(m):
            assert not bank.table.touches[p.object]
            hard = placed(bank.patch(p.object)[2], p.code, p.scale)
            foot = edge(hard, o.feather) > 0
            rows, cols = np.nonzero(foot)
            assert rows.min() + p.top >= 0
            assert cols.min() + p.left >= 0
            at = rows + p.top, cols + p.left
            assert np.isin(mask[at], [GRASS, WOOD]).all()
            assert not taken[at].any()
            taken[at] = True
        assert 1 <= len(got.objects[m]) <= o.objects
        pasted = got.counts[m][[HOUSE, POND]].sum() - np.isin(mask, [HOUSE, POND]).sum()
        assert pasted <= o.cover * mask.size


def test_surroundings_are_as_usual_as_those_of_real_objects(villages):
    bank, got, _ = made(villages, share=2.0, ring=3)
    assert got.refused[IMPLAUSIBLE] > 0
    reader = TileReader(villages, np.arange(12))
    looked = 0
    for m in range(len(got)):
        mask = reader.whole(int(got.row[m]))[2].copy()
        for p in got.pasted(m):
            c = bank.klass(p.object)
            hard = placed(bank.patch(p.object)[2], p.code, p.scale)
            full = np.zeros(mask.shape, bool)
            rows, cols = np.nonzero(hard)
            full[rows + p.top, cols + p.left] = True
            ring = (ndimage.distance_transform_edt(~full) <= 3) & ~full
            for part in (full, ring):
                n = np.bincount(mask[part], minlength=256)[:4].astype(float)
                n[c] = 0
                if n.sum():
                    assert (n / n.sum()) @ bank.contacts[c] >= bank.plausible[c] - 1e-12
                    looked += 1
            mask[full] = c
    assert looked > 40


def test_random_placement_asks_nothing_of_the_surroundings(villages):
    open_wood = [0.3, 0.2, 0.25, 0.25]
    _, filtered, _ = made(villages, target=open_wood, share=2.0)
    _, anywhere, _ = made(villages, target=open_wood, share=2.0, placement="random")
    assert IMPLAUSIBLE not in anywhere.refused
    assert SLOPE not in anywhere.refused
    wood = [villages.counts[c.row, WOOD].sum() - c.counts[:, WOOD].sum() for c in (filtered, anywhere)]
    assert wood[0] == 0 < wood[1]  # houses and ponds stand on grass at home


def test_composites_even_the_shares(villages):
    _, got, _ = made(villages, share=1.0)
    natural = villages.counts.sum(0)
    before, after = (shares(n) for n in (natural, natural + got.counts.sum(0)))
    assert kl(TARGET, after) < kl(TARGET, before) - 0.05
    assert (after[[HOUSE, POND]] > before[[HOUSE, POND]]).all()


def test_the_background_with_the_largest_gain_is_taken(tmp_path):
    # Alike but for their wood, which is what the target wants least: pasting anywhere covers grass.
    masks = []
    for wood in (8, 40, 24):
        mask = np.ones((64, 64), np.uint8)
        mask[64 - wood :] = 2
        mask[4:8, 4:8] = 3
        masks.append(mask)
    catalog = catalog_of(tmp_path, masks)
    bank, got, _ = made(catalog, target=[0.6, 0.01, 0.39, 0], classes=[HOUSE], share=0.34, objects=1)
    pooled = catalog.counts.sum(0)
    after = [catalog.counts[r] - 16 * np.eye(4)[GRASS] + 16 * np.eye(4)[HOUSE] for r in range(3)]
    q = np.array([0.6, 0.01, 0.39, 0])
    gains = [-kl(q, shares(pooled + n)) for n in after]
    assert got.row.tolist() == [int(np.argmax(gains))] == [0]
    assert len(bank) == 3
    assert got.counts[0].tolist() == after[0].tolist()


def test_no_background_is_read_that_cannot_be_the_best(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    masks = []
    for i in range(16):
        mask = np.ones((64, 64), np.uint8)
        mask[rng.integers(10, 64) :] = 2
        mask[3:6, 3 + i : 6 + i] = 3
        masks.append(mask)
    catalog = catalog_of(tmp_path, masks)
    bank = build_bank(catalog, np.arange(16), [HOUSE], options(), 0)
    read = []
    whole = Backgrounds.tile
    monkeypatch.setattr(Backgrounds, "tile", lambda self, row: read.append(row) or whole(self, row))
    q = np.array([0.4, 0.2, 0.4, 0])
    few = options(share=1 / 16, objects=1, tries=64)
    lazy = propose(catalog, np.arange(16), bank, q, few, 0)
    assert len(set(read)) < 8
    monkeypatch.setattr(Proposal, "_bound", lambda *_: 1e9)
    read.clear()
    plain = propose(catalog, np.arange(16), bank, q, few, 0)
    assert len(set(read)) == 16
    assert plain.row.tolist() == lazy.row.tolist()


def test_the_bound_is_never_below_a_gain(villages):
    bank, _, o = made(villages)
    rng = np.random.default_rng(0)
    run = Proposal(villages, np.arange(12), bank, {HOUSE: bank.at_home}, TARGET, o, 0)
    for _ in range(300):
        q = run._q = rng.dirichlet(np.ones(4))
        pooled = run._pooled
        protected = q / shares(pooled) > 1
        counts = villages.counts[rng.integers(12)]
        klass, area = int(rng.choice([HOUSE, POND])), int(rng.integers(1, 60))
        open_ = ~protected & (counts > 0)
        if not open_.any():
            continue
        covered = np.minimum(rng.multinomial(area, np.where(open_, 1, 0) / open_.sum()), counts)
        shape = type("S", (), {"klass": klass, "area": int(covered.sum())})()
        after = counts - covered + covered.sum() * np.eye(4)[klass]
        assert run._score(pooled + after) <= run._bound(shape, counts, protected) + 1e-12
        assert run._score(pooled + after) == pytest.approx(-kl(q, shares(pooled + after)) + (q @ np.log(q)))


def test_backgrounds_are_spread_and_of_the_rows_given(villages):
    rows = [1, 3, 4, 8, 9, 11]
    bank, got, _ = made(villages, rows=rows, share=1.0)
    assert set(got.row) <= set(rows)
    assert np.bincount(got.row).max() <= 2
    assert set(bank.table.tile_id) <= set(villages.table.tile_id.iloc[rows])
    _, got, _ = made(villages, share=0.5)
    assert len(set(got.row)) == len(got) == 6


def test_objects_are_used_in_turn(villages):
    bank, got, _ = made(villages, share=2.0)
    uses = np.bincount(np.concatenate(got.objects), minlength=len(bank))
    houses = uses[[i for i in bank.at_home if bank.klass(i) == HOUSE]]
    assert houses.sum() > 10
    assert houses.max() <= max(3, 4 * houses.mean())


def test_the_same_seed_gives_the_same_composites_in_any_process(villages, tmp_path):
    _, got, _ = made(villages, seed=5)
    assert (
        fingerprint(made(villages, seed=5)[1]) == fingerprint(got) != fingerprint(made(villages, seed=6)[1])
    )
    path = villages.save(tmp_path / "c.parquet")
    code = (
        "import sys, tests.balance.test_composites as t; from raremap.tiles.catalog import Catalog;"
        "print(t.fingerprint(t.made(Catalog.load(sys.argv[1]), seed=5)[1]))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == fingerprint(got)


def test_arrays_have_the_types_a_plan_keeps(villages):
    _, got, _ = made(villages)
    assert got.row.dtype == np.int64
    assert got.counts.dtype == np.float64
    assert got.counts.shape == (6, 4)
    for m in range(len(got)):
        assert got.scale[m].dtype == np.float32
        assert got.top[m].dtype == got.left[m].dtype == np.int32
        assert len({len(c[m]) for c in (got.objects, got.code, got.scale, got.top, got.left)}) == 1
        assert ((got.code[m] >= 0) & (got.code[m] < 8)).all()
        assert ((got.scale[m] >= 1 / 1.2501) & (got.scale[m] <= 1.2501)).all()


def test_other_seasons_and_resolutions_are_refused(tmp_path):
    masks = [village(i) for i in range(6)]
    dates = ["2021-06-01", "2020-06-20", "2021-12-20", "2021-01-10", None, "2021-06-10"]
    catalog = catalog_of(tmp_path / "a", masks, dates=dates)
    bank, got, _ = made(catalog, share=3.0)
    day = {f"s{i:02}": d for i, d in enumerate(dates)}
    assert got.refused[SEASON] > 0
    assert RESOLUTION not in got.refused
    summer = {"2021-06-01", "2020-06-20", "2021-06-10"}
    crossed = 0
    for m in range(len(got)):
        there = day[catalog.scene_names[got.row[m]]]
        for i in got.objects[m]:
            home = bank.table.date[i]
            assert None in (home, there) or (home in summer) == (there in summer)
            crossed += home != there
    assert crossed
    catalog = catalog_of(tmp_path / "b", masks, pixels=[10, 10, 10.5, 20, 20, 20])
    bank, got, _ = made(catalog, share=3.0)
    assert got.refused[RESOLUTION] > 0
    for m in range(len(got)):
        homes = bank.table.scene[got.objects[m]]
        assert all((h >= "s03") == (catalog.scene_names[got.row[m]] >= "s03") for h in homes)


def test_objects_keep_to_slopes_like_those_at_home(tmp_path):
    _y, x = np.mgrid[:64, :64].astype(float)
    dem = np.where(x < 32, 0, (x - 32) * 10 * np.tan(np.radians(25)))
    masks = []
    for i in range(4):
        mask = np.ones((64, 64), np.uint8)
        mask[10 + 5 * i : 14 + 5 * i, 8:12] = 3  # on the flat
        mask[40:43, 45 + i : 48 + i] = 4  # on the slope
        masks.append(mask)
    catalog = catalog_of(tmp_path, masks, extra=[("dem", dem)], dtype="float32")
    bank, got, o = made(catalog, share=4.0, ring=2, scale=1.0)
    assert got.refused[SLOPE] > 0
    assert len(got) > 4
    reader = TileReader(catalog, np.arange(4))
    for m in range(len(got)):
        was, (image, _, mask) = (
            reader.whole(int(got.row[m])),
            render(reader, int(got.row[m]), got.pasted(m), bank, o),
        )
        new = mask != was[2]
        assert (x[new & (mask == HOUSE)] < 33).all()
        assert (x[new & (mask == POND)] > 31).all()
        assert (image[3] == was[0][3]).all()
        assert (image[0] != was[0][0]).any()
    _, anywhere, _ = made(catalog, share=4.0, ring=2, placement="random")
    assert SLOPE not in anywhere.refused


def test_refusals_are_counted_by_reason(villages):
    _, got, _ = made(villages, share=4.0, feather=2.0, placement="random", cover=0.2, tries=5)
    assert set(got.refused) == {PROTECTED, UNLABELLED, TAKEN}
    _, got, _ = made(villages, share=4.0, cover=0.02)
    assert COVER in got.refused
    assert all(n > 0 for n in got.refused.values())


def test_an_object_larger_than_the_tile_or_its_cover_is_refused(tmp_path):
    big, small = np.ones((64, 64), np.uint8), np.ones((16, 20), np.uint8)
    big[20:34, 20:34] = 3
    catalog = catalog_of(tmp_path, [big, small])
    q = np.array([0.6, 0, 0.4, 0])
    bank, got, o = made(catalog, target=q, classes=[HOUSE], share=1, scale=1.0)
    assert set(got.row) == {0}
    assert got.refused[COVER] > 0
    shape, ground = shape_of(bank, 0, 0, 1.0, o), Backgrounds(catalog, np.arange(2))
    for feather, room in ((1.0, False), (0.0, True)):
        shape = shape_of(bank, 0, 0, 1.0, o.model_copy(update={"feather": feather}))
        search = Filter(bank, True, np.random.default_rng(0))
        found = list(search.places(shape, ground.tile(1), np.zeros(4, bool), 5))
        assert len(found) == (5 if room else 0)
        assert search.refused == ({} if room else {NO_ROOM: 1})


def test_an_object_of_one_pixel_is_pasted(tmp_path):
    mask = np.ones((32, 32), np.uint8)
    mask[5, 5] = mask[20, 9] = 3
    bank, got, _ = made(
        catalog_of(tmp_path, [mask], size=32), target=[0.5, 0, 0.5, 0], classes=[HOUSE], min_area=1, share=1
    )
    assert len(bank) == 2
    assert got.counts[0, HOUSE] == 2 + len(got.objects[0])
    assert (got.scale[0] == 1).all()


@pytest.mark.parametrize("why", ["none", "border", "area"])
def test_without_a_pastable_object_there_are_no_composites_and_a_warning(tmp_path, caplog, why):
    mask = np.ones((64, 64), np.uint8)
    if why == "border":
        mask[:4, :4] = 3
    if why == "area":
        mask[10:40, 10:40] = 3
    with caplog.at_level(logging.WARNING):
        _bank, got, _ = made(catalog_of(tmp_path, [mask]), target=[0.5, 0, 0.5, 0], classes=[HOUSE])
    assert len(got) == 0
    assert got.counts.shape == (0, 4)
    assert got.refused == {}
    assert got.row.dtype == np.int64
    assert "no composites: there is no object of house to paste in the training tiles" in caplog.text
    assert "'house' has 4 to 200 pixels" in caplog.text


@pytest.fixture(scope="module")
def roads(tmp_path_factory):
    # Wood as a road: one through every tile, and a fragment of another; houses as ever.
    masks = []
    for i in range(4):
        mask = village(i, pond=False)
        mask[mask == 2] = 1
        mask[40:44] = 2
        mask[50:53, 20 : 24 + i] = 2
        masks.append(mask)
    return catalog_of(tmp_path_factory.mktemp("roads"), masks)


def test_fragments_of_networks_are_not_pasted_unless_named(roads, caplog):
    q = [0.35, 0.6, 0.05, 0]
    with caplog.at_level(logging.WARNING):
        bank, got, _ = made(roads, target=q, classes=(WOOD, HOUSE), share=1)
    whole = sum(3 * (4 + i) for i in range(4))
    assert bank.whole[WOOD] == pytest.approx(whole / (whole + 4 * 4 * 64))
    assert bank.whole[HOUSE] > 0.5
    assert "'wood' is not pasted: 6.1 % of its ground, less than 15 %, lies in whole objects" in caplog.text
    assert len(got) == 4
    assert {bank.klass(i) for o in got.objects for i in o} == {HOUSE}
    for given in ({"placement": "random"}, {"classes": ("wood", "house")}):
        o = options(share=1, **given)
        got = propose(roads, np.arange(4), bank, np.array(q), o, 0)
        assert {bank.klass(i) for o in got.objects for i in o} == {HOUSE, WOOD}


def test_a_target_that_needs_nothing_gives_no_composites_and_says_so(villages, caplog):
    natural = shares(villages.counts.sum(0))
    with caplog.at_level(logging.WARNING):
        _, got, _ = made(villages, target=natural)
    assert len(got) == 0
    assert "no class that has objects is below its target share" in caplog.text


def test_a_share_of_less_than_one_composite_is_told(villages, caplog):
    with caplog.at_level(logging.WARNING):
        _, got, _ = made(villages, share=0.01)
    assert len(got) == 0
    assert "a share of 0.01 of 12 training tiles is none" in caplog.text


def test_a_filter_that_admits_nothing_ends_and_says_why(tmp_path, caplog):
    # A pond in a wood at home; the other tile is all grass.
    home, other = np.full((64, 64), 2, np.uint8), np.ones((64, 64), np.uint8)
    home[20:26, 20:26] = 4
    catalog = catalog_of(tmp_path, [home, other])
    bank = build_bank(catalog, np.array([0, 1]), [POND], options(), 0)
    with caplog.at_level(logging.WARNING):
        got = propose(catalog, np.array([1]), bank, np.array([0.4, 0.4, 0, 0.2]), options(share=1), 0)
    assert len(got) == 0
    with caplog.at_level(logging.WARNING):
        got = propose(catalog, np.array([0, 1]), bank, np.array([0.3, 0.3, 0, 0.4]), options(share=1), 0)
    assert set(got.row) == {0}
    assert got.refused[IMPLAUSIBLE] > 0


def test_a_bank_of_other_bands_is_refused(villages, tmp_path):
    bank, _, o = made(villages)
    other = catalog_of(tmp_path, [village(0)], extra=[("nir", np.full((64, 64), 9))])
    with pytest.raises(
        CatalogError, match="bands red, green, blue and 4 classes, the catalog red, green, blue, nir"
    ):
        propose(other, np.array([0]), bank, TARGET, o, 0)


def test_masks_are_read_as_needed_and_the_latest_kept(villages, monkeypatch):
    monkeypatch.setattr("raremap.balance.locations._KEPT_PIXELS", 3 * 64 * 64)
    backgrounds = Backgrounds(villages, np.arange(12))
    reader = TileReader(villages, np.arange(12))
    for row in (0, 1, 2, 0, 3, 4, 0, 11):
        assert (backgrounds.tile(row).mask == reader.whole(row)[2]).all()
        assert backgrounds.tile(row).slope is None
    assert list(backgrounds._kept) == [4, 0, 11]
    before = fingerprint(made(villages, seed=2)[1])
    monkeypatch.undo()
    assert fingerprint(made(villages, seed=2)[1]) == before


def test_hidden_labels_are_never_covered(villages):
    from dataclasses import replace

    hidden = replace(villages, hidden={i: (WOOD,) for i in range(12)})
    table = hidden.table.copy()
    counts = hidden.counts.copy()
    counts[:, WOOD] = 0
    table["counts"] = list(counts)
    hidden = replace(hidden, table=table)
    bank, got, o = made(hidden, target=[0.6, 0, 0.2, 0.2], placement="random", share=1)
    assert got.refused[UNLABELLED] > 0
    assert (got.counts[:, WOOD] == 0).all()
    reader, everything = TileReader(hidden, np.arange(12)), TileReader(villages, np.arange(12))
    for m in range(len(got)):
        image = render(reader, int(got.row[m]), got.pasted(m), bank, o)[0]
        before, _, mask = everything.whole(int(got.row[m]))
        assert (image[:, mask == WOOD] == before[:, mask == WOOD]).all()
