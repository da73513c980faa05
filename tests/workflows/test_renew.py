"""`raremap predict --update`: what a newer scene changes in a map, and what it must leave alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.command import raremap
from tests.rasters import write, zipped
from tests.workflows.mapped import write_map

from raremap.bundle import Bundle
from raremap.errors import ConfigError, OutputError, RaremapWarning, SceneError
from raremap.labels import LabelScheme
from raremap.measure.decision import Decision
from raremap.workflows.predict import predict
from raremap.workflows.renew import day_of, renew, watch

SCHEME = LabelScheme({1: "meadow", 2: "water"})
NAMES = {1: "meadow", 2: "water"}
AUGUST = (np.datetime64("2024-08-12") - np.datetime64("1970-01-01")).astype(int)


def bundle(**more) -> Bundle:
    """Log-odds of water in, their softmax out."""
    net = torch.nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        net.weight[:] = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    return Bundle.from_module(net, SCHEME, ["band1"], prior=(0.5, 0.5), **more)


def read(path: Path, band: int = 1) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(band)


def scene(path: Path, odds: np.ndarray, origin: tuple[float, float] = (4e5, 4.6e6)) -> Path:
    return write(path, odds.astype(np.float32)[None], origin, nodata=-99.0)


def test_a_pixel_changes_beyond_the_margin_where_the_scene_shows_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    old = rng.choice([1, 2, 255], (50, 60)).astype(np.uint8)
    map_ = write_map(tmp_path / "map.tif", old, NAMES)
    odds = rng.uniform(-2, 2, (30, 40))
    odds[:3] = -99
    cloud = (rng.random((30, 40)) < 0.3).astype(np.uint8)
    # The scene begins 10 rows down and 15 columns to the right, and ends inside.
    at = (4e5 + 150, 4.6e6 - 100)
    path = scene(tmp_path / "S2_20240812.tif", odds, at)
    clouds = write(tmp_path / "clouds" / "S2_20240812.tif", cloud, at)
    found = renew(
        bundle(), path, map_, tmp_path / "new.tif", margin=0.5, clouds=clouds.parent, quiet=True
    ).scenes[0]

    looked = np.zeros(old.shape, bool)
    looked[10:40, 15:55] = (odds != -99) & (cloud == 0)
    over = np.zeros(old.shape)
    over[10:40, 15:55] = odds
    new = np.where(over > 0, 2, 1)
    fresh = looked & (old == 255)
    sure = looked & (old != 255) & (new != old) & (np.abs(over) > 0.5)
    expected = np.where(fresh | sure, new, old)
    np.testing.assert_array_equal(read(tmp_path / "new.tif"), expected)
    seen, changed = (read(tmp_path / "new.dates.tif", b) for b in (1, 2))
    np.testing.assert_array_equal(seen, np.where(looked, AUGUST, 0))
    np.testing.assert_array_equal(changed, np.where(fresh | sure, AUGUST, 0))
    assert found.changed.sum() == (fresh | sure).sum()
    assert found.changed[2].sum() == fresh.sum()
    assert found.unsure == (looked & (old != 255) & (new != old) & ~sure).sum()
    assert found.clouded == (cloud.astype(bool) & (odds != -99)).sum()
    assert found.date == "2024-08-12"
    with rasterio.open(tmp_path / "new.tif") as file:
        assert (file.tags()["class_2"], file.nodata, file.crs.to_epsg()) == ("water", 255, 25831)
    assert (tmp_path / "new.qml").exists()


def test_scenes_and_clouds_are_read_by_names_that_are_no_paths_and_the_map_is_a_file_here(
    tmp_path: Path,
) -> None:
    map_ = write_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES)
    cloud = np.zeros((20, 20), np.uint8)
    cloud[:7] = 1
    newer = zipped(scene(tmp_path / "w_2024-08-12.tif", np.full((20, 20), 3.0)))
    clouds = zipped(write(tmp_path / "c.tif", cloud))
    (found,) = renew(bundle(), newer, map_, clouds=clouds, quiet=True).scenes
    np.testing.assert_array_equal(read(map_), np.where(cloud, 1, 2))
    assert found.to_dict()["scene"] == newer
    with pytest.raises(
        OutputError, match=r"map s3://a/map\.tif is no file of a folder here; copy it and its"
    ):
        renew(bundle(), newer, "s3://a/map.tif", tmp_path / "new.tif", quiet=True)


def test_the_margin_is_in_the_decisions_own_log_odds(tmp_path: Path) -> None:
    odds = np.linspace(-3, 3, 200).reshape(10, 20)
    map_ = write_map(tmp_path / "map.tif", np.ones((10, 20)), NAMES)
    path = scene(tmp_path / "a.tif", odds)
    softened = bundle(decision=Decision((0.0, 0.25), temperature=2.0))
    renew(softened, path, map_, tmp_path / "n.tif", margin=0.5, date="2024-08-12", quiet=True)
    np.testing.assert_array_equal(read(tmp_path / "n.tif") == 2, odds / 2 + 0.25 > 0.5)


def test_an_older_scene_and_the_same_one_again_change_nothing(tmp_path: Path) -> None:
    map_ = write_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES)
    water = scene(tmp_path / "w_2024-08-12.tif", np.full((20, 20), 3.0))
    renew(bundle(), water, map_, quiet=True)  # in place
    assert (read(map_) == 2).all()
    before = map_.read_bytes()
    meadow = scene(tmp_path / "m_2024-04-01.tif", np.full((20, 20), -3.0))
    found = renew(bundle(), [meadow, water], map_, quiet=True)
    assert [s.not_newer for s in found.scenes] == [400, 400]
    assert map_.read_bytes() == before


def test_scenes_are_taken_by_their_dates(tmp_path: Path) -> None:
    map_ = write_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES)
    late = scene(tmp_path / "a_20240812.tif", np.full((20, 20), 3.0))
    early = scene(tmp_path / "b_20240401.tif", np.full((20, 20), -3.0))
    found = renew(bundle(), [late, early], map_, quiet=True)
    assert [s.date for s in found.scenes] == ["2024-04-01", "2024-08-12"]
    assert (read(map_) == 2).all()


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.integers(5, 40), st.integers(5, 40))
def test_random_overlaps_are_as_a_map_of_the_whole_scene(
    tmp_path_factory: pytest.TempPathFactory, seed: int, height: int, width: int
) -> None:
    folder = tmp_path_factory.mktemp("overlap")
    rng = np.random.default_rng(seed)
    row, col = rng.integers(-10, 30, 2).tolist()
    old = rng.choice([1, 2, 255], (40, 40)).astype(np.uint8)
    map_ = write_map(folder / "map.tif", old, NAMES)
    path = scene(folder / "s.tif", rng.uniform(-2, 2, (height, width)), (4e5 + 10 * col, 4.6e6 - 10 * row))
    net = bundle()
    predict(net, path, folder / "whole.tif", window=16, overlap=0.5, quiet=True)
    whole = np.full((120, 120), 255, np.uint8)  # the scene's map, with 40 pixels around the old one
    whole[40 + row : 40 + row + height, 40 + col : 40 + col + width] = read(folder / "whole.tif")
    inside = whole[40:80, 40:80]
    if (inside == 255).all():
        with pytest.raises(SceneError, match="does not meet map"):
            renew(net, path, map_, folder / "n.tif", margin=0, date="2024-01-01", quiet=True)
        return
    renew(net, path, map_, folder / "n.tif", margin=0, date="2024-01-01", window=16, overlap=0.5, quiet=True)
    np.testing.assert_array_equal(read(folder / "n.tif"), np.where(inside == 255, old, inside))


def test_what_does_not_fit_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    net, out = bundle(), tmp_path / "n.tif"
    map_ = write_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES)
    shifted = scene(tmp_path / "s_20240812.tif", np.ones((20, 20)), (4e5 + 3, 4.6e6))
    with pytest.raises(SceneError, match=r"another grid than map .* 0\.3 pixels off"):
        renew(net, shifted, map_, out, quiet=True)
    plain = scene(tmp_path / "plain.tif", np.ones((20, 20)))
    with pytest.raises(SceneError, match=r"plain\.tif does not say of which day it is.*--date"):
        renew(net, plain, map_, out, quiet=True)
    other = write_map(tmp_path / "other.tif", np.ones((20, 20)), {1: "meadow", 2: "lava"})
    with pytest.raises(SceneError, match=r"value 2 of map .* is 'lava', in the bundle it is 'water'"):
        renew(net, plain, other, out, date="2024-08-12", quiet=True)
    bare = write(tmp_path / "bare.tif", np.ones((20, 20), np.uint8))
    with pytest.raises(SceneError, match="no legend"):
        renew(net, plain, bare, out, date="2024-08-12", quiet=True)
    with pytest.raises(ConfigError, match="margin is -1"):
        renew(net, plain, map_, out, margin=-1, quiet=True)
    with pytest.raises(ConfigError, match="'soon' is not a date"):
        renew(net, plain, map_, out, date="soon", quiet=True)
    assert not out.exists()


@pytest.mark.parametrize("name", ["S2A_20240812T104021.tif", "x_2024-08-12_y.tif", "2024_08_12.tif"])
def test_the_day_stands_in_a_name(tmp_path: Path, name: str) -> None:
    assert day_of(scene(tmp_path / name, np.ones((4, 4)))) == AUGUST


def test_the_day_in_the_tags_goes_before_the_name(tmp_path: Path) -> None:
    path = scene(tmp_path / "a_20200101.tif", np.ones((4, 4)))
    with rasterio.open(path, "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="2024:08:12 10:40:21")
    assert day_of(path) == AUGUST


def test_a_watched_folder_is_taken_up_where_it_was_left(tmp_path: Path) -> None:
    map_, folder, out = (
        write_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES),
        tmp_path / "in",
        tmp_path / "n.tif",
    )

    def settled(path: Path) -> Path:
        os.utime(path, (1e9, 1e9))
        return path

    settled(scene(folder / "a_20240401.tif", np.full((10, 20), 3.0)))
    scene(folder / "young_20240402.tif", np.full((20, 20), 3.0))  # still being written
    (folder / "bad_20240403.tif").write_text("no raster")
    settled(folder / "bad_20240403.tif")
    with pytest.warns(RaremapWarning, match=r"bad_20240403\.tif was left aside"):
        found = list(watch(bundle(), folder, map_, out, rounds=1, quiet=True))
    assert [Path(r.scene).name for r in found] == ["a_20240401.tif"]
    settled(scene(folder / "b_20240812.tif", np.full((5, 20), -3.0)))
    found = list(watch(bundle(), folder, map_, out, rounds=2, every_s=0, quiet=True))
    assert [Path(r.scene).name for r in found] == ["b_20240812.tif"]
    expected = np.ones((20, 20))
    expected[5:10] = 2
    np.testing.assert_array_equal(read(out), expected)
    np.testing.assert_array_equal(read(map_), 1)
    with pytest.raises(SceneError, match="not a folder to watch"):
        next(watch(bundle(), tmp_path / "none", map_, out))


def test_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    map_ = write_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES)
    path = scene(tmp_path / "a_20240812.tif", np.full((20, 20), 3.0))
    monkeypatch.setattr(Bundle, "load", lambda folder: bundle())
    words = ["predict", tmp_path / "bundle", path, "--update", map_, "-o", tmp_path / "n.tif", "-q"]
    code, out, _ = raremap(capsys, *words, "--json")
    assert code == 0
    assert json.loads(out)["scenes"][0]["changed"] == [{"from": "meadow", "to": "water", "pixels": 400}]
    code, _, err = raremap(capsys, "predict", tmp_path / "bundle", "-o", tmp_path / "n.tif")
    assert code == 2
    assert "no scene to map" in err
