"""Samples against the files that they are of, as rasterio reads them."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window as RioWindow
from tests.batches import ground
from tests.rasters import write

from raremap.batches.options import AugmentOptions
from raremap.labels import IGNORE
from raremap.scene.window import Window
from raremap.tiles.reader import TileReader

BUDGETS = pytest.mark.parametrize("memory", [None, 0], ids=["in memory", "by window"])


def by_rasterio(folder, scene, window):
    """Pixels, validity and class index of a window, without raremap."""
    rio = RioWindow(window.col_off, window.row_off, window.width, window.height)
    with rasterio.open(folder / f"img/{scene}.tif") as file:
        pixels = file.read(window=rio)
    with rasterio.open(folder / f"mask/{scene}.tif") as file:
        source = file.read(1, window=rio)
    valid = (pixels != ground.NODATA).all(0)
    index = np.full(source.shape, IGNORE)
    for i, value in enumerate((3, 4, 9)):
        index[(source == value) & valid] = i
    return pixels, valid, index


def reader_of(catalog, memory):
    rows = np.arange(len(catalog))
    return TileReader(catalog, rows) if memory is None else TileReader(catalog, rows, memory)


@BUDGETS
@pytest.mark.parametrize("overlap", [0.0, 0.4])
def test_tiles_are_the_pixels_of_the_files(tmp_path, memory, overlap):
    catalog = ground.make(tmp_path, overlap=overlap)
    reader = reader_of(catalog, memory)
    for row, window in enumerate(catalog.windows):
        for found, expected in zip(
            reader.whole(row), by_rasterio(tmp_path, catalog.scene_names[row], window), strict=True
        ):
            assert np.array_equal(found, expected)


@BUDGETS
def test_labels_alone_are_those_of_the_whole_tile(tmp_path, memory):
    """Some tiles lack pixels, so that their labels need the imagery; some classes are hidden."""
    catalog = replace(ground.make(tmp_path, sizes=[(70, 77), (40, 33)]), hidden={1: (2,)})
    valid = catalog.table["valid"].to_numpy()
    assert 0 < (valid < 1).sum() < len(valid)
    for row, window in enumerate(catalog.windows):
        expected = by_rasterio(tmp_path, catalog.scene_names[row], window)[2]
        expected[(expected == 2) & (row == 1)] = IGNORE
        assert np.array_equal(reader_of(catalog, memory).labels(row), expected)


@BUDGETS
def test_crops_are_the_pixels_of_the_files(tmp_path, memory):
    catalog = ground.make(tmp_path)
    reader, rng = reader_of(catalog, memory), np.random.default_rng(0)
    for _ in range(40):
        row = int(rng.integers(len(catalog)))
        tile = catalog.windows[row]
        height, width = (int(rng.integers(1, n + 1)) for n in (tile.height, tile.width))
        window = Window(
            tile.row_off + int(rng.integers(tile.height - height + 1)),
            tile.col_off + int(rng.integers(tile.width - width + 1)),
            height,
            width,
        )
        for found, expected in zip(
            reader.crop(row, window), by_rasterio(tmp_path, catalog.scene_names[row], window), strict=True
        ):
            assert np.array_equal(found, expected)


def test_tiles_are_kept_where_all_of_them_fit_and_none_is_where_a_byte_is_missing(tmp_path):
    catalog = ground.make(tmp_path)
    rows = np.arange(len(catalog))
    needed = sum(a.nbytes for row in rows for a in TileReader(catalog, rows, 0).whole(int(row)))
    for memory, kept in ((needed, True), (needed - 1, False)):
        reader = TileReader(catalog, rows, memory)
        assert (reader.whole(0)[0] is reader.whole(0)[0]) == kept


def test_the_files_that_are_open_at_once_are_few(tmp_path, monkeypatch):
    monkeypatch.setattr("raremap.tiles.reader._OPEN_SCENES", 2)
    catalog = ground.make(tmp_path, sizes=[(40, 40)] * 6)
    reader, files = reader_of(catalog, 0), set()
    for row in [*range(len(catalog)), *range(len(catalog))]:
        window = catalog.windows[row]
        assert np.array_equal(
            reader.whole(row)[0], by_rasterio(tmp_path, catalog.scene_names[row], window)[0]
        )
        here = {os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")}
        files |= {f for f in here if f.startswith(str(tmp_path))}
        assert sum(f.startswith(str(tmp_path)) for f in here) <= 4, "two images and two masks"
    assert len(files) == 12, "every file was seen open"


def first_number(reader, queue):
    queue.put(int(reader.whole(0)[0][0, 0, 0]))


def test_a_forked_worker_opens_files_of_its_own(tmp_path):
    catalog = ground.make(tmp_path, sizes=[(32, 32)])
    reader = reader_of(catalog, 0)
    assert reader.whole(0)[0][0, 0, 0] == 1
    # Another file takes the name: who reads through the handle of before sees the old one, who opens sees this.
    image = np.full((2, 32, 32), 777, np.uint16)
    other = write(tmp_path / "other.tif", image, nodata=ground.NODATA, names=("number", "other"))
    os.replace(other, tmp_path / "img/s0.tif")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=first_number, args=(reader, queue))
    worker.start()
    worker.join(30)
    assert worker.exitcode == 0
    assert queue.get() == 777
    assert reader.whole(0)[0][0, 0, 0] == 1, "the parent's files stay open"


def test_a_reader_that_has_read_can_be_sent_to_another_process(tmp_path):
    import pickle

    catalog = ground.make(tmp_path)
    for memory in (None, 0):
        reader = reader_of(catalog, memory)
        before = reader.whole(1)
        after = pickle.loads(pickle.dumps(reader)).whole(1)
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@BUDGETS
@pytest.mark.parametrize("crop", [17, 32, 48], ids=["smaller", "equal", "larger"])
def test_every_pixel_of_a_sample_has_the_class_that_the_file_gives_it(tmp_path, crop, memory):
    catalog = ground.make(tmp_path)
    truth = ground.classes_by_number(tmp_path)
    found = ground.samples(catalog, crop, ground.TURNED, memory)
    for draw in range(24):
        image, mask = found[draw]["image"], found[draw]["mask"]
        assert image.shape == (2, crop, crop)
        assert image.dtype == np.float32
        assert mask.shape == (crop, crop)
        assert mask.dtype == np.int64
        assert np.array_equal(mask, truth[image[0].astype(int)])
        assert np.array_equal(image[0] == 0, image[1] == 0)


def test_image_and_mask_are_turned_by_the_same_of_all_eight_elements(tmp_path):
    catalog = ground.make(tmp_path)
    still, turned = (ground.samples(catalog, 19, a) for a in (ground.STILL, ground.TURNED))
    seen = set()
    for draw in range(60):
        before, after = still[draw], turned[draw]
        eight = {
            (flip, k): lambda a, flip=flip, k=k: np.rot90(np.flip(a, -1) if flip else a, k, (-2, -1))
            for flip in (False, True)
            for k in range(4)
        }
        fits = [e for e, move in eight.items() if np.array_equal(move(before["image"]), after["image"])]
        assert len(fits) == 1
        assert np.array_equal(eight[fits[0]](before["mask"]), after["mask"])
        seen.add(fits[0])
    assert len(seen) == 8


def test_invalid_and_added_pixels_are_zero_and_ignored_after_every_change(tmp_path):
    catalog = ground.make(tmp_path)
    changed = ground.samples(catalog, 48, AugmentOptions(gain=0.3, offset=0.3))
    told = ground.samples(catalog, 48, ground.TURNED)
    for draw in range(24):
        gone = told[draw]["image"][0] == 0  # every number of a pixel is above 0
        assert gone.sum() >= 48 * 48 - 32 * 32
        assert (changed[draw]["image"][:, gone] == 0).all()
        assert (changed[draw]["image"][:, ~gone] != 0).all()
        assert (changed[draw]["mask"][gone] == IGNORE).all()
        assert np.array_equal(changed[draw]["mask"], told[draw]["mask"])


def test_unlabelled_pixels_keep_their_imagery_and_stay_ignored(tmp_path):
    catalog = ground.make(tmp_path)
    sparse = ground.samples(catalog, 32, AugmentOptions(gain=0.3, offset=0.3))
    told = ground.samples(catalog, 32, ground.TURNED)
    with rasterio.open(tmp_path / "img/s0.tif") as image, rasterio.open(tmp_path / "mask/s0.tif") as mask:
        unlabelled = set(image.read(1)[mask.read(1) == 0].tolist()) - {ground.NODATA}
    met = 0
    for draw in range(24):
        here = np.isin(told[draw]["image"][0].astype(int), list(unlabelled))
        met += here.sum()
        assert (sparse[draw]["mask"][here] == IGNORE).all()
        assert (sparse[draw]["image"][0][here] != 0).all()
    assert met > 0


@pytest.mark.parametrize("sizes", [[(21, 90)], [(90, 21)], [(17, 19)]], ids=["flat", "tall", "small"])
def test_a_tile_smaller_than_the_crop_is_there_once_and_whole(tmp_path, sizes):
    catalog = ground.make(tmp_path, sizes=sizes)
    found = ground.samples(catalog, 33, ground.STILL)
    truth = ground.classes_by_number(tmp_path)
    tiles = []
    for row, window in enumerate(catalog.windows):
        pixels, valid, _ = by_rasterio(tmp_path, catalog.scene_names[row], window)
        tiles.append(sorted(pixels[0][valid].tolist()))
    seen = set()
    for draw in range(len(catalog)):
        image, mask = found[draw]["image"][0].astype(int), found[draw]["mask"]
        seen.add(tiles.index(sorted(image[image > 0].tolist())))
        assert np.array_equal(mask, truth[image])
    assert len(seen) == len(catalog), "a round of draws has every tile once"


def test_crops_reach_every_corner_of_a_tile(tmp_path):
    catalog = ground.make(tmp_path, sizes=[(35, 35)], size=35)
    found = ground.samples(catalog, 16, ground.STILL)
    seen = np.unique([found[draw]["image"][0] for draw in range(900)]).astype(int)
    for number in (1, 35, 35 * 34 + 1, 35 * 35):
        assert number in seen


def test_a_crop_without_a_label_is_drawn_again(tmp_path):
    catalog = ground.make(tmp_path, sizes=[(64, 64)], size=64)
    with rasterio.open(tmp_path / "mask/s0.tif", "r+") as file:
        mask = np.zeros((64, 64), np.uint8)
        mask[30:34, 30:34] = 3
        file.write(mask, 1)
    found = ground.samples(catalog, 16, ground.STILL)
    labelled = np.mean([(found[draw]["mask"] != IGNORE).any() for draw in range(300)])
    # A start within 15..33 of 0..48 on both axes meets the square: p = (19/49)^2; five tries: 1 - (1 - p)^5.
    expected = 1 - (1 - (19 / 49) ** 2) ** 5
    assert abs(labelled - expected) < 4 * np.sqrt(expected * (1 - expected) / 300)


def test_the_worth_of_a_label_goes_with_its_pixel(tmp_path):
    catalog = ground.make(tmp_path, weights="weights/*.tif")
    found = ground.samples(catalog, 20, ground.TURNED)
    turned = set()
    for draw in range(30):
        sample = found[draw]
        number, here = sample["image"][0].astype(int), sample["mask"] != IGNORE
        assert (sample["worth"][here] == 1 + number[here] % 250).all()
        turned.add(bool(here.any()) and number[here][0] > number[here][-1])
    assert turned == {False, True}
    assert "worth" not in ground.samples(ground.make(tmp_path), 20)[0]
