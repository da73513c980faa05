"""Rasters written window by window: what GDAL reads of them, and what a failed one leaves."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio._env import get_gdal_config
from rasterio.crs import CRS
from tests.rasters import write

from raremap.errors import OutputError
from raremap.scene.cog import CogWriter
from raremap.scene.gdal import bounded_cache
from raremap.scene.grid import Grid
from raremap.scene.window import Window
from raremap.tiles.windows import cover

UTM = CRS.from_epsg(25831)


def grid(height, width):
    return Grid(height, width, UTM, Affine(10, 0, 400_000, 0, -10, 4_600_000))


@given(
    height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(5, 60),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]), bands=st.integers(1, 3), order=st.randoms(),
)  # fmt: skip
def test_windows_in_any_order_come_back_as_they_were(
    tmp_path_factory, height, width, size, dtype, bands, order
):
    path = tmp_path_factory.mktemp("cog") / "a.tif"
    image = np.random.default_rng(0).integers(0, 200, (bands, height, width)).astype(dtype)
    windows = cover(height, width, size, size)
    order.shuffle(windows)
    names = [f"b{i}" for i in range(bands)]
    with CogWriter(path, grid(height, width), dtype, bands=names) as out:
        for window in windows:
            rows, cols = window.slices()
            out.write(window, image[:, rows, cols] if bands > 1 else image[0, rows, cols])
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), image)
        assert (file.crs, file.transform) == (UTM, grid(height, width).transform)
        assert file.descriptions == tuple(names)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert [p.name for p in path.parent.iterdir()] == ["a.tif"]


def test_classes_keep_the_share_of_a_rare_one_in_the_overviews_and_quantities_are_averaged(tmp_path):
    rng = np.random.default_rng(0)
    image = (rng.random((2048, 2048)) < 0.02).astype(np.uint8)
    for name, kind, dtype in (("c", "nearest", "uint8"), ("q", "average", "float32")):
        with CogWriter(tmp_path / f"{name}.tif", grid(2048, 2048), dtype, overviews=kind) as out:
            out.write(Window(0, 0, 2048, 2048), image.astype(dtype))
        with rasterio.open(tmp_path / f"{name}.tif") as file:
            assert file.overviews(1) == [2, 4]
        with rasterio.open(tmp_path / f"{name}.tif", overview_level=1) as file:
            small = file.read(1)
        assert small.mean() == pytest.approx(0.02, abs=0.002)
        if kind == "average":
            assert np.allclose(small, image.reshape(512, 4, 512, 4).mean((1, 3)), atol=1e-6)
        else:
            assert set(np.unique(small)) == {0, 1}


def test_overviews_of_classes_are_every_second_pixel_and_all_that_describes_the_map_arrives(tmp_path):
    image = np.random.default_rng(0).integers(0, 9, (2, 1301, 777)).astype(np.uint8)
    windows = cover(1301, 777, 97, 97)
    np.random.default_rng(1).shuffle(windows)
    tags = {"class_1": 'a < b & "c"', "unit": "m²"}
    with CogWriter(
        tmp_path / "o.tif", grid(1301, 777), "uint8", ("x < y", "z"), 255, {3: (1, 2, 3)}, tags, scale=0.005
    ) as out:
        for window in map(Window._make, windows):
            out.write(window, image[:, *window.slices()])
    with rasterio.open(tmp_path / "o.tif") as file:
        assert np.array_equal(file.read(), image)
        assert (file.overviews(1), file.nodata, file.crs) == ([2, 4], 255, UTM)
        assert (file.descriptions, file.scales) == (("x < y", "z"), (0.005, 0.005))
        assert {k: file.tags()[k] for k in tags} == tags
    for level in (0, 1):
        step = 2 << level
        with rasterio.open(tmp_path / "o.tif", overview_level=level) as file:
            assert np.array_equal(file.read(), image[:, ::step, ::step])


def test_pixels_that_were_never_written_are_nodata(tmp_path):
    with CogWriter(tmp_path / "a.tif", grid(700, 700), "uint8", nodata=255) as out:
        out.write(Window(600, 10, 5, 5), np.ones((5, 5), np.uint8))
    with rasterio.open(tmp_path / "a.tif") as file:
        got = file.read(1)
    assert (got == 255).sum() == 700 * 700 - 25
    assert (got[600:605, 10:15] == 1).all()


def test_an_array_that_does_not_fill_its_window_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(1, 5, 4\) for a window of shape \(1, 5, 5\)"):  # noqa: SIM117
        with CogWriter(tmp_path / "a.tif", grid(9, 9), "uint8") as out:
            out.write(Window(0, 0, 5, 5), np.ones((5, 4), np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_fault_in_the_block_leaves_the_older_file(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt), CogWriter(tmp_path / "a.tif", grid(600, 600), "uint8") as out:  # noqa: PT012
        out.write(Window(0, 0, 5, 600), np.ones((5, 600), np.uint8))
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    assert (tmp_path / "a.tif").read_bytes() == b"older"


def test_what_a_killed_writer_left_goes_when_the_next_begins_and_what_a_living_one_uses_stays(tmp_path):
    code = "import sys, time; from raremap.scene.cog import CogWriter; from raremap.scene.grid import Grid"
    code += "\nwith CogWriter(sys.argv[1], Grid(60, 60), 'uint8'): print('in', flush=True); time.sleep(60)"
    words = [sys.executable, "-c", code, str(tmp_path / "a.tif")]
    killed, living = (subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(2))
    with killed, living:
        try:
            assert (killed.stdout.readline(), living.stdout.readline()) == (b"in\n", b"in\n")
            killed.kill()
            killed.wait()
            others = [".a.settings", ".a.probs.abcdefgh"]  # not of a writer, and of another file's
            for name in others:
                (tmp_path / name).mkdir()
            assert len(list(tmp_path.iterdir())) == 4
            with CogWriter(tmp_path / "a.tif", grid(60, 60), "uint8") as out:
                out.write(Window(0, 0, 60, 60), np.ones((60, 60), np.uint8))
            left = sorted(p.name for p in tmp_path.iterdir() if p.name not in others)
            assert len(left) == 2
            assert left[1] == "a.tif"
            assert (tmp_path / left[0] / "raw0.bin").exists()
        finally:
            for process in (killed, living):
                process.kill()


def test_a_write_that_fails_in_the_thread_is_told(tmp_path):
    with pytest.raises(OutputError, match=r"a\.tif cannot be written") as caught:  # noqa: SIM117
        with CogWriter(tmp_path / "a.tif", grid(600, 600), "uint8") as out:
            out.write(Window(590, 0, 20, 600), np.ones((20, 600), np.uint8))  # beyond the last row
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_raster_larger_than_the_disk_is_refused_at_once(tmp_path):
    with pytest.raises(OutputError, match=r"a\.tif needs \d+\.\d GB while it is made"):  # noqa: SIM117
        with CogWriter(tmp_path / "a.tif", grid(4_000_000, 4_000_000), "float32"):
            raise AssertionError
    assert not list(tmp_path.iterdir())


def test_small_windows_of_many_bands_are_all_written_while_they_are_handed_over(tmp_path):
    """GDAL's cache is one for all threads; written through it, blocks were lost when another thread made it smaller."""
    expected = np.random.default_rng(0).integers(0, 250, (6, 96, 96)).astype(np.uint8)
    with CogWriter(tmp_path / "o.tif", Grid(96, 96), "uint8", bands="abcdef", nodata=255) as out:
        for row in range(0, 96, 3):
            for col in range(0, 96, 3):
                out.write(Window(row, col, 3, 3), expected[:, row : row + 3, col : col + 3])
                with bounded_cache():
                    pass
    with rasterio.open(tmp_path / "o.tif") as file:
        assert np.array_equal(file.read(), expected)


def test_readers_that_crowd_the_cache_cost_the_writer_no_pixel(tmp_path, monkeypatch):
    """Threads read through a cache of 1 MiB, and so throw out all that is in it, while narrow windows are written."""
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    noise = np.random.default_rng(0).integers(0, 250, (2048, 2048)).astype(np.uint8)
    write(tmp_path / "in.tif", noise, tiled=True, blockxsize=256, blockysize=256)
    stop = threading.Event()

    def crowd():
        with bounded_cache(1), rasterio.open(tmp_path / "in.tif") as file:
            while not stop.is_set():
                assert file.read(1).shape == noise.shape

    threads = [threading.Thread(target=crowd) for _ in range(2)]
    with bounded_cache(1):
        for thread in threads:
            thread.start()
        try:
            with CogWriter(tmp_path / "o.tif", grid(512, 2048), "uint8", nodata=255) as out:
                for col in range(0, 2048, 64):  # each block of a map is touched many times
                    for row in range(0, 512, 8):
                        out.write(Window(row, col, 8, 64), noise[row : row + 8, col : col + 64])
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    with rasterio.open(tmp_path / "o.tif") as file:
        assert np.array_equal(file.read(1), noise[:512])


def test_the_cache_is_bounded_until_the_last_thread_leaves(tmp_path, monkeypatch):
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    before = get_gdal_config("GDAL_CACHEMAX")
    entered, leave = threading.Event(), threading.Event()

    def other():
        with bounded_cache():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with bounded_cache():
        assert get_gdal_config("GDAL_CACHEMAX") == 32 << 20  # bytes
        thread.start()
        entered.wait(10)
    assert get_gdal_config("GDAL_CACHEMAX") == 32 << 20
    leave.set()
    thread.join()
    assert get_gdal_config("GDAL_CACHEMAX") == before


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 255), ("uint8", 0), ("float32", np.nan), ("uint8", None)]
)
def test_rows_that_nothing_is_written_to_take_no_room_and_are_nodata(tmp_path, dtype, nodata):
    grid = Grid(5000, 700, None, Affine.identity())
    expected = np.full((2, 5000, 700), 0 if nodata is None else nodata, dtype)
    with CogWriter(tmp_path / "a.tif", grid, dtype, bands=("a", "b"), nodata=nodata) as out:
        for row, height in ((700, 1), (2040, 20), (4990, 10)):
            expected[:, row : row + height, 30:60] = 7
            out.write(Window(row, 30, height, 30), expected[:, row : row + height, 30:60])
        [raw] = tmp_path.glob(".a.*/raw0.bin")
        assert raw.stat().st_blocks * 512 < expected.nbytes / 2  # four stripes of ten, when all is written
    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.read(), expected)
        assert file.nodata == nodata or np.isnan(file.nodata)
    with rasterio.open(tmp_path / "a.tif", overview_level=0) as file:
        np.testing.assert_array_equal(file.read()[:, ::50, 200:], expected[:, ::100, 400::2])
        np.testing.assert_array_equal(file.read(), expected[:, ::2, ::2])
