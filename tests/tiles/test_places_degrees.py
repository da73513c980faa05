"""Blocks of ground in metres, whatever the scenes are in; the truth is geodesic distance on the ellipsoid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyproj import Geod, Transformer
from tests.rasters import write

from raremap.config import Experiment
from raremap.labels import LabelScheme
from raremap.scene.sources import ScenesOptions
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare

GEOD = Geod(ellps="WGS84")
PIXELS = 832
BLOCK = 1000.0


def scene(folder: Path, name: str, crs: str, lon: float, lat: float) -> None:
    """A labelled scene of pixels of about ten metres on the ground, its corner at a longitude and latitude."""
    origin = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    pixel = {
        "EPSG:4326": 10 / 111320,
        "EPSG:3857": 10 / np.cos(np.radians(lat)),
        "EPSG:2263": 10 / 0.3048,
    }.get(crs, 10.0)
    ones = np.ones((PIXELS, PIXELS), np.uint8)
    write(folder / f"img/{name}.tif", ones, origin, pixel, crs=crs)
    write(folder / f"mask/{name}.tif", ones, origin, pixel, crs=crs)


def catalog_of(folder: Path, split: SplitOptions | None = None, size: int = 16):
    return prepare(
        ScenesOptions(images="img/*.tif", masks="mask/*.tif", root=str(folder)),
        LabelScheme({1: "ground", 2: "water"}),
        TileOptions(size=size),
        split or SplitOptions(block_m=BLOCK),
        quiet=True,
    )


def sides(catalog, name: str) -> np.ndarray:
    """Metres from west to east and from south to north of each place that does not meet the scene's border.

    They follow from the spread of the tiles' centres: a row of n centres t apart has the variance
    (n² - 1) t² / 12 and is n t long.
    """
    table = catalog.table[catalog.table["scene"] == name]
    at_border = (
        (table["row_off"] == 0)
        | (table["col_off"] == 0)
        | (table["row_off"] + table["height"] == PIXELS)
        | (table["col_off"] + table["width"] == PIXELS)
    )
    inside = table[~table["place"].isin(table["place"][at_border])]
    found = []
    for _, tiles in inside.groupby("place"):
        corners = np.array([g.exterior.coords[:4] for g in tiles.geometry])
        lon, lat = corners.mean(1).T
        course, _, metres = GEOD.inv(np.full_like(lon, lon.mean()), np.full_like(lat, lat.mean()), lon, lat)
        east, north = metres * np.sin(np.radians(course)), metres * np.cos(np.radians(course))
        first, second, third = corners[0, :3]
        wide, high = GEOD.inv(*first, *second)[2], GEOD.inv(*second, *third)[2]
        found.append((np.sqrt(12 * east.var() + wide**2), np.sqrt(12 * north.var() + high**2)))
    return np.array(found)


# A block holds whole tiles of 160 m, so that one is a tile longer or shorter than asked for; the mean is not.
def is_square(found: np.ndarray) -> bool:
    assert len(found) >= 9
    return bool((np.abs(found.mean(0) / BLOCK - 1) < 0.05).all() and (np.abs(found - BLOCK) < 170).all())


@pytest.mark.parametrize(
    ("crs", "lon", "lat"),
    [
        ("EPSG:4326", 91.757, 22.492),
        ("EPSG:4326", 25.0, 65.0),
        ("EPSG:4326", -70.0, -45.0),
        ("EPSG:3857", 10.0, 60.0),
        ("EPSG:32646", 91.757, 22.492),
        ("EPSG:2263", -74.0, 40.7),
    ],
    ids=["degrees", "degrees far north", "degrees south", "web mercator", "utm", "feet"],
)
def test_blocks_are_square_in_metres(tmp_path, crs, lon, lat):
    scene(tmp_path, "a", crs, lon, lat)
    assert is_square(sides(catalog_of(tmp_path), "a"))


def test_blocks_are_square_in_every_one_of_scenes_around_the_world(tmp_path):
    for i, lon in enumerate((-120.0, 10.0, 92.0)):
        scene(tmp_path, f"s{i}", "EPSG:4326", lon, 45.0)
    catalog = catalog_of(tmp_path)
    for i in range(3):
        assert is_square(sides(catalog, f"s{i}"))


def test_blocks_are_square_in_scenes_of_two_zones(tmp_path):
    scene(tmp_path, "west", "EPSG:32631", 0.5, 50.0)
    scene(tmp_path, "east", "EPSG:32633", 17.5, 50.0)
    catalog = catalog_of(tmp_path)
    assert is_square(sides(catalog, "west"))
    assert is_square(sides(catalog, "east"))


def test_ground_in_degrees_keeps_its_place_when_a_scene_far_away_is_added(tmp_path):
    scene(tmp_path, "a", "EPSG:4326", 91.757, 22.492)
    alone = catalog_of(tmp_path).table
    scene(tmp_path, "b", "EPSG:4326", 10.0, 50.0)
    both = catalog_of(tmp_path).table
    assert alone["place"].tolist() == both[both["scene"] == "a"]["place"].tolist()
    assert not set(alone["place"]) & set(both[both["scene"] == "b"]["place"])


def test_two_dates_of_one_ground_share_its_places(tmp_path):
    for name in ("may", "june"):
        scene(tmp_path, name, "EPSG:4326", 91.757, 22.492)
    table = catalog_of(tmp_path).table
    by_scene = {name: tiles["place"].tolist() for name, tiles in table.groupby("scene")}
    assert by_scene["may"] == by_scene["june"]


@pytest.mark.parametrize(
    ("crs", "lon", "lat"),
    [
        ("EPSG:4326", 10.0, 60.0),
        ("EPSG:3857", 10.0, 60.0),
        ("EPSG:32632", 10.0, 60.0),
        ("EPSG:32760", 179.96, -17.0),
    ],
    ids=["degrees", "web mercator", "utm", "utm across the date line"],
)
def test_without_a_block_size_places_are_of_about_two_tiles(tmp_path, crs, lon, lat):
    scene(tmp_path, "a", crs, lon, lat)
    table = catalog_of(tmp_path, SplitOptions(), size=32).table
    assert len(table) == 676
    assert table["place"].value_counts().median() == pytest.approx(4, abs=1)


def test_places_of_the_real_scene_in_degrees_are_no_longer_than_a_block(real_data):
    example = Path(__file__).parents[2] / "examples" / "chattogram.yaml"
    if not (real_data / "chattogram").is_dir():
        pytest.skip(f"no chattogram in {real_data}")
    e = Experiment.load(example, [f"scenes.root={real_data / 'chattogram'}"])
    catalog = prepare(e.scenes, e.labels, e.tiles, e.split, quiet=True)
    assert catalog.split.block_m == 1300
    reach = []
    for _, tiles in catalog.table.groupby("place"):
        bounds = tiles.geometry.bounds
        lon, lat = (bounds["minx"] + bounds["maxx"]) / 2, (bounds["miny"] + bounds["maxy"]) / 2
        reach.append(
            (
                GEOD.line_length([lon.min(), lon.max()], [lat.mean()] * 2),
                GEOD.line_length([lon.mean()] * 2, [lat.min(), lat.max()]),
            )
        )
    # Between centres: up to the block's side, and two tiles of 590 m by 640 m go into most blocks.
    assert np.max(reach) <= 1300 * 1.02
    assert np.median(np.max(reach, axis=1)) > 500
