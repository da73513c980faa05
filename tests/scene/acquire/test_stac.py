from __future__ import annotations

import numpy as np
import pytest
from pystac import Item
from tests.scene.acquire.scenes import SIZE, add_scene

from raremap.errors import AcquireError
from raremap.scene.acquire import stac
from raremap.scene.acquire.options import StacApi
from raremap.scene.acquire.period import Period
from raremap.scene.acquire.place import Place
from raremap.scene.acquire.stac import StacSource, scaling, stac_api

_PLACE = Place.box(0.592, 41.881, 0.597, 41.884)
_CLEAR = np.full((SIZE, SIZE), 4, np.uint8)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    from raremap.scene.acquire import source

    monkeypatch.setattr(source, "WAIT_S", 0.0)
    monkeypatch.setattr(stac, "WAIT_S", 0.0)


def _dates(api, dates="2024", max_cloud=30.0):
    return StacSource(StacApi(url=api.url)).overpasses(_PLACE, Period.read(dates), max_cloud)


def _scaled(properties, **asset):
    data = {
        "type": "Feature", "stac_version": "1.0.0", "id": "S2", "geometry": None, "links": [],
        "properties": {"datetime": "2024-05-01T00:00:00Z", **properties},
        "assets": {"red": {"href": "http://x/red.tif", **asset}},
    }  # fmt: skip
    item = Item.from_dict(data)
    return scaling(item, "red")


@pytest.mark.parametrize(
    ("properties", "asset", "expected"),
    [
        # Planetary Computer: only the baseline is told.
        ({"s2:processing_baseline": "03.01"}, {}, (1, 0)),
        ({"s2:processing_baseline": "04.00"}, {}, (1, -1000)),
        ({"s2:processing_baseline": "05.10"}, {}, (1, -1000)),
        # earth-search, sentinel-2-l2a: the flag goes before what the asset says.
        (
            {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.10"},
            {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]},
            (1, 0),
        ),
        (
            {"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.10"},
            {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]},
            (1, -1000),
        ),
        # earth-search, sentinel-2-c1-l2a: before 04.00 the asset says offset 0.
        ({"s2:processing_baseline": "05.00"}, {"raster:bands": [{"scale": 0.0001, "offset": 0}]}, (1, 0)),
        # Copernicus Data Space: STAC 1.1.
        ({"processing:version": "05.11"}, {"raster:scale": 0.0001, "raster:offset": -0.1}, (1, -1000)),
        ({"processing:version": "05.11"}, {}, (1, -1000)),
        # Reflectance itself.
        ({}, {"raster:bands": [{"scale": 1.0, "offset": 0}]}, (10000, 0)),
        ({}, {}, (1, 0)),
    ],
)
def test_stored_numbers_become_reflectance_as_each_catalogue_says(properties, asset, expected):
    assert _scaled(properties, **asset) == pytest.approx(expected)


@pytest.mark.parametrize("only_get", [False, True])
def test_all_pages_of_a_search_are_read(api, tmp_path, valley, only_get):
    api.only_get = only_get
    for day in range(1, 8):
        add_scene(api, tmp_path, f"S{day}", f"2024-04-{day:02d}T10:50:00Z", valley, _CLEAR)
    assert [o.date for o in _dates(api)] == [f"2024-04-{day:02d}" for day in range(1, 8)]
    assert len(api.searches) == 4


def test_only_what_touches_the_place_in_the_period_is_found(api, tmp_path, valley):
    add_scene(api, tmp_path, "here", "2024-04-01T10:50:00Z", valley, _CLEAR)
    add_scene(api, tmp_path, "away", "2024-04-02T10:50:00Z", valley, _CLEAR, origin=(400_000, 4_640_000))
    add_scene(api, tmp_path, "late", "2024-05-01T10:50:00Z", valley, _CLEAR)
    assert [o.scenes for o in _dates(api, "2024-04")] == [("here",)]


def test_a_day_is_one_of_the_sun_there(api, tmp_path, valley):
    # At 178 degrees east the morning of 2 April begins at 22:20 of 1 April in Greenwich.
    origin = 700_000.0, 4_640_000.0
    for name, moment in (("a", "2024-04-01T23:55:00Z"), ("b", "2024-04-02T00:05:00Z")):
        add_scene(api, tmp_path, name, moment, valley, _CLEAR, origin=origin, crs="EPSG:32660")
    west, south, east, north = api.items[0]["bbox"]
    place = Place.box(west + 0.002, south + 0.002, east - 0.002, north - 0.002)
    source = StacSource(StacApi(url=api.url))
    (only,) = source.overpasses(place, Period.read("2024-04-02"), 30)
    assert (only.date, only.scenes) == ("2024-04-02", ("a", "b"))
    assert source.overpasses(place, Period.read("2024-04-01"), 30) == []


@pytest.mark.parametrize("asks", [True, False])
def test_cloudy_scenes_are_left_out_whether_the_api_can_be_asked_or_not(api, tmp_path, valley, asks):
    if not asks:
        api.conforms = api.conforms[:2]
    for day, cloud in enumerate((5.0, 30.0, 31.0, 90.0), start=1):
        add_scene(api, tmp_path, f"S{day}", f"2024-04-0{day}T10:50:00Z", valley, _CLEAR, cloud)
    assert [o.cloud for o in _dates(api)] == [5.0, 30.0]
    assert ("query" in api.searches[0]) == asks


def test_of_two_processings_of_a_scene_the_later_is_taken(api, tmp_path, valley):
    tile = {"grid:code": "MGRS-31TCG"}
    for name, baseline in (("old", "02.14"), ("new", "05.00"), ("mid", "04.00")):
        moment = "2021-04-01T10:50:31.024Z" if name == "new" else "2021-04-01T10:50:31Z"
        more = {**tile, "s2:processing_baseline": baseline}
        add_scene(api, tmp_path, name, moment, valley, _CLEAR, properties=more)
    assert [o.scenes for o in _dates(api, "2021")] == [("new",)]


def test_a_server_that_stumbles_is_asked_again(api, tmp_path, valley):
    add_scene(api, tmp_path, "S", "2024-04-01T10:50:00Z", valley, _CLEAR)
    api.failures["/search"] = [503, 429]
    assert [o.scenes for o in _dates(api)] == [("S",)]


def test_a_server_that_fails_is_told(api, tmp_path, valley):
    add_scene(api, tmp_path, "S", "2024-04-01T10:50:00Z", valley, _CLEAR)
    api.failures["/search"] = [500] * 50
    with pytest.raises(AcquireError, match=r"http://127.0.0.1:\d+ .*(search|reached)"):
        _dates(api)
    api.failures["/search"] = [400]
    with pytest.raises(AcquireError, match="did not answer a search in sentinel-2-l2a"):
        _dates(api)


def test_no_network_and_no_api_are_told(api):
    with pytest.raises(AcquireError, match=r"cannot be reached \(Connection refused\); check the network"):
        StacSource(StacApi(url="http://127.0.0.1:9")).overpasses(_PLACE, Period.read("2024"), 30)
    with pytest.raises(AcquireError, match="check"):
        StacSource(StacApi(url=f"{api.url}/nothing")).overpasses(_PLACE, Period.read("2024"), 30)


def test_an_unknown_collection_is_told(api, tmp_path, valley):
    add_scene(api, tmp_path, "S", "2024-04-01T10:50:00Z", valley, _CLEAR)
    source = StacSource(StacApi(url=api.url, collection="sentinel-3"))
    with pytest.raises(
        AcquireError, match=r"sentinel-3.*no collection sentinel-3.*check --source and --collection"
    ):
        source.overpasses(_PLACE, Period.read("2024"), 30)


def test_an_asset_on_the_own_disk_is_not_read(api, tmp_path, valley):
    add_scene(api, tmp_path, "S", "2024-04-01T10:50:00Z", valley, _CLEAR)
    api.items[0]["assets"]["red"]["href"] = "/etc/passwd.tif"
    (day,) = _dates(api)
    source = StacSource(StacApi(url=api.url))
    with pytest.raises(AcquireError, match="has its 'red' at"), source.day(day, ("B04",), _PLACE.grid(10)):
        pass


def test_sources_have_names(monkeypatch):
    assert stac_api("earth-search").collection == "sentinel-2-c1-l2a"
    assert stac_api("earth-search", "sentinel-2-l2a").collection == "sentinel-2-l2a"
    assert stac_api("https://example.org/stac").url == "https://example.org/stac"
    with pytest.raises(AcquireError, match="did you mean 'earth-search'"):
        stac_api("earthsearch")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(AcquireError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        StacSource(stac_api("cdse"), "cdse")
