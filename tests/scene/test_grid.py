"""Grids: their differences in words, their windows, and the form in which catalogs keep them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from raremap.scene.grid import Grid
from raremap.scene.window import Window

UTM = CRS.from_epsg(25831)
GRID = Grid(20, 30, UTM, Affine(10, 0, 400_000, 0, -10, 4_600_000))


def test_grids_that_differ_by_less_than_a_hundredth_of_a_pixel_are_the_same():
    near = Grid(20, 30, UTM, Affine(10, 0, 400_000.05, 0, -10, 4_600_000))
    far = Grid(20, 30, UTM, Affine(10, 0, 400_001, 0, -10, 4_600_000))
    assert GRID.difference(near) is None
    assert GRID.difference(far) == "another grid (shifted or scaled by 0.1 pixels), expected the same"
    assert Grid(20, 30).difference(GRID) is None
    assert Grid(20, 31).difference(GRID) == "size 31x20, expected 30x20"


def test_the_grid_of_a_window_has_the_bounds_that_rasterio_gives_it():
    window = Window(3, 5, 7, 11)
    expected = rasterio.windows.bounds(rasterio.windows.Window(5, 3, 11, 7), GRID.transform)
    assert GRID.bounds(window) == pytest.approx(expected)
    assert GRID.shifted(window).bounds() == pytest.approx(expected)
    assert (GRID.shifted(window).height, GRID.shifted(window).width) == (7, 11)


@pytest.mark.parametrize(
    "grid", [GRID, Grid(1, 1), Grid(5, 6, UTM, Affine.rotation(20) * Affine.scale(3, -3))]
)
def test_a_grid_comes_back_from_json(grid):
    again = Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert again.difference(grid) is None
    assert again.crs == grid.crs
    assert np.allclose(again.transform, grid.transform)
