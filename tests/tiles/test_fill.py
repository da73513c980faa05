"""The store of decoded blocks against the files as they are read, and whatever may happen while it is filled."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from tests.batches import ground
from tests.rasters import write

from raremap.errors import OutputError, RaremapWarning
from raremap.labels import LabelScheme
from raremap.scene.window import Window
from raremap.tiles import contents
from raremap.tiles import fill as filling
from raremap.tiles.fill import fill, remove, size_of
from raremap.tiles.options import SplitOptions
from raremap.tiles.store import BLOCK

SIZES = ((300, 530), (40, 33), (257, 256))


@pytest.fixture
def small_parts(monkeypatch):
    """A part of one block at a time, and one after the other."""
    monkeypatch.setattr(contents, "_BYTES", 1)
    monkeypatch.setattr(filling, "cores", lambda: 1)


def everything(catalog):
    """The windows of all tiles."""
    found = {}
    for name, window in zip(catalog.scene_names, catalog.windows, strict=True):
        found.setdefault(str(name), []).append(window)
    return found


def agrees(store, catalog, name, window):
    """Whether a window of a store is what the files' own readers give, bytes, types and all."""
    image, mask, weights = store.open(name)
    record = catalog.scenes[name]
    expected = [*record.open_image().read(window), catalog.open_mask(name).read(window)]
    found = [*image.read(window), mask.read(window)]
    if record.weights:
        expected.append(record.open_weights().read(window))
        found.append(weights.read(window))
    else:
        assert weights is None
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def agrees_all_over(store, catalog):
    rng = np.random.default_rng(0)
    for name, record in catalog.scenes.items():
        grid = record.grid
        windows = [grid.window, Window(grid.height - 1, grid.width - 1, 1, 1)]
        for _ in range(12):
            row, col = int(rng.integers(grid.height)), int(rng.integers(grid.width))
            size = rng.integers(1, [grid.height - row + 1, grid.width - col + 1]).tolist()
            windows.append(Window(row, col, *size))
        if not all(agrees(store, catalog, name, w) for w in windows):
            return False
    return True


@pytest.mark.parametrize("weights", [None, "weights/*.tif"])
def test_windows_are_those_of_the_files(tmp_path, weights):
    catalog = ground.make(tmp_path, sizes=SIZES, weights=weights)
    store = fill(catalog, everything(catalog), tmp_path / "cache", quiet=True)
    assert agrees_all_over(store, catalog)
    assert agrees_all_over(pickle.loads(pickle.dumps(store)), catalog)


def test_bytes_stay_bytes_and_the_size_is_known_before(tmp_path):
    image = np.random.default_rng(0).integers(1, 255, (3, 300, 260)).astype(np.uint8)
    catalog = ground.make(tmp_path, sizes=[(300, 260)])
    write(tmp_path / "img/s0.tif", image, names=("number", "other", "third"))
    record = replace(catalog.scenes["s0"], bands=("number", "other", "third"), nodata=None)
    catalog = replace(catalog, scenes={"s0": record})
    needed = size_of(catalog, everything(catalog))
    assert needed == 300 * 260 * (3 + 2), "three bands, validity and class, a byte each"
    store = fill(catalog, everything(catalog), tmp_path / "cache", quiet=True)
    assert needed <= store.path.stat().st_size <= needed + 4 * 3 * 64
    assert np.array_equal(store.open("s0")[0].read(Window(0, 0, 300, 260))[0], image)


def test_only_blocks_that_are_asked_for_are_held_and_more_are_added_to_them(tmp_path):
    catalog = ground.make(tmp_path, sizes=[(600, 600)])
    first = {"s0": [Window(0, 0, 32, 32), Window(500, 500, 32, 32)]}
    store = fill(catalog, first, tmp_path / "cache", quiet=True)
    before = store.path.read_bytes()
    # 500 to 531 lies across the border at 512: four blocks of the nine, and the first.
    sides = [(256, 256), (256, 256), (256, 88), (88, 256), (88, 88)]
    assert len(before) == sum(store._scenes["s0"].form.size(*s) for s in sides)
    assert agrees(store, catalog, "s0", Window(490, 490, 110, 110))
    with pytest.raises(AssertionError, match="block 0, 1"):
        store.open("s0")[0].read(Window(0, 256, 5, 5))
    more = fill(catalog, {"s0": [Window(0, 256, 5, 5)]}, tmp_path / "cache", quiet=True)
    assert more.path == store.path
    assert more.path.read_bytes()[: len(before)] == before
    assert agrees(more, catalog, "s0", Window(0, 100, 256, 400))
    assert agrees(store, catalog, "s0", Window(490, 490, 110, 110)), "who mapped it before reads on"


def untouched(catalog, folder, monkeypatch):
    """A store that is filled without a read."""
    with monkeypatch.context() as patch:
        patch.setattr(filling._Filling, "read", None)
        return fill(catalog, everything(catalog), folder, quiet=True)


def test_a_whole_store_is_not_read_again(tmp_path, monkeypatch):
    catalog = ground.make(tmp_path, sizes=SIZES)
    fill(catalog, everything(catalog), tmp_path / "cache", quiet=True)
    assert agrees_all_over(untouched(catalog, tmp_path / "cache", monkeypatch), catalog)


def other_pixels(folder, catalog):
    with rasterio.open(folder / "img/s0.tif", "r+") as file:
        file.write(file.read() + 1)
    return catalog, r"the files of scene s0 \(.*s0.tif\) changed"


def touched_only_in_the_middle(folder, catalog):
    """What the checksum of a file's ends would not see, its time tells."""
    path = folder / "mask/s1.tif"
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    return catalog, "the files of scene s1"


def fewer_bands(folder, catalog):
    scenes = {name: replace(scene, bands=("other",)) for name, scene in catalog.scenes.items()}
    return replace(catalog, scenes=scenes), "the bands of scene s"


def other_nodata(folder, catalog):
    scenes = {name: replace(scene, nodata=7.0) for name, scene in catalog.scenes.items()}
    return replace(catalog, scenes=scenes), "the value of no data of scene s"


def other_type(folder, catalog):
    for path in (folder / "img").glob("*.tif"):
        with rasterio.open(path) as file:
            image = file.read().astype(np.float32)
        write(path, image, nodata=ground.NODATA, names=("number", "other"))
    return catalog, "the files of scene s"


def other_labels(folder, catalog):
    return replace(catalog, scheme=LabelScheme({3: "rock", 4: "scree", 9: "lake"}, ignore=(0,))), "labels"


def damaged(folder, catalog):
    (folder / "cache/cache.json").write_text("{")
    return catalog, "cache.json is damaged"


def shortened(folder, catalog):
    (path,) = (folder / "cache").glob("*.pixels")
    os.truncate(path, path.stat().st_size - 1)
    return catalog, "is cut short"


def deleted(folder, catalog):
    (path,) = (folder / "cache").glob("*.pixels")
    path.unlink()
    return catalog, "is cut short"


def of_another_version(folder, catalog):
    path = folder / "cache/cache.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 0'))
    return catalog, "another version made it"


CHANGES = [
    other_pixels,
    touched_only_in_the_middle,
    fewer_bands,
    other_nodata,
    other_type,
    other_labels,
    damaged,
    shortened,
    deleted,
    of_another_version,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_store_of_something_else_is_made_anew_and_one_line_says_why(tmp_path, change):
    catalog = ground.make(tmp_path, sizes=SIZES[:2])
    old = fill(catalog, everything(catalog), tmp_path / "cache", quiet=True)
    changed, why = change(tmp_path, catalog)
    with pytest.warns(RaremapWarning, match=f"the cache in .*cache is made anew: .*{why}") as told:
        new = fill(changed, everything(changed), tmp_path / "cache", quiet=True)
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert agrees_all_over(new, changed)
    assert new.path != old.path
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fill(changed, everything(changed), tmp_path / "cache", quiet=True)


def test_moved_files_are_the_same_files(tmp_path, monkeypatch):
    catalog = ground.make(tmp_path / "here", sizes=SIZES[:1])
    fill(catalog, everything(catalog), tmp_path / "cache", quiet=True)
    (tmp_path / "here").rename(tmp_path / "there")
    record = catalog.scenes["s0"]
    moved = replace(
        record,
        images=tuple(p.replace("here", "there") for p in record.images),
        mask=str(record.mask).replace("here", "there"),
    )
    untouched(replace(catalog, scenes={"s0": moved}), tmp_path / "cache", monkeypatch)


def test_stopped_at_any_part_it_goes_on_and_reads_none_twice(tmp_path, small_parts, monkeypatch):
    catalog = ground.make(tmp_path, sizes=SIZES)
    windows, read = everything(catalog), filling._Filling.read
    parts = 6 + 1 + 2  # blocks of the three scenes
    seen = []

    def stopping(self, part):
        if len(seen) % 2 == 1:
            seen.append(None)
            raise KeyboardInterrupt
        seen.append(part)
        return read(self, part)

    monkeypatch.setattr(filling._Filling, "read", stopping)
    for _ in range(parts):
        try:
            store = fill(catalog, windows, tmp_path / "cache", quiet=True)
            break
        except KeyboardInterrupt:
            pass
    assert agrees_all_over(store, catalog)
    done = [part for part in seen if part is not None]
    assert len(done) == len(set(done)) == parts


KILLED = """
import sys, time
from pathlib import Path
from raremap.tiles import contents
from raremap.tiles import fill as filling
from raremap.tiles.catalog import Catalog
contents._BYTES, filling.cores = 1, lambda: 1
read = filling._Filling.read
def slow(self, part):
    time.sleep(0.05)
    return read(self, part)
filling._Filling.read = slow
catalog = Catalog.load(sys.argv[1])
windows = {}
for name, window in zip(catalog.scene_names, catalog.windows):
    windows.setdefault(str(name), []).append(window)
filling.fill(catalog, windows, Path(sys.argv[2]), quiet=True)
"""


@pytest.mark.slow
def test_killed_while_it_is_filled_it_goes_on(tmp_path, monkeypatch):
    catalog = ground.make(tmp_path, size=256, sizes=[(1500, 2000)])
    folder = tmp_path / "cache"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(catalog.save(tmp_path / "catalog.parquet")), str(folder)]
    )
    journal, until = folder / "cache.blocks", time.monotonic() + 120
    while not (journal.exists() and journal.stat().st_size > 500):
        assert child.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    # What kill -9 may leave at worst: a block and a record that were being written.
    (pixels,) = folder.glob("*.pixels")
    for path in (pixels, journal):
        with path.open("ab") as file:
            file.write(b"rmj1half")
    read, again = filling._Filling.read, []
    monkeypatch.setattr(filling._Filling, "read", lambda self, part: again.append(part) or read(self, part))
    store = fill(catalog, everything(catalog), folder, quiet=True)
    count = sum(len(part.blocks) for part in again)
    assert 0 < count < 6 * 8
    assert agrees_all_over(store, catalog)
    assert store.path.stat().st_size == sum(
        store._scenes["s0"].form.size(min(BLOCK, 1500 - r), min(BLOCK, 2000 - c))
        for r in range(0, 1500, BLOCK)
        for c in range(0, 2000, BLOCK)
    ), "half a block was written over"


@pytest.mark.slow
def test_two_processes_fill_one_store_one_after_the_other(tmp_path):
    catalog = ground.make(tmp_path, size=256, sizes=[(800, 800)])
    command = [
        *(sys.executable, "-c", KILLED),
        *(str(catalog.save(tmp_path / "catalog.parquet")), str(tmp_path / "cache")),
    ]
    children = [subprocess.Popen(command) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    store = fill(catalog, everything(catalog), tmp_path / "cache", quiet=True)
    assert agrees_all_over(store, catalog)
    blocks = [
        json.loads(data)["blocks"] for _, data in filling.Journal(tmp_path / "cache/cache.blocks").items()
    ]
    assert sum(map(len, blocks)) == 16, "none was read by both"


def test_a_store_that_is_made_anew_meanwhile_is_read_on(tmp_path):
    catalog = ground.make(tmp_path, sizes=SIZES[:1])
    store = fill(catalog, everything(catalog), tmp_path / "cache", quiet=True)
    remove(tmp_path / "cache")
    assert not store.path.exists()
    assert agrees_all_over(store, catalog)
    with pytest.raises(OutputError, match=r"pixels cannot be read \(No such file.*train.cache: false"):
        pickle.loads(pickle.dumps(store)).open("s0")[1].read(Window(0, 0, 1, 1))


class FullDisk:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, data):
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_disk_that_fills_up_is_told_in_one_line_and_with_room_it_goes_on(
    tmp_path, small_parts, monkeypatch
):
    catalog = ground.make(tmp_path, sizes=SIZES)
    folder, plain = tmp_path / "cache", filling.Path.open

    def full(self, *args, **more):
        file = plain(self, *args, **more)
        return FullDisk(file, 900_000) if self.suffix == ".pixels" and "a" in args[0] else file

    with monkeypatch.context() as patch:
        patch.setattr(filling.Path, "open", full)
        with pytest.raises(
            OutputError, match=r"cache .*pixels cannot be written \(No space left.*train\.cache"
        ) as told:
            fill(catalog, everything(catalog), folder, quiet=True)
        assert "\n" not in str(told.value)
        held = sum(path.stat().st_size for path in folder.glob("*.pixels"))
        assert 0 < held <= 900_000
        again = fill(catalog, everything(catalog), folder, quiet=True)
    assert agrees_all_over(again, catalog)
    with monkeypatch.context() as patch:
        patch.setattr(filling.Path, "open", full)
        remove(folder)
        with pytest.raises(OutputError):
            fill(catalog, everything(catalog), folder, quiet=True, keep=False)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_disk_without_room_is_told_before_anything_is_read(tmp_path, monkeypatch):
    catalog = ground.make(tmp_path, sizes=SIZES[:1])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(filling.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    monkeypatch.setattr(filling._Filling, "read", None)
    with pytest.raises(OutputError, match=r"needs 0\.954 MB more, the disk has 0\.001 MB; make room"):
        fill(catalog, everything(catalog), tmp_path / "cache", quiet=True)


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path):
    catalog = ground.make(tmp_path, sizes=SIZES[:1])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/cache cannot be written \(Not a directory\)"):
        fill(catalog, everything(catalog), tmp_path / "file/cache", quiet=True)


def test_a_file_that_cannot_be_read_is_told_as_ever(tmp_path):
    from raremap.errors import SceneError

    catalog = ground.make(tmp_path, sizes=SIZES[:1])
    path = tmp_path / "img/s0.tif"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SceneError, match=r"img/s0\.tif cannot be (opened|read)"):
        fill(catalog, everything(catalog), tmp_path / "cache", quiet=True)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures_that_are_read_from_the_top_down(tmp_path, suffix):
    from raremap.scene.sources import ScenesOptions
    from raremap.tiles.options import TileOptions
    from raremap.tiles.prepare import prepare

    rng = np.random.default_rng(0)
    write(tmp_path / "img/a.png", rng.integers(0, 255, (3, 270, 300)).astype(np.uint8))
    write(tmp_path / "mask/a.png", rng.choice(np.array([3, 4], np.uint8), (270, 300)))
    if suffix == ".jpg":
        with rasterio.open(tmp_path / "img/a.png") as file:
            pixels = file.read()
        (tmp_path / "img/a.png").unlink()
        write(tmp_path / "img/a.jpg", pixels, driver="JPEG", crs=None)
    catalog = prepare(
        ScenesOptions(images=f"img/*{suffix}", masks="mask/*.png", root=str(tmp_path)),
        ground.SCHEME,
        TileOptions(size=64),
        SplitOptions(block_px=64, folds=2),
        quiet=True,
    )
    store = fill(catalog, everything(catalog), tmp_path / "cache", quiet=True)
    assert agrees_all_over(store, catalog)


def test_parts_cover_what_is_missing_once_whatever_the_files_blocks(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    catalog = ground.make(tmp_path, sizes=[(1300, 1900)])
    for tiled, most in ((None, 1 << 20), ((512, 512), 1 << 21), ((16, 1024), 1 << 18), ((768, 512), 1)):
        if tiled is not None:
            with rasterio.open(tmp_path / "img/s0.tif") as file:
                image = file.read()
            more = {"tiled": True, "blockysize": tiled[0], "blockxsize": tiled[1]}
            write(tmp_path / "img/s0.tif", image, nodata=ground.NODATA, names=("number", "other"), **more)
        monkeypatch.setattr(contents, "_BYTES", most)
        chosen = rng.choice(len(catalog), 30)
        windows = {"s0": [catalog.windows[i] for i in chosen]}
        (tmp_path / f"{most}").mkdir()
        work = filling._Filling(contents.Scenes(catalog), windows, tmp_path / f"{most}")
        work.begin()
        parts = list(work.parts())
        blocks = [b for part in parts for b in part.blocks]
        expected = np.argwhere(filling._touched(1300, 1900, windows["s0"])).tolist()
        assert sorted(blocks) == sorted(map(tuple, expected))
        for part in parts:
            area = (part.rows[1] - part.rows[0]) * (part.cols[1] - part.cols[0])
            assert area == 1 or area * BLOCK * BLOCK * 6 <= most
