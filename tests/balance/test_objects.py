import logging
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import from_origin
from scipy import ndimage
from tests.balance.little import GRASS, HOUSE, POND, WOOD, catalog_of, options, village
from tests.rasters import write

from raremap.balance.cut import (
    Found,
    Patch,
    Reservoir,
    Wanted,
    contact_shares,
    contacts_of,
    objects_of,
    plausibility,
)
from raremap.balance.ground import day_of_year, pixel_size, same_resolution, same_season, slope_of
from raremap.balance.light import followed
from raremap.balance.objects import ObjectBank, build_bank
from raremap.balance.paste import edge, placed
from raremap.errors import CatalogError
from raremap.labels import IGNORE
from raremap.scene.grid import Grid
from raremap.scene.window import Window
from raremap.tiles.reader import TileReader

EIGHT = np.ones((3, 3), bool)


@pytest.fixture(scope="module")
def villages(tmp_path_factory):
    return catalog_of(tmp_path_factory.mktemp("villages"), [village(i) for i in range(6)])


def bank_of(catalog, rows=None, classes=(HOUSE, POND), seed=0, **given):
    rows = np.arange(len(catalog)) if rows is None else np.asarray(rows)
    return build_bank(catalog, rows, classes, options(**given), seed)


def masks_of(catalog):
    """Class index of each tile by the files alone."""
    found = []
    for scene, w in zip(catalog.scene_names, catalog.windows, strict=True):
        with catalog.open_image(scene) as image, catalog.open_mask(scene) as mask:
            index = mask.read(w)
            index[~image.read(w)[1]] = IGNORE
        found.append(index)
    return found


def test_the_bank_holds_the_components_that_scipy_finds(villages):
    bank = bank_of(villages)
    expected = []
    for tile, mask in zip(villages.table["tile_id"], masks_of(villages), strict=True):
        for c in (HOUSE, POND):
            parts, n = ndimage.label(mask == c, EIGHT)
            for i in range(1, n + 1):
                area = int((parts == i).sum())
                if 4 <= area <= 200:
                    rows, cols = np.nonzero(parts == i)
                    expected.append((c, tile, area, int(rows.min()), int(cols.min())))
    got = []
    for i, r in bank.table.iterrows():
        _, _, thing = bank.patch(i)
        assert thing.sum() == r.area
        rows, cols = np.nonzero(thing)
        got.append((r.klass, r.tile_id, r.area, r.row_off + rows.min(), r.col_off + cols.min()))
    assert sorted(got) == sorted(expected)
    assert len(got) > 15


def test_a_patch_is_the_tile_around_its_object(villages):
    bank = bank_of(villages, ring=3)
    row = {t: i for i, t in enumerate(villages.table["tile_id"])}
    masks = masks_of(villages)
    for i, r in bank.table.iterrows():
        window = Window(r.row_off, r.col_off, r.height, r.width)
        with villages.open_image(r.scene) as file:
            image, valid = file.read(window)
        pixels, usable, thing = bank.patch(i)
        assert (pixels == image).all()
        assert (usable == valid).all()
        tile = masks[row[r.tile_id]]
        labels = tile[window.slices(villages.windows[row[r.tile_id]])]
        assert (bank.labels(i) == labels).all()
        assert (labels[thing] == r.klass).all()
        near = (ndimage.distance_transform_edt(~thing) <= 3) & ~thing & (labels != IGNORE)
        shares = np.bincount(labels[near], minlength=4) / max(near.sum(), 1)
        assert r.ring == pytest.approx(shares.tolist())
        rows, cols = np.nonzero(thing)
        margins = rows.min(), cols.min(), r.height - 1 - rows.max(), r.width - 1 - cols.max()
        assert max(margins) <= 3
        assert r.touches or min(margins) >= 1


def test_areas_are_limited_and_touching_the_border_is_marked(tmp_path):
    mask = np.ones((64, 64), np.uint8)
    mask[10, 10] = 3  # 1 pixel
    mask[20:22, 20:22] = 3  # 4
    mask[30:40, 30:40] = 3  # 100
    mask[0:3, 50:53] = 3  # 9, at the border
    mask[60:62, 63] = 3  # 2, at the border
    mask[50:52, 40:42] = mask[52:54, 42:44] = 3  # 8, joined by a corner
    catalog = catalog_of(tmp_path, [mask])
    found = bank_of(catalog, classes=[HOUSE], min_area=2, max_area=50).table
    assert sorted(zip(found.area, found.touches, strict=True)) == [
        (2, True),
        (4, False),
        (8, False),
        (9, True),
    ]
    every = bank_of(catalog, classes=[HOUSE], min_area=1, max_area=100)
    assert sorted(every.table.area) == [1, 2, 4, 8, 9, 100]
    assert not every.table.touches[every.pastable].any()
    assert len(every.pastable) == 4


def test_the_largest_area_is_an_eighth_of_a_tile_unless_given(tmp_path):
    mask = np.ones((64, 64), np.uint8)
    mask[1:17, 1:33] = 3  # 512, an eighth
    mask[30:46, 1:33] = 3
    mask[46, 1] = 3  # 513
    found = bank_of(catalog_of(tmp_path, [mask]), classes=[HOUSE], max_area=None).table
    assert found.area.tolist() == [512]


def test_ignored_and_invalid_pixels_are_part_of_no_object(tmp_path):
    mask = np.ones((64, 64), np.uint8)
    mask[10:16, 10:16] = 3
    mask[12, :] = 0
    hole = np.zeros((64, 64), bool)
    hole[:, 13] = True
    bank = bank_of(catalog_of(tmp_path, [mask], nodata=[hole]), classes=[HOUSE])
    assert sorted(bank.table.area) == [4, 6, 6, 9]
    for i in range(len(bank)):
        image, valid, thing = bank.patch(i)
        assert valid[thing].all()
        assert (image[:, thing] > 0).all()


def test_only_the_rows_given_are_read(villages):
    rows = [1, 4]
    bank = bank_of(villages, rows)
    assert set(bank.table.tile_id) == set(villages.table.tile_id.iloc[rows])
    others = bank_of(villages, [0, 2, 3, 5])
    assert not set(bank.table.scene) & set(others.table.scene)


def test_hidden_labels_are_no_objects_and_in_no_contact(villages):
    from dataclasses import replace

    thinned = replace(villages, hidden={i: (HOUSE,) for i in range(len(villages))})
    bank = bank_of(thinned)
    assert set(bank.table.klass) == {POND}
    counts = sum(contacts_of(np.where(m == HOUSE, IGNORE, m).astype(np.uint8), 4) for m in masks_of(villages))
    assert bank.contacts == pytest.approx(contact_shares(counts))


def test_a_class_keeps_its_limit_spread_evenly_over_places(tmp_path):
    rng = np.random.default_rng(0)
    masks = []
    for houses in (40, 3, 12, 12):
        mask = np.ones((64, 64), np.uint8)
        cells = rng.permutation(49)[:houses]
        for r, c in zip(*np.divmod(cells, 7), strict=True):
            mask[9 * r + 1 : 9 * r + 3, 9 * c + 1 : 9 * c + 3] = 3
        masks.append(mask)
    catalog = catalog_of(tmp_path, masks)
    bank = bank_of(catalog, classes=[HOUSE], per_class=21)
    assert sorted(bank.table.groupby("place").size()) == [3, 6, 6, 6]
    assert bank.table.equals(bank_of(catalog, classes=[HOUSE], per_class=21).table)
    assert bank.table.equals(bank_of(catalog, [3, 1, 0, 2], classes=[HOUSE], per_class=21).table)
    assert not bank.table.equals(bank_of(catalog, classes=[HOUSE], per_class=21, seed=1).table)
    assert len(bank_of(catalog, classes=[HOUSE], per_class=500)) == 67


def test_whole_objects_go_before_those_at_the_border(tmp_path):
    mask = np.ones((64, 64), np.uint8)
    for i in range(6):
        mask[0:3, 10 * i : 10 * i + 3] = 3
    mask[30:33, 10:13] = mask[30:33, 40:43] = 3
    bank = bank_of(catalog_of(tmp_path, [mask]), classes=[HOUSE], per_class=5)
    assert sorted(bank.table.touches) == [False, False, True, True, True]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 40), st.integers(0, 99))
def test_a_reservoir_fills_places_evenly_with_their_smallest_keys(sizes, limit, seed):
    rng = np.random.default_rng(seed)
    offers = [(str(p), float(rng.random())) for p, n in enumerate(sizes) for _ in range(n)]
    reservoir = Reservoir(limit)
    for i in rng.permutation(len(offers)):
        reservoir.offer(offers[i][0], SimpleNamespace(key=offers[i][1], place=offers[i][0]))  # type: ignore[arg-type]
    kept = list(reservoir)
    assert len(kept) == min(limit, sum(sizes)) == reservoir.size
    counts = [sum(k.place == str(p) for k in kept) for p in range(len(sizes))]
    level = max(counts)
    assert all(c >= min(n, level - 1) for c, n in zip(counts, sizes, strict=True))


def test_views_of_one_object_in_overlapping_tiles_count_once(tmp_path):
    mask = np.ones((96, 96), np.uint8)
    mask[36:44, 36:44] = 3  # whole in all four tiles around the middle
    mask[28:36, 60:70] = 3  # cut by the first column's tiles, whole in the second's
    mask[90:96, 5:8] = 3  # at the scene's border
    catalog = catalog_of(tmp_path, [mask], size=64, overlap=0.5)
    assert len(catalog) == 4
    found = bank_of(catalog, classes=[HOUSE]).table
    assert sorted(zip(found.area, found.touches, strict=True)) == [(18, True), (64, False), (80, False)]
    assert len(bank_of(catalog_of(tmp_path / "b", [mask, mask]), classes=[HOUSE]).table) == 6


def test_contacts_are_those_of_a_hand_counted_example():
    x = IGNORE
    mask = np.array([[0, 0, 1, 1], [0, 2, 1, 1], [0, 2, 2, x], [0, 0, 0, x]], np.uint8)
    # Pairs 0-1: two at (0,1). Pairs with the 2s at (1,1), (2,1), (2,2): 4 + 5 + 2 zeros, 2 + 1 + 2 ones.
    expected = np.array([[0, 2, 11, 0], [2, 0, 5, 0], [11, 5, 0, 0], [0, 0, 0, 0]])
    assert contacts_of(mask, 4).tolist() == expected.tolist()
    shares = contact_shares(expected)
    assert shares[0] == pytest.approx([0, 3 / 16, 12 / 16, 1 / 16])
    assert shares[3] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


@given(st.integers(0, 10**6))
def test_contacts_agree_with_counting_pairs_one_by_one(seed):
    rng = np.random.default_rng(seed)
    mask = rng.choice(np.array([0, 1, 2, IGNORE], np.uint8), (5, 6))
    counted = np.zeros((3, 3), int)
    for r in range(5):
        for c in range(6):
            for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1)):
                if 0 <= r + dr < 5 and 0 <= c + dc < 6:
                    a, b = mask[r, c], mask[r + dr, c + dc]
                    if a != b and IGNORE not in (a, b):
                        counted[a, b] += 1
                        counted[b, a] += 1
    assert (contacts_of(mask, 3) == counted).all()


def test_contacts_of_the_bank_are_of_all_classes_of_all_tiles(villages):
    bank = bank_of(villages, classes=[POND])
    assert bank.contacts == pytest.approx(contact_shares(sum(contacts_of(m, 4) for m in masks_of(villages))))
    assert bank.contacts.sum(1) == pytest.approx(1)
    assert (np.diag(bank.contacts) == 0).all()


def test_plausibility_is_the_mean_contact_of_the_other_classes():
    contacts = np.array([[0, 0.5, 0.5], [0.9, 0, 0.1], [0.2, 0.8, 0]])
    assert plausibility(np.array([0.5, 0.25, 0.25]), contacts, 1) == pytest.approx(
        (0.5 * 0.9 + 0.25 * 0.1) / 0.75
    )
    assert plausibility(np.array([30, 0, 10]), contacts, 1) == pytest.approx(0.75 * 0.9 + 0.25 * 0.1)
    assert np.isnan(plausibility(np.array([0.0, 1.0, 0.0]), contacts, 1))


def test_the_threshold_is_a_quantile_of_real_objects(villages):
    bank = bank_of(villages, plausibility=0.3)
    for c in (HOUSE, POND):
        usual = [
            sum(r[b] * bank.contacts[c, b] for b in range(4) if b != c) / (1 - r[c])
            for r in bank.table.ring[bank.table.klass == c]
            if sum(r) - r[c] > 1e-9
        ]
        assert bank.plausible[c] == pytest.approx(np.quantile(usual, 0.3))
    assert bank.plausible[GRASS] == bank.plausible[WOOD] == 0
    assert bank.classes == (HOUSE, POND)


def test_slopes_at_home_are_kept(tmp_path):
    y = np.arange(64.0)[:, None] * np.ones(64)
    dem = np.where(y < 32, 100.0, 100 + (y - 31.5) * 10 * np.tan(np.radians(20)))
    mask = np.ones((64, 64), np.uint8)
    mask[10:13, 10:13] = mask[50:53, 10:13] = 3
    catalog = catalog_of(tmp_path, [mask], extra=[("dem", dem)], dtype="float32")
    table = bank_of(catalog, classes=[HOUSE]).table
    assert table.slope_low.tolist() == pytest.approx([0, 20], abs=0.05)
    assert table.slope_high.tolist() == pytest.approx([0, 20], abs=0.05)
    without = bank_of(catalog_of(tmp_path / "b", [mask]), classes=[HOUSE]).table
    assert without.slope_low.isna().all()


def test_slope_comes_from_its_band_or_from_heights():
    x = np.arange(8.0) * np.ones((8, 1))
    image, valid = np.stack([x, 3 * x]), np.ones((8, 8), bool)
    valid[0, 0] = False
    slope = slope_of(image, valid, ("red", "DEM"), (5.0, 5.0))
    assert slope is not None
    assert slope[3, 3] == pytest.approx(np.degrees(np.arctan(3 / 5)), rel=1e-5)
    assert np.isnan(slope[0, 0])
    given_ = slope_of(image, valid, ("dem", "slope"), (5.0, 5.0))
    assert given_ is not None
    assert given_[2, 5] == 15
    assert slope_of(image, valid, ("red", "nir"), (5.0, 5.0)) is None
    flat = slope_of(image[:, :1], valid[:1], ("dem", "red"), (5.0, 5.0))
    assert flat is not None
    assert np.isnan(flat).all()
    unknown = slope_of(image, valid, ("dem", "red"), (float("nan"), float("nan")))
    assert unknown is not None
    assert np.isnan(unknown).all()


@pytest.mark.parametrize(
    ("code", "origin", "pixel"),
    [
        (25831, (4e5, 4.6e6), 10.0),
        (3857, (2e5, 5.16e6), 10.0),
        (4326, (1.0, 60.0), 1e-4),
        (2225, (6e6, 2e6), 10.0),  # feet
    ],
)
def test_pixel_sizes_are_those_on_the_ground(code, origin, pixel):
    from pyproj import Geod, Transformer

    grid = Grid(100, 100, CRS.from_epsg(code), from_origin(*origin, pixel, pixel))
    degrees = Transformer.from_crs(code, 4326, always_xy=True).transform
    middle, down, right = (degrees(*(grid.transform @ p)) for p in ((50, 50), (50, 51), (51, 50)))
    expected = [Geod(ellps="WGS84").inv(*middle, *other)[2] for other in (down, right)]
    assert pixel_size(grid) == pytest.approx(expected, rel=1e-5)
    if code == 25831:
        assert pixel_size(grid) == pytest.approx((10, 10), rel=0.001)
    assert all(np.isnan(pixel_size(Grid(10, 10))))


def test_resolutions_and_seasons_are_alike_within_their_bounds():
    assert same_resolution(10.0, np.array([9.2, 10.9, 8.9, 11.2, np.nan])).tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert same_resolution(np.nan, np.array([10, np.nan])).tolist() == [False, True]
    days = day_of_year(["2021-12-20", "2022-02-01", "2022-07-01", None, "unknown", "2022"])
    assert days[:3].tolist() == [354, 32, 182]
    assert np.isnan(days[3:]).all()
    assert same_season(days[0], days, 45).tolist() == [True, True, False, True, True, True]
    assert same_season(np.nan, days, 0).all()


def _lit(share: float, seed: int = 0, tiles: int = 40) -> np.ndarray:
    """What `followed` finds where tiles differ in light by 10 %, and objects go along by `share` of it."""
    rng = np.random.default_rng(seed)
    patches = []
    for _ in range(tiles):
        light = rng.normal(0, 0.1)
        mask = np.zeros((14, 14), bool)
        mask[4:10, 4:10] = True
        ring, thing = 1000 * (1 + light), 300 * (1 + share * light)
        image = np.where(mask, thing, ring)[None] * rng.normal(1, 0.01, (2, 14, 14))
        patches.append(Patch(image, np.ones((14, 14), bool), mask, np.where(mask, 1, 0).astype(np.uint8)))
    return followed(patches, [1] * tiles, list(range(tiles)), 2, 4)


def test_how_far_objects_follow_the_light_is_learned_from_them():
    assert _lit(1.0) == pytest.approx(1, abs=0.05)
    assert _lit(0.5) == pytest.approx(0.5, abs=0.05)
    assert _lit(0.0) == pytest.approx(0, abs=0.05)
    assert _lit(1.0, tiles=1).tolist() == [0, 0]


def test_the_share_of_ground_in_whole_objects_is_known(tmp_path):
    mask = np.ones((64, 64), np.uint8)
    mask[20:24, 20:25] = 3  # 20, whole
    mask[0:5, 50:56] = 3  # 30, at the border
    mask[40:45, 30:40] = 3  # 50, too large
    mask[60, 10] = 3  # a speck
    mask[50:54, 50:54] = 4
    bank = bank_of(catalog_of(tmp_path, [mask]), max_area=40)
    assert bank.whole.tolist() == [0, 0, 0.2, 1]


def test_a_class_without_a_whole_object_is_told(tmp_path, caplog):
    mask = np.ones((64, 64), np.uint8)
    mask[0:4, 0:4] = 3
    with caplog.at_level(logging.WARNING):
        bank = bank_of(catalog_of(tmp_path, [mask]))
    assert len(bank) == 1
    assert len(bank.pastable) == 0
    assert "no object of 'house' has 4 to 200 pixels and lies whole in a training tile" in caplog.text
    assert "'pond'" in caplog.text


@pytest.mark.parametrize("empty", [False, True])
def test_a_saved_bank_is_read_back_as_it_was(villages, tmp_path, empty):
    bank = bank_of(villages, classes=[WOOD] if empty else [HOUSE, POND])
    assert (len(bank) == 0) == empty
    path = bank.save(tmp_path / "deep" / "objects.parquet")
    again = ObjectBank.load(path)
    assert again.table.equals(bank.table)
    assert (again.table.dtypes == bank.table.dtypes).all()
    assert (again.bands, again.classes) == (bank.bands, bank.classes)
    for name in ("contacts", "plausible", "follows", "whole"):
        assert (getattr(again, name) == getattr(bank, name)).all()
    for i in range(len(bank)):
        for a, b in zip(again.patches[i], bank.patches[i], strict=True):
            assert a.dtype == b.dtype
            assert (a == b).all()
    assert again.save(tmp_path / "again.parquet").read_bytes() == path.read_bytes()


def test_scenes_of_several_types_of_pixels_share_a_bank(tmp_path):
    catalog = catalog_of(tmp_path, [village(i) for i in range(2)])
    path = tmp_path / "img/s01.tif"
    with rasterio.open(path) as file:
        image, profile, names = file.read().astype(np.int16), file.profile, file.descriptions
    image[0, 5:] -= 300
    with rasterio.open(path, "w", **{**profile, "dtype": "int16"}) as file:
        file.write(image)
        file.descriptions = names
    bank = bank_of(catalog)
    assert {s[-3:] for s in bank.table["scene"]} == {"s00", "s01"}
    again = ObjectBank.load(bank.save(tmp_path / "objects.parquet"))
    for i, record in enumerate(bank.table.itertuples()):
        rows, cols = (
            slice(a, a + n) for a, n in ((record.row_off, record.height), (record.col_off, record.width))
        )
        with rasterio.open(tmp_path / f"img/{record.scene}.tif") as file:
            assert (again.patch(i)[0] == file.read()[:, rows, cols]).all()


@pytest.mark.parametrize(("feather", "scale"), [(1.0, 1.0), (4.0, 1.0), (4.0, 1.25)])
def test_a_patch_holds_all_of_the_feather_so_that_no_seam_is_left(tmp_path, feather, scale):
    mask = np.ones((64, 64), np.uint8)
    mask[28:36, 28:36] = 3
    catalog = catalog_of(tmp_path, [mask])
    bank = bank_of(catalog, classes=[HOUSE], feather=feather, ring=1, scale=scale)
    hard = placed(bank.patch(0)[2], 0, 1 / scale)
    wide = np.pad(hard, 30)
    assert edge(hard, feather).sum() == pytest.approx(float(edge(wide, feather).sum()), rel=1e-6)


def test_a_file_that_is_no_bank_is_told_in_one_line(villages, tmp_path):
    path = bank_of(villages).save(tmp_path / "objects.parquet")
    whole = path.read_bytes()
    with pytest.raises(CatalogError, match=r"nowhere\.parquet does not exist; make the plan again"):
        ObjectBank.load(tmp_path / "nowhere.parquet")
    for damaged in (b"", b"hello", whole[:200], whole[: len(whole) // 2], whole[:-8] + b"\0" * 8):
        path.write_bytes(damaged)
        with pytest.raises(CatalogError, match="not an object bank") as caught:
            ObjectBank.load(path)
        assert "\n" not in str(caught.value)
    other = villages.save(tmp_path / "catalog.parquet")
    with pytest.raises(CatalogError, match="not an object bank"):
        ObjectBank.load(other)


def test_a_bank_whose_pixels_are_cut_short_is_refused(villages, tmp_path):
    from dataclasses import replace

    bank = bank_of(villages)
    patch = bank.patches[0]
    broken = replace(bank, patches=(patch._replace(image=patch.image[:1]), *bank.patches[1:]))
    with pytest.raises(CatalogError, match="not an object bank"):
        ObjectBank.load(broken.save(tmp_path / "b.parquet"))


def test_finds_rank_by_being_whole_then_by_area():
    def find(touches, area):
        return Found(0, 0, Window(0, 0, 1, 1), area, touches, np.zeros(1), (0, 0), None, 0.0)  # type: ignore[arg-type]

    ranks = [find(t, a).rank for t, a in ((True, 9), (True, 10), (False, 3), (False, 4))]
    assert ranks == sorted(ranks)


def test_objects_of_a_tile_lie_at_their_scene_coordinates():
    mask = np.zeros((20, 30), np.uint8)
    mask[5:8, 10:12] = 2
    tile = np.arange(600).reshape(1, 20, 30), np.ones((20, 30), bool), mask
    wanted = Wanted([2], 3, 1, 100, 2)
    (found,), pixels = objects_of(7, tile, Window(1000, 2000, 20, 30), None, wanted, np.random.default_rng(0))
    assert pixels.tolist() == [0, 0, 6]
    assert found.window == Window(1003, 2008, 7, 6)
    assert found.area == 6
    assert not found.touches
    assert found.patch.image[0, 0, 0] == 3 * 30 + 8
    assert found.ring.tolist() == [1, 0, 0]


def test_scenes_without_a_crs_have_unknown_resolution(tmp_path):
    from tests.balance.little import SCHEME

    from raremap.scene.sources import ScenesOptions
    from raremap.tiles.options import SplitOptions, TileOptions
    from raremap.tiles.prepare import prepare

    mask = village(0)
    write(tmp_path / "img/a.tif", np.stack([mask * 40] * 3), crs=None)
    write(tmp_path / "mask/a.tif", mask, crs=None)
    scenes = ScenesOptions(images="img/*.tif", masks="mask/*.tif", root=str(tmp_path))
    catalog = prepare(scenes, SCHEME, TileOptions(size=64), SplitOptions(block_px=64), quiet=True)
    bank = bank_of(catalog)
    assert len(bank)
    assert bank.table.resolution.isna().all()
    assert bank.table.date.isna().all()


def test_tiles_without_a_class_that_is_looked_for_are_not_read_and_change_nothing(tmp_path, monkeypatch):
    plain = np.ones((64, 64), np.uint8)
    plain[:, 20:] = 2
    masks = [village(0), plain, village(1)]
    catalog = catalog_of(tmp_path, masks)
    read = []
    whole = TileReader.whole
    monkeypatch.setattr(TileReader, "whole", lambda self, row: read.append(row) or whole(self, row))
    bank = build_bank(catalog, np.arange(3), [HOUSE, POND], options(), 0)
    assert [i for i, m in enumerate(masks) if (m >= 3).any()] == sorted(read) == [0, 2]
    index = [np.where(m == 0, IGNORE, m - 1).astype(np.uint8) for m in masks]
    contacts = contact_shares(sum(contacts_of(m, 4) for m in index))
    assert bank.contacts[[HOUSE, POND]] == pytest.approx(contacts[[HOUSE, POND]])
