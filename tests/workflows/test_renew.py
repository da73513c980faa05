"""`raremap predict --update`: what a newer scene changes in a map, and what it must leave alone."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.command import raremap
from tests.rasters import write, zipped
from tests.workflows.mapped import dated_map, write_map

from raremap.bundle import Bundle
from raremap.errors import ConfigError, OutputError, RaremapWarning, SceneError
from raremap.labels import LabelScheme
from raremap.measure.decision import Decision
from raremap.workflows.predict import predict
from raremap.workflows.renew import day_of, renew, watch

AUGUST = 19947  # date -ud 2024-08-12 +%s, by 86400
SCHEME = LabelScheme({1: "meadow", 2: "water"})
NAMES = {1: "meadow", 2: "water"}


def bundle(**more) -> Bundle:
    """Log-odds of water in, their softmax out."""
    net = torch.nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        net.weight[:] = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    return Bundle.from_module(net, SCHEME, ["band1"], prior=(0.5, 0.5), **more)


def read(path: Path, band: int = 1) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(band)


def days(date: str) -> int:
    return int((np.datetime64(date) - np.datetime64("1970-01-01")).astype(int))


def tag(path: Path, name: str = "raremap_date") -> str | None:
    with rasterio.open(path) as file:
        return file.tags().get(name)


def said(told: pytest.WarningsRecorder) -> list[str]:
    return [str(w.message) for w in told if w.category is RaremapWarning]


def settled(path: Path) -> Path:
    os.utime(path, (1e9, 1e9))
    return path


def scene(path: Path, odds: np.ndarray, origin: tuple[float, float] = (4e5, 4.6e6)) -> Path:
    return write(path, odds.astype(np.float32)[None], origin, nodata=-99.0)


def test_a_pixel_changes_beyond_the_margin_where_the_scene_shows_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    old = rng.choice([1, 2, 255], (50, 60)).astype(np.uint8)
    map_ = dated_map(tmp_path / "map.tif", old, NAMES)
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
    before = np.where(old == 255, 0, days("2000-01-01"))  # of ground without a class nothing was seen
    np.testing.assert_array_equal(seen, np.where(looked, AUGUST, before))
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
    map_ = dated_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES)
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
    map_ = dated_map(tmp_path / "map.tif", np.ones((10, 20)), NAMES)
    path = scene(tmp_path / "a.tif", odds)
    softened = bundle(decision=Decision((0.0, 0.25), temperature=2.0))
    renew(softened, path, map_, tmp_path / "n.tif", margin=0.5, date="2024-08-12", quiet=True)
    np.testing.assert_array_equal(read(tmp_path / "n.tif") == 2, odds / 2 + 0.25 > 0.5)


def test_an_older_scene_and_the_same_one_again_change_nothing(tmp_path: Path) -> None:
    map_ = dated_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES)
    water = scene(tmp_path / "w_2024-08-12.tif", np.full((20, 20), 3.0))
    renew(bundle(), water, map_, quiet=True)  # in place
    assert (read(map_) == 2).all()
    before = map_.read_bytes()
    meadow = scene(tmp_path / "m_2024-04-01.tif", np.full((20, 20), -3.0))
    found = renew(bundle(), [meadow, water], map_, quiet=True)
    assert [s.not_newer for s in found.scenes] == [400, 400]
    assert map_.read_bytes() == before


def test_scenes_are_taken_by_their_dates(tmp_path: Path) -> None:
    map_ = dated_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES)
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
    map_ = dated_map(folder / "map.tif", old, NAMES)
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
    map_ = dated_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES)
    shifted = scene(tmp_path / "s_20240812.tif", np.ones((20, 20)), (4e5 + 3, 4.6e6))
    with pytest.raises(SceneError, match=r"another grid than map .* 0\.3 pixels off"):
        renew(net, shifted, map_, out, quiet=True)
    plain = scene(tmp_path / "plain.tif", np.ones((20, 20)))
    with pytest.raises(SceneError, match=r"plain\.tif does not say of which day it is.*--date"):
        renew(net, plain, map_, out, quiet=True)
    other = dated_map(tmp_path / "other.tif", np.ones((20, 20)), {1: "meadow", 2: "lava"})
    with pytest.raises(SceneError, match=r"value 2 of map .* is 'lava', in the bundle it is 'water'"):
        renew(net, plain, other, out, date="2024-08-12", quiet=True)
    bare = write(tmp_path / "bare.tif", np.ones((20, 20), np.uint8))
    with pytest.raises(SceneError, match="no legend"):
        renew(net, plain, bare, out, date="2024-08-12", quiet=True)
    with pytest.raises(ConfigError, match="margin is -1"):
        renew(net, plain, map_, out, margin=-1, quiet=True)
    with pytest.raises(ConfigError, match="'soon' is not a date"):
        renew(net, plain, map_, out, date="soon", quiet=True)
    with pytest.raises(OutputError, match=r"n\.png is no name for a map; give one that ends in \.tif"):
        renew(net, plain, map_, tmp_path / "n.png", date="2024-08-12", quiet=True)
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
        dated_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES),
        tmp_path / "in",
        tmp_path / "n.tif",
    )

    settled(scene(folder / "a_20240401.tif", np.full((10, 20), 3.0)))
    scene(folder / "young_20240402.tif", np.full((20, 20), 3.0))  # still being written
    (folder / "bad_20240403.tif").write_text("no raster")
    settled(folder / "bad_20240403.tif")
    with pytest.warns(RaremapWarning, match=r"bad_20240403\.tif was left aside"):
        found = list(watch(bundle(), folder, map_, out, rounds=1, quiet=True))
    assert [Path(r.scene).name for r in found] == ["a_20240401.tif"]
    settled(scene(folder / "b_20240812.tif", np.full((5, 20), -3.0)))
    with pytest.warns(RaremapWarning, match=r"bad_20240403\.tif was left aside") as told:  # once a watch
        found = list(watch(bundle(), folder, map_, out, rounds=2, every_s=0, quiet=True))
    assert len(said(told)) == 1
    assert [Path(r.scene).name for r in found] == ["b_20240812.tif"]
    expected = np.ones((20, 20))
    expected[5:10] = 2
    np.testing.assert_array_equal(read(out), expected)
    np.testing.assert_array_equal(read(map_), 1)
    with pytest.raises(SceneError, match="not a folder to watch"):
        next(watch(bundle(), tmp_path / "none", map_, out))


def test_an_older_scene_leaves_a_predicted_map_alone_and_a_renewed_one_without_its_dates(
    tmp_path: Path,
) -> None:
    august = scene(tmp_path / "v_20240812.tif", np.full((20, 20), 3.0))
    april = scene(tmp_path / "v_20240412.tif", np.full((20, 20), -3.0))
    predict(bundle(), august, map_ := tmp_path / "map.tif", quiet=True)
    assert tag(map_) == "2024-08-12"
    (found,) = renew(bundle(), april, map_, margin=0, quiet=True).scenes
    assert (found.not_newer, found.changed.sum()) == (400, 0)
    assert (read(map_) == 2).all()
    np.testing.assert_array_equal(read(tmp_path / "map.dates.tif"), AUGUST)
    part = scene(tmp_path / "v_20240901.tif", np.full((5, 20), -3.0))
    renew(bundle(), part, map_, quiet=True)
    assert (tag(map_), tag(tmp_path / "map.dates.tif")) == ("2024-09-01", "2024-09-01")
    shutil.copy(map_, copied := tmp_path / "copied.tif")
    between = scene(tmp_path / "v_20240820.tif", np.full((20, 20), -3.0))
    (found,) = renew(bundle(), between, copied, margin=0, quiet=True).scenes
    assert found.not_newer == 400


def test_a_map_of_no_known_day_is_told_once_and_its_dates_are_its_own(tmp_path: Path) -> None:
    plain = scene(tmp_path / "plain.tif", np.full((20, 20), -3.0))
    predict(bundle(), plain, map_ := tmp_path / "map.tif", quiet=True)
    assert tag(map_) is None
    water = scene(tmp_path / "w_20240812.tif", np.full((20, 20), 3.0))
    with pytest.warns(
        RaremapWarning, match=r"does not say of which day it is .* older than any scene"
    ) as told:
        renew(bundle(), [water, scene(tmp_path / "w_20240901.tif", np.ones((20, 20)))], map_, quiet=True)
    assert len(said(told)) == 1
    assert (read(map_) == 2).all()
    predict(bundle(), scene(tmp_path / "m_20240401.tif", -np.ones((20, 20))), map_, quiet=True)  # anew
    with pytest.raises(SceneError, match=r"map\.dates\.tif does not hold the dates of its map; move it away"):
        renew(bundle(), water, map_, quiet=True)


@pytest.mark.parametrize("day", ["1960-01-01", "1970-01-01", "2149-06-07", "2190-01-01"])
def test_a_day_that_the_dates_cannot_hold_is_told_before_any_work(tmp_path: Path, day: str) -> None:
    path = scene(tmp_path / f"s_{min(day, '2099-12-31')}.tif", np.ones((4, 4)))
    with pytest.raises(ConfigError, match=f"the day {day} cannot be kept .* 1970-01-02 to 2149-06-06"):
        renew(bundle(), path, dated_map(tmp_path / "map.tif", np.ones((4, 4)), NAMES), date=day, quiet=True)
    if day < "1971":
        with pytest.raises(SceneError, match=rf"is of {day}, which cannot be kept"):
            day_of(path)
        predict(bundle(), path, tmp_path / "p.tif", quiet=True)
        assert tag(tmp_path / "p.tif") is None
    assert day_of(path, "2149-06-06") == 65535


def test_ground_of_unknown_cloudiness_stays_and_is_counted(tmp_path: Path) -> None:
    map_ = dated_map(tmp_path / "map.tif", np.ones((12, 20)), NAMES)
    water = scene(tmp_path / "w_20240812.tif", np.full((12, 20), 3.0))
    scl = np.repeat(np.arange(12, dtype=np.uint8)[:, None], 15, 1)  # a row a class; 5 columns are not covered
    clouds = write(tmp_path / "scl" / water.name, scl)
    (found,) = renew(bundle(), water, map_, tmp_path / "n.tif", clouds=clouds, quiet=True).scenes
    clear = np.zeros((12, 20), bool)
    clear[[2, 4, 5, 6, 7, 11], :15] = True  # snow is a view of the ground
    np.testing.assert_array_equal(read(tmp_path / "n.tif"), np.where(clear, 2, 1))
    assert (found.clouded, found.clouds_unknown) == (4 * 15, 2 * 15 + 12 * 5)
    assert "clouded or not: unknown                 90" in str(found).replace(",", "")
    assert found.to_dict()["clouds_unknown"] == 90


def test_a_scene_left_aside_is_tried_again_when_its_clouds_come_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    map_, folder = dated_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES), tmp_path / "in"
    path = settled(scene(folder / "a_20240812.tif", np.full((20, 20), 3.0)))
    cloud = np.zeros((20, 20), np.uint8)
    cloud[:7] = 1
    mask = tmp_path / "clouds" / path.name

    def broken() -> None:
        mask.parent.mkdir()
        mask.write_text("")
        settled(mask)

    def half_copied() -> None:
        mask.write_text("II")  # just now

    def complete() -> None:
        settled(write(mask, cloud))

    looks = iter([lambda: None, broken, lambda: None, half_copied, complete, lambda: None])

    def later(_: float) -> None:
        next(looks)()

    monkeypatch.setattr("raremap.workflows.renew.time.sleep", later)
    (tmp_path / "map.probs.tif").touch()
    with pytest.warns(RaremapWarning) as told:
        found = list(watch(bundle(), folder, map_, clouds=mask.parent, rounds=7, quiet=True))
    assert [r.clouded for r in found] == [140]
    np.testing.assert_array_equal(read(map_), np.where(cloud, 1, 2))
    missing, empty, probs = said(told)
    assert re.match(r"a_20240812\.tif was left aside: .*clouds does not exist", missing)
    assert "a_20240812.tif cannot be opened" in empty
    assert "map.probs.tif beside" in probs


def test_a_scene_whose_map_found_no_room_is_tried_at_every_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    map_, folder = write_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES), tmp_path / "in"
    settled(scene(folder / "a_20240812.tif", np.full((20, 20), 3.0)))
    usage, looks = shutil.disk_usage, []

    def room(path: Path) -> Any:
        looks.append(path)
        return SimpleNamespace(free=0) if len(looks) < 4 else usage(path)

    monkeypatch.setattr("raremap.scene.cog.shutil.disk_usage", room)
    with pytest.warns(RaremapWarning) as told:
        found = list(watch(bundle(), folder, map_, rounds=5, every_s=0, quiet=True))
    assert [r.changed.sum() for r in found] == [400]
    undated, aside = said(told)
    assert "does not say of which day" in undated
    assert "was left aside" in aside
    assert "choose another disk" in aside


def test_what_was_made_of_the_older_map_is_told(tmp_path: Path) -> None:
    map_ = dated_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES, raremap_clean='{"mmu": 400}')
    for name in ("probs", "entropy"):
        (tmp_path / f"map.{name}.tif").touch()
    renew(bundle(), scene(tmp_path / "m_20240401.tif", np.full((20, 20), -3.0)), map_, quiet=True)
    assert tag(map_, "raremap_clean") == '{"mmu": 400}'  # nothing has changed
    with pytest.warns(RaremapWarning) as told:
        renew(bundle(), scene(tmp_path / "w_20240812.tif", np.full((20, 20), 3.0)), map_, quiet=True)
    assert tag(map_, "raremap_clean") is None
    beside, cleaned = said(told)
    assert beside.startswith("map.probs.tif, map.entropy.tif beside")
    assert "were never cleaned" in cleaned


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--clouds SCL --margin 0", "--margin and --clouds: says nothing without --update MAP"),
        ("--date 2024-08-12", "--date: says nothing without --update MAP"),
        ("--cloud-values 3,8 --update m.tif", "--cloud-values: says nothing without --clouds"),
        ("--every 5 --update m.tif", "--every: says nothing without --watch FOLDER"),
        ("--watch in --date 2024-08-12 --update m.tif", "one day cannot be that of all scenes that come"),
    ],
)
def test_options_that_would_say_nothing_are_refused(
    capsys: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    scenes = [] if "--watch" in words else ["s.tif"]
    code, out, err = raremap(capsys, "predict", "b", *scenes, "-o", "n.tif", *words.split())
    assert (code, out) == (2, "")
    assert told in " ".join(err.replace("│", " ").split())


def test_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    map_ = dated_map(tmp_path / "map.tif", np.ones((20, 20)), NAMES)
    path = scene(tmp_path / "a_20240812.tif", np.full((20, 20), 3.0))
    monkeypatch.setattr(Bundle, "load", lambda folder: bundle())
    words = ["predict", tmp_path / "bundle", path, "--update", map_, "-o", tmp_path / "n.tif", "-q"]
    code, out, _ = raremap(capsys, *words, "--json")
    assert code == 0
    assert json.loads(out)["scenes"][0]["changed"] == [{"from": "meadow", "to": "water", "pixels": 400}]
    code, _, err = raremap(capsys, "predict", tmp_path / "bundle", "-o", tmp_path / "n.tif")
    assert code == 2
    assert "no scene to map" in err
    api = "https://earth-search.example/v1"
    code, _, err = raremap(
        capsys, "predict", tmp_path / "bundle", "--update", map_, "-o", tmp_path / "n.tif", "--watch", api
    )
    assert code == 2
    assert f"{api} is an address, and a folder is watched; let `raremap acquire --watch MINUTES" in err
