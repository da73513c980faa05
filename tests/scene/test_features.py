"""Features against scipy, OpenCV, GDAL and formulas written out; windows against whole scenes; holes; wrong input."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage
from tests import gdal
from tests.rasters import write

from raremap.errors import SceneError
from raremap.scene.features.channels import Channels
from raremap.scene.features.edges import _follow
from raremap.scene.features.names import find_band
from raremap.scene.features.options import KINDS, Feature, FeatureOptions
from raremap.scene.features.pixels import Pixels
from raremap.scene.features.reader import featured
from raremap.scene.raster import open_image
from raremap.scene.sources import ScenesOptions
from raremap.scene.steps import Steps
from raremap.scene.turn import TURNS, dihedral
from raremap.scene.window import Window

BANDS = ("B2", "B3", "B4", "B8", "B11", "B12", "dem")
B2, B3, B4, B8, B11, B12, DEM = range(7)


def feature(value: object) -> FeatureOptions:
    return TypeAdapter(Feature).validate_python(value)


def rough(shape=(40, 52), seed=0, soft=2.0) -> np.ndarray:
    """Seven bands of soft noise from 0 to 250, float32."""
    noise = np.random.default_rng(seed).random((7, *shape))
    noise = ndimage.gaussian_filter(noise, (0, soft, soft))
    low, high = noise.min((1, 2), keepdims=True), noise.max((1, 2), keepdims=True)
    return ((noise - low) / (high - low) * 250).astype(np.float32)


def holes(shape, seed=1, share=0.08) -> np.ndarray:
    """Validity with scattered holes and a larger one."""
    valid = np.random.default_rng(seed).random(shape) > share
    valid[10:17, 20:29] = False
    return valid


def pixels(image: np.ndarray, valid: np.ndarray | None = None, steps: Steps | None = None) -> Pixels:
    valid = np.ones(image.shape[1:], bool) if valid is None else valid
    ranges = {b: (float(v[valid].min()), float(v[valid].max())) for b, v in zip(BANDS, image, strict=True)}
    return Pixels(image, valid, BANDS, steps or Steps.square(10.0), ranges)


def windows_of(array: np.ndarray, valid: np.ndarray, size: int) -> np.ndarray:
    """The `size`² neighbours of each pixel, NaN where there are none."""
    before, after = size // 2, (size - 1) // 2
    padded = np.pad(
        np.where(valid, array, np.nan), ((before, after), (before, after)), constant_values=np.nan
    )
    return np.lib.stride_tricks.sliding_window_view(padded, (size, size))


FORMULAS = {
    "ndvi": lambda b: (b[B8] - b[B4]) / (b[B8] + b[B4]),
    "ndmi": lambda b: (b[B8] - b[B11]) / (b[B8] + b[B11]),
    "nbr": lambda b: (b[B8] - b[B12]) / (b[B8] + b[B12]),
    "ndwi": lambda b: (b[B3] - b[B8]) / (b[B3] + b[B8]),
    "mndwi": lambda b: (b[B3] - b[B11]) / (b[B3] + b[B11]),
    "ndbi": lambda b: (b[B11] - b[B8]) / (b[B11] + b[B8]),
    "bsi": lambda b: ((b[B11] + b[B4]) - (b[B8] + b[B2])) / ((b[B11] + b[B4]) + (b[B8] + b[B2])),
    "grey": lambda b: (b[B2] + b[B3] + b[B4]) / 3,
}


@pytest.mark.parametrize("kind", FORMULAS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_indices_follow_their_formulas_in_every_type(kind, dtype):
    image = (rough() + 1).astype(dtype)
    expected = FORMULAS[kind](image.astype(np.float64))
    np.testing.assert_allclose(feature(kind)(pixels(image))[0], expected, atol=2e-5)


def test_an_index_is_0_where_its_sum_is_0_and_stays_within_1():
    image = np.zeros((7, 1, 4), np.float32)
    image[B8, 0], image[B4, 0] = [0, 2, -1, 3], [0, -2, 4, 0]
    np.testing.assert_array_equal(feature("ndvi")(pixels(image))[0, 0], [0, 0, -1, 1])
    shifted = feature({"kind": "ndvi", "offset": -1000})(pixels(np.full((7, 1, 1), 1000, np.uint16)))
    assert shifted == 0


@pytest.mark.parametrize("size", [3, 5, 9, 31])
def test_gaussian_is_opencvs_inside_and_an_average_of_the_valid_beside_holes(size):
    image, valid = rough(), holes((40, 52))
    grey = image[[B2, B3, B4]].mean(0)
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    whole = feature({"kind": "gaussian", "size": size})(pixels(image))[0]
    m = min(size // 2, 15)
    there = cv2.GaussianBlur(grey, (size, size), sigma)
    np.testing.assert_allclose(whole[m:-m, m:-m], there[m:-m, m:-m], rtol=1e-5, atol=1e-3)
    # Weighted averages written out.
    offsets = np.arange(size) - size // 2
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights = weights[:, None] * weights
    near = windows_of(grey, valid, size)[valid]
    expected = np.nansum(near * weights, (1, 2)) / (~np.isnan(near) * weights).sum((1, 2))
    image[:, ~valid] = np.nan
    found = feature({"kind": "gaussian", "size": size})(pixels(image, valid))[0]
    np.testing.assert_allclose(found[valid], expected, rtol=2e-4)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 17])
def test_median_is_that_of_the_valid_pixels(size):
    image, valid = rough((61, 118)), holes((61, 118))
    image[B2, 30:, 60:] = 7  # ties
    expected = np.nanmedian(windows_of(image[B2], valid, size)[valid], (1, 2))
    image[:, ~valid] = np.inf
    found = feature({"kind": "median", "size": size, "of": "B2"})(pixels(image, valid))[0]
    np.testing.assert_array_equal(found[valid], expected)
    if size % 2:
        image = rough((61, 118))
        whole = feature({"kind": "median", "size": size, "of": "B2"})(pixels(image))[0]
        m = size // 2
        np.testing.assert_array_equal(whole[m:-m, m:-m], ndimage.median_filter(image[B2], size)[m:-m, m:-m])


def test_sobel_is_opencvs_inside_and_has_a_planes_gradient_everywhere():
    image, valid = rough(), holes((40, 52))
    found = feature({"kind": "sobel", "of": "B8"})(pixels(image))
    for part, order in zip(found, ((1, 0), (0, 1)), strict=True):
        expected = cv2.Sobel(image[B8], cv2.CV_64F, *order, ksize=3)
        np.testing.assert_allclose(part[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-3)
    y, x = np.mgrid[:40, :52]
    image[B8] = np.where(valid, 3 * x - 2 * y, np.nan)
    both = valid & (ndimage.convolve(valid.astype(int), np.ones((3, 3)), mode="constant") >= 6)
    for part, change in zip(
        feature({"kind": "sobel", "of": "B8"})(pixels(image, valid)), (3, -2), strict=True
    ):
        np.testing.assert_allclose(part[both], 8 * change)


def test_canny_without_a_cap_is_opencvs():
    rng = np.random.default_rng(3)
    image = np.full((7, 90, 120), 128, np.uint8)
    noise = ndimage.gaussian_filter(rng.normal(0, 900, (80, 110)), 2.5)
    image[B2, 5:-5, 5:-5] = (noise + 128).clip(0, 255)
    right, down = (cv2.Sobel(image[B2], cv2.CV_16S, *order) for order in ((1, 0), (0, 1)))
    expected = cv2.Canny(right, down, 60, 160, L2gradient=True) > 0
    assert 0.02 < expected.mean() < 0.3
    options = {"kind": "canny", "of": "B2", "sigma": 0, "low": 60, "high": 160, "reach": 256}
    np.testing.assert_array_equal(feature(options)(pixels(image))[0], expected)


@pytest.mark.parametrize("reach", [0, 1, 4, 50])
def test_an_edge_follows_weak_ridges_for_so_many_steps(reach):
    rng = np.random.default_rng(reach)
    ridges = rng.choice(np.array([0, 1, 2], np.uint8), (60, 80), p=(0.6, 0.395, 0.005))
    strong = ridges == 2
    expected = strong
    if reach:
        expected = ndimage.binary_dilation(strong, np.ones((3, 3)), reach, mask=ridges > 0)
    np.testing.assert_array_equal(_follow(ridges, reach) > 0, expected)


def test_the_rim_of_a_hole_is_no_edge():
    image, valid = np.full((7, 40, 52), 100, np.float32), holes((40, 52))
    image[:, ~valid] = -9999
    options = {"kind": "canny", "low": 1, "high": 2}
    assert feature(options)(pixels(image, valid))[0][valid].max() == 0


def heights(tmp_path: Path, **more) -> tuple[Path, np.ndarray]:
    hills = rough(seed=4)[DEM] * 3
    return write(tmp_path / "dem.tif", hills, names=("dem",), **more), hills


@pytest.mark.parametrize("processing", ["slope", "aspect", "hillshade"])
def test_terrain_is_gdaldems(tmp_path, processing):
    path, _ = heights(tmp_path, pixel=25.0)
    expected = gdal.dem(path, processing).astype(np.float64)
    features = [feature({"kind": processing, "pixel_m": 25})]
    with featured(open_image(path), features) as image:
        found = image.read(image.grid.window)[0][1:, 1:-1, 1:-1]
    expected = expected[1:-1, 1:-1]
    if processing == "slope":
        np.testing.assert_allclose(found[0], expected, atol=1e-4)
    elif processing == "aspect":
        np.testing.assert_allclose(found[0], np.sin(np.radians(expected)), atol=1e-4)
        np.testing.assert_allclose(found[1], np.cos(np.radians(expected)), atol=1e-4)
    else:
        np.testing.assert_allclose(1 + 254 * found[0], expected, atol=0.51)


def test_hillshade_follows_its_sun(tmp_path):
    path, _ = heights(tmp_path, pixel=25.0)
    expected = gdal.dem(path, "hillshade", "-az", "100", "-alt", "20")[1:-1, 1:-1]
    features = [feature({"kind": "hillshade", "azimuth": 100, "altitude": 20, "pixel_m": 25})]
    with featured(open_image(path), features) as image:
        found = image.read(image.grid.window)[0][1, 1:-1, 1:-1]
    np.testing.assert_allclose(1 + 254 * found, expected, atol=0.51)


def test_curvature_of_a_paraboloid_is_its_second_derivatives():
    y, x = np.mgrid[:30, :40] * 10.0
    image = rough((30, 40)).astype(np.float64)
    a, b, c, p, q = -0.004, 0.001, 0.003, 0.2, -0.1
    image[DEM] = a * x * x + b * x * y + c * y * y + p * x + q * y
    inside = np.s_[1:-1, 1:-1]
    total = feature("curvature")(pixels(image))[0][inside]
    np.testing.assert_allclose(total, -2 * (a + c), rtol=1e-5)
    zx, zy = 2 * a * x + b * y + p, b * x + 2 * c * y + q
    along = (2 * a * zx**2 + 2 * b * zx * zy + 2 * c * zy**2) / (zx**2 + zy**2)
    profile = feature({"kind": "curvature", "form": "profile"})(pixels(image))[0][inside]
    plan = feature({"kind": "curvature", "form": "plan"})(pixels(image))[0][inside]
    np.testing.assert_allclose(profile, -along[inside], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(plan + profile, total, rtol=1e-4)


def test_flat_ground_has_no_aspect_and_no_curvature():
    image = np.full((7, 6, 6), 12.5, np.float32)
    for kind, value in (("slope", 0), ("aspect", 0), ("curvature", 0), ("hillshade", np.sin(np.pi / 4))):
        np.testing.assert_allclose(feature(kind)(pixels(image)), value, atol=1e-6)
    for form in ("profile", "plan"):
        assert not feature({"kind": "curvature", "form": form})(pixels(image)).any()


@pytest.mark.parametrize("origin", [(11.0, 47.0), (11.0, -62.0)])
def test_slopes_of_heights_in_degrees(tmp_path, origin):
    """A plane of 20 % to the north and one of 30 % to the east, by the series of a degree's length."""
    size, step = (60, 40), 1 / 1200
    lat = np.radians(origin[1] - (np.arange(size[0]) + 0.5) * step)
    north = 111132.954 - 559.822 * np.cos(2 * lat) + 1.175 * np.cos(4 * lat)
    east = 111412.84 * np.cos(lat) - 93.5 * np.cos(3 * lat) + 0.118 * np.cos(5 * lat)
    col = np.arange(size[1])[None]
    planes = {"north": -0.2 * np.arange(size[0])[:, None] * step * north[:, None] + 0 * col}
    planes["east"] = 0.3 * col * step * np.full(size, east.mean())
    for name, plane in planes.items():
        path = write(
            tmp_path / f"{name}.tif", plane.astype(np.float64), origin, step, crs="EPSG:4326", names=("dem",)
        )
        with featured(open_image(path), [feature("slope"), feature("aspect")]) as image:
            slope, sine, cosine = image.read(image.grid.window)[0][1:]
        tan = np.tan(np.radians(slope[1:-1]))
        if name == "north":
            np.testing.assert_allclose(tan, 0.2, rtol=2e-3)
            np.testing.assert_allclose(sine, 0, atol=1e-6)
            np.testing.assert_allclose(cosine[1:-1], -1, atol=1e-6)
        else:
            np.testing.assert_allclose(tan, 0.3 * (east.mean() / east)[1:-1, None] + 0 * tan, rtol=2e-3)
            np.testing.assert_allclose(sine, -1, atol=1e-6)
            np.testing.assert_allclose(cosine, 0, atol=1e-6)


def test_local_and_global_min_max():
    image, valid = rough(), holes((40, 52))
    image[:, ~valid] = 1e6
    found = feature("local")(pixels(image, valid))
    for part, b in zip(found, (B4, B3, B2), strict=True):
        values = image[b][valid]
        np.testing.assert_allclose(
            part[valid], (values - values.min()) / (values.max() - values.min()), atol=1e-6
        )
    channels = Channels.of(BANDS, [feature({"kind": "global", "of": ["B8", "dem"]})])
    assert channels.names[-2:] == ("global_B8", "global_dem")
    halves = [pixels(image[:, :20], valid[:20]), pixels(image[:, 20:], valid[20:])]
    (done,) = channels.fitted(halves).features
    expected = image[[B8, DEM]][:, valid]
    assert (done.low, done.high) == (tuple(expected.min(1).tolist()), tuple(expected.max(1).tolist()))
    np.testing.assert_allclose(done(pixels(image, valid))[:, valid].min(1), 0)
    constant = np.full((7, 3, 3), 5, np.uint8)
    assert not feature("local")(pixels(constant)).any()


def test_cannys_thresholds_are_quantiles_of_training_gradients():
    image = rough()
    (done,) = Channels.of(BANDS, [feature({"kind": "canny", "sigma": 0})]).fitted([pixels(image)]).features
    grey = image[[B2, B3, B4]].mean(0)
    size = np.hypot(cv2.Sobel(grey, cv2.CV_64F, 1, 0), cv2.Sobel(grey, cv2.CV_64F, 0, 1))
    np.testing.assert_allclose((done.low, done.high), np.percentile(size, (80, 95)), rtol=0.05)


EVERY: list[object] = [
    *(k for k in KINDS if k not in ("canny", "global", "local")),
    {"kind": "gaussian", "size": 7, "of": "dem", "name": "smooth_dem"},
    {"kind": "median", "size": 5, "of": "B8", "name": "median5"},
    {"kind": "canny", "low": 15, "high": 60, "reach": 6},
    {"kind": "global", "low": [0, 0, 0], "high": [250, 250, 250]},
    {"kind": "local", "of": ["B8"]},
    {"kind": "curvature", "form": "plan", "name": "plan"},
]  # fmt: skip


@pytest.mark.parametrize("degrees", [False, True])
def test_windows_are_cut_from_the_whole_scene(tmp_path, degrees):
    shape = (97, 83)
    image, valid = rough(shape, soft=1.2).astype(np.float32), holes(shape, share=0.02)
    image[:, ~valid] = -9999
    where = {"origin": (11.0, 62.0), "pixel": 0.01, "crs": "EPSG:4326"} if degrees else {}
    path = write(tmp_path / "s.tif", image, nodata=-9999, names=BANDS, **where)
    features = [feature(v) for v in EVERY]
    with featured(open_image(path), features) as reader:
        whole, usable = reader.read(reader.grid.window)
        np.testing.assert_array_equal(usable, valid)
        assert whole.dtype == reader.dtype == np.float32
        assert len(whole) == len(reader.bands) == len(set(reader.bands))
        assert np.isfinite(whole).all()
        assert not whole[7:, ~valid].any()
        edges = whole[reader.bands.index("canny")]
        assert 0.01 < edges.mean() < 0.5
        rng = np.random.default_rng(0)
        for _ in range(60):
            r, c = int(rng.integers(shape[0])), int(rng.integers(shape[1]))
            w = Window(r, c, int(rng.integers(1, shape[0] - r + 1)), int(rng.integers(1, shape[1] - c + 1)))
            part, here = reader.read(w)
            np.testing.assert_array_equal(part, whole[:, *w.slices()])
            np.testing.assert_array_equal(here, valid[w.slices()])


@pytest.mark.parametrize("value", EVERY, ids=str)
def test_what_lies_under_invalid_pixels_changes_nothing(value):
    image, valid = rough(), holes((40, 52))
    one, other = image.copy(), image.copy()
    one[:, ~valid] = np.nan
    other[:, ~valid] = 1e30
    features = feature(value)
    a, b = (features(pixels(v, valid)) for v in (one, other))
    np.testing.assert_array_equal(a[:, valid], b[:, valid])
    assert np.isfinite(a[:, valid]).all()


@pytest.mark.parametrize("value", EVERY, ids=str)
def test_the_turns_that_a_feature_survives(value):
    f, image, valid = feature(value), rough(), holes((40, 52))
    here = pixels(image, valid)
    for code in TURNS:
        before = np.where(dihedral(valid, code), f(here.turned(code)), 0)
        after = np.where(dihedral(valid, code), dihedral(f(here), code), 0)
        same = np.allclose(before, after, atol=1e-3 if "dem" in f.inputs or "grey" in str(value) else 1e-2)
        if f.kind == "canny":  # whether it survives depends on ties
            assert f.survives == (0,)
        else:
            assert same == (code in f.survives), code


@pytest.mark.parametrize(
    ("azimuth", "survives"), [(0, 4), (180, 4), (90, 6), (270, 6), (45, 5), (225, 5), (135, 7), (315, 7)]
)
def test_a_hillshade_survives_the_flip_along_its_sun(azimuth, survives):
    f, here = feature({"kind": "hillshade", "azimuth": azimuth}), pixels(rough())
    same = [c for c in TURNS if np.allclose(f(here.turned(c)), dihedral(f(here), c), atol=1e-4)]
    assert same == [0, survives] == list(f.survives)


@pytest.mark.parametrize("code", TURNS)
def test_turned_channels_are_those_of_the_turned_scene(code):
    """Also where pixels are not square: after a quarter turn they are as wide as they were high."""
    image, valid = rough(), holes((40, 52))
    channels = Channels.of(BANDS, [feature(v) for v in EVERY])
    tall = Steps(np.diag([10.0, -30.0])[:, :, None, None])
    wide = Steps(np.diag([30.0, -10.0])[:, :, None, None])
    here = pixels(image, valid, tall)
    there = pixels(
        np.ascontiguousarray(dihedral(image, code)),
        np.ascontiguousarray(dihedral(valid, code)),
        wide if code in (1, 3, 5, 7) else tall,
    )
    found, expected = dihedral(channels.compute(here, turn=code), code), channels.compute(there)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_bands_are_found_by_their_other_names():
    assert find_band("red", ("b4", "B8A")) == "b4"
    assert find_band("red", ("Blue", "RED")) == "RED"
    assert find_band("nir", ("B08", "B8A")) == "B08"
    assert find_band("B8", ("red", "nir")) == "nir"
    assert find_band("swir2", ("Band 12",)) == "Band 12"
    assert find_band("dem", ("slope", "Elevation")) == "Elevation"
    assert find_band("red", ("B14", "B40", "redness")) is None
    image = rough()
    order = [3, 0, 6, 2, 1, 5, 4]
    mixed = Pixels(image[order], np.ones((40, 52), bool), tuple(BANDS[i] for i in order))
    np.testing.assert_array_equal(feature("bsi")(mixed), feature("bsi")(pixels(image)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ndvy", "no feature is called 'ndvy'; did you mean 'ndvi'"),
        ({"kind": "gausian", "size": 3}, "no feature is called 'gausian'; did you mean 'gaussian'"),
        ({"kind": "median", "size": 1}, "greater than or equal to 2"),
        ({"kind": "canny", "low": 3}, "give both low and high"),
        ({"kind": "canny", "low": 3, "high": 1}, "low cannot be the greater one"),
        ({"kind": "global", "low": [1], "high": [2]}, "low has 1 values, expected 3, one a band"),
    ],
)
def test_wrong_features_are_refused(value, message):
    with pytest.raises(ValidationError, match=message):
        ScenesOptions(images="*.tif", features=(value,))


def test_scenes_that_lack_what_a_feature_needs_are_refused(tmp_path):
    photo = write(tmp_path / "p.tif", np.ones((3, 8, 8), np.uint8), crs=None, names=("red", "green", "dem"))
    with open_image(photo) as image:
        with pytest.raises(SceneError, match=r"'ndvi' needs the band 'nir' \(or b8, .*have red, green, dem"):
            featured(image, [feature("ndvi")])
        with pytest.raises(SceneError, match=r"'slope' needs the size of a pixel.*pixel_m: 10"):
            featured(image, [feature("slope")])
        with pytest.raises(SceneError, match="two channels are called 'red'"):
            featured(image, [feature({"kind": "gaussian", "of": "dem", "name": "red"})])
        with featured(image, [feature({"kind": "slope", "pixel_m": 2})]) as reader:
            assert reader.bands == ("red", "green", "dem", "slope")


def test_scenes_smaller_than_a_filter(tmp_path):
    image = rough((3, 2))
    found = Channels.of(BANDS, [feature(v) for v in EVERY]).compute(pixels(image))
    assert np.isfinite(found).all()
    nothing = pixels(image)
    nothing.valid[:] = False
    assert not Channels.of(BANDS, [feature("median"), feature("slope")]).compute(nothing)[7:].any()


def test_a_scene_whose_no_data_is_nan_is_passed_over_once(tmp_path, monkeypatch):
    from raremap.scene.features import reader

    passes = []
    read = reader._pass
    monkeypatch.setattr(reader, "_pass", lambda *a: passes.append(a) or read(*a))
    heights = np.full((1, 20, 20), 5, np.float32)
    heights[0, 0, :2] = np.nan, 7
    write(tmp_path / "a.tif", heights, nodata=np.nan, names=("dem",))
    for _ in range(2):
        with open_image(tmp_path / "a.tif") as image:
            assert reader.ranges_of(image, ("dem",)) == {"dem": (5, 7)}
    assert len(passes) == 1
