"""The streamed map against a dense reference that knows nothing of lattices, swaths or weights by axis."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rasters import write

from raremap.errors import BundleError
from raremap.maps import stream as stream_module
from raremap.maps.options import PredictOptions
from raremap.maps.stream import stream
from raremap.scene.gdal import rio_window
from raremap.scene.raster import open_image
from raremap.scene.window import Window


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


def dense(network, image, valid, window, overlap, shape=lambda i: np.sin(np.pi * i) ** 2):
    """Sum of weights times probabilities over sum of weights, in float64, window by window over the whole scene."""
    _, height, width = image.shape
    h, w = min(window, height), min(window, width)
    step = max(1, round(window * (1 - overlap)))

    def starts(length, size):
        out = list(range(0, max(length - size, 0), step))
        return [*out, max(length - size, 0)]

    total, weights = np.zeros((3, height, width)), np.zeros((height, width))
    weight = shape((np.arange(h) + 0.5) / h)[:, None] * shape((np.arange(w) + 0.5) / w)[None, :]
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
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("network", [band_passed_through, position_in_window])
def test_every_pixel_is_exact(tmp_path, size, window, overlap, network):
    if size == (513, 1025) and window == 64 and overlap == 0.9:
        pytest.skip("15,000 windows; the smaller sizes cover it")
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
        patch.setattr(stream_module, "_SWATH_BYTES", budget)
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


class Roomy:
    """A network on a device that says how many windows it has room for."""

    def __init__(self, room: int | None) -> None:
        self.room, self.asked, self.most = room, [], None

    def at_once(self, ask, most):
        ask(2)
        self.offered = most
        return self.room

    def __call__(self, image, valid):
        self.asked.append((len(image), bool(valid.any()), image.shape[1:]))
        return position_in_window(image, valid)


@pytest.mark.parametrize(("room", "first"), [(5, 5), (None, 7)])
def test_a_device_is_asked_as_many_windows_as_it_has_room_for(tmp_path, monkeypatch, room, first):
    monkeypatch.setattr(stream_module, "_BATCH_PIXELS", 7 * 64 * 64)
    _, path = scene(tmp_path, 100, 600)
    network = Roomy(room)
    with open_image(path) as reader:
        found, _ = gather(reader, network, PredictOptions(window=64, overlap=0.5))
        one, _ = gather(reader, position_in_window, PredictOptions(window=64, overlap=0.5, batch=1))
    assert np.array_equal(found, one)
    assert network.asked[0] == (2, False, (2, 64, 64))  # the trial, of which nothing is kept
    assert network.asked[1] == (first, True, (2, 64, 64))
    assert network.offered == stream_module._DEVICE_PIXELS // 64**2
    with open_image(path) as reader:
        assert stream_module.batch_of(reader, PredictOptions(batch=3), network) == 3


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


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), overlap=st.sampled_from([0.0, 0.3, 0.6, 0.9]), budget=st.sampled_from([1, 20_000, 10**9])
)
def test_any_wanted_rectangles_give_each_of_their_pixels_once_and_as_in_the_whole_run(
    tmp_path_factory, data, overlap, budget
):
    height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 120))
    wanted = []
    for _ in range(data.draw(st.integers(0, 4))):
        row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        wanted.append(Window(row, col, data.draw(st.integers(1, 80)), data.draw(st.integers(1, 80))))
    image, path = scene(tmp_path_factory.mktemp("w"), height, width)
    options = PredictOptions(window=20, overlap=overlap)
    with pytest.MonkeyPatch.context() as patch, open_image(path) as reader:
        patch.setattr(stream_module, "_SWATH_BYTES", budget)
        part, seen = gather(reader, position_in_window, options, wanted=wanted)
    inside = np.zeros((height, width), int)
    for w in wanted:
        inside[w.slices()] = 1
    assert np.array_equal(seen, inside)
    expected = dense(position_in_window, image, np.ones((height, width), bool), 20, overlap)
    assert np.abs(part - expected)[:, inside == 1].max(initial=0) < 1e-5


def test_windows_without_a_valid_pixel_are_left_to_the_others_and_not_computed(tmp_path):
    image = np.random.default_rng(1).integers(1, 256, (2, 200, 200), dtype=np.uint8)
    image[:, :, 70:] = 0
    image[:, 5, 5] = 0
    path = write(tmp_path / "a.tif", image, nodata=0)
    asked = []

    def asking(batch, valid):
        asked.extend(valid.any(axis=(1, 2)))
        return position_in_window(batch, valid)

    options = PredictOptions(window=64, overlap=0.5)
    with open_image(path) as reader:
        probs, _ = gather(reader, asking, options)
        ok = reader.read(reader.grid.window)[1]
    assert all(asked)
    assert len(asked) == 6 * 3  # 6 rows of windows; those at columns 0, 32 and 64 reach valid ground
    expected = dense(position_in_window, image, ok, 64, 0.5)
    assert np.abs(probs - expected)[:, ok].max() < 1e-5


def test_the_blend_by_mean_is_the_plain_average(tmp_path):
    image, path = scene(tmp_path, 90, 61)
    with open_image(path) as reader:
        probs, _ = gather(reader, position_in_window, PredictOptions(window=32, overlap=0.5, blend="mean"))
    expected = dense(position_in_window, image, np.ones((90, 61), bool), 32, 0.5, shape=np.ones_like)
    assert np.abs(probs - expected).max() < 1e-5


def test_progress_reaches_the_number_of_rows(tmp_path, monkeypatch):
    _, path = scene(tmp_path, 100, 333)
    monkeypatch.setattr(stream_module, "_SWATH_BYTES", 1)

    class Counting:
        total = 0.0

        def advance(self, steps=1):
            self.total += steps

        def note(self, text):
            pass

    for wanted in (None, [Window(60, 0, 10, 10)]):
        bar = Counting()
        with open_image(path) as reader:
            gather(reader, position_in_window, PredictOptions(window=64), wanted=wanted, progress=bar)
        assert bar.total == pytest.approx(100)


def test_a_network_of_another_number_of_classes_is_told(tmp_path):
    _, path = scene(tmp_path, 30, 30)
    with (
        open_image(path) as reader,
        pytest.raises(BundleError, match=r"\(1, 3, 30, 30\), expected \(1, 4, 30, 30\)"),
    ):
        list(stream(reader, position_in_window, 4, PredictOptions()))


def test_nan_at_a_valid_pixel_is_told_and_at_an_invalid_one_is_not(tmp_path):
    image = np.random.default_rng(1).integers(1, 256, (2, 40, 50), dtype=np.uint8)
    image[:, 7, 9] = 0

    def broken(at):
        def network(batch, valid):
            probs = position_in_window(batch, valid)
            probs[:, :, at[0], at[1]] = np.nan
            return probs

        return network

    with open_image(write(tmp_path / "a.tif", image, nodata=0)) as reader:
        probs, _ = gather(reader, broken((7, 9)), PredictOptions())
        assert np.isfinite(np.delete(probs.reshape(3, -1), 7 * 50 + 9, axis=1)).all()
        with pytest.raises(BundleError, match="NaN for valid pixels of rows 0-40, columns 0-50"):
            gather(reader, broken((8, 9)), PredictOptions())


def test_a_stream_left_early_leaves_no_thread(tmp_path):
    _, path = scene(tmp_path, 300, 300)
    with open_image(path) as reader:
        strips = stream(reader, position_in_window, 3, PredictOptions(window=64))
        next(strips)
        assert [t for t in threading.enumerate() if t.name == "raremap-reader"]
        strips.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("raremap")]


def counted(read, windows):
    """`read` of a reader, which notes what is read."""

    def noting(window, out=None):
        windows.append(window)
        return read(window, out=out)

    return noting


@settings(max_examples=30, deadline=None)
@given(
    held=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=6),
    window=st.integers(5, 60), overlap=st.sampled_from([0.0, 0.25, 0.7]), budget=st.sampled_from([1, 10**9]),
)  # fmt: skip
def test_a_sparse_scene_has_the_map_of_the_same_scene_in_full_and_its_gaps_are_not_read(
    tmp_path_factory, held, window, overlap, budget
):
    folder = tmp_path_factory.mktemp("s")
    image = np.zeros((2, 96, 128), np.uint8)
    rng = np.random.default_rng(0)
    profile = dict(driver="GTiff", height=96, width=128, count=2, dtype="uint8", nodata=0, tiled=True,
                   blockxsize=16, blockysize=16)  # fmt: skip
    with rasterio.open(folder / "sparse.tif", "w", SPARSE_OK=True, **profile) as file:
        for row, col in held:
            part = Window(16 * row, 16 * col, 16, 16)
            image[:, *part.slices()] = rng.integers(0, 4, (2, 16, 16))
            file.write(image[:, *part.slices()], window=rio_window(part))
    full = write(folder / "full.tif", image, nodata=0)
    options = PredictOptions(window=window, overlap=overlap)
    maps, read = [], []
    for path in (folder / "sparse.tif", full):
        with pytest.MonkeyPatch.context() as patch, open_image(path) as reader:
            patch.setattr(stream_module, "_SWATH_BYTES", budget)
            patch.setattr(reader, "read", counted(reader.read, read))
            probs, seen = gather(reader, position_in_window, options)
            assert (seen == 1).all()
            assert np.abs(probs.sum(0) - 1)[image.any(0)].max(initial=0) < 1e-5
            maps.append(probs[:, image.any(0)])
        if path != full:
            assert bool(read) == bool(held)
    assert np.array_equal(*maps)
    expected = dense(position_in_window, image, image.any(0), window, overlap)[:, image.any(0)]
    assert np.abs(maps[0] - expected).max(initial=0) < 1e-5


def test_rows_without_data_are_one_blank_strip_and_nothing_is_asked(tmp_path):
    image = np.zeros((2, 300, 100), np.uint8)
    image[:, 250:, 40] = 9
    asked = []

    def asking(batch, valid):
        asked.append(len(batch))
        return position_in_window(batch, valid)

    with open_image(write(tmp_path / "a.tif", image, nodata=0)) as reader:
        strips = [
            (s.window.row_off, s.window.row_end, s.blank, bool(s.valid.any()), float(s.probs.sum(0).mean()))
            for s in stream(reader, asking, 3, PredictOptions(window=64, overlap=0))
        ]
    assert [s[2] for s in strips] == [row_end <= 192 for _, row_end, *_ in strips]
    assert {r for top, end, _, some, _ in strips if some for r in (top, end)} <= set(range(192, 301))
    assert sum(asked) == 2 * 2  # at rows 192 and 236, columns 0 and 36
    assert strips[0][4] == pytest.approx(1)
