"""Clouds and snow from bands and files; what is clouded is unlabelled for training, and counted."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio import warp
from tests.rasters import write

from raremap.errors import SceneError
from raremap.labels import IGNORE, LabelScheme
from raremap.scene.clouds import CloudOptions, CloudRecord
from raremap.scene.gdal import grid_of
from raremap.scene.raster import open_image
from raremap.scene.sources import ScenesOptions
from raremap.scene.window import Window
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare
from raremap.tiles.reader import TileReader

SCHEME = LabelScheme({1: "land", 2: "water"}, ignore=[0])
RNG = np.random.default_rng(0)
SCL = RNG.integers(0, 12, (32, 48), dtype=np.uint8)
LABELS = RNG.integers(0, 3, (32, 48), dtype=np.uint8)
IMAGE = RNG.integers(1, 200, (2, 32, 48), dtype=np.uint8)
CLOUD, SNOW = np.isin(SCL, [3, 8, 9, 10]), SCL == 11


def make(folder, scl=SCL, in_image=False, name="SCL", **more):
    image = np.concatenate([IMAGE, scl[None]]) if in_image else IMAGE
    write(folder / "img/a.tif", image, names=("red", "nir", name)[: len(image)])
    write(folder / "mask/a.tif", LABELS)
    if not in_image:
        write(folder / "scl/a.tif", scl, names=(name,), **more)


def grid_of_file(path):
    with rasterio.open(path) as file:
        return grid_of(file)


def catalog_of(folder, clouds, tiles=None, **more):
    scenes = ScenesOptions(root=str(folder), images="img/*.tif", masks="mask/*.tif", clouds=clouds, **more)
    return prepare(
        scenes, SCHEME, tiles or TileOptions(size=16), SplitOptions(block_px=16, folds=2), quiet=True
    )


@pytest.mark.parametrize("clouds", ["SCL", "scl/*.tif"])
def test_scl_is_understood_by_name(tmp_path, clouds):
    make(tmp_path, in_image=clouds == "SCL")
    catalog = catalog_of(tmp_path, clouds)
    assert catalog.bands == ("red", "nir")
    for row, window in enumerate(catalog.windows):
        part = window.slices()
        assert catalog.table["cloud"].iloc[row] == pytest.approx(CLOUD[part].mean())
        assert catalog.table["snow"].iloc[row] == pytest.approx(SNOW[part].mean())
        clear = LABELS[part][~CLOUD[part]]
        assert catalog.counts[row].tolist() == [(clear == 1).sum(), (clear == 2).sum()]
    catalog.save(tmp_path / "c.parquet")
    assert Catalog.load(tmp_path / "c.parquet").scenes == catalog.scenes


def test_files_in_a_folder_called_scl_are_scl(tmp_path):
    write(tmp_path / "scl/valley_1.tif", SCL, names=("band 1",))
    with open_image(tmp_path / "scl/valley_1.tif") as file:
        grid = file.grid
    with CloudRecord(files=(str(tmp_path / "scl/valley_1.tif"),)).open(None, grid) as clouds:
        assert (clouds.read(grid.window)[0] == CLOUD).all()


def test_a_folder_that_only_has_scl_in_its_name_says_nothing(tmp_path):
    write(tmp_path / "from_scl/a.tif", SCL % 2, names=("cloud",))
    with open_image(tmp_path / "from_scl/a.tif") as file:
        grid = file.grid
    with CloudRecord(files=(str(tmp_path / "from_scl/a.tif"),)).open(None, grid) as clouds:
        assert (clouds.read(grid.window)[0] == SCL % 2).all()


@pytest.mark.parametrize(
    ("crs", "pixel", "size"), [("EPSG:25831", 20.0, (16, 24)), ("EPSG:25831", 13.0, (25, 37)), ("EPSG:25830", 20.0, (40, 40))]
)  # fmt: skip
def test_a_mask_on_another_grid_is_gdals_nearest_on_the_images(tmp_path, crs, pixel, size):
    scl = np.random.default_rng(1).choice([4, 8, 11], size=size).astype(np.uint8)
    east, north = warp.transform("EPSG:25831", crs, [4e5], [4.6e6])
    origin = (4e5, 4.6e6) if crs == "EPSG:25831" else (east[0] - 200, north[0] + 200)
    make(tmp_path, scl, origin=origin, pixel=pixel, crs=crs, nodata=0)
    expected = np.zeros((32, 48), np.uint8)
    with rasterio.open(tmp_path / "scl/a.tif") as file, rasterio.open(tmp_path / "img/a.tif") as image:
        warp.reproject(
            rasterio.band(file, 1), expected, dst_transform=image.transform, dst_crs=image.crs, tolerance=0,
            resampling=warp.Resampling.nearest, src_nodata=0, dst_nodata=0,
        )  # fmt: skip
        grid = grid_of(image)
    if pixel == 20.0 and crs == "EPSG:25831":  # two by two, told without GDAL
        assert np.array_equal(expected, scl.repeat(2, 0).repeat(2, 1))
    record = CloudRecord(files=(str(tmp_path / "scl/a.tif"),))
    with record.open(None, grid) as clouds:
        for window in (grid.window, Window(3, 5, 10, 17), Window(31, 47, 1, 1)):
            cloud, snow = clouds.read(window)
            assert np.array_equal(cloud, expected[window.slices()] == 8)
            assert np.array_equal(snow, expected[window.slices()] == 11)
    catalog = catalog_of(tmp_path, "scl/*.tif")
    assert catalog.table["cloud"].mean() == pytest.approx((expected == 8).mean())


@pytest.mark.parametrize(
    ("name", "more", "listed", "unknown"),
    [
        ("SCL", {}, None, [0, 1]),
        ("SCL", {"nodata": 5}, None, [0, 1, 5]),
        ("SCL", {}, (3, 8, 5), [0, 1]),
        ("quality", {"nodata": 7}, (3,), [7]),
        ("quality", {"nodata": 3}, (3,), []),
    ],
)
def test_what_says_nothing_of_clouds_is_unknown(tmp_path, name, more, listed, unknown):
    path = write(tmp_path / "a.tif", SCL, names=(name,), **more)
    clouded = np.isin(SCL, listed or [3, 8, 9, 10])
    with CloudRecord(files=(str(path),), cloud=listed).open(None, grid_of_file(path)) as clouds:
        cloud, hidden = clouds.hidden(Window(0, 0, 32, 48))
        assert np.array_equal(cloud, clouded)
        assert np.array_equal(hidden, np.isin(SCL, unknown))
        assert np.array_equal(clouds.read(Window(0, 0, 32, 48))[0], clouded)  # as training has it


@pytest.mark.parametrize("more", [{}, {"nodata": 0}, {"nodata": 255}])
def test_beyond_a_mask_of_clear_and_cloud_nothing_is_known(tmp_path, more):
    image = write(tmp_path / "img.tif", IMAGE)
    path = write(tmp_path / "part.tif", (SCL % 2)[:20, :30], **more)
    with CloudRecord(files=(str(path),)).open(None, grid_of_file(image)) as clouds:
        cloud, unknown = clouds.hidden(Window(0, 0, 32, 48))
        inside = np.zeros((32, 48), bool)
        inside[:20, :30] = True
        assert np.array_equal(unknown, ~inside)
        assert np.array_equal(cloud, (SCL % 2 == 1) & inside)


def test_an_images_nodata_of_0_does_not_hide_the_clear_ground_of_its_cloud_band(tmp_path):
    path = write(tmp_path / "a.tif", np.stack([IMAGE[0], SCL % 2]), names=("red", "cloud"), nodata=0)
    image = open_image(path, bands=["cloud"])
    with CloudRecord(bands=("cloud",)).open(image, image.grid) as clouds:
        cloud, unknown = clouds.hidden(image.grid.window)
        assert np.array_equal(cloud, SCL % 2 == 1)
        assert not unknown.any()


@pytest.mark.parametrize(("rule", "decide"), [("all", np.all), ("any", np.any)])
def test_several_dates_hide_the_ground_by_the_rule_of_their_clouds(tmp_path, rule, decide):
    dates = np.stack([SCL, np.roll(SCL, 7, axis=1)])
    files = tuple(str(write(tmp_path / f"{i}.tif", d, names=("SCL",))) for i, d in enumerate(dates))
    with CloudRecord(files=files, rule=rule).open(None, grid_of_file(files[0])) as clouds:
        cloud, unknown = clouds.hidden(Window(0, 0, 32, 48))
    assert np.array_equal(cloud, decide(np.isin(dates, [3, 8, 9, 10]), axis=0))
    assert np.array_equal(cloud | unknown, decide(np.isin(dates, [0, 1, 3, 8, 9, 10]), axis=0))


def test_clouded_pixels_are_ignored_in_training(tmp_path):
    make(tmp_path)
    catalog = catalog_of(tmp_path, "scl/*.tif")
    _, valid, mask = TileReader(catalog, np.arange(len(catalog))).whole(0)
    part = catalog.windows[0].slices()
    expected = np.where(CLOUD[part] | (LABELS[part] == 0), IGNORE, LABELS[part] - 1)
    assert (mask == expected).all()
    assert valid.all()


def test_unknown_clouds_are_null(tmp_path):
    make(tmp_path)
    catalog = catalog_of(tmp_path, None)
    assert catalog.table["cloud"].isna().all()
    assert catalog.table["snow"].isna().all()


def test_values_of_its_own(tmp_path):
    make(tmp_path, name="quality")
    catalog = catalog_of(tmp_path, {"files": "scl/*.tif", "cloud": [5], "snow": [7]})
    total = catalog.table["cloud"].mean(), catalog.table["snow"].mean()
    assert total == pytest.approx(((SCL == 5).mean(), (SCL == 7).mean()))


def test_a_tile_is_kept_whatever_its_clouds_unless_a_share_is_given(tmp_path):
    scl = np.full((32, 48), 4, np.uint8)
    scl[:16, :8] = 9  # half of the first tile
    scl[16:, 32:] = 9  # the last one whole
    make(tmp_path, scl)
    kept = catalog_of(tmp_path, "scl/*.tif")
    assert len(kept) == 5
    assert kept.dropped == {"every labelled pixel is clouded": 1}
    strict = catalog_of(tmp_path, "scl/*.tif", TileOptions(size=16, max_cloud=0.4))
    assert len(strict) == 4
    assert strict.dropped == {"too much cloud": 2}


@pytest.mark.parametrize(("kind", "combine"), [("stack", np.logical_and), ("pre_post", np.logical_or)])
def test_a_stack_is_clouded_on_all_dates_a_change_on_one(tmp_path, kind, combine):
    other = np.roll(SCL, 7, axis=1)
    for date, scl in (("2024-04", SCL), ("2024-08", other)):
        write(tmp_path / f"img/{date}_a.tif", IMAGE, names=("red", "nir"))
        write(tmp_path / f"scl/{date}_a.tif", scl, names=("SCL",))
    write(tmp_path / "mask/a.tif", LABELS)
    scenes = ScenesOptions(
        root=str(tmp_path),
        images="img/{date}_*.tif",
        masks="mask/*.tif",
        clouds="scl/{date}_*.tif",
        dates=kind,
    )
    catalog = prepare(scenes, SCHEME, TileOptions(size=16), SplitOptions(block_px=16, folds=2), quiet=True)
    expected = combine(CLOUD, np.isin(other, [3, 8, 9, 10]))
    assert catalog.table["cloud"].mean() == pytest.approx(expected.mean())
    assert catalog.table["date"].unique().tolist() == ["2024-04/2024-08"]


class TestBadInput:
    def test_a_band_that_does_not_exist(self, tmp_path):
        make(tmp_path, in_image=True, name="quality")
        with pytest.raises(
            SceneError, match=r"a\.tif has no band 'SCL' for scenes\.clouds, it has red, nir, quality"
        ):
            catalog_of(tmp_path, "SCL")

    def test_another_place_and_no_place_at_all(self, tmp_path):
        make(tmp_path, SCL[::2, ::2], pixel=20.0, origin=(5e5, 4.6e6))
        with pytest.raises(SceneError, match=r"scl/a\.tif does not overlap its image"):
            catalog_of(tmp_path, "scl/*.tif")
        make(tmp_path, SCL[::2, ::2], crs=None)
        with pytest.raises(SceneError, match=r"a\.tif has size 24x16, expected 48x32 .* not both have a CRS"):
            catalog_of(tmp_path, "scl/*.tif")

    def test_a_scene_without_its_cloud_mask(self, tmp_path):
        make(tmp_path)
        (tmp_path / "scl/a.tif").rename(tmp_path / "scl/b.tif")
        with pytest.raises(
            SceneError, match=r"image .*a\.tif has no cloud mask: no file like .*b\.tif goes with a"
        ):
            catalog_of(tmp_path, "scl/*.tif")

    @pytest.mark.parametrize(("name", "value"), [("SCL", 12), ("quality", 2)])
    def test_values_that_nobody_explained(self, tmp_path, name, value):
        make(tmp_path, np.full((32, 48), value, np.uint8), name=name)
        write(tmp_path / "clouds/a.tif", np.full((32, 48), value, np.uint8), names=(name,))
        with pytest.raises(SceneError, match=rf"has value {value} in band {name}, .*scenes\.clouds\.cloud"):
            catalog_of(tmp_path, "clouds/*.tif")

    def test_several_bands_of_which_none_is_scl(self, tmp_path):
        make(tmp_path)
        write(tmp_path / "scl/a.tif", np.stack([SCL, SCL]))
        with pytest.raises(SceneError, match="expected one band or one called SCL"):
            catalog_of(tmp_path, "scl/*.tif")

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"band": "a", "files": "b"}, "either a band of the image or files"),
            ({"band": "a", "cloud": [1], "snow": [1]}, "value 1 is listed under cloud and under snow"),
            ({"band": "a", "snow": [1]}, "snow is given without cloud"),
        ],
    )
    def test_options_that_cannot_be(self, given, match):
        with pytest.raises(ValueError, match=match):
            CloudOptions(**given)
