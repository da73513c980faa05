"""Rasters of GDAL's own file systems (`s3://`, `/vsizip/`) are read as they are called: `Path` would take a slash away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from tests.command import raremap
from tests.rasters import write, zipped
from tests.workflows.mapped import write_map

from raremap.errors import SceneError
from raremap.labels import LabelScheme
from raremap.scene.sources import ScenesOptions, find_scenes
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare

RNG = np.random.default_rng(0)


def pixels(path: Path | str) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def test_verbs_of_maps_take_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array = np.repeat(np.repeat(RNG.choice([1, 2, 7], (10, 12)), 4, 0), 4, 1)
    here = write_map(tmp_path / "here/map.tif", array)
    far = zipped(write_map(tmp_path / "far/map.tif", array))
    other = zipped(write_map(tmp_path / "far/other.tif", array[::-1]))
    fine = zipped(write_map(tmp_path / "far/fine.tif", np.repeat(np.repeat(array, 2, 0), 2, 1), pixel=5.0))
    for verb, *words in (
        ("clean", far, "-o", tmp_path / "cleaned.tif", "--mmu", "2000"),
        ("vectorize", far, "-o", tmp_path / "map.gpkg"),
        ("sample", far, "-o", tmp_path / "points.gpkg", "--points", "200"),
        ("change", far, other, "-o", tmp_path / "change.tif"),
        ("rescale", fine, "--like", far, "-o", tmp_path / "coarse.tif", "--method", "mode"),
    ):
        assert raremap(capsys, verb, *words, "-q")[0] == 0, verb
    np.testing.assert_array_equal(pixels(tmp_path / "coarse.tif"), pixels(here))


def test_a_catalog_is_made_of_them(tmp_path: Path) -> None:
    image, mask = (
        RNG.integers(1, 255, (40, 60)).astype(np.uint8),
        RNG.choice([1, 2], (40, 60)).astype(np.uint8),
    )
    scheme, tiles, split = (
        LabelScheme({1: "land", 2: "water"}),
        TileOptions(size=20),
        SplitOptions(block_m=200),
    )
    files = [write(tmp_path / f"{name}.tif", a) for name, a in (("image", image), ("mask", mask))]
    given = ScenesOptions(images=zipped(files[0]), masks=zipped(files[1]), root=str(tmp_path))
    catalog = prepare(given, scheme, tiles, split, quiet=True)
    assert catalog.counts.sum(0).tolist() == [(mask == 1).sum(), (mask == 2).sum()]
    catalog.save(tmp_path / "catalog.parquet")
    Catalog.load(tmp_path / "catalog.parquet").check_sources()


def test_they_are_found_by_name_and_not_by_wildcards(tmp_path: Path) -> None:
    (found,) = find_scenes(
        ScenesOptions(images="s3://b/a.tif", masks="https://c.org/m.tif", root=str(tmp_path))
    )
    assert (found.images, found.mask) == (("s3://b/a.tif",), "https://c.org/m.tif")
    with pytest.raises(
        SceneError, match=r"^s3://b/\*\.tif cannot be searched, .*; write down each file of it$"
    ):
        find_scenes(ScenesOptions(images="s3://b/*.tif", masks="mask/*.tif"))
