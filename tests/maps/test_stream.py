"""The streamed map against a dense reference that knows nothing of lattices, swaths or weights by axis."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from raremap.errors import OutputError, SceneError
from raremap.labels import LabelScheme
from raremap.maps import stream as stream_module
from raremap.maps.export import write_map
from raremap.maps.options import PredictOptions
from raremap.maps.stream import stream
from raremap.scene.raster import open_image
from raremap.scene.window import Window
from tests.rasters import write

SCHEME = LabelScheme({3: "low", 7: "middle", 9: "high"})


def band_passed_through(image, valid):
    """Class 0 gets the first band as its probability: a pixel's output depends on that pixel alone."""
    first = image[:, 0].astype(np.float32) / 255
    return np.stack([first, (1 - first) * 0.25, (1 - first) * 0.75], axis=1)


def position_in_window(image, valid):
    """Probabilities that depend on where in its window a pixel lies: they show every fault of blending."""
    b, _, h, w = image.shape
    rows, cols = np.mgrid[0:h, 0:w].astype(np.float32)
    first = 0.2 + 0.6 * ((rows * 7 + cols * 3) % 11) / 11
    out = np.stack([first, (1 - first) * 0.4, (1 - first) * 0.6]).astype(np.float32)
    return np.repeat(out[None], b, 0)


def dense(network, image, valid, window, overlap):
    """Sum of weights times probabilities over sum of weights, in float64, window by window over the whole scene."""
    _, height, width = image.shape
    h, w = min(window, height), min(window, width)
    step = max(1, round(window * (1 - overlap)))

    def starts(length, size):
        out = list(range(0, max(length - size, 0), step))
        return [*out, max(length - size, 0)]

    total, weights = np.zeros((3, height, width)), np.zeros((height, width))
    hann = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (h, w)]
    weight = hann[0][:, None] * hann[1][None, :]
    for r in starts(height, h):
        for c in starts(width, w):
            part = (slice(r, r + h), slice(c, c + w))
            probs = network(image[(slice(None), *part)][None], valid[part][None])[0]
            total[(slice(None), *part)] += weight * probs
            weights[part] += weight
    return total / weights


def scene(tmp_path, height, width, seed=0, **more):
    image = np.random.default_rng(seed).integers(1, 256, (2, height, width), dtype=np.uint8)
    return image, write(tmp_path / f"scene_{height}_{width}.tif", image, **more)


def gather(reader, network, options, **more):
    grid = reader.grid
    probs, seen = np.full((3, grid.height, grid.width), np.nan), np.zeros((grid.height, grid.width), int)
    for strip in stream(reader, network, 3, options, **more):
        rows, cols = strip.window.slices()
        probs[:, rows, cols] = strip.probs
        seen[rows, cols] += 1
    return probs, seen


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (130, 257), (513, 1025)])
@pytest.mark.parametrize("window", [64, 200, 512])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("network", [band_passed_through, position_in_window])
def test_every_pixel_is_exact(tmp_path, size, window, overlap, network):
    if size == (513, 1025) and window == 64 and overlap == 0.8:
        pytest.skip("thousands of windows in the reference; the smaller sizes cover it")
    image, path = scene(tmp_path, *size)
    with open_image(path) as reader:
        probs, seen = gather(reader, network, PredictOptions(window=window, overlap=overlap))
    assert (seen == 1).all()
    expected = dense(network, image, np.ones(size, bool), window, overlap)
    assert np.abs(probs - expected).max() < 1e-5


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 90), width=st.integers(1, 140), window=st.integers(1, 80),
    overlap=st.floats(0, 0.9), budget=st.sampled_from([1, 3000, 10**9]),
)  # fmt: skip
def test_swaths_of_any_width_give_the_same_map(tmp_path_factory, height, width, window, overlap, budget):
    image, path = scene(tmp_path_factory.mktemp("s"), height, width)
    with pytest.MonkeyPatch.context() as patch, open_image(path) as reader:
        patch.setattr(stream_module, "_PROBABILITY_BYTES", budget)
        patch.setattr(stream_module, "_BLOCK", 16)
        probs, seen = gather(reader, position_in_window, PredictOptions(window=window, overlap=overlap))
    assert (seen == 1).all()
    expected = dense(position_in_window, image, np.ones((height, width), bool), window, overlap)
    assert np.abs(probs - expected).max() < 1e-5


def test_batches_change_nothing(tmp_path):
    _, path = scene(tmp_path, 100, 333)
    with open_image(path) as reader:
        one, _ = gather(reader, position_in_window, PredictOptions(window=64, overlap=0.5, batch=1))
        five, _ = gather(reader, position_in_window, PredictOptions(window=64, overlap=0.5, batch=5))
    assert np.array_equal(one, five)


def test_wanted_windows_get_the_numbers_of_the_whole_run(tmp_path):
    _, path = scene(tmp_path, 300, 411)
    wanted = [Window(10, 20, 70, 50), Window(150, 300, 150, 111), Window(299, 0, 1, 5)]
    calls = []

    def counting(image, valid):
        calls.append(len(image))
        return position_in_window(image, valid)

    options = PredictOptions(window=64, overlap=0.25)
    with open_image(path) as reader:
        whole, _ = gather(reader, counting, options)
        computed, calls[:] = sum(calls), []
        part, seen = gather(reader, counting, options, wanted=wanted)
    inside = np.zeros_like(seen, bool)
    for w in wanted:
        inside[w.slices()] = True
    assert np.array_equal(seen == 1, inside)
    assert np.array_equal(part[:, inside], whole[:, inside])
    assert sum(calls) < computed / 2


def test_windows_without_a_valid_pixel_are_not_computed_and_invalid_pixels_are_nodata(tmp_path):
    image = np.random.default_rng(1).integers(1, 256, (2, 200, 200), dtype=np.uint8)
    image[:, :, 70:] = 0
    image[:, 5, 5] = 0
    path = write(tmp_path / "a.tif", image, nodata=0)
    calls = []

    def counting(batch, valid):
        calls.append(valid.any())
        return band_passed_through(batch, valid)

    with open_image(path) as reader:
        summary = write_map(reader, counting, tmp_path / "map.tif", SCHEME, PredictOptions(window=64, overlap=0.0))
    assert all(calls)
    assert len(calls) == 8
    with rasterio.open(tmp_path / "map.tif") as file:
        written = file.read(1)
    assert np.array_equal(written == 255, (image == 0).all(0))
    assert summary.nodata == int((image == 0).all(0).sum())


def test_a_map_keeps_grid_crs_and_legend_and_agrees_with_argmax(tmp_path):
    image, path = scene(tmp_path, 513, 700)
    with open_image(path) as reader:
        summary = write_map(
            reader, band_passed_through, tmp_path / "out" / "map.tif", SCHEME,
            PredictOptions(window=128, overlap=0.25), probabilities="uint8", tags={"raremap_model": "m"},
        )  # fmt: skip
    info = subprocess.run(
        [os.path.join(os.path.dirname(sys.executable), "rio"), "info", str(tmp_path / "out" / "map.tif")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert '"crs": "EPSG:25831"' in info
    assert '"nodata": 255.0' in info
    assert '"shape": [513, 700]' in info
    assert '"transform": [10.0, 0.0, 400000.0, 0.0, -10.0, 4600000.0' in info
    first = image[0].astype(np.float32) / 255
    index = np.stack([first, (1 - first) * 0.25, (1 - first) * 0.75]).argmax(0)
    with rasterio.open(tmp_path / "out" / "map.tif") as file:
        assert np.array_equal(file.read(1), np.array([3, 7, 9])[index])
        assert file.colormap(1)[7][:3] == tuple(SCHEME.rgb[1])
        assert file.tags(1)["class_9"] == "high"
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.overviews(1)
    with rasterio.open(tmp_path / "out" / "map.probs.tif") as file:
        assert file.descriptions == SCHEME.names
        assert np.abs(file.read(1) / 250 - first).max() <= 0.5 / 250 + 1e-6
    assert sum(summary.pixels.values()) == 513 * 700
    assert summary.hectares is not None
    assert summary.hectares["low"] == pytest.approx((index == 0).sum() * 0.01)
    assert 'value="7"' in (tmp_path / "out" / "map.qml").read_text()


def test_a_scene_without_crs_and_of_one_pixel_is_mapped(tmp_path):
    path = write(tmp_path / "one.png", np.full((3, 1, 1), 200, np.uint8))
    with open_image(path) as reader:
        write_map(reader, band_passed_through, tmp_path / "map.tif", SCHEME, PredictOptions())
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs is None
        assert file.read(1).tolist() == [[3]]


@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_map_leaves_nothing_behind_and_the_older_map_whole(tmp_path, fault):
    _, path = scene(tmp_path, 200, 200)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "map.tif").write_bytes(b"older")

    def failing(image, valid, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) > 5:
            raise fault
        return band_passed_through(image, valid)

    with pytest.raises(fault), open_image(path) as reader:
        write_map(reader, failing, tmp_path / "out" / "map.tif", SCHEME, PredictOptions(window=64), probabilities="float32")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["map.tif"]
    assert (tmp_path / "out" / "map.tif").read_bytes() == b"older"
    assert not [t for t in threading.enumerate() if t.name == "raremap-read"]


def test_an_empty_scene_is_told_and_leaves_nothing(tmp_path):
    path = write(tmp_path / "a.tif", np.zeros((2, 50, 60), np.uint8), nodata=0)
    (tmp_path / "out").mkdir()
    with pytest.raises(SceneError, match=r"a\.tif holds no valid pixel"), open_image(path) as reader:
        write_map(reader, band_passed_through, tmp_path / "out" / "m.tif", SCHEME, PredictOptions())
    assert not list((tmp_path / "out").iterdir())


def test_a_file_cut_short_is_named_and_leaves_nothing(tmp_path):
    _, path = scene(tmp_path, 600, 600, tiled=True, blockxsize=256, blockysize=256)
    path.write_bytes(path.read_bytes()[:400_000])
    (tmp_path / "out").mkdir()
    with pytest.raises(SceneError, match=r"scene_600_600\.tif cannot be read at rows"), open_image(path) as reader:
        write_map(reader, band_passed_through, tmp_path / "out" / "m.tif", SCHEME, PredictOptions(window=128))
    assert not list((tmp_path / "out").iterdir())


def test_an_output_that_cannot_be_written_is_told(tmp_path):
    _, path = scene(tmp_path, 20, 20)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), open_image(path) as reader:
        write_map(reader, band_passed_through, tmp_path / "file" / "m.tif", SCHEME, PredictOptions())


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    _, path = scene(tmp_path, 600, 600)
    real = rasterio.shutil.copy

    def full(src, dst, **options):
        real(src, dst, **options)
        with open(dst, "r+b") as file:
            file.truncate(2000)  # what a full disk leaves when nobody looks

    monkeypatch.setattr("raremap.scene.cog.rasterio.shutil.copy", full)
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="is the disk full"), open_image(path) as reader:
        write_map(reader, band_passed_through, tmp_path / "out" / "m.tif", SCHEME, PredictOptions())
    assert not list((tmp_path / "out").iterdir())
