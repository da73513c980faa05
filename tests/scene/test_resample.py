"""Fine labels on a coarser grid, against GDAL, hand counts and the areas themselves."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject, transform_bounds
from tests.rasters import UTM, write

from raremap.errors import LabelError, OutputError, SceneError
from raremap.labels import LabelScheme
from raremap.scene import resample
from raremap.scene.grid import Grid
from raremap.scene.options import Area, Fractions, Mode, Nearest, Weighted
from raremap.scene.quotas import apportion
from raremap.scene.resample import rescale_labels

WEST, NORTH = 4e5, 4.6e6


def patches(height, width, classes=4, seed=0, grain=5):
    """Patchy classes 1 … K, so that cells are whole, mixed and tied."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, classes + 1, (-(-height // grain), -(-width // grain)))
    return np.kron(coarse, np.ones((grain, grain), int))[:height, :width].astype(np.uint8)


def grid(height, width, pixel=10.0, row=0.0, col=0.0, crs=UTM):
    """A grid whose corner lies `row` and `col` metres from that of the labels."""
    place = Affine(pixel, 0, WEST + col, 0, -pixel, NORTH - row)
    return Grid(height, width, CRS.from_user_input(crs) if crs else None, place)


def fine(path, array, **more):
    return write(path, array, pixel=1.0, **more)


def read(path):
    with rasterio.open(path) as file:
        return file.read() if file.count > 1 else file.read(1)


@pytest.mark.parametrize("method", [Mode(min_cover=0), Nearest()])
@pytest.mark.parametrize(("ratio", "dtype"), [(2, "uint8"), (5, "uint8"), (10, "uint8"), (4, "uint16")])
def test_mode_and_nearest_are_gdals_pixel_for_pixel(tmp_path, method, ratio, dtype):
    array = patches(37 * ratio, 41 * ratio, grain=3).astype(dtype)
    array[:, 60:75] = 0
    path = fine(tmp_path / "fine.tif", array, nodata=0)
    g = grid(30, 39, ratio, 3 * ratio, 2 * ratio)
    rescale_labels(path, g, tmp_path / "out.tif", method, threads=2)
    expected = np.zeros((30, 39), dtype)
    with rasterio.open(path) as file:
        reproject(
            rasterio.band(file, 1), expected, dst_transform=g.transform, dst_crs=g.crs,
            resampling=Resampling[method.kind], src_nodata=0, dst_nodata=255,
        )  # fmt: skip
    assert len(np.unique(expected)) == 5
    assert np.array_equal(read(tmp_path / "out.tif"), expected)


def counted(array, ratio, value):
    """Share of a value in each cell of an aligned grid."""
    h, w = array.shape[0] // ratio, array.shape[1] // ratio
    return (array[: h * ratio, : w * ratio] == value).reshape(h, ratio, w, ratio).mean((1, 3))


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(8, 60), width=st.integers(8, 60), ratio=st.floats(1, 7.5), row=st.floats(0, 1),
    col=st.floats(0, 1), block=st.integers(1, 20), seed=st.integers(0, 99), grain=st.integers(1, 9),
)  # fmt: skip
def test_area_keeps_every_class_for_any_ratio_offset_and_block(
    tmp_path_factory, height, width, ratio, row, col, block, seed, grain
):
    folder = tmp_path_factory.mktemp("a")
    shape = int(np.ceil((height + 1) * ratio)), int(np.ceil((width + 1) * ratio))
    array = patches(*shape, classes=5, seed=seed, grain=grain)
    path = fine(folder / "fine.tif", array)
    g = grid(height, width, ratio, row * ratio, col * ratio)
    result = rescale_labels(path, g, folder / "out.tif", Area(block=block), threads=1)
    # Ground of each class within the grid, by overlap along each axis.
    down, across = (
        np.clip(np.minimum(np.arange(n) + 1, (o + size) * ratio) - np.maximum(np.arange(n), o * ratio), 0, 1)
        for n, o, size in ((shape[0], row, height), (shape[1], col, width))
    )
    out = read(folder / "out.tif")
    for value in range(1, 6):
        before = float(down @ (array == value) @ across) / ratio**2
        told = result.classes[value].before * 1e4 / ratio**2 if value in result.classes else 0
        # An edge within a hundredth of a fine pixel of another is taken for it.
        assert told == pytest.approx(before, rel=1e-3, abs=0.1 + 0.02 * (height + width) / ratio)
        # Remainders are carried: about a cell, whatever the number of blocks; snapped edges move little ground.
        assert abs((out == value).sum() - before) <= 2.5 + 2e-3 * before
    assert not (out == 255).any()


@settings(max_examples=25, deadline=None)
@given(
    ratio=st.sampled_from([2, 3.3, 10]), side=st.sampled_from([8, 16, 40]), seed=st.integers(0, 9),
    method=st.sampled_from([Area(block=8), Fractions(block=8), Mode(), Nearest(), Weighted(inverse=0.5)]),
    threads=st.integers(1, 3), turned=st.booleans(), tiled=st.booleans(),
)  # fmt: skip
def test_windows_give_what_the_whole_gives(
    tmp_path_factory, ratio, side, seed, method, threads, turned, tiled
):
    folder = tmp_path_factory.mktemp("w")
    array = patches(int(48 * ratio), int(50 * ratio), seed=seed)
    array[5:20, 7:60] = 0
    blocks = dict(tiled=True, blockxsize=16, blockysize=16) if tiled else {}
    path = fine(folder / "fine.tif", array, nodata=0, **blocks)
    g = grid(40, 45, ratio, 2, 3)
    if turned:
        g = Grid(40, 45, g.crs, g.transform @ Affine.rotation(7))
    old = resample._CELLS
    try:
        results = []
        for cells, workers in ((10_000, 1), (side, threads)):
            resample._CELLS = cells
            rescale_labels(path, g, folder / f"{cells}.tif", method, threads=workers)
            results.append(read(folder / f"{cells}.tif"))
    finally:
        resample._CELLS = old
    assert np.array_equal(*results)


def test_fractions_are_the_shares_of_labelled_ground_and_sum_to_all_of_it(tmp_path):
    array = patches(120, 90, grain=4)
    array[:30] = 0  # whole cells: a partly labelled one would leave a remainder to the next
    array[30:36, :10] = 0
    path = fine(tmp_path / "fine.tif", array, nodata=0)
    result = rescale_labels(path, grid(12, 9), tmp_path / "out.tif", Fractions(block=8))
    out = read(tmp_path / "out.tif")
    labelled = 1 - counted(array, 10, 0)
    assert (out[:, labelled < 0.5] == 255).all()
    known = labelled >= 0.5
    assert (out.sum(0)[known] == 200).all()
    for value in range(1, 5):
        expected = counted(array, 10, value)[known] / labelled[known]
        assert abs(out[value - 1][known] / 200 - expected).max() <= 1 / 200 + 1e-6
    with rasterio.open(tmp_path / "out.tif") as file:
        assert (file.descriptions, file.scales[0], file.nodata) == (("1", "2", "3", "4"), 1 / 200, 255)
    assert result.empty_cells == (~known).sum()


@settings(max_examples=25, deadline=None)
@given(
    ratio=st.sampled_from([1, 2, 5, 10]), height=st.integers(1, 23), width=st.integers(1, 23), seed=st.integers(0, 99),
    grain=st.integers(1, 12), block=st.integers(1, 9), dtype=st.sampled_from(["uint8", "uint16", "int16"]),
)  # fmt: skip
def test_fractions_of_fully_labelled_cells_are_exact(
    tmp_path_factory, ratio, height, width, seed, grain, block, dtype
):
    """1, 4, 25 and 100 pixels a cell are whole steps: every cell says what was counted, wherever it lies."""
    folder = tmp_path_factory.mktemp("x")
    array = patches(height * ratio, width * ratio, classes=6, seed=seed, grain=grain)
    labels = fine(folder / "f.tif", array.astype(dtype))
    options = Fractions(block=block)
    rescale_labels(labels, grid(height, width, float(ratio)), folder / "o.tif", options, threads=1)
    out = read(folder / "o.tif")
    out = out if out.ndim == 3 else out[None]
    for band, value in zip(out, np.unique(array), strict=True):
        assert np.array_equal(band, np.rint(counted(array, ratio, value) * 200))


def test_fractions_keep_areas_where_a_pixel_is_no_whole_number_of_steps(tmp_path):
    rng = np.random.default_rng(0)
    array = np.where(rng.random((300, 300)) < 0.03, 2, 1).astype(np.uint8)  # most often 1 pixel of 9
    result = rescale_labels(
        fine(tmp_path / "f.tif", array), grid(100, 100, 3.0), tmp_path / "o.tif", Fractions()
    )
    assert result.classes[2].cells == pytest.approx((array == 2).sum() / 9, abs=4 / 200)


def test_weights_prefer_the_class_at_the_centre_and_the_rare_one(tmp_path):
    array = np.ones((10, 20), np.uint8)
    array[3:7, 3:7] = 2  # 16 % of the first cell, around its centre
    array[:, 16:] = 3  # 40 % of the second, at its side
    path, g = fine(tmp_path / "f.tif", array), grid(1, 2)
    for method, expected in (
        (Mode(), [1, 1]),
        (Weighted(sigma=10), [1, 1]),
        (Weighted(sigma=0.1), [2, 1]),
        (Weighted(sigma=10, inverse=1), [2, 3]),
    ):
        rescale_labels(path, g, tmp_path / "o.tif", method)
        assert read(tmp_path / "o.tif").tolist() == [expected]


def test_rare_classes_go_where_they_have_most_ground(tmp_path):
    array = np.ones((20, 40), np.uint8)
    array[0:5, 0:5] = 2  # a quarter of cell 0,0
    array[10:19, 22:30] = 2  # 72 % of cell 1,2
    result = rescale_labels(fine(tmp_path / "f.tif", array), grid(2, 4), tmp_path / "o.tif", Area())
    assert read(tmp_path / "o.tif").tolist() == [[1, 1, 1, 1], [1, 1, 2, 1]]
    assert result.forced == 0


def test_cells_mostly_without_labels_are_nodata(tmp_path):
    array = np.full((10, 30), 7, np.uint8)
    array[:5, 10:20] = 0
    array[:6, 20:30] = 9
    path = fine(tmp_path / "f.tif", array, nodata=0)
    for method in (Area(ignore=(9,)), Mode(ignore=(9,))):
        result = rescale_labels(path, grid(1, 4), tmp_path / "o.tif", method)
        assert read(tmp_path / "o.tif").tolist() == [[7, 7, 255, 255]]
        assert result.classes[7].before * 1e4 == pytest.approx(190)
        assert (result.cells, result.empty_cells) == (2, 2)


@pytest.mark.parametrize("method", [Area(), Mode(), Nearest(), Fractions()])
def test_another_crs_finds_the_same_ground(tmp_path, method):
    array = patches(600, 600, grain=60)
    path = fine(tmp_path / "f.tif", array)
    degrees = transform_bounds(UTM, "EPSG:4326", WEST + 100, NORTH - 500, WEST + 500, NORTH - 100)
    g = Grid(36, 48, CRS.from_epsg(4326), rasterio.transform.from_bounds(*degrees, 48, 36))
    result = rescale_labels(path, g, tmp_path / "o.tif", method)
    assert 0 <= result.error <= 0.05
    expected = np.zeros((36, 48), np.uint8)
    with rasterio.open(path) as file:
        reproject(
            rasterio.band(file, 1), expected, dst_transform=g.transform, dst_crs=g.crs, dst_nodata=255,
            resampling=Resampling.nearest, tolerance=0,
        )  # fmt: skip
    out = read(tmp_path / "o.tif")
    if method.kind == "fractions":
        out = out.argmax(0) + 1
    # Patches of 60 m in cells of 10: cells whose centre lies clear of a border agree whatever the method.
    assert (out == expected).mean() > (0.999 if method.kind == "nearest" else 0.9)
    west, south, east, north = degrees
    corners = [west, east, east, west], [south, south, north, north]
    metres = Geod(ellps="WGS84").polygon_area_perimeter(*corners)[0]
    assert sum(c.after for c in result.classes.values()) == pytest.approx(metres / 1e4, rel=1e-5)
    before = sum(c.before for c in result.classes.values())
    assert before == pytest.approx(sum(c.after for c in result.classes.values()), rel=2e-3)


def test_names_colours_and_values_stay(tmp_path):
    path = tmp_path / "f.tif"
    fine(path, np.full((20, 20), 7, np.uint8))
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {7: (10, 20, 30, 255)})
        file.update_tags(1, class_7="landslide")
    rescale_labels(path, grid(2, 2), tmp_path / "o.tif")
    with rasterio.open(tmp_path / "o.tif") as file:
        assert (file.read(1) == 7).all()
        assert (file.nodata, file.tags()["class_7"], file.colormap(1)[7]) == (
            255,
            "landslide",
            (10, 20, 30, 255),
        )
        assert (file.crs, file.transform) == (CRS.from_user_input(UTM), grid(2, 2).transform)


def test_files_without_georeferencing_are_of_the_same_ground(tmp_path):
    array = patches(40, 80, grain=10)
    path = write(tmp_path / "f.tif", array, crs=None)
    rescale_labels(path, Grid(4, 8), tmp_path / "o.tif", Mode())
    assert np.array_equal(read(tmp_path / "o.tif"), array[5::10, 5::10])


def faulty(tmp_path):
    ones = np.ones((40, 40), np.uint8)
    two = LabelScheme({1: "a", 2: "b"})
    many = np.arange(300, dtype=np.uint16).repeat(3).reshape(30, 30)
    yield (
        "no overlap",
        fine(tmp_path / "a.tif", ones),
        grid(4, 4, row=900),
        {},
        SceneError,
        "does not overlap",
    )
    yield "coarser", write(tmp_path / "b.tif", ones, pixel=30), grid(4, 4), {}, SceneError, "coarser than"
    yield (
        "255 classes",
        fine(tmp_path / "c.tif", many),
        grid(1, 1, 30),
        {},
        LabelError,
        "more than 254 classes",
    )
    yield (
        "float",
        fine(tmp_path / "d.tif", ones.astype("float32")),
        grid(4, 4),
        {},
        LabelError,
        "holds float32",
    )
    yield "no CRS", write(tmp_path / "e.tif", ones, crs=None), grid(4, 4), {}, SceneError, "has no CRS"
    yield (
        "all nodata",
        fine(tmp_path / "f.tif", ones, nodata=1),
        grid(4, 4),
        {},
        LabelError,
        "no labelled pixel",
    )
    yield "missing", tmp_path / "none.tif", grid(4, 4), {}, SceneError, "does not exist"
    yield "bands", fine(tmp_path / "g.tif", np.stack([ones, ones])), grid(4, 4), {}, SceneError, "has 2 bands"
    yield (
        "unknown",
        fine(tmp_path / "h.tif", ones * 9),
        grid(4, 4),
        {"scheme": two},
        LabelError,
        "has value 9",
    )
    yield "255", fine(tmp_path / "i.tif", ones * 255), grid(4, 4), {}, LabelError, "class value 255"
    yield (
        "negative",
        fine(tmp_path / "j.tif", -ones.astype("int16")),
        grid(4, 4),
        {},
        LabelError,
        "has value -1",
    )


def test_bad_input_is_told_in_one_line_and_leaves_nothing(tmp_path):
    for name, path, g, more, kind, text in faulty(tmp_path):
        for method in (Area(), Nearest()):
            with pytest.raises(kind) as caught:
                rescale_labels(path, g, tmp_path / "out" / "o.tif", method, **more)
            assert text in str(caught.value), name
            assert "\n" not in str(caught.value)
            assert path.name in str(caught.value)
            assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_the_source_is_never_overwritten(tmp_path):
    path = fine(tmp_path / "f.tif", np.ones((20, 20), np.uint8))
    with pytest.raises(OutputError, match="is also what is read"):
        rescale_labels(path, grid(2, 2), tmp_path / "f.tif")
    assert read(path).shape == (20, 20)


def test_an_interruption_leaves_nothing(tmp_path):
    class Stop:
        def advance(self, steps=1):
            raise KeyboardInterrupt

    path = fine(tmp_path / "in" / "f.tif", patches(400, 400))
    with pytest.raises(KeyboardInterrupt):
        rescale_labels(path, grid(40, 40), tmp_path / "o" / "o.tif", progress=Stop())
    assert not list((tmp_path / "o").iterdir())


@given(
    shares=st.lists(st.floats(0, 9), min_size=1, max_size=6),
    carry=st.lists(st.floats(-0.9, 0.9), min_size=6, max_size=6),
)
def test_quotas_are_whole_within_their_bounds_and_next_to_what_is_due(shares, carry):
    target = np.array(shares) + np.array(carry[: len(shares)])
    total = round(sum(shares))
    low, high = np.zeros(len(shares), int), np.full(len(shares), max(1, total))
    out = apportion(target, total, low, high, np.arange(len(shares)))
    assert out.sum() == total
    assert (out >= 0).all()
    if abs(target.sum() - total) < 1e-9 and (target >= 0).all():
        assert abs(out - target).max() < 1


@pytest.mark.parametrize("nodata", [-(2**31), 2**31 - 1, -1])
def test_no_data_of_32_bits_is_left_out_and_takes_no_class_with_it(tmp_path, nodata):
    # Their lowest 16 bits are those of the classes 0 and 65535.
    array = patches(100, 100).astype(np.int32) - 1
    array[:50, :50] = nodata
    path = fine(tmp_path / "fine.tif", array, nodata=nodata)
    found = rescale_labels(path, grid(10, 10), tmp_path / "out.tif", Mode(), threads=2)
    bytes_ = fine(tmp_path / "bytes.tif", np.where(array == nodata, 255, array).astype(np.uint8), nodata=255)
    same = rescale_labels(bytes_, grid(10, 10), tmp_path / "same.tif", Mode(), threads=2)
    assert found.classes == same.classes
    assert sorted(found.classes) == [0, 1, 2, 3]
    assert (read(tmp_path / "out.tif")[:5, :5] == 255).all()


def test_a_value_of_32_bits_that_is_no_class_is_named(tmp_path):
    array = patches(100, 100).astype(np.int32)
    array[3, 4] = -1
    path = fine(tmp_path / "fine.tif", array)
    with pytest.raises(LabelError, match=r"has value -1; classes are whole numbers in 0\.\.65534.*--ignore"):
        rescale_labels(path, grid(10, 10), tmp_path / "out.tif", threads=2)
    assert not (tmp_path / "out.tif").exists()
