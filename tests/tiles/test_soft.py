"""Catalogs of labels that are shares of classes: areas, as numpy counts them in the fine labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from shapely import box
from tests import soft
from tests.rasters import write

from raremap.balance.census import census
from raremap.errors import SceneError
from raremap.labels import IGNORE
from raremap.scene.window import Window
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import ThinOptions
from raremap.tiles.reader import TileReader
from raremap.tiles.thin import thin


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soft")
    labels = soft.make(folder)
    return folder, labels, soft.catalog_of(folder)


def parts(labels, window, margin=soft.RATIO):
    """The fine labels of a window of cells."""
    rows, cols = (
        slice(a * margin, b * margin)
        for a, b in ((window[0], window[0] + window[2]), (window[1], window[1] + window[3]))
    )
    return labels[rows, cols]


def test_counts_are_the_areas_of_the_fine_labels(ground):
    _, labels, catalog = ground
    assert catalog.soft
    for row, window in enumerate(catalog.windows):
        fine = parts(labels[int(catalog.scene_names[row][-1])], window)
        expected = [(fine == v).sum() / soft.RATIO**2 for v in (1, 2, 5)]
        assert catalog.counts[row] == pytest.approx(expected, abs=1e-3)
    total = census(catalog).total
    everything = np.concatenate(labels)
    assert total.shares == pytest.approx(
        [(everything == v).sum() / (everything > 0).sum() for v in (1, 2, 5)], abs=1e-7
    )
    assert total.to_dict(soft.SCHEME.names)["pixels"] == (everything > 0).sum() // soft.RATIO**2
    assert set(catalog.table["labelled"].round(6)) == {1.0, np.float32(0.875)}


def test_overlapping_tiles_and_a_saved_catalog_say_the_same(ground, tmp_path):
    folder, labels, _ = ground
    catalog = soft.catalog_of(folder, overlap=0.5)
    assert len(catalog) == 27
    catalog.save(tmp_path / "c.parquet")
    again = Catalog.load(tmp_path / "c.parquet")
    assert again.soft
    row = 4
    fine = parts(labels[0], again.windows[row])
    assert again.counts[row] == pytest.approx([(fine == v).sum() / 25 for v in (1, 2, 5)], abs=1e-3)


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["in memory", "by window"])
def test_the_reader_gives_class_and_shares_of_the_same_cells(ground, memory):
    _, labels, catalog = ground
    reader = TileReader(catalog, np.arange(len(catalog)), memory)
    for row, tile in enumerate(catalog.windows):
        fine = labels[int(catalog.scene_names[row][-1])]
        expected = soft.cells(parts(fine, tile))
        mask, shares = reader.labels(row), reader.shares(row)
        assert np.array_equal(shares / 200, expected)
        assert np.array_equal(mask == IGNORE, expected.sum(0) == 0)
        known = mask != IGNORE
        own = np.take_along_axis(expected, np.where(known, mask, 0)[None], 0)[0]
        assert np.array_equal(own[known], expected.max(0)[known])
        inner = Window(tile.row_off + 3, tile.col_off + 5, 7, 4)
        assert np.array_equal(reader.shares(row, inner), shares[:, 3:10, 5:9])


def test_a_cell_that_is_60_percent_labelled_is_a_whole_cell_and_one_of_40_none(tmp_path):
    soft.make(tmp_path, 1)
    fine = np.ones((160, 160), np.uint8)
    fine[:5, :5] = np.array([1, 2, 5, 0, 0])[:, None]  # 20 % each of three classes, 40 % without label
    fine[:5, 5:10] = np.array([1, 2, 0, 0, 0])[:, None]
    write(tmp_path / "mask/s0.tif", fine, pixel=2.0)
    catalog = soft.catalog_of(tmp_path)
    # Of 255 cells with a label 254 are all land, and one is a third of each.
    assert catalog.counts[0] == pytest.approx([254 + 1 / 3, 1 / 3, 1 / 3], abs=0.005)
    assert catalog.table["labelled"].iloc[0] == pytest.approx(255 / 256)


def test_scenes_of_one_class_a_cell_count_beside_those_of_fractions(tmp_path):
    labels = soft.make(tmp_path, 2)
    write(tmp_path / "mask/s0.tif", labels[0][::5, ::5])  # on the image's grid already: left as it is
    catalog = soft.catalog_of(tmp_path, tile=32)
    assert [s.fractions for s in catalog.scenes.values()] == [False, True]
    reader = TileReader(catalog, np.arange(2))
    hard = labels[0][::5, ::5]
    assert catalog.counts[0].tolist() == [(hard == v).sum() for v in (1, 2, 5)]
    assert np.array_equal(reader.shares(0) == 200, np.stack([hard == v for v in (1, 2, 5)]))
    assert catalog.counts[1] == pytest.approx([(labels[1] == v).sum() / 25 for v in (1, 2, 5)], abs=1e-3)


def test_clouds_and_labels_without_weight_are_left_out_of_areas(tmp_path):
    labels = soft.make(tmp_path, 1)[0]
    cloud, weight = np.zeros((2, 32, 32), np.uint8)
    cloud[20:, :9] = 1
    weight[:, :25] = 3
    write(tmp_path / "cloud/s0.tif", cloud)
    write(tmp_path / "weight/s0.tif", weight)
    catalog = soft.catalog_of(tmp_path, tile=32, clouds="cloud/*.tif", weights="weight/*.tif")
    expected = soft.cells(labels) * ((cloud == 0) & (weight > 0))
    assert catalog.counts[0] == pytest.approx(expected.sum((1, 2)), abs=1e-3)


def test_thinning_hides_the_shares_of_a_class_and_counts_what_is_left(ground):
    _, labels, catalog = ground
    uses = np.full(len(catalog), "train")
    before = catalog.counts.sum(0)
    seen, _ = thin(catalog, uses, ThinOptions(imbalance=4 * before.max() / before[2]), [2], seed=0)
    assert 0 < len(seen.hidden) < len(catalog)
    reader = TileReader(seen, np.arange(len(seen)), memory=0)
    for row, window in enumerate(seen.windows):
        fine = parts(labels[int(seen.scene_names[row][-1])], window)
        expected = soft.cells(np.where(fine == 5, 0, fine) if row in seen.hidden else fine)
        assert np.abs(reader.shares(row) / 200 - expected).max() <= 0.005
        assert np.array_equal(reader.labels(row) == IGNORE, expected.sum(0) == 0)
        # Where a share is no whole step rounding is off by half a step at most.
        assert seen.counts[row] == pytest.approx(expected.sum((1, 2)), abs=0.0025 * expected[0].size)
        assert seen.counts[row].sum() == pytest.approx((expected.sum(0) > 0).sum(), abs=1e-3)
    assert seen.counts[:, 2].sum() == pytest.approx(before[2] / 4, rel=0.5)


def test_polygons_make_fractions_where_that_is_asked(tmp_path):
    import geopandas as gpd

    soft.make(tmp_path, 1, size=16)
    # 2.5 cells of water from the west, and a slide of a quarter of one cell in it, on land.
    shapes = [box(4e5, 4.6e6 - 160, 4e5 + 25, 4.6e6), box(4e5 + 5, 4.6e6 - 10, 4e5 + 10, 4.6e6 - 5)]
    (tmp_path / "poly").mkdir()
    gpd.GeoDataFrame({"class": ["water", "slide"]}, geometry=shapes, crs="EPSG:25831").to_file(
        tmp_path / "poly/s0.gpkg"
    )
    vector = {"attribute": "class", "background": "land", "fractions": True}
    given = {"masks": "poly/*.gpkg", "rescale": None}
    catalog = soft.catalog_of(tmp_path, vector=vector, **given)
    assert catalog.counts[0] == pytest.approx([13.5 * 16, 2.5 * 16 - 0.25, 0.25], abs=0.01)
    unlabelled = soft.catalog_of(tmp_path, vector={**vector, "background": None}, **given)
    # A cell that is half water and else unlabelled is a cell of water.
    assert unlabelled.counts[0] == pytest.approx([0, 3 * 16 - 0.25, 0.25], abs=0.01)
    assert not soft.catalog_of(tmp_path, vector={**vector, "fractions": False}, **given).soft


def test_fractions_without_a_labelled_cell_leave_no_tile(tmp_path):
    soft.make(tmp_path, 1)
    write(
        tmp_path / "f/s0.tif",
        np.full((3, 32, 32), 255, np.uint8),
        nodata=255,
        names=("land", "water", "slide"),
    )
    with pytest.raises(SceneError, match=r"no tile is left of 1 scenes .*no labelled pixel"):
        soft.catalog_of(tmp_path, masks="f/*.tif", rescale=None)


def test_hidden_and_shared_labels_do_not_touch_a_catalog_of_masks(tmp_path):
    labels = soft.make(tmp_path, 1)[0]
    write(tmp_path / "hard/s0.tif", labels[::5, ::5])
    catalog = soft.catalog_of(tmp_path, masks="hard/*.tif")
    assert not catalog.soft
    reader = TileReader(replace(catalog, hidden={0: (1,)}), np.arange(len(catalog)))
    assert reader.shares(0) is None
    assert not (reader.labels(0) == 1).any()
