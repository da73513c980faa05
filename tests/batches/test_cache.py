"""Trainings that read from a cache, that do not, and when there is one."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests import project
from tests.batches import ground
from tests.batches.test_features import FEATURES

from raremap.balance.plan import SamplingPlan
from raremap.balance.sampler import Stream
from raremap.batches import cache
from raremap.batches.augment import lasting
from raremap.batches.cache import keep_features, use_cache
from raremap.batches.dataset import TrainSamples
from raremap.batches.loader import TrainBatches
from raremap.batches.options import AugmentOptions
from raremap.errors import OutputError, RaremapWarning
from raremap.learn import fit
from raremap.scene.features.channels import Channels
from raremap.scene.features.options import Canny, Curvature, Gaussian, LocalMinMax, Median, Slope, Sobel
from raremap.scene.normalize import Normalization
from raremap.tiles import fill as filling
from raremap.tiles.reader import TileReader
from raremap.tiles.store import Store

Usage = namedtuple("Usage", "total used free")


def reader_of(catalog, memory=0, **more):
    return TileReader(catalog, np.arange(len(catalog)), memory, **more)


def cached(catalog, folder, **more):
    reader = reader_of(catalog, **more)
    use_cache(reader, catalog, True, folder, quiet=True)
    return reader


def keeping(catalog, folder, features, lasting=None, plain=(), **more):
    """A reader of a cache that keeps features, by default all of them of all tiles."""
    reader = cached(catalog, folder, features=features, **more)
    lasting = range(len(features)) if lasting is None else lasting
    keep_features(reader, catalog, True, folder, lasting, np.array(plain, int), quiet=True)
    return reader


def has_store(reader):
    return isinstance(reader._store, Store)


@pytest.fixture
def thinned(tmp_path):
    """A catalog with label weights, hidden classes, and a tile of points."""
    catalog = ground.make(tmp_path, sizes=((300, 77), (40, 33)), weights="weights/*.tif")
    return replace(catalog, hidden={1: (2,)}, points={2: np.array([0, 5, 777])})


@pytest.mark.parametrize("features", [(), FEATURES], ids=["bands", "features"])
def test_tiles_are_those_of_the_files(thinned, tmp_path, features):
    plain, reader = reader_of(thinned, features=features), cached(thinned, tmp_path / "c", features=features)
    kept = reader_of(thinned, 1 << 30, features=features)
    assert has_store(reader)
    assert not reader.in_memory
    assert kept.in_memory
    for row, window in enumerate(thinned.windows):
        over = tuple(a.copy() for a in plain.whole(row))
        over[0][:, 3:9, 2:20], over[2][3:9, 2:20] = 7, 1
        for one in (reader, kept):
            for a, b in zip(one.whole(row), plain.whole(row), strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
            for a, b in zip(one.sample(row), plain.sample(row), strict=True):
                np.testing.assert_array_equal(a, b)
            for code in (0, 3):
                a, b = (r.cut(row, window, over).image(code) for r in (one, plain))
                np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(one.labels(row), plain.labels(row))
            np.testing.assert_array_equal(one.weight(row), plain.weight(row))


def batches(reader, catalog, augmentation, workers=0):
    """The bytes of some batches."""
    stream = Stream(SamplingPlan.uniform(catalog, np.ones(len(catalog), bool)), 0)
    channels = Normalization.identity(len(reader.channels.names))
    samples = TrainSamples(reader, catalog, stream, channels, 24, augmentation, 0)
    return [
        [b[key].numpy().tobytes() for key in ("image", "mask", "worth")]
        for b in TrainBatches(samples, 0, 10, 4, workers, False)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_the_bytes_of_those_without(thinned, tmp_path, workers):
    reader = cached(thinned, tmp_path / "cache", features=FEATURES[:2])
    reader.whole(0)  # the parent reads as well
    expected = batches(reader_of(thinned, features=FEATURES[:2]), thinned, AugmentOptions())
    assert batches(reader, thinned, AugmentOptions(), workers) == expected


# Of the band that jitter leaves and of the one that it moves; one that is made as fast as it is read.
MIXED = (
    *FEATURES,
    Gaussian(of="other", size=5),
    Slope(dem="other", metres=1e-3),
    Curvature(dem="other", metres=1e-3, form="plan"),
    Median(of="number", size=3, name="moved"),
)
PLAIN = AugmentOptions(dihedral=False, gain=0, offset=0)
WAYS = {
    "plain": PLAIN,
    "turned": AugmentOptions(gain=0, offset=0),
    "jitter": AugmentOptions(),
    "jitter of still bands": AugmentOptions(dihedral=False, still=("number", "other")),
    "scale": AugmentOptions(scale=(0.75, 1.33)),
    "scale 1": AugmentOptions(dihedral=False, gain=0, offset=0, scale=(1, 1)),
    "cutmix": AugmentOptions(dihedral=False, cutmix=0.7),
}


def pasting(monkeypatch):
    """Every second sample is of a composite."""
    tile = TrainSamples._tile

    def pasted(self, plan, entry):
        row = tile(self, plan, entry)[0]
        if entry % 2:
            return row, None, None
        image, valid, mask = (a.copy() for a in self._reader.whole(row))
        image[:, 5:11, 2:20], mask[5:11, 2:20] = 777, 1
        return row, (image, valid, mask), None

    monkeypatch.setattr(TrainSamples, "_tile", pasted)


@pytest.mark.parametrize("way", WAYS)
def test_with_features_that_are_kept_not_a_bit_of_a_batch_is_another(thinned, tmp_path, monkeypatch, way):
    """Here all are kept of all tiles, also those that the samples never show as they are."""
    reader = keeping(thinned, tmp_path / "cache", MIXED, least_scale=0.75)
    bare = reader_of(thinned, features=MIXED, least_scale=0.75)
    assert batches(reader, thinned, WAYS[way]) == batches(bare, thinned, WAYS[way])
    pasting(monkeypatch)
    assert batches(reader, thinned, WAYS[way]) == batches(bare, thinned, WAYS[way])


def test_workers_read_features_that_are_kept(thinned, tmp_path):
    reader, way = keeping(thinned, tmp_path / "cache", MIXED), WAYS["turned"]
    assert batches(reader, thinned, way, 2) == batches(reader_of(thinned, features=MIXED), thinned, way)


def made(monkeypatch, kinds=(Sobel, Median, Canny, LocalMinMax, Gaussian, Slope, Curvature)):
    """The kinds of features that are made from now on."""
    found = set()

    def counting(kind, call):
        return lambda self, pixels: found.add(self.called) or call(self, pixels)

    for kind in kinds:
        monkeypatch.setattr(kind, "__call__", counting(kind, kind.__call__))
    return found


COSTLY = {"sobel", "median", "canny", "gaussian", "slope", "curvature", "moved"}


@pytest.mark.parametrize(
    ("way", "anew"),
    [
        ("plain", {"local"}),
        ("jitter of still bands", {"local"}),
        ("jitter", COSTLY - {"slope"} | {"local"}),
        ("scale", COSTLY | {"local"}),
        ("cutmix", {"local", "moved"}),
    ],
)
def test_what_is_kept_is_made_only_where_it_is_another(thinned, tmp_path, monkeypatch, way, anew):
    reader = keeping(thinned, tmp_path / "cache", MIXED, least_scale=0.75)
    found = made(monkeypatch)
    batches(reader, thinned, WAYS[way])
    assert found == anew


def test_what_samples_never_show_is_kept_of_the_plain_rows_alone(tmp_path, monkeypatch):
    catalog = ground.make(tmp_path, sizes=((300, 400),))
    row = int(np.argmax([w.row_off + w.col_off for w in catalog.windows]))  # of the last block
    reader = keeping(catalog, tmp_path / "cache", MIXED, lasting=(1,), plain=[row])
    found = made(monkeypatch)
    reader.sample(row)
    assert found == {"local"}
    reader.sample(0)
    assert found == COSTLY - {"median"} | {"local"}


def test_lasting_features_are_those_whose_bands_jitter_leaves():
    channels = Channels(("number", "other"), MIXED)
    every = tuple(range(len(MIXED)))
    assert lasting(PLAIN, channels) == lasting(WAYS["jitter of still bands"], channels) == every
    assert lasting(AugmentOptions(), channels) == every[:-1], "terrain is made of the other band"
    assert lasting(WAYS["scale"], channels) == ()
    assert lasting(AugmentOptions(offset=0), Channels(("number", "other"), MIXED[:5])) == ()


def test_without_a_cache_no_feature_is_kept(tmp_path):
    catalog = ground.make(tmp_path)
    reader = reader_of(catalog, features=MIXED)
    keep_features(reader, catalog, True, tmp_path / "cache", range(9), np.arange(1), quiet=True)
    assert not (tmp_path / "cache").exists()


def test_auto_counts_the_features_and_goes_on_without_them(tmp_path, monkeypatch):
    catalog = ground.make(tmp_path)
    folder, features = tmp_path / "cache", (Median(of="other"), Sobel(of="other"), LocalMinMax(of=("other",)))
    reader = cached(catalog, folder, features=features)
    pixels = sum(s.grid.height * s.grid.width for s in catalog.scenes.values())
    wanted = {f: reader.tiles() for f in features[:2]}
    assert filling.size_of(catalog, {}, wanted) == pixels * 3 * 4, "three channels of four bytes"
    size = filling.stored_bytes(folder) + pixels * 3 * 4
    free = 2 * size - filling.stored_bytes(folder) - 1
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: Usage(1 << 40, 0, free))
    found = made(monkeypatch)
    with pytest.warns(
        RaremapWarning, match="features anew for each sample: a cache would take .* more than"
    ) as told:
        keep_features(reader, catalog, "auto", folder, range(3), np.arange(1), quiet=True)
    assert len(told) == 1
    assert not found
    assert np.array_equal(reader.sample(0)[0], reader_of(catalog, features=features).sample(0)[0])
    free += 1
    keep_features(reader, catalog, "auto", folder, range(3), np.arange(1), quiet=True)
    found.clear()
    reader.sample(0)
    assert found == {"local"}


def test_where_features_cannot_be_kept_auto_goes_on_without_and_true_does_not(tmp_path):
    catalog, features = ground.make(tmp_path), (Median(of="other"),)
    reader = cached(catalog, tmp_path / "cache", features=features)
    (tmp_path / "cache/features").write_text("")
    with pytest.warns(RaremapWarning, match="features anew for each sample: .*cannot be written") as told:
        keep_features(reader, catalog, "auto", tmp_path / "cache", [0], np.arange(1), quiet=True)
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert np.array_equal(reader.sample(0)[0], reader_of(catalog, features=features).sample(0)[0])
    with pytest.raises(OutputError, match="cannot be written"):
        keep_features(reader, catalog, True, tmp_path / "cache", [0], np.arange(1), quiet=True)


def test_a_kept_tile_of_before_does_not_stay(tmp_path):
    """Where a reader held tiles in memory, they are given back."""
    catalog = ground.make(tmp_path)
    reader = reader_of(catalog, 1 << 30)
    reader.whole(0)
    use_cache(reader, catalog, True, tmp_path / "cache", quiet=True)
    assert not reader._kept


@pytest.mark.parametrize(
    ("use", "memory", "used"),
    [
        (False, 0, False),
        (False, 1 << 30, False),
        ("auto", 1 << 30, False),
        ("auto", 0, True),
        (True, 0, True),
        (True, 1 << 30, True),
    ],
)
def test_when_there_is_a_cache(tmp_path, use, memory, used):
    catalog = ground.make(tmp_path)
    reader = reader_of(catalog, memory)
    use_cache(reader, catalog, use, tmp_path / "a/b/cache", quiet=True)
    assert has_store(reader) == used
    assert (tmp_path / "a").exists() == used


def test_auto_leaves_half_of_the_free_disk_but_counts_what_is_there_already(tmp_path, monkeypatch):
    catalog = ground.make(tmp_path)
    size = filling.size_of(catalog, reader_of(catalog).windows)
    folder, free = tmp_path / "cache", 2 * size - 1
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: Usage(1 << 40, 0, free))
    reader = reader_of(catalog)
    with pytest.warns(
        RaremapWarning, match="from their files each time: a cache would take .* MB, more than half"
    ):
        use_cache(reader, catalog, "auto", folder, quiet=True)
    assert not has_store(reader)
    assert not folder.exists()
    use_cache(reader, catalog, True, folder, quiet=True)
    again, free = reader_of(catalog), size
    use_cache(again, catalog, "auto", folder, quiet=True)
    assert has_store(again)


def test_where_it_cannot_be_made_auto_goes_on_without_and_true_does_not(tmp_path, monkeypatch):
    catalog = ground.make(tmp_path)
    (tmp_path / "file").write_text("")
    folder, reader = tmp_path / "file/cache", reader_of(catalog)
    with pytest.warns(
        RaremapWarning, match="from their files each time: .*file/cache cannot be written"
    ) as told:
        use_cache(reader, catalog, "auto", folder, quiet=True)
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert np.array_equal(reader.whole(0)[0], reader_of(catalog).whole(0)[0])
    with pytest.raises(OutputError, match="file/cache cannot be written"):
        use_cache(reader, catalog, True, folder, quiet=True)


def test_auto_leaves_nothing_on_a_disk_that_filled_up(tmp_path, monkeypatch):
    catalog = ground.make(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(filling.os, "fsync", full)
    with pytest.warns(RaremapWarning, match=r"cannot be written \(No space left on device\)"):
        use_cache(reader_of(catalog), catalog, "auto", tmp_path / "cache", quiet=True)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


@pytest.mark.slow
@pytest.mark.parametrize("features", ["", "grey, canny, median"], ids=["bands", "features"])
def test_trainings_with_a_cache_and_without_end_with_the_same_weights(tmp_path, monkeypatch, features):
    project.make(tmp_path / "data")
    stores = []
    use = TileReader.use
    monkeypatch.setattr(TileReader, "use", lambda self, store: stores.append(store) or use(self, store))
    monkeypatch.setattr(fit, "TileReader", partial(TileReader, memory=0))  # nothing fits
    steps = ("train.precision=float32", "train.steps=4", "balance.kind=diao", "balance.copy_paste=true")
    steps += (f"scenes.features=[{features}]", "augment.gain=0", "augment.offset=0")
    ends = []
    for name, *more in (
        ("files", "train.cache=false"),
        ("auto", "train.workers=0"),
        ("shared", "train.workers=2", "train.cache=true", f"train.cache_folder={tmp_path / 'auto/cache'}"),
    ):
        training = project.train(tmp_path / "data", tmp_path / name, *steps, *more)
        ends.append((training.bundle.module.state_dict(), training.monitor_macro_f1, training.bundle.prior))
    assert len(stores) == 2
    assert stores[0].path == stores[1].path == next((tmp_path / "auto/cache").glob("*.pixels"))
    kept = (tmp_path / "auto/cache/features").glob("*")
    assert sorted(path.name.split("-")[0] for path in kept) == (["canny", "median"] if features else [])
    for weights, *figures in ends[1:]:
        assert figures == list(ends[0][1:])
        assert all(torch.equal(a, b) for a, b in zip(weights.values(), ends[0][0].values(), strict=True))
