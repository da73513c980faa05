"""Samples of labels that are shares of classes."""

from __future__ import annotations

import numpy as np
import pytest
from tests import soft
from tests.batches import ground as hard
from tests.batches.ground import STILL, TURNED, samples

from raremap.labels import IGNORE
from raremap.scene.turn import dihedral


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soft")
    labels = soft.make(folder, 1, size=24)
    return labels[0], soft.catalog_of(folder, tile=24)


def made(catalog, crop, augmentation):
    from raremap.balance.plan import SamplingPlan
    from raremap.balance.sampler import Stream
    from raremap.batches.dataset import TrainSamples
    from raremap.scene.normalize import Normalization
    from raremap.tiles.reader import TileReader

    rows = np.arange(len(catalog))
    stream = Stream(SamplingPlan.uniform(catalog, np.ones(len(catalog), bool)), 0)
    identity = Normalization.identity(3)
    return TrainSamples(TileReader(catalog, rows), catalog, stream, identity, crop, augmentation, 0)


def test_fractions_are_the_fine_labels_of_the_crop_turned_as_the_image_is(ground):
    labels, catalog = ground
    expected = soft.cells(labels)
    with catalog.open_image("s0") as image:
        pixels = image.read(image.grid.window)[0].astype(np.float32)
    codes = set()
    for draw in range(40):
        sample = made(catalog, 24, TURNED)[draw]
        code = next(c for c in range(8) if np.array_equal(dihedral(pixels, c), sample["image"]))
        codes.add(code)
        assert sample["fractions"].dtype == np.float32
        assert np.allclose(sample["fractions"], dihedral(expected, code), atol=1e-6)
    assert len(codes) > 5


def test_beyond_a_small_tile_and_where_nothing_is_labelled_there_is_no_share(ground):
    _, catalog = ground
    sample = made(catalog, 32, STILL)[0]
    assert sample["fractions"].shape == (3, 32, 32)
    total = sample["fractions"].sum(0)
    assert np.array_equal(total > 0, sample["mask"] != IGNORE)
    assert np.allclose(total[sample["mask"] != IGNORE], 1)
    assert not sample["fractions"][:, 24:].any()


def test_crops_are_windows_of_both(ground):
    labels, catalog = ground
    expected = soft.cells(labels)
    for draw in range(5):
        found = made(catalog, 9, STILL)[draw]["fractions"]
        at = [
            (r, c)
            for r in range(16)
            for c in range(16)
            if np.allclose(expected[:, r : r + 9, c : c + 9], found, atol=1e-6)
        ]
        assert at


def test_samples_of_masks_have_no_fractions(tmp_path):
    assert "fractions" not in samples(hard.make(tmp_path), 16)[0]


def test_a_cache_holds_shares_and_hidden_classes_leave_them(ground, tmp_path):
    from dataclasses import replace

    from raremap.batches.cache import use_cache
    from raremap.tiles.reader import TileReader

    catalog = replace(ground[1], hidden={0: (2,)})
    rows = np.arange(len(catalog))
    plain, reader = TileReader(catalog, rows, 0), TileReader(catalog, rows, 0)
    use_cache(reader, catalog, True, tmp_path, quiet=True)
    assert not reader.in_memory
    for a, b in zip(plain.whole(0), reader.whole(0), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(plain.shares(0), reader.shares(0))
    assert not reader.shares(0)[2].any()


def test_a_larger_view_has_the_shares_of_the_cells_that_it_shows(ground):
    labels, catalog = ground
    expected = soft.cells(labels)
    # Twice as large and half of the tile: each cell stands for two by two.
    sample = made(catalog, 24, STILL.model_copy(update={"scale": (2.0, 2.0)}))[3]
    small = sample["fractions"][:, ::2, ::2]
    assert np.array_equal(sample["fractions"], small.repeat(2, 1).repeat(2, 2))
    assert any(
        np.allclose(expected[:, r : r + 12, c : c + 12], small, atol=1e-6)
        for r in range(13)
        for c in range(13)
    )


def test_a_rectangle_of_another_sample_brings_its_shares(ground):
    _, catalog = ground
    seen = 0
    for draw in range(12):
        sample = made(catalog, 16, STILL.model_copy(update={"cutmix": 1.0}))[draw]
        there = sample["mask"] != IGNORE
        assert np.allclose(sample["fractions"].sum(0), there)
        largest = sample["fractions"].max(0)
        of_mask = np.take_along_axis(sample["fractions"], np.where(there, sample["mask"], 0)[None], 0)[0]
        assert np.allclose(of_mask[there], largest[there])
        seen += int(there.sum())
    assert seen
