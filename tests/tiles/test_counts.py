"""Counting in strips: the same counts whatever the blocks, sizes and threads; and going on after a stop."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from tests import project
from tests.rasters import write

import raremap.tiles.counts as counting
from raremap.config import Experiment
from raremap.errors import ConfigError, LabelError, OutputError, SceneError
from raremap.jobs import Journal, in_threads
from raremap.labels import LabelScheme
from raremap.scene.raster import open_image
from raremap.scene.sources import ScenesOptions
from raremap.scene.window import Window
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare
from raremap.workflows.prepare import prepare as prepare_experiment

SCHEME = LabelScheme({1: "land", 2: "sea", 5: "slide"}, ignore=[0])
RNG = np.random.default_rng(0)


def labelled(folder: Path, shape=(150, 210), **more) -> tuple[np.ndarray, np.ndarray]:
    """One scene with gaps and its mask; their arrays."""
    image = RNG.integers(0, 4, (2, *shape), dtype=np.uint8)
    mask = RNG.choice(np.array([0, 1, 2, 5], np.uint8), shape)
    write(folder / "img/a.tif", image, nodata=0, **more)
    write(folder / "mask/a.tif", mask, **more)
    return image, mask


def catalog_of(folder: Path, tiles: TileOptions, work: Path | None = None):
    scenes = ScenesOptions(root=str(folder), images="img/*.tif", masks="mask/*.tif")
    return prepare(scenes, SCHEME, tiles, SplitOptions(block_px=40, folds=2), quiet=True, work=work)


@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 32}])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize(
    "tiles",
    [
        TileOptions(size=32),
        TileOptions(size=[16, 48], stride=[16, 11], min_valid=0),
        TileOptions(size=[40, 200, 24], overlap=0.5),
    ],
)
def test_counts_are_those_of_the_arrays(tmp_path, monkeypatch, layout, interleave, tiles):
    monkeypatch.setattr(counting, "_ROWS", 40)
    monkeypatch.setattr(counting, "_BYTES", 40 * 32 * 6)
    image, mask = labelled(tmp_path, interleave=interleave, **layout)
    catalog = catalog_of(tmp_path, tiles)
    valid = (image != 0).any(0)
    assert len(set(catalog.table["tile_id"])) == len(catalog)
    assert {w.width for w in catalog.windows} == set(tiles.sizes)
    seen = np.zeros(mask.shape, bool)
    for row, window in enumerate(catalog.windows):
        part = window.slices()
        seen[part] = True
        assert catalog.counts[row].tolist() == [((mask[part] == v) & valid[part]).sum() for v in (1, 2, 5)]
        assert catalog.table["valid"].iloc[row] == pytest.approx(valid[part].mean())
    assert seen.all()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("nodata", [None, 0, 7, -9999, np.nan])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_validity_alone_is_that_of_reading_everything(tmp_path, dtype, nodata, interleave):
    image = RNG.integers(0, 3, (3, 20, 30)).astype(dtype)
    image[1, 4, 4] = 7
    if dtype == "float32":
        image[2, 5, 5] = np.nan
    path = write(tmp_path / "a.tif", image, interleave=interleave)
    with open_image(path, nodata=nodata) as reader:
        window = Window(2, 3, 15, 20)
        assert (reader.read_valid(window) == reader.read(window)[1]).all()


def test_a_tile_with_nothing_but_sea_is_left_out_by_name(tmp_path):
    mask = np.full((32, 64), 2, np.uint8)
    mask[3, 40] = 1
    write(tmp_path / "img/a.tif", np.ones((1, 32, 64), np.uint8))
    write(tmp_path / "mask/a.tif", mask)
    catalog = catalog_of(tmp_path, TileOptions(size=16, drop_only=["sea"]))
    assert [tuple(w[:2]) for w in catalog.windows] == [(0, 32)]
    assert catalog.dropped == {"nothing but sea": 7}
    with pytest.raises(
        LabelError, match=r"tiles\.drop_only has 'see', which is no class; did you mean 'sea'"
    ):
        catalog_of(tmp_path, TileOptions(size=16, drop_only=["see"]))


def test_a_size_that_no_scene_has_room_for(tmp_path):
    labelled(tmp_path)
    with pytest.raises(
        SceneError, match=r"tiles\.size lists 512, but the largest scene, .*a\.tif, has 210x150 pixels"
    ):
        catalog_of(tmp_path, TileOptions(size=[64, 512]))


@pytest.mark.parametrize(
    ("tiles", "match"),
    [
        ({"size": 64, "stride": 65}, "stride 65 does not fit tiles of 64 pixels"),
        ({"size": [64, 128], "stride": 100}, "stride 100 does not fit tiles of 64"),
        ({"size": [64, 128], "stride": [32]}, "1 strides for 2 sizes"),
        ({"size": 64, "stride": 32, "overlap": 0.5}, "either overlap"),
        ({"size": 8}, "at least 16 pixels"),
        ({"size": [64, 64]}, "give each size once"),
    ],
)
def test_tiles_that_cannot_be(tiles, match):
    data = {"out": "o", "scenes": {"images": "*.tif"}, "labels": "landslide", "tiles": tiles}
    with pytest.raises(ConfigError, match=match):
        Experiment.from_dict(data)


class TestGoingOn:
    @pytest.fixture(autouse=True)
    def _small_strips(self, monkeypatch):
        monkeypatch.setattr(counting, "_ROWS", 32)

    def stopped(self, monkeypatch, after: int):
        """A count that fails after so many strips; the strips that are counted."""
        counted: list[tuple[int, int]] = []
        real, lock = counting._count_part, threading.Lock()

        def count_part(part):
            with lock:
                if len(counted) == after:
                    raise KeyboardInterrupt
                counted.append((part.top, part.bottom))
            return real(part)

        monkeypatch.setattr(counting, "_count_part", count_part)
        return counted

    def test_a_stopped_count_goes_on_and_ends_the_same(self, tmp_path, monkeypatch):
        layout = {"tiled": True, "blockxsize": 16, "blockysize": 16}
        labelled(tmp_path, **layout)
        whole = catalog_of(tmp_path, TileOptions(size=48, overlap=0.5))
        work = tmp_path / "work"
        with monkeypatch.context() as patch:
            self.stopped(patch, after=3)
            with pytest.raises(KeyboardInterrupt):
                catalog_of(tmp_path, TileOptions(size=48, overlap=0.5), work)
        kept = len(Journal(work))
        assert 1 <= kept <= 3
        with monkeypatch.context() as patch:
            counted = self.stopped(patch, after=99)
            again = catalog_of(tmp_path, TileOptions(size=48, overlap=0.5), work)
        assert len(counted) == 5 - kept
        assert again.fingerprint == whole.fingerprint
        assert again.dropped == whole.dropped

    @pytest.mark.parametrize("change", ["pixels", "tiles"])
    def test_what_was_counted_of_other_files_or_tiles_is_not_taken(self, tmp_path, monkeypatch, change):
        labelled(tmp_path)
        work = tmp_path / "work"
        catalog_of(tmp_path, TileOptions(size=48), work)
        tiles = TileOptions(size=48, overlap=0.25 if change == "tiles" else 0)
        if change == "pixels":  # the same size, the same first and last MiB: only the time tells
            stamp = (tmp_path / "mask/a.tif").stat().st_mtime_ns + 1_000_000
            os.utime(tmp_path / "mask/a.tif", ns=(stamp, stamp))
        counted = self.stopped(monkeypatch, after=99)
        catalog_of(tmp_path, tiles, work)
        assert len(counted) == 4

    def test_the_work_file_goes_when_the_catalog_is_there(self, tmp_path, monkeypatch):
        project.make(tmp_path, scenes=3)
        e = project.experiment(tmp_path, tmp_path / "run")
        with monkeypatch.context() as patch:
            self.stopped(patch, after=2)
            with pytest.raises(KeyboardInterrupt):
                prepare_experiment(e, quiet=True)
        assert (tmp_path / "run/catalog.counts").exists()
        prepare_experiment(e, quiet=True)
        assert not (tmp_path / "run/catalog.counts").exists()
        assert (tmp_path / "run/catalog.parquet").exists()


class TestJournal:
    def test_a_record_cut_short_is_dropped_and_the_rest_stays(self, tmp_path):
        path = tmp_path / "j"
        for key, value in (("a", b"1"), ("b", b"22"), ("c", b"")):
            Journal(path).put(key, value)
        assert [Journal(path).get(k) for k in "abcd"] == [b"1", b"22", b"", None]
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        journal = Journal(path)
        assert [journal.get(k) for k in "abc"] == [b"1", b"22", None]
        journal.put("c", b"3")
        assert [Journal(path).get(k) for k in "abc"] == [b"1", b"22", b"3"]

    def test_a_flipped_byte_is_noticed(self, tmp_path):
        path = tmp_path / "j"
        Journal(path).put("a", b"12345678")
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        path.write_bytes(data)
        assert Journal(path).get("a") is None

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="cannot be written"):
            Journal(tmp_path / "file" / "j").put("a", b"")


def test_threads_give_every_item_and_stop_at_the_first_fault():
    assert sorted(in_threads(range(20), lambda i: i * i, 3)) == [(i, i * i) for i in range(20)]
    begun = []

    def work(i):
        begun.append(i)
        if i == 3:
            raise SceneError("three")
        return i

    with pytest.raises(SceneError, match="three"):
        list(in_threads(range(1000), work, 2))
    assert len(begun) < 20
