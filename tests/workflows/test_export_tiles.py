"""Exported tiles are the catalog's pixels on the scene's grid; a stopped export goes on."""

from __future__ import annotations

import csv
from contextlib import nullcontext

import numpy as np
import pytest
import rasterio
from tests import project
from tests.rasters import write

from raremap.errors import CatalogError, OutputError
from raremap.labels import LabelScheme
from raremap.scene.raster import open_image
from raremap.scene.sources import ScenesOptions
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare
from raremap.tiles.splits import uses
from raremap.workflows import export_tiles as module
from raremap.workflows.export_tiles import export_tiles

SCHEME = LabelScheme(project.CLASSES, ignore=[0])


@pytest.fixture
def catalog(tmp_path):
    project.make(tmp_path)
    return made(tmp_path)


def made(folder, images="img/*.tif", masks="mask/*.tif", **split):
    options = ScenesOptions(root=str(folder), images=images, masks=masks)
    split = SplitOptions(**(split or {"block_m": 1000, "folds": 3}))
    return prepare(options, SCHEME, TileOptions(size=32, overlap=0.25), split, quiet=True)


def test_tiles_are_the_scene_on_its_own_grid(tmp_path, catalog):
    done = export_tiles(catalog, tmp_path / "tiles", quiet=True)
    assert (done.written, done.kept, done.left_out) == (len(catalog), 0, 0)
    for row, window in enumerate(catalog.windows):
        scene = catalog.scene_names[row]
        name = catalog.table["tile_id"].iloc[row].replace(":", "_")
        part = rasterio.windows.Window(window.col_off, window.row_off, window.width, window.height)
        for kind, folder in (("img", "images"), ("mask", "masks")):
            with (
                rasterio.open(tmp_path / f"{kind}/{scene}.tif") as whole,
                rasterio.open(tmp_path / f"tiles/{folder}/{name}.tif") as tile,
            ):
                assert tile.crs == whole.crs
                assert tile.transform == whole.window_transform(part)
                truth = whole.read(window=part)
                if kind == "mask":
                    truth = np.where(truth == 0, tile.nodata, truth)
                    assert tile.tags(1)["class_5"] == "slide"
                else:
                    assert tile.descriptions == ("red", "green", "blue")
                assert (tile.read() == truth).all()


def test_a_stopped_export_goes_on_and_another_catalog_is_refused(tmp_path, catalog):
    export_tiles(catalog, tmp_path / "tiles", quiet=True)
    lost = sorted((tmp_path / "tiles/masks").iterdir())[3]
    before = lost.read_bytes()
    lost.unlink()
    done = export_tiles(catalog, tmp_path / "tiles", quiet=True)
    assert (done.written, done.kept) == (1, len(catalog) - 1)
    assert lost.read_bytes() == before
    with pytest.raises(OutputError, match="tiles holds the tiles of another catalog or another division"):
        export_tiles(catalog, tmp_path / "tiles", split=True, quiet=True)


def test_an_interrupted_export_ends_within_the_tiles_under_way(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    write(tmp_path / "img/a.tif", rng.integers(1, 9, (1, 512, 512)).astype(np.uint8))
    write(tmp_path / "mask/a.tif", np.ones((512, 512), np.uint8))
    catalog = made(tmp_path, block_px=32)  # 21 times 21 tiles of one scene
    monkeypatch.setattr(module, "cores", lambda: 2)

    class Bar:
        def advance(self, steps=1):
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "progress", lambda *_: nullcontext(Bar()))
    with pytest.raises(KeyboardInterrupt):
        export_tiles(catalog, tmp_path / "tiles", quiet=True)
    there = len(list((tmp_path / "tiles/masks").glob("*.tif")))
    assert 0 < there < len(catalog) / 2
    monkeypatch.undo()
    done = export_tiles(catalog, tmp_path / "tiles", quiet=True)
    assert (done.written, done.kept) == (len(catalog) - there, there)


def test_each_use_has_its_folder_and_none_shares_ground(tmp_path, catalog):
    done = export_tiles(catalog, tmp_path / "tiles", split=True, quiet=True)
    use = uses(catalog, warn=False)
    assert done.left_out == (use == "dropped").sum()
    for name in ("train", "monitor", "calibration", "test"):
        files = {p.name for p in (tmp_path / f"tiles/{name}/images").iterdir()}
        assert files == {t.replace(":", "_") + ".tif" for t in catalog.table["tile_id"][use == name]}
        assert files == {p.name for p in (tmp_path / f"tiles/{name}/masks").iterdir()}
        assert done.by_use[name] == len(files)
    with (tmp_path / "tiles/tiles.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(done.by_use.values()) == len(rows)
    assert all((tmp_path / "tiles" / r["use"] / "images" / r["file"]).exists() for r in rows)


def test_tiles_make_the_catalog_again(tmp_path, catalog):
    export_tiles(catalog, tmp_path / "tiles", quiet=True)
    options = ScenesOptions(root=str(tmp_path / "tiles"), images="images/*.tif", masks="masks/*.tif")
    again = prepare(options, SCHEME, TileOptions(size=32), SplitOptions(block_m=1000, folds=3), quiet=True)
    key = [t.split(":")[0] for t in again.table["tile_id"]]
    first = dict(
        zip((t.replace(":", "_") for t in catalog.table["tile_id"]), catalog.counts.tolist(), strict=True)
    )
    assert dict(zip(key, again.counts.tolist(), strict=True)) == first


def test_pixels_that_a_mask_band_calls_invalid_stay_invalid(tmp_path):
    image = np.full((1, 64, 64), 7, np.uint8)
    write(tmp_path / "img/a.tif", image)
    write(tmp_path / "mask/a.tif", np.ones((64, 64), np.uint8))
    valid = np.ones((64, 64), bool)
    valid[:20, :20] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "img/a.tif", "r+") as file:
        file.write_mask(valid)
    export_tiles(made(tmp_path, block_px=32), tmp_path / "tiles", quiet=True)
    with rasterio.open(tmp_path / "tiles/images/a_0_0.tif") as file:
        assert (file.dataset_mask()[:20, :20] == 0).all()
        assert (file.dataset_mask()[20:] == 255).all()
    with rasterio.open(tmp_path / "tiles/masks/a_0_0.tif") as file:
        assert (file.read(1)[:20, :20] == file.nodata).all()


@pytest.mark.parametrize("nodata", [0, -9999])  # the second does not fit into a byte
def test_pixels_that_a_layer_has_no_data_for_stay_invalid(tmp_path, nodata):
    write(tmp_path / "img/a.tif", np.full((1, 64, 64), 7, np.uint8))
    write(tmp_path / "mask/a.tif", np.ones((64, 64), np.uint8))
    dem = np.full((64, 64), 200, np.uint8)
    dem[:20, :20] = 255
    write(tmp_path / "dem/a.tif", dem, nodata=255)
    options = ScenesOptions(
        root=str(tmp_path), images="img/*.tif", masks="mask/*.tif", layers={"dem": "dem/*.tif"}, nodata=nodata
    )
    split = SplitOptions(block_px=32)
    export_tiles(
        prepare(options, SCHEME, TileOptions(size=32), split, quiet=True), tmp_path / "tiles", quiet=True
    )
    with open_image(tmp_path / "tiles/images/a_0_0.tif") as tile:
        assert tile.bands == ("band1", "dem")
        valid = tile.read(tile.grid.window)[1]
    assert (valid == (dem[:32, :32] != 255)).all()


def test_sources_that_changed_are_not_exported(tmp_path, catalog):
    (tmp_path / "img/s0.tif").unlink()
    with pytest.raises(CatalogError, match="is gone since the catalog was made"):
        export_tiles(catalog, tmp_path / "tiles", quiet=True)
    assert not (tmp_path / "tiles").exists()
