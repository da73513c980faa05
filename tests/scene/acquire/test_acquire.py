"""From a place and a date to files: what is written, against the scenes that the catalogue was made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.warp import transform_bounds
from tests.command import raremap
from tests.scene.acquire.scenes import CRS, ORIGIN, SIZE, add_heights, add_scene

import raremap.workflows.acquire as workflow
from raremap.errors import AcquireError, ConfigError, OutputError, RaremapWarning
from raremap.scene.acquire import days as days_module
from raremap.scene.acquire import mosaic as mosaic_module
from raremap.scene.features.names import find_band
from raremap.scene.normalize import Normalization
from raremap.workflows.acquire import acquire, watch

BANDS = ["B02", "B04", "nir", "B11"]
BBOX = transform_bounds(CRS, "EPSG:4326", 300_100, 4_639_300, 300_700, 4_639_800)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    from raremap.scene.acquire import source, stac

    monkeypatch.setattr(source, "WAIT_S", 0.0)
    monkeypatch.setattr(stac, "WAIT_S", 0.0)


def _classes(value=4, **cloudy):
    classes = np.full((SIZE, SIZE), value, np.uint8)
    for _, (rows, cols, kind) in cloudy.items():
        classes[rows, cols] = kind
    return classes


def _run(api, out, **more):
    given = {"dates": "2024-04", "bbox": BBOX, "source": api.url, "bands": BANDS, "quiet": True} | more
    return acquire(out, **given)


def _read(path):
    with rasterio.open(path) as file:
        return file.read(), file.profile, file.descriptions


def _truth(array, profile):
    """The part of a scene's array that a file covers, by the coordinates of its corner."""
    t = profile["transform"]
    col, row = round((t.c - ORIGIN[0]) / 10), round((ORIGIN[1] - t.f) / 10)
    return array[..., row : row + profile["height"], col : col + profile["width"]]


def test_a_day_has_the_scenes_numbers_at_the_scenes_places(api, tmp_path, valley):
    add_scene(
        api, tmp_path, "S", "2024-04-03T10:50:00Z", valley, _classes(), offset=1000,
        properties={"s2:processing_baseline": "05.10"},
    )  # fmt: skip
    result = _run(api, tmp_path / "out")
    image, profile, names = _read(tmp_path / "out" / "images" / "2024-04-03.tif")
    assert result.new == ("2024-04-03",)
    assert names == tuple(BANDS)
    assert (profile["dtype"], profile["nodata"], str(profile["crs"])) == ("uint16", 0, "EPSG:32631")
    np.testing.assert_array_equal(image[:3], _truth(valley, profile)[:3])
    # A corner that anyone can find: the pixel that holds a coordinate.
    lon, lat = (BBOX[0] + BBOX[2]) / 2, (BBOX[1] + BBOX[3]) / 2
    x, y = Transformer.from_crs(4326, 32631, always_xy=True).transform(lon, lat)
    with rasterio.open(result.images[0]) as file:
        (seen,) = file.sample([(x, y)])
    assert seen[1] == valley[1, int((ORIGIN[1] - y) // 10), int((x - ORIGIN[0]) // 10)]


def test_bands_of_20_m_are_interpolated_as_scipy_does(api, tmp_path, valley):
    from scipy.ndimage import map_coordinates

    add_scene(api, tmp_path, "S", "2024-04-03T10:50:00Z", valley, _classes())
    image, profile, _ = _read(_run(api, tmp_path / "out").images[0])
    coarse = valley[3].reshape(SIZE // 2, 2, SIZE // 2, 2).mean((1, 3)).astype(np.int64).astype(float)
    at = (np.mgrid[:SIZE, :SIZE] + 0.5) / 2 - 0.5
    fine = map_coordinates(coarse, at, order=1, mode="nearest")
    assert np.abs(image[3] - _truth(fine, profile)).max() <= 1


def test_scene_classes_are_a_file_a_band_or_a_mask(api, tmp_path, valley):
    classes = _classes(a=(slice(20, 40), slice(20, 40), 9), b=(slice(50, 60), slice(20, 30), 3))
    add_scene(api, tmp_path, "S", "2024-04-03T10:50:00Z", valley, classes)
    result = _run(api, tmp_path / "file")
    scl, profile, names = _read(tmp_path / "file" / "scl" / "2024-04-03.tif")
    truth = _truth(classes, profile)
    assert names == ("SCL",)
    np.testing.assert_array_equal(scl[0], truth)
    clouded = np.isin(truth, (3, 9))
    assert result.days[0].cloud == pytest.approx(clouded.mean(), abs=1e-6)
    image, profile, names = _read(_run(api, tmp_path / "band", clouds="band").images[0])
    assert names == (*BANDS, "SCL")
    np.testing.assert_array_equal(image[-1], truth)
    image, _, _ = _read(_run(api, tmp_path / "mask", clouds="mask").images[0])
    np.testing.assert_array_equal((image == 0).all(0), clouded)
    assert not (tmp_path / "mask" / "scl").exists()


def test_two_scenes_of_a_day_are_joined_and_what_neither_has_is_nodata(api, tmp_path, valley):
    left, right = valley.copy(), valley.copy()
    left[:, :, 40:] = 0
    right[:, :, :50] = 0
    add_scene(api, tmp_path, "L", "2024-04-03T10:50:00Z", left, _classes())
    add_scene(api, tmp_path, "R", "2024-04-03T10:50:20Z", right, _classes(), offset=1000,
              properties={"s2:processing_baseline": "04.00"})  # fmt: skip
    result = _run(api, tmp_path / "out", bands=["B02", "B04"])
    image, profile, _ = _read(result.images[0])
    expected = valley[:2].copy()
    expected[:, :, 40:50] = 0
    np.testing.assert_array_equal(image, _truth(expected, profile))
    missing = (_truth(expected, profile)[0] == 0).mean()
    assert result.days[0].covered == pytest.approx(1 - missing, abs=1e-6)


def test_the_size_of_windows_changes_nothing(api, tmp_path, valley, monkeypatch):
    add_scene(api, tmp_path, "S", "2024-04-03T10:50:00Z", valley, _classes(), crs="EPSG:32630",
              origin=(799_000, 4_640_000))  # fmt: skip
    west, south, east, north = api.items[0]["bbox"]
    bbox = west + 0.003, south + 0.003, east - 0.003, north - 0.003
    whole = _read(_run(api, tmp_path / "whole", bbox=bbox).images[0])[0]
    monkeypatch.setattr(days_module, "SIDE", 16)
    parts = _read(_run(api, tmp_path / "parts", bbox=bbox).images[0])[0]
    assert (whole > 0).all()
    np.testing.assert_array_equal(parts, whole)


def _three_days(api, folder, valley):
    """Days of which the first is clouded at the left, the second everywhere but at the top, the third nowhere but a corner."""
    rng = np.random.default_rng(0)
    images, clear = [], []
    for day in range(3):
        image = (valley + rng.integers(0, 500, valley.shape)).astype(np.uint16)
        cloud = np.zeros((SIZE, SIZE), bool)
        cloud[:, :40] |= day == 0
        cloud[30:] |= day == 1
        cloud[20:30, 12:30] |= day == 2
        cloud[24:28, 14:20] = True
        cloud = cloud[::2, ::2].repeat(2, 0).repeat(2, 1)
        add_scene(
            api,
            folder,
            f"S{day}",
            f"2024-04-{day * 10 + 1:02d}T10:50:00Z",
            image,
            np.where(cloud, 8, 4).astype(np.uint8),
        )
        images.append(image[:3])
        clear.append(~cloud)
    return np.array(images), np.array(clear)


@pytest.mark.parametrize("side", [512, 16])
def test_a_median_mosaic_is_the_median_of_the_clear_days(api, tmp_path, valley, monkeypatch, side):
    monkeypatch.setattr(mosaic_module, "_SIDE", side)
    images, clear = _three_days(api, tmp_path, valley)
    result = _run(api, tmp_path / "out", bands=BANDS[:3], mosaic="median")
    mosaic, profile, names = _read(result.mosaic)
    stack = np.ma.array(images.astype(float), mask=np.broadcast_to(~clear[:, None], images.shape))
    expected = np.rint(np.ma.median(stack, axis=0).filled(0))
    assert names == tuple(BANDS[:3])
    np.testing.assert_array_equal(mosaic, _truth(expected, profile))
    assert (mosaic == 0).all(0).any()  # clear on no day


def test_a_least_cloud_mosaic_takes_the_clearest_day_that_shows_a_pixel(api, tmp_path, valley):
    images, clear = _three_days(api, tmp_path, valley)
    result = _run(api, tmp_path / "out", bands=BANDS[:3], mosaic="least-cloud")
    mosaic, profile, _ = _read(result.mosaic)
    here = _truth(clear, profile)
    order = np.argsort(-here.mean((1, 2)))
    expected = np.zeros_like(mosaic)
    for day in order[::-1]:
        expected = np.where(here[day], _truth(images, profile)[day], expected)
    np.testing.assert_array_equal(mosaic, expected)


def test_finished_days_are_not_fetched_again(api, tmp_path, valley):
    for day in (1, 2, 3):
        add_scene(api, tmp_path, f"S{day}", f"2024-04-0{day}T10:50:00Z", valley, _classes())
    api.failures["/files/S3/B04.tif"] = [404] * 99
    with pytest.raises(AcquireError, match=r"'red' of scene S3 .*cannot be read"):
        _run(api, tmp_path / "out")
    left = sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file() and p.name != ".lock")
    assert left == ["2024-04-01.tif", "2024-04-01.tif", "2024-04-02.tif", "2024-04-02.tif", "acquired.json"]
    api.failures.clear()
    api.fetched.clear()
    result = _run(api, tmp_path / "out")
    assert result.new == ("2024-04-03",)
    assert {name.split("/")[0] for name in api.fetched} == {"S3"}
    api.fetched.clear()
    assert _run(api, tmp_path / "out").new == ()
    assert api.fetched == []


def test_a_day_that_gained_a_scene_or_lost_its_file_is_fetched_again(api, tmp_path, valley):
    add_scene(api, tmp_path, "S1", "2024-04-01T10:50:00Z", valley, _classes())
    add_scene(api, tmp_path, "S2", "2024-04-02T10:50:00Z", valley, _classes())
    first = _run(api, tmp_path / "out")
    first.images[0].unlink()
    add_scene(api, tmp_path, "S2b", "2024-04-02T10:50:30Z", valley, _classes())
    assert _run(api, tmp_path / "out").new == ("2024-04-01", "2024-04-02")


def test_another_request_does_not_mix_with_what_is_there(api, tmp_path, valley):
    add_scene(api, tmp_path, "S1", "2024-04-01T10:50:00Z", valley, _classes())
    _run(api, tmp_path / "out")
    with pytest.raises(OutputError, match=r"another request \(bands is .*choose another folder with -o"):
        _run(api, tmp_path / "out", bands=["B04"])
    with pytest.raises(OutputError, match=r"pixels of 10 m from .*, now .* pixels of 20 m"):
        _run(api, tmp_path / "out", resolution_m=20)
    (tmp_path / "out" / "acquired.json").write_text("{}")
    with pytest.raises(OutputError, match="is not the journal of a download"):
        _run(api, tmp_path / "out")


def test_a_day_without_data_in_the_place_leaves_no_file(api, tmp_path, valley):
    add_scene(api, tmp_path, "S1", "2024-04-01T10:50:00Z", np.zeros_like(valley), _classes(0))
    add_scene(api, tmp_path, "S2", "2024-04-02T10:50:00Z", valley, _classes())
    result = _run(api, tmp_path / "out", mosaic="median")
    assert result.new == ("2024-04-02",)
    assert [d.image for d in result.days] == [None, "images/2024-04-02.tif"]
    assert "2024-04-01  1 scene(s)    5.0 % cloud told  no data in the place" in str(result)
    assert _run(api, tmp_path / "out").new == ()


def _plane(api, tmp_path):
    """Heights of a plane in degrees: 3 m a column of 1/3600 degree to the east, 5 m a row downwards to the north."""
    pixel = 1 / 3600
    row, col = np.mgrid[:80, :80]
    add_heights(api, tmp_path, 100 + 3.0 * col + 5.0 * row, (0.58, 41.893), pixel)
    return pixel


def test_heights_and_slopes_lie_on_the_grid(api, tmp_path, valley):
    pixel = _plane(api, tmp_path)
    add_scene(api, tmp_path, "S", "2024-04-03T10:50:00Z", valley, _classes())
    result = _run(api, tmp_path / "out", dem=True)
    dem, profile, names = _read(result.dem)
    assert names == ("dem",)
    assert profile["dtype"] == "float32"
    t = profile["transform"]
    col, row = np.meshgrid(np.arange(profile["width"]) + 0.5, np.arange(profile["height"]) + 0.5)
    lon, lat = Transformer.from_crs(32631, 4326, always_xy=True).transform(*(t @ (col, row)))
    expected = 100 + 3 * ((lon - 0.58) / pixel - 0.5) + 5 * ((41.893 - lat) / pixel - 0.5)
    assert np.abs(dem[0] - expected).max() < 0.7  # an eighth of a pixel of 30 m
    # The plane's slope from metres a degree at this latitude, by pyproj's geodesics.
    from pyproj import Geod

    geod = Geod(ellps="WGS84")
    across = geod.inv(0.59, 41.88, 0.59 + pixel, 41.88)[2]
    down = geod.inv(0.59, 41.88, 0.59, 41.88 + pixel)[2]
    slope, _, _ = _read(result.slope)
    assert slope[0].mean() == pytest.approx(np.degrees(np.arctan(np.hypot(3 / across, 5 / down))), rel=0.01)
    assert np.abs(slope[0] - slope[0].mean()).max() < 1.5  # the borders of the grid have theirs too


def test_no_heights_are_told(api, tmp_path, valley):
    _plane(api, tmp_path)
    api.items[0]["geometry"]["coordinates"] = [[[50, 50], [51, 50], [51, 51], [50, 50]]]
    add_scene(api, tmp_path, "S", "2024-04-03T10:50:00Z", valley, _classes())
    with pytest.raises(AcquireError, match="has no heights in cop-dem-glo-30"):
        _run(api, tmp_path / "out", dem=True)


class _Bundle:
    """What `acquire` asks of a bundle."""

    name, nodata, info = "model", None, {}

    def __init__(self, bands, shift=None, kind="standard"):
        self.bands = tuple(bands)
        shift = shift or [900.0] * len(bands)
        self.normalization = Normalization(kind, tuple(shift), (1.0,) * len(bands))


def test_a_bundle_says_bands_scale_and_nodata(api, tmp_path, valley):
    _plane(api, tmp_path)
    add_scene(api, tmp_path, "S", "2024-04-03T10:50:00Z", valley, _classes())
    plain = _Bundle(["B8", "B4"])
    image, profile, names = _read(_run(api, tmp_path / "a", bands=None, bundle=plain).images[0])
    assert (names, profile["dtype"]) == (("B8", "B4"), "uint16")
    np.testing.assert_array_equal(image, _truth(valley, profile)[[2, 1]])
    small = _Bundle(["red", "dem", "slope"], [0.09, 300.0, 20.0])
    small.nodata = -9999.0
    image, profile, names = _read(_run(api, tmp_path / "b", bands=None, bundle=small).images[0])
    assert (names, profile["dtype"], profile["nodata"]) == (("red", "dem", "slope"), "float32", -9999)
    np.testing.assert_allclose(image[0], _truth(valley, profile)[1] / 1e4, rtol=1e-6)
    dem, _, _ = _read(tmp_path / "b" / "terrain" / "dem.tif")
    np.testing.assert_array_equal(image[1], dem[0])
    assert find_band("dem", names) == "dem"


def test_a_bundle_of_other_numbers_is_told(api, tmp_path):
    with pytest.raises(AcquireError, match=r"learned numbers of about 96, .*say with --scale"):
        _run(api, tmp_path / "out", bands=None, bundle=_Bundle(["red"], [96.0]))
    with pytest.raises(AcquireError, match="no band 'thermal'"):
        _run(api, tmp_path / "out", bands=None, bundle=_Bundle(["thermal"]))


def test_a_polygon_cuts_where_it_is_asked_to(api, tmp_path, valley):
    import geopandas
    from rasterio.features import geometry_mask
    from shapely import Polygon

    shape = Polygon([(300_100, 4_639_300), (300_700, 4_639_300), (300_400, 4_639_800)])
    geopandas.GeoDataFrame(geometry=[shape], crs=CRS).to_file(tmp_path / "field.gpkg")
    add_scene(api, tmp_path, "S", "2024-04-03T10:50:00Z", valley, _classes())
    given = {"bbox": None, "polygon": tmp_path / "field.gpkg"}
    image, _, _ = _read(_run(api, tmp_path / "box", **given).images[0])
    assert (image > 0).all()
    result = _run(api, tmp_path / "cut", clip=True, **given)
    image, profile, _ = _read(result.images[0])
    inner = geometry_mask([shape.buffer(-2)], image.shape[1:], profile["transform"], invert=True)
    outer = geometry_mask(
        [shape.buffer(15)], image.shape[1:], profile["transform"], invert=True, all_touched=True
    )
    assert (image[0][inner] > 0).all()
    assert (image[0][~outer] == 0).all()
    assert result.days[0].covered == 1


def test_offsets_that_were_taken_off_twice_are_warned_of(api, tmp_path, valley):
    dark = np.clip(valley, 1, 700).astype(np.uint16)
    add_scene(api, tmp_path, "S", "2024-04-03T10:50:00Z", dark, _classes(),
              properties={"s2:processing_baseline": "05.10"})  # fmt: skip
    with pytest.warns(RaremapWarning, match="100% of the numbers are 0 or below after the offset"):
        result = _run(api, tmp_path / "out")
    assert (_read(result.images[0])[0] == 1).all()  # and none of them is nodata


def test_nothing_found_is_told_and_nothing_is_written(api, tmp_path, valley):
    add_scene(api, tmp_path, "S", "2024-04-03T10:50:00Z", valley, _classes(), cloud=80)
    with pytest.raises(
        AcquireError, match=r"no scene of sentinel-2-l2a at 0\.59.*up to 30 % cloud; widen --dates"
    ):
        _run(api, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_much_is_asked_about_and_a_dry_run_says_how_much(api, tmp_path, valley, monkeypatch):
    add_scene(api, tmp_path, "S", "2024-04-03T10:50:00Z", valley, _classes())
    monkeypatch.setattr(workflow, "LARGE_GB", 1e-6)
    with pytest.raises(
        AcquireError, match=r"1 day\(s\) of \d+x\d+ pixels are .* GB before compression; say --yes"
    ):
        _run(api, tmp_path / "out")
    dry = _run(api, tmp_path / "out", dry_run=True)
    height, width = dry.size
    assert dry.gigabytes == pytest.approx(height * width * (4 * 2 + 1) / 1e9)
    assert [o.date for o in dry.found] == ["2024-04-03"]
    assert not (tmp_path / "out").exists()
    assert _run(api, tmp_path / "out", yes=True).new == ("2024-04-03",)


def test_a_full_disk_is_told_before_the_first_fetch(api, tmp_path, valley, monkeypatch):
    add_scene(api, tmp_path, "S", "2024-04-03T10:50:00Z", valley, _classes())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(
        OutputError, match=r"needs about .* GB for the days to fetch, its disk has 0.0 GB left"
    ):
        _run(api, tmp_path / "out")
    assert api.fetched == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"bbox": None}, "the place is given by nothing"),
        ({"point": "1,2", "buffer_m": 5}, "--bbox and --point"),
        ({"buffer_m": 5}, "belong together"),
        ({"bbox": "1,2,3"}, "expected W,S,E,N"),
        ({"dates": "soon"}, "not a day, a month or a year"),
        ({"bands": ["dem"]}, "name one of Sentinel-2's at least"),
        ({"source": "esa"}, "source 'esa' is not known"),
    ],
)
def test_wrong_requests_are_told(api, tmp_path, given, says):
    with pytest.raises(AcquireError, match=says):
        _run(api, tmp_path / "out", **given)


def test_options_out_of_range_are_told(api, tmp_path):
    with pytest.raises(ConfigError, match="resolution_m 0"):
        _run(api, tmp_path / "out", resolution_m=0)
    with pytest.raises(ConfigError, match="band 'B04' is named twice"):
        _run(api, tmp_path / "out", bands=["B04", "B04"])


def test_watching_gives_what_is_new_and_outlives_a_silent_server(api, tmp_path, valley, monkeypatch):
    rounds = iter(["S1", None, "S2"])
    add_scene(api, tmp_path, "far", "2023-04-03T10:50:00Z", valley, _classes())

    def later(_: float) -> None:
        if name := next(rounds):
            add_scene(api, tmp_path, name, f"2024-04-0{name[1]}T10:50:00Z", valley, _classes())
            api.failures["/search"] = []
        else:
            api.failures["/search"] = [400]

    monkeypatch.setattr(workflow.time, "sleep", later)
    request = {
        "out": tmp_path / "out",
        "dates": "2024-04",
        "bbox": BBOX,
        "source": api.url,
        "bands": BANDS,
        "quiet": True,
    }
    with pytest.warns(RaremapWarning, match="the next look is in 60 s"):
        found = [result.new for result in watch(60, rounds=4, **request)]
    assert found == [("2024-04-01",), ("2024-04-02",)]


def test_the_command_prints_json_and_tells_faults_in_one_line(api, tmp_path, valley, capsys):
    add_scene(api, tmp_path, "S", "2024-04-03T10:50:00Z", valley, _classes())
    place = ["--bbox", ",".join(f"{v:.6f}" for v in BBOX), "--source", api.url, "--bands", "B04,B08"]
    code, out, _ = raremap(
        capsys, "acquire", *place, "--dates", "2024-04", "-o", tmp_path / "out", "--json", "-q"
    )
    assert code == 0
    told = json.loads(out)
    assert told["new"] == ["2024-04-03"]
    assert Path(told["folder"], told["days"][0]["image"]).is_file()
    code, out, err = raremap(capsys, "acquire", *place, "--dates", "2020", "-o", tmp_path / "none")
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
