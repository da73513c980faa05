"""The ground under pixels, against geodesic areas of pyproj."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS, Geod, Transformer
from rasterio.crs import CRS as RioCRS

from raremap.scene.grid import Grid
from raremap.scene.groundarea import pixel_areas, pixel_m
from raremap.scene.window import Window

UTM31 = "EPSG:32631"
GRIDS = {
    "degrees": ("EPSG:4326", Affine(0.001, 0, 1.0, 0, -0.001, 42.5)),
    "degrees, southern, turned": ("EPSG:4326", Affine(0.001, 0.0002, -70.0, 0.0002, -0.001, -33.0)),
    "UTM, at its middle": (UTM31, Affine(10, 0, 500_000, 0, -10, 4_650_000)),
    "UTM, at its edge": (UTM31, Affine(100, 0, 740_000, 0, -100, 4_650_000)),
    "Europe, equal area": ("EPSG:3035", Affine(25, 0, 3_600_000, 0, -25, 2_200_000)),
    "Web Mercator": ("EPSG:3857", Affine(30, 0, 150_000, 0, -30, 9_300_000)),
    "polar stereographic": ("EPSG:3995", Affine(500, 0, 1_500_000, 0, -500, -900_000)),
    "Lambert, in US feet": ("EPSG:2225", Affine(33, 0, 6_100_000, 0, -33, 2_100_000)),
}


def geodesic(grid: Grid, window: Window, points: int = 400) -> float:
    """Square metres of a window: the geodesic area of its outline with many points a side."""
    assert grid.crs is not None
    crs = CRS.from_wkt(grid.crs.to_wkt())
    t = np.linspace(0, 1, points, endpoint=False)
    one, zero = np.ones_like(t), np.zeros_like(t)
    col = window.col_off + window.width * np.concatenate([t, one, 1 - t, zero])
    row = window.row_off + window.height * np.concatenate([zero, t, one, 1 - t])
    x, y = grid.transform @ (col, row)
    base = crs.geodetic_crs
    assert base is not None
    lon, lat = Transformer.from_crs(crs, base, always_xy=True).transform(x, y)
    assert crs.ellipsoid is not None
    geod = Geod(a=crs.ellipsoid.semi_major_metre, b=crs.ellipsoid.semi_minor_metre)
    return abs(geod.polygon_area_perimeter(lon, lat)[0])


@pytest.mark.parametrize("name", GRIDS)
def test_the_area_of_a_window_is_its_geodesic_area(name):
    crs, transform = GRIDS[name]
    grid = Grid(700, 900, RioCRS.from_user_input(crs), transform)
    for window in (grid.window, Window(600, 800, 100, 100), Window(0, 850, 700, 50)):
        areas = pixel_areas(grid, window)
        assert areas is not None
        total = np.broadcast_to(areas, (window.height, window.width)).sum()
        assert total == pytest.approx(geodesic(grid, window), rel=1e-5)


def test_the_projections_own_area_would_be_wrong():
    grid = Grid(700, 900, RioCRS.from_epsg(3857), GRIDS["Web Mercator"][1])
    areas = pixel_areas(grid)
    assert areas is not None
    assert 900 / areas.mean() > 4  # at 64° north


@pytest.mark.parametrize("name", GRIDS)
def test_windows_agree_on_their_pixels(name):
    crs, transform = GRIDS[name]
    grid = Grid(300, 400, RioCRS.from_user_input(crs), transform)
    whole, part = pixel_areas(grid), pixel_areas(grid, Window(77, 131, 60, 90))
    assert whole is not None
    assert part is not None
    whole = np.broadcast_to(whole, (300, 400))
    assert np.allclose(np.broadcast_to(part, (60, 90)), whole[77:137, 131:221], rtol=1e-9, atol=0)


def test_a_grid_of_the_whole_earth_has_the_earths_surface():
    degrees = Grid(180, 360, RioCRS.from_epsg(4326), Affine(1, 0, -180, 0, -1, 90))
    areas = pixel_areas(degrees)
    assert areas is not None
    assert areas.sum() * 360 == pytest.approx(510_065_621_724_088, rel=1e-9)  # m², of WGS 84


def test_across_the_date_line_the_area_is_no_larger():
    grid = Grid(20, 40, RioCRS.from_epsg(32660), Affine(10_000, 0, 600_000, 0, -10_000, 5_000_000))
    areas = pixel_areas(grid)
    assert areas is not None
    assert np.allclose(areas, 1e8, rtol=0.01)


def test_without_a_crs_there_is_no_area():
    assert pixel_areas(Grid(3, 4)) is None


@pytest.mark.parametrize(
    ("crs", "x", "y", "step", "size"),
    [
        ("EPSG:32631", 5e5, 4.6e6, 10.0, 10.0),
        # Web Mercator draws a metre of the ground 1 / cos(60°) = 2 metres long; the ellipsoid adds 0.17 %.
        ("EPSG:3857", 0.0, 8_399_738, 20.0, 10.017),
        # Half a minute of the equator is 927.66 m, of a meridian there 921.37.
        ("EPSG:4326", 10.0, 0.02, 1 / 120, 925.0),
    ],
)
def test_the_side_of_a_pixel_is_what_the_ground_has(crs, x, y, step, size):
    grid = Grid(4, 4, RioCRS.from_user_input(crs), Affine(step, 0, x, 0, -step, y))
    assert pixel_m(grid) == pytest.approx(size, rel=2e-3)
    assert pixel_m(Grid(4, 4)) is None
