from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from scipy.ndimage import map_coordinates
from tests.rasters import write

from raremap.errors import AcquireError
from raremap.scene.acquire import source
from raremap.scene.acquire.warped import Warped
from raremap.scene.acquire.windows import windows
from raremap.scene.grid import Grid
from raremap.scene.window import Window

_ORIGIN = 799_000.0, 4_640_000.0


def _noise(tmp_path, size=96, pixel=10.0, **more):
    values = np.random.default_rng(4).integers(1, 9000, (size, size)).astype(np.uint16)
    return values, write(tmp_path / "noise.tif", values, _ORIGIN, pixel, crs="EPSG:32630", **more)


def _beside(pixel=10.0, height=50, width=60):
    """A grid in the next UTM zone, within the file; its axes are turned against the file's by some degrees."""
    x, y = Transformer.from_crs(32630, 32631, always_xy=True).transform(_ORIGIN[0] + 160, _ORIGIN[1] - 160)
    return Grid(height, width, CRS.from_epsg(32631), Affine.translation(x, y) * Affine.scale(pixel, -pixel))


def _warped(path, grid, method="bilinear", nodata=None):
    return Warped(lambda: str(path), grid, method, nodata, {}, "noise")


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_windows_give_what_the_whole_gives_in_another_crs(tmp_path, method):
    _, path = _noise(tmp_path, nodata=0)
    grid = _beside()
    whole, there = _warped(path, grid, method).read(grid.window)
    parts = np.zeros_like(whole)
    file = _warped(path, grid, method)
    for window in windows(grid, 13, 17):
        parts[window.slices()] = file.read(window)[0]
    assert there.all()
    np.testing.assert_array_equal(parts, whole)


def test_bilinear_is_that_of_scipy(tmp_path):
    values, path = _noise(tmp_path, nodata=0)
    grid = _beside()
    got, _ = _warped(path, grid).read(grid.window)
    col, row = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = grid.transform @ (col, row)
    x, y = Transformer.from_crs(32631, 32630, always_xy=True).transform(x, y)
    at = np.stack([(_ORIGIN[1] - y) / 10 - 0.5, (x - _ORIGIN[0]) / 10 - 0.5])
    expected = map_coordinates(values.astype(float), at, order=1)
    # GDAL finds a pixel's place by interpolation, to within an eighth of a pixel at worst.
    assert np.abs(got - expected).mean() < 3
    assert np.abs(got - expected).max() < 60


def test_the_same_grid_gives_the_numbers_as_they_are(tmp_path):
    values, path = _noise(tmp_path, nodata=0)
    grid = Grid(20, 30, CRS.from_epsg(32630), Affine(10, 0, _ORIGIN[0] + 70, 0, -10, _ORIGIN[1] - 50))
    got, _ = _warped(path, grid).read(grid.window)
    np.testing.assert_array_equal(got, values[5:25, 7:37])


def test_beyond_the_file_and_at_nodata_there_is_nothing(tmp_path):
    values = np.full((20, 20), 7, np.uint16)
    values[:, :10] = 0
    path = write(tmp_path / "half.tif", values, _ORIGIN, crs="EPSG:32630", nodata=0)
    grid = Grid(20, 40, CRS.from_epsg(32630), Affine(10, 0, _ORIGIN[0], 0, -10, _ORIGIN[1]))
    _, there = _warped(path, grid, "nearest").read(grid.window)
    assert not there[:, :10].any()
    assert there[:, 10:20].all()
    assert not there[:, 20:].any()


def test_a_file_without_nodata_ends_where_it_ends(tmp_path):
    heights = np.zeros((20, 20), np.float32)
    path = write(tmp_path / "dem.tif", heights, _ORIGIN, crs="EPSG:32630")
    grid = Grid(20, 40, CRS.from_epsg(32630), Affine(10, 0, _ORIGIN[0], 0, -10, _ORIGIN[1]))
    got, there = _warped(path, grid).read(grid.window)
    assert there[:, :20].all()  # 0 is a height
    assert not there[:, 20:].any()
    assert (got == 0).all()


def test_coarser_grids_are_read_from_overviews(tmp_path):
    _, path = _noise(tmp_path, size=256, nodata=0)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], rasterio.enums.Resampling.average)
    with rasterio.open(path, overview_level=1) as file:
        quarter = file.read(1)
    grid = Grid(64, 64, CRS.from_epsg(32630), Affine(40, 0, _ORIGIN[0], 0, -40, _ORIGIN[1]))
    got, _ = _warped(path, grid).read(grid.window)
    np.testing.assert_array_equal(got, quarter)


def test_a_file_that_names_another_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "WAIT_S", 0.0)
    _, path = _noise(tmp_path)
    vrt = tmp_path / "sly.tif"
    vrt.write_text(
        f'<VRTDataset rasterXSize="96" rasterYSize="96"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f"<SourceFilename>{path}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(AcquireError, match="cannot be read"):
        _warped(vrt, _beside()).read(Window(0, 0, 4, 4))
