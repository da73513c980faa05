from __future__ import annotations

import geopandas
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod, Transformer
from shapely import LineString, Point, box

from raremap.errors import AcquireError
from raremap.scene.acquire.place import Place, read_numbers

_LONS = st.floats(-179, 178.5)
_LATS = st.floats(-79, 83)


@given(_LONS, _LATS, st.floats(0.001, 0.2), st.sampled_from([10.0, 20.0, 2.5]))
def test_the_grid_covers_the_box_with_whole_pixels_and_hardly_more(lon, lat, side, pixel):
    grid = Place.box(lon, lat, lon + side, lat + side).grid(pixel)
    t = grid.transform
    assert (t.a, t.e, t.b, t.d) == (pixel, -pixel, 0, 0)
    assert t.c % pixel == 0
    assert t.f % pixel == 0
    to_grid = Transformer.from_crs("EPSG:4326", grid.crs.to_wkt(), always_xy=True)
    edge = np.linspace(0, side, 9)
    xs = np.r_[lon + edge, lon + edge, np.full(9, lon), np.full(9, lon + side)]
    ys = np.r_[np.full(9, lat), np.full(9, lat + side), lat + edge, lat + edge]
    x, y = to_grid.transform(xs, ys)
    left, bottom, right, top = grid.bounds()
    slack = pixel * 0.01
    assert left - slack <= x.min() < left + pixel * 1.5
    assert right - pixel * 1.5 < x.max() <= right + slack
    assert bottom - slack <= y.min() < bottom + pixel * 1.5
    assert top - pixel * 1.5 < y.max() <= top + slack


@pytest.mark.parametrize(
    ("lon", "lat", "code"),
    [(0.5, 41.9, 32631), (-70.0, -33.0, 32719), (179.5, 10.0, 32660), (-179.5, 10.0, 32601)],
)
def test_the_grid_is_in_the_utm_zone_of_the_middle(lon, lat, code):
    assert Place.box(lon - 0.01, lat - 0.01, lon + 0.01, lat + 0.01).grid(10).crs.to_epsg() == code


def test_a_point_has_its_metres_on_every_side():
    place = Place.point(9.19, 45.46, 500)
    west, south, east, north = place.bounds
    geod = Geod(ellps="WGS84")
    across = geod.inv(west, 45.46, east, 45.46)[2]
    down = geod.inv(9.19, south, 9.19, north)[2]
    assert across == pytest.approx(1000, rel=0.02)  # the square is turned a little against the meridian
    assert down == pytest.approx(1000, rel=0.02)
    assert place.grid(10).width == pytest.approx(102, abs=6)


def test_polygons_are_read_in_any_crs_and_joined(tmp_path):
    squares = [box(300_000, 4_639_000, 300_500, 4_639_500), box(301_000, 4_639_000, 301_200, 4_639_300)]
    geopandas.GeoDataFrame(geometry=squares, crs="EPSG:32631").to_file(tmp_path / "fields.gpkg")
    place = Place.file(tmp_path / "fields.gpkg")
    grid = place.grid(10)
    assert place.shaped
    assert place.geometry.geom_type == "MultiPolygon"
    left, bottom, right, top = grid.bounds()
    # The box is taken in degrees, and a box in degrees is wider in UTM.
    assert left <= 300_000
    assert right >= 301_200
    assert right - left <= 1240
    assert bottom <= 4_639_000
    assert top >= 4_639_500
    assert place.on(grid.crs).area == pytest.approx(500**2 + 200 * 300, rel=1e-4)


@pytest.mark.parametrize(
    ("bbox", "says"),
    [
        ((179.5, 10, -179.5, 11), "crosses the antimeridian"),
        ((1, 42, 1.1, 41), "south above its north"),
        ((1, 41, 1, 42), "no width"),
        ((400, 41, 401, 42), "not on the earth"),
        ((float("nan"), 41, 2, 42), "not of numbers"),
        ((1, 83.5, 1.1, 84.5), "UTM and Sentinel-2 go from -80 to 84"),
        ((0, 10, 20, 11), "more than one UTM grid"),
        ((-159, 10, 159, 11), "318 degrees wide, more than one UTM grid"),
    ],
)
def test_a_wrong_box_is_told(bbox, says):
    with pytest.raises(AcquireError, match=says):
        Place.box(*bbox)


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ((41.4, 200, 500), "longitude first"),
        ((2.1, 89, 500), "nearer to a pole"),
        ((2.1, 41.4, 0), "above 0"),
        ((180, 10, 500), "antimeridian"),
    ],
)
def test_a_wrong_point_is_told(point, says):
    with pytest.raises(AcquireError, match=says):
        Place.point(*point)


def test_a_file_without_polygons_is_told(tmp_path):
    lines = tmp_path / "line.gpkg"
    geopandas.GeoDataFrame(geometry=[LineString([(0, 0), (1, 1)]), Point(0, 0)], crs=4326).to_file(lines)
    with pytest.raises(AcquireError, match="holds LineString, Point, expected polygons"):
        Place.file(lines)
    with pytest.raises(AcquireError, match="does not exist"):
        Place.file(tmp_path / "none.gpkg")
    (tmp_path / "text.geojson").write_text("no json")
    with pytest.raises(AcquireError, match="cannot be read"):
        Place.file(tmp_path / "text.geojson")


def test_a_layer_without_a_crs_is_told(tmp_path):
    path = tmp_path / "nowhere.shp"
    geopandas.GeoDataFrame({"a": [1]}, geometry=[box(0, 0, 1, 1)], crs=4326).to_file(path)
    path.with_suffix(".prj").unlink()
    with pytest.raises(AcquireError, match="does not say its CRS"):
        Place.file(path)


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,x", "", "1;2;3;4"])
def test_numbers_that_are_none_are_told(text):
    with pytest.raises(AcquireError, match="expected W,S,E,N in degrees"):
        read_numbers(text, 4, "--bbox", "W,S,E,N")
