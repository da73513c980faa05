"""Units on a grid against hand counts and pandas."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from raremap.errors import SceneError
from raremap.maps.zonal import PolygonUnits, RasterUnits, Zonal
from raremap.scene.grid import Grid
from raremap.scene.window import Window

GRID = Grid(4, 6, rasterio.CRS.from_epsg(25831), Affine(10, 0, 500, 0, -10, 900))


def written(path, array, nodata=-1):
    with rasterio.open(
        path, "w", driver="GTiff", height=array.shape[0], width=array.shape[1], count=1, dtype=array.dtype,
        crs=GRID.crs, transform=GRID.transform, nodata=nodata,
    ) as file:  # fmt: skip
        file.write(array, 1)
    return path


def test_the_greatest_of_a_unit_are_those_of_pandas_in_pieces_as_in_one():
    import pandas as pd

    rng = np.random.default_rng(0)
    unit, p = rng.integers(-1, 30, (40, 50)), rng.random((40, 50), np.float32)
    valid = rng.random((40, 50)) < 0.9
    zonal = Zonal(31, top=3)
    for row in range(0, 40, 7):
        for col in range(0, 50, 13):
            piece = (slice(row, row + 7), slice(col, col + 13))
            zonal.add(unit[piece], p[piece], valid[piece], Window(row, col, *unit[piece].shape))
    here = valid & (unit >= 0)
    frame = pd.DataFrame({"u": unit[here], "p": p[here].astype(float), "c": np.nonzero(here)[1] + 0.5})
    groups = frame.groupby("u")
    mean = groups["p"].apply(lambda g: g.nlargest(3).mean())
    found = zonal.summary()
    np.testing.assert_allclose(found.logits[:30], np.log(mean / (1 - mean)), rtol=1e-5)
    np.testing.assert_array_equal(found.pixels[:30], groups.size())
    np.testing.assert_allclose(found.col[:30], groups["c"].mean())
    assert np.isnan(found.logits[30])


def test_a_unit_of_fewer_pixels_is_the_mean_of_them():
    zonal = Zonal(1, top=4)
    zonal.add(
        np.array([[0, 0, -1]]),
        np.array([[0.2, 0.4, 0.9]], np.float32),
        np.ones((1, 3), bool),
        Window(0, 0, 1, 3),
    )
    assert zonal.summary().logits[0] == pytest.approx(np.log(0.3 / 0.7), rel=1e-5)


def test_numbers_of_a_raster_become_rows(tmp_path):
    numbers = np.array([[7, 7, 3, 3, -1, 5]] * 4, np.int32)
    units = RasterUnits(written(tmp_path / "u.tif", numbers), GRID, np.array([7, 3]), np.array([10, 11]))
    np.testing.assert_array_equal(units.read(Window(1, 1, 1, 5)), [[10, 11, 11, -1, -1]])


def test_polygons_take_the_pixels_whose_centres_they_hold():
    shapes = np.array([shapely.box(500, 860, 520, 900), shapely.box(534, 880, 546, 900)])
    units = PolygonUnits(shapes, GRID)
    np.testing.assert_array_equal(units.read(Window(0, 0, 1, 6)), [[0, 0, -1, 1, 1, -1]])
    np.testing.assert_array_equal(units.read(Window(3, 1, 1, 3)), [[0, -1, -1]])


def test_units_of_another_grid_or_kind_are_refused(tmp_path):
    small = written(tmp_path / "small.tif", np.zeros((3, 6), np.int32))
    with pytest.raises(SceneError, match="size 6x3, expected 6x4 as of the scene; warp them to its grid"):
        RasterUnits(small, GRID, np.array([0]), np.array([0]))
    real = written(tmp_path / "real.tif", np.zeros((4, 6), np.float32))
    with pytest.raises(SceneError, match="hold float32, expected whole numbers of units"):
        RasterUnits(real, GRID, np.array([0]), np.array([0]))
