"""Reading by window, against rasterio itself and against arrays made by hand."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.enums import ColorInterp
from tests.rasters import write

from raremap.errors import LabelError, SceneError
from raremap.labels import IGNORE, LabelScheme
from raremap.scene.gdal import fingerprint
from raremap.scene.maskfile import open_mask
from raremap.scene.raster import open_image
from raremap.scene.window import Window


def noise(bands, height, width, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(1, 200, (bands, height, width)).astype(dtype)


def whole(reader):
    with reader:
        return reader.read(reader.grid.window)


@given(st.data())
def test_a_window_is_that_part_of_the_file(tmp_path_factory, data):
    image = noise(3, 40, 50, np.uint16)
    path = write(tmp_path_factory.mktemp("r") / "a.tif", image)
    row, col = data.draw(st.integers(0, 39)), data.draw(st.integers(0, 49))
    window = Window(row, col, data.draw(st.integers(1, 40 - row)), data.draw(st.integers(1, 50 - col)))
    with open_image(path) as reader:
        got, valid = reader.read(window)
    rows, cols = window.slices()
    assert np.array_equal(got, image[:, rows, cols])
    assert got.dtype == np.uint16
    assert valid.all()


def test_bands_are_picked_by_name_in_the_order_asked(tmp_path):
    image = noise(4, 6, 7)
    path = write(tmp_path / "a.tif", image, names=["blue", "green", "red", "nir"])
    reader = open_image(path, bands=["nir", "blue"])
    assert reader.bands == ("nir", "blue")
    assert np.array_equal(whole(reader)[0], image[[3, 0]])


def test_a_band_that_is_not_there_is_named_with_those_that_are(tmp_path):
    path = write(tmp_path / "a.tif", noise(2, 5, 5), names=["red", "nir08"])
    with pytest.raises(
        SceneError, match=r"a\.tif has no band 'nir', it has red, nir08; did you mean 'nir08'\?"
    ):
        open_image(path, bands=["red", "nir"])
    with pytest.raises(SceneError, match=r"a\.tif has 2 bands, but 3 names are given \(a, b, c\)"):
        open_image(path, names=["a", "b", "c"])


def test_bands_are_called_by_colour_or_number_where_nothing_names_them(tmp_path):
    Image.fromarray(np.moveaxis(noise(3, 5, 6), 0, -1)).save(tmp_path / "photo.png")
    assert open_image(tmp_path / "photo.png").bands == ("red", "green", "blue")
    assert open_image(write(tmp_path / "a.tif", noise(2, 5, 5))).bands == ("band1", "band2")


def test_files_of_one_band_each_make_one_image(tmp_path):
    image = noise(2, 9, 8, np.int16)
    paths = [write(tmp_path / f"{name}.tif", band) for name, band in zip(("B2", "B3"), image, strict=True)]
    reader = open_image(paths)
    assert reader.bands == ("B2", "B3")
    assert np.array_equal(whole(reader)[0], image)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"shape": (9, 9)}, "size 9x9, expected 8x9"),
        ({"crs": "EPSG:32632"}, "CRS EPSG:32632, expected EPSG:25831"),
        ({"origin": (400_005.0, 4.6e6)}, "another grid (shifted or scaled by 0.5 pixels)"),
        ({"pixel": 20.0}, "another grid"),
    ],
)
def test_files_on_different_grids_are_told(tmp_path, other, told):
    shape = other.pop("shape", (9, 8))
    first = write(tmp_path / "B2.tif", noise(1, 9, 8))
    second = write(tmp_path / "B3.tif", noise(1, *shape), **other)
    with pytest.raises(SceneError) as caught:
        open_image([first, second])
    assert told in str(caught.value)
    assert "B2.tif" in str(caught.value)
    assert "B3.tif" in str(caught.value)


def test_zero_as_nodata_means_all_bands_and_any_other_value_any_band(tmp_path):
    image = noise(2, 3, 4)
    image[:, 0, 0] = 0
    image[0, 1, 1] = 0
    zero = write(tmp_path / "zero.tif", image, nodata=0)
    assert np.argwhere(~whole(open_image(zero))[1]).tolist() == [[0, 0]]
    image[1, 2, 2] = 255
    high = write(tmp_path / "high.tif", image, nodata=255)
    assert np.argwhere(~whole(open_image(high))[1]).tolist() == [[2, 2]]
    assert np.argwhere(~whole(open_image(high, nodata=0))[1]).tolist() == [[0, 0]]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])  # radar in decibels has minus infinity
@pytest.mark.parametrize("nodata", [None, np.nan, -9999.0])
def test_what_is_no_number_in_any_band_is_never_valid(tmp_path, nodata, odd):
    image = noise(2, 3, 4, np.float32)
    image[1, 2, 3] = odd
    path = write(tmp_path / "a.tif", image, nodata=nodata)
    assert np.argwhere(~whole(open_image(path))[1]).tolist() == [[2, 3]]
    layer = write(tmp_path / "layer.tif", image[1], nodata=nodata)
    above = write(tmp_path / "above.tif", noise(1, 3, 4))
    assert np.argwhere(~whole(open_image(above, layers={"vv": layer}))[1]).tolist() == [[2, 3]]


def test_files_of_a_scene_with_two_values_of_no_data_are_told(tmp_path):
    heights = noise(1, 3, 4, np.int16)
    heights[0, 1, 1] = -9999
    red = write(tmp_path / "red.tif", noise(1, 3, 4, np.int16), nodata=0)
    dem = write(tmp_path / "dem.tif", heights, nodata=-9999)
    with pytest.raises(SceneError, match=r"red\.tif has nodata 0, .*dem\.tif has -9999; .*scenes\.layers"):
        open_image([red, dem])
    assert np.argwhere(~whole(open_image([red, dem], nodata=-9999))[1]).tolist() == [[1, 1]]
    assert np.argwhere(~whole(open_image(red, layers={"dem": dem}))[1]).tolist() == [[1, 1]]
    plain = write(tmp_path / "plain.tif", noise(1, 3, 4, np.int16))
    assert open_image([plain, dem]).nodata == -9999


def test_an_alpha_band_is_validity_unless_a_name_is_given_to_it(tmp_path):
    image = noise(4, 5, 6)
    image[3, 0] = 0
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "height": 5, "width": 6, "count": 4, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, photometric="RGB", alpha="YES") as file:
        file.write(image)
        assert file.colorinterp[3] == ColorInterp.alpha
    reader = open_image(path)
    got, valid = whole(reader)
    assert reader.bands == ("red", "green", "blue")
    assert np.array_equal(got, image[:3])
    assert np.array_equal(valid, image[3] > 0)
    named = open_image(path, names=["r", "g", "b", "nir"])
    got, valid = whole(named)
    assert np.array_equal(got, image)
    assert valid.all()


def test_a_mask_inside_the_file_is_validity(tmp_path):
    path = tmp_path / "a.tif"
    ok = np.arange(30).reshape(5, 6) % 4 > 0
    profile = {"driver": "GTiff", "height": 5, "width": 6, "count": 1, "dtype": "uint8"}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as file:
        file.write(noise(1, 5, 6))
        file.write_mask(ok)
    assert np.array_equal(whole(open_image(path))[1], ok)


def test_a_reader_goes_to_other_processes_without_its_handles(tmp_path):
    image = noise(2, 5, 6)
    reader = open_image(write(tmp_path / "a.tif", image))
    reader.read(Window(0, 0, 1, 1))
    again = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(whole(again)[0], image)
    assert np.array_equal(whole(reader)[0], image)
    assert again.grid == reader.grid


def test_pictures_without_a_place_on_the_ground_open_silently(tmp_path):
    path = write(tmp_path / "a.png", noise(3, 5, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
        reader = open_image(path)
        whole(reader)
    assert reader.grid.crs is None
    assert not reader.grid.georeferenced


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(SceneError, match=r"gone\.tif does not exist; check the path"):
        open_image(tmp_path / "gone.tif")
    with pytest.raises(SceneError, match="is a folder, expected a raster file"):
        open_image(tmp_path)
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(SceneError, match=r"text\.tif cannot be opened as a raster"):
        open_image(tmp_path / "text.tif")
    path = write(tmp_path / "short.tif", noise(1, 300, 300), tiled=True, blockxsize=128, blockysize=128)
    path.write_bytes(path.read_bytes()[:60_000])
    with open_image(path) as reader:
        reader.read(Window(0, 0, 10, 10))
        with pytest.raises(SceneError, match=r"short\.tif cannot be read at rows 256-300, columns 0-300"):
            reader.read(Window(256, 0, 44, 300))


SCHEME = LabelScheme({0: "other", 7: "slide"}, ignore=[9])


def test_a_mask_is_read_as_class_index_on_the_images_grid(tmp_path):
    image = open_image(write(tmp_path / "a.tif", noise(1, 2, 3)))
    values = np.array([[0, 7, 9], [7, 0, 255]], np.uint8)
    mask = open_mask(write(tmp_path / "m.tif", values, nodata=255), SCHEME, image.grid)
    with mask:
        assert mask.read(mask.grid.window).tolist() == [[0, 1, IGNORE], [1, 0, IGNORE]]
        assert mask.read(Window(1, 0, 1, 2)).tolist() == [[1, 0]]
    assert mask.remark is None


def test_a_mask_without_a_place_fits_an_image_of_its_size(tmp_path):
    image = open_image(write(tmp_path / "a.tif", noise(1, 2, 3)))
    assert open_mask(write(tmp_path / "m.png", np.zeros((2, 3), np.uint8)), SCHEME, image.grid)
    with pytest.raises(SceneError, match=r"mask .*m2\.png has size 4x2, expected 3x2 as its image has"):
        open_mask(write(tmp_path / "m2.png", np.zeros((2, 4), np.uint8)), SCHEME, image.grid)


@pytest.mark.parametrize(
    ("other", "told"),
    [({"crs": "EPSG:32632"}, "CRS EPSG:32632, expected EPSG:25831"), ({"pixel": 1.0}, "another grid")],
)
def test_a_mask_on_another_grid_is_told(tmp_path, other, told):
    image = open_image(write(tmp_path / "a.tif", noise(1, 2, 3)))
    with pytest.raises(SceneError, match=told):
        open_mask(write(tmp_path / "m.tif", np.zeros((2, 3), np.uint8), **other), SCHEME, image.grid)


def test_a_nodata_tag_that_is_a_class_leaves_the_class_and_a_remark(tmp_path):
    path = write(tmp_path / "m.tif", np.array([[0, 7]], np.uint8), nodata=0)
    with open_mask(path, SCHEME) as mask:
        assert mask.read(mask.grid.window).tolist() == [[0, 1]]
    assert "tagged nodata 0, which is the class 'other'; the class is kept" in (mask.remark or "")


def test_a_value_that_is_no_class_is_told(tmp_path):
    path = write(tmp_path / "m.tif", np.array([[0, 7, 3]], np.uint8))
    with open_mask(path, SCHEME) as mask, pytest.raises(LabelError, match=r"m\.tif has value 3"):
        mask.read(mask.grid.window)


def test_colours_are_classes_in_pictures_with_and_without_a_palette(tmp_path):
    scheme = LabelScheme({"#3C1098": "building", "#E2A929": "water"}, ignore=["#9B9B9B"])
    rgb = np.array([[[0x3C, 0x10, 0x98], [0xE2, 0xA9, 0x29], [0x9B, 0x9B, 0x9B]]], np.uint8)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([rgb, np.full((1, 3), 255, np.uint8)])).save(tmp_path / "rgba.png")
    indexed = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode=None).convert("P")
    indexed.putpalette(rgb.ravel().tolist())
    indexed.putdata([0, 1, 2])
    indexed.save(tmp_path / "palette.png")
    for name in ("rgb.png", "rgba.png", "palette.png"):
        with open_mask(tmp_path / name, scheme) as mask:
            assert mask.read(mask.grid.window).tolist() == [[0, 1, IGNORE]], name


def test_a_palette_picture_of_values_gives_its_values(tmp_path):
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([0, 0, 0] * 7 + [255, 0, 0])
    indexed.putdata([0, 7])
    indexed.save(tmp_path / "m.png")
    with open_mask(tmp_path / "m.png", SCHEME) as mask:
        assert mask.read(mask.grid.window).tolist() == [[0, 1]]


@pytest.mark.parametrize("size", [10, 1 << 20, (1 << 20) + 5, 3 << 20])
def test_a_fingerprint_sees_size_start_and_end(tmp_path, size):
    path = tmp_path / "a"
    path.write_bytes(bytes(size))
    seen = {fingerprint(path)}
    for at in (0, size - 1):
        data = bytearray(size)
        data[at] = 1
        path.write_bytes(data)
        seen.add(fingerprint(path))
    path.write_bytes(bytes(size + 1))
    seen.add(fingerprint(path))
    assert len(seen) == 4
    with pytest.raises(SceneError, match="cannot be read"):
        fingerprint(tmp_path / "gone")


def sparse(path, present, dtype="uint8", count=2, nodata=None, interleave="pixel", bands=None, **more):
    """A GeoTIFF of 4 x 4 blocks of 16 pixels that holds those blocks (row, column) alone, of ones, of all `bands`."""
    profile = dict(
        driver="GTiff", height=64, width=64, count=count, dtype=dtype, tiled=True, blockxsize=16, blockysize=16,
        nodata=nodata, interleave=interleave, SPARSE_OK=True, crs=None, **more,
    )  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        for row, col in present:
            for band in bands or range(1, count + 1):
                file.write(
                    np.ones((16, 16), dtype), band, window=rasterio.windows.Window(16 * col, 16 * row, 16, 16)
                )
    return path


@pytest.mark.parametrize(
    ("known", "given", "profile"),
    [
        (True, None, dict(nodata=0)),
        (True, None, dict(nodata=0, interleave="band")),
        (True, 0, dict()),  # blocks that are left out are 0, which the user calls no data
        (False, None, dict()),  # and which else is ground like any other
        (False, 7, dict()),
        (True, None, dict(nodata=7)),
        (True, None, dict(dtype="float32", nodata=np.nan)),
        (False, None, dict(dtype="float32")),
        (True, None, dict(count=4, photometric="RGB", alpha="YES")),
        (False, 0, dict(interleave="band", bands=[2])),
    ],
)
def test_what_a_sparse_file_leaves_out_is_known_to_be_blank_and_nothing_else(tmp_path, known, given, profile):
    path = sparse(tmp_path / "s.tif", [(1, 2), (3, 3)], **profile)
    with open_image(path, nodata=given) as reader:
        empty = {(r, c) for r in range(4) for c in range(4)} - {(1, 2), (3, 3)}
        for r in range(4):
            for c in range(4):
                window = Window(16 * r, 16 * c, 16, 16)
                invalid = not reader.read(window)[1].any()
                assert invalid or not reader.blank(window)
                if known:
                    assert reader.blank(window) == ((r, c) in empty)
        if not known and "bands" not in profile:
            assert not reader.blank(Window(0, 0, 16, 16))
        assert not reader.blank(Window(15, 31, 2, 2))  # four blocks, one of which is there
        assert reader.blank(Window(32, 0, 16, 64)) == (known or "bands" in profile)


def test_nothing_is_known_of_a_file_that_is_no_geotiff_or_is_full(tmp_path):
    with open_image(write(tmp_path / "a.png", np.zeros((1, 20, 20), np.uint8)), nodata=0) as reader:
        assert not reader.blank(Window(0, 0, 20, 20))
    with open_image(write(tmp_path / "a.tif", np.zeros((1, 20, 20), np.uint8)), nodata=0) as reader:
        assert not reader.blank(Window(0, 0, 20, 20))
