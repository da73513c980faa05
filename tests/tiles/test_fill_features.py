"""Features in a store against the features of whole scenes, and what a change makes anew."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from tests.batches import ground
from tests.batches.test_features import FEATURES

from raremap.errors import OutputError, RaremapWarning
from raremap.scene.features.options import Canny, Gaussian, Median, Slope, Sobel
from raremap.scene.features.reader import featured
from raremap.scene.window import Window
from raremap.tiles import contents
from raremap.tiles import fill as filling
from raremap.tiles.contents import FeatureOf
from raremap.tiles.fill import fill, fill_feature, remove
from raremap.tiles.identity import feature_folder

SIZES = ((300, 530), (40, 33))
KEPT = (*FEATURES[:3], Gaussian(of="other", size=5), Slope(dem="other", metres=1e-3))


@pytest.fixture
def catalog(tmp_path):
    return ground.make(tmp_path, sizes=SIZES)


@pytest.fixture
def read(monkeypatch):
    """How many parts of each feature, and of the scenes ("cache"), are read."""
    found = Counter()
    before = filling._Filling.read
    monkeypatch.setattr(
        filling._Filling,
        "read",
        lambda self, part: found.update([self.content.title]) or before(self, part),
    )
    return found


def scenes(catalog):
    return {name: [record.grid.window] for name, record in catalog.scenes.items()}


def kept(catalog, folder, features=KEPT, windows=None):
    """Stores of features of all scenes."""
    windows = windows or scenes(catalog)
    pixels = fill(catalog, windows, folder, quiet=True)
    return {f: fill_feature(FeatureOf(catalog, f, pixels), windows, folder, quiet=True) for f in features}


def agrees(stores, catalog):
    """Whether windows of stores are cut from the channels of whole scenes."""
    rng = np.random.default_rng(0)
    for feature, store in stores.items():
        for name, record in catalog.scenes.items():
            grid = record.grid
            with featured(record.open_image(), [feature]) as image:
                whole = image.read(grid.window)[0][2:]
            for _ in range(6):
                row, col = int(rng.integers(grid.height)), int(rng.integers(grid.width))
                size = rng.integers(1, [grid.height - row + 1, grid.width - col + 1]).tolist()
                window = Window(row, col, *size)
                (found,) = store.read(name, window, (0,))
                if found.dtype != feature.kept or not np.array_equal(found, whole[:, *window.slices()]):
                    return False
    return True


@pytest.mark.parametrize("side", [1, 4])
def test_features_are_those_of_the_whole_scene(catalog, tmp_path, monkeypatch, side):
    monkeypatch.setattr(contents, "_SIDE", side)
    stores = kept(catalog, tmp_path / "cache")
    assert agrees(stores, catalog)
    edges = next(f for f in KEPT if isinstance(f, Canny))
    assert stores[edges].read("s0", Window(0, 0, 300, 530), (0,))[0].mean() > 0.01, "the edges are some"
    pixels = sum(h * w for h, w in SIZES)
    held = stores[edges].path.stat().st_size
    assert pixels <= held < pixels + 7 * 64, "a byte each"


def test_a_block_is_whole_where_the_pixels_around_it_are_not_held(catalog, tmp_path):
    """A tile's own blocks: those beside are read from the file."""
    windows = {"s0": [Window(0, 0, 20, 20)]}
    stores = kept(catalog, tmp_path / "cache", windows=windows)
    more = kept(catalog, tmp_path / "cache")
    for feature, store in stores.items():
        window = Window(0, 0, 256, 256)
        assert store.holds("s0", window)
        assert not store.holds("s0", Window(0, 200, 20, 57))
        assert not store.holds("s1", Window(0, 0, 1, 1))
        assert more[feature].path == store.path
        a, b = (s.read("s0", window, (0,))[0] for s in (store, more[feature]))
        np.testing.assert_array_equal(a, b)
    assert agrees(more, catalog)


def test_other_numbers_make_that_feature_anew_and_what_was_stays(catalog, tmp_path, read):
    old = kept(catalog, tmp_path / "cache")
    bytes_before = {f: store.path.read_bytes() for f, store in old.items()}
    read.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = kept(catalog, tmp_path / "cache", (*KEPT[:2], KEPT[2].model_copy(update={"high": 9e4})))
    assert set(read) == {"cache of canny"}
    assert agrees(new, catalog)
    assert {f: store.path.read_bytes() for f, store in old.items()} == bytes_before
    read.clear()
    again = kept(catalog, tmp_path / "cache")
    assert not read
    assert [s.path for s in again.values()] == [s.path for s in old.values()]


def test_another_name_for_a_channel_is_the_same_feature(catalog, tmp_path, read):
    kept(catalog, tmp_path / "cache", [Median(of="other")])
    read.clear()
    kept(catalog, tmp_path / "cache", [Median(of="other", name="soft")])
    assert not read


def other_pixels(folder, catalog):
    with rasterio.open(folder / "img/s1.tif", "r+") as file:
        file.write(file.read() + 1)
    return catalog, "the files of scene s1"


def other_nodata(folder, catalog):
    scenes = {name: replace(scene, nodata=7.0) for name, scene in catalog.scenes.items()}
    return replace(catalog, scenes=scenes), "the value of no data of scene s"


def other_ground(folder, catalog):
    record = catalog.scenes["s0"]
    grid = replace(record.grid, transform=record.grid.transform @ Affine.scale(2))
    scenes = {**catalog.scenes, "s0": replace(record, grid=grid)}
    return replace(catalog, scenes=scenes), "the place on the ground of scene s0"


@pytest.mark.parametrize("change", [other_pixels, other_nodata, other_ground])
def test_a_feature_of_something_else_is_made_anew_and_one_line_says_why(catalog, tmp_path, change):
    features = [Slope(dem="other", metres=1e-3)]
    old = kept(catalog, tmp_path / "cache", features)
    changed, why = change(tmp_path, catalog)
    with pytest.warns(RaremapWarning, match="is made anew") as told:
        new = kept(changed, tmp_path / "cache", features)
    lines = [str(one.message) for one in told]
    assert [line for line in lines if "features/slope-" in line and why in line], lines
    assert len(lines) == (1 if change is other_ground else 2), "one for the tiles, one for the slope"
    a, b = (next(iter(stores.values())) for stores in (old, new))
    assert a.path != b.path
    name, window = "s1" if change is other_pixels else "s0", Window(0, 0, 40, 33)
    if change is not other_ground:
        assert agrees(new, changed)
    if change is not other_pixels:  # slopes of numbers that are all one higher are the same
        assert not np.array_equal(a.read(name, window, (0,))[0], b.read(name, window, (0,))[0])


def test_other_labels_leave_the_features(catalog, tmp_path, read):
    kept(catalog, tmp_path / "cache")
    read.clear()
    stamp = (tmp_path / "mask/s0.tif").stat().st_mtime_ns + 1
    os.utime(tmp_path / "mask/s0.tif", ns=(stamp, stamp))
    with pytest.warns(RaremapWarning, match="the files of scene s0") as told:
        stores = kept(catalog, tmp_path / "cache")
    assert len(told) == 1
    assert set(read) == {"cache"}
    assert agrees(stores, catalog)


def test_a_store_without_features_gets_them_and_with_them_is_read_without(catalog, tmp_path, read):
    pixels = fill(catalog, scenes(catalog), tmp_path / "cache", quiet=True)
    read.clear()
    stores = kept(catalog, tmp_path / "cache", [Sobel(of="other")])
    assert set(read) == {"cache of sobel"}
    read.clear()
    assert fill(catalog, scenes(catalog), tmp_path / "cache", quiet=True).path == pixels.path
    assert not read
    assert agrees(stores, catalog)


def test_stopped_at_any_part_it_goes_on_and_makes_none_twice(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "_SIDE", 1)
    monkeypatch.setattr(filling, "cores", lambda: 1)
    pixels = fill(catalog, scenes(catalog), tmp_path / "cache", quiet=True)
    before, seen = FeatureOf.read, []

    def stopping(self, name, form, window):
        if len(seen) % 2 == 1:
            seen.append(None)
            raise KeyboardInterrupt
        seen.append((name, window))
        return before(self, name, form, window)

    monkeypatch.setattr(FeatureOf, "read", stopping)
    content, parts = FeatureOf(catalog, Median(of="other"), pixels), 6 + 1  # blocks of both scenes
    for _ in range(parts):
        try:
            store = fill_feature(content, scenes(catalog), tmp_path / "cache", quiet=True)
            break
        except KeyboardInterrupt:
            pass
    done = [part for part in seen if part is not None]
    assert len(done) == len(set(done)) == parts
    assert agrees({content.feature: store}, catalog)


def test_a_disk_that_fills_up_leaves_nothing_of_that_feature_where_nothing_is_to_stay(
    catalog, tmp_path, monkeypatch
):
    folder, feature = tmp_path / "cache", Median(of="other")
    pixels = fill(catalog, scenes(catalog), folder, quiet=True)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(filling.os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\)"):
        fill_feature(FeatureOf(catalog, feature, pixels), scenes(catalog), folder, quiet=True, keep=False)
    assert [path.name for path in feature_folder(folder, feature).iterdir()] == [".lock"]
    assert pixels.path.exists()


def test_damaged_it_is_made_anew_alone(catalog, tmp_path, read):
    kept(catalog, tmp_path / "cache")
    (feature_folder(tmp_path / "cache", KEPT[0]) / "cache.json").write_text("{")
    remove(feature_folder(tmp_path / "cache", KEPT[1]))
    read.clear()
    with pytest.warns(RaremapWarning, match="cache.json is damaged") as told:
        stores = kept(catalog, tmp_path / "cache")
    assert len(told) == 1
    assert set(read) == {"cache of sobel", "cache of median"}
    assert agrees(stores, catalog)
