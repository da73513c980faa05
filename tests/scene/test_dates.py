"""Dates in file names: which files are which place on which day, and what several of them make."""

from __future__ import annotations

import numpy as np
import pytest
from tests.rasters import write

from raremap.config import Experiment
from raremap.errors import ConfigError, RaremapWarning, SceneError
from raremap.scene.dates import DatesOptions
from raremap.scene.layout import open_source
from raremap.scene.sources import ScenesOptions, find_scenes

NAMES = ("red", "nir")


def image(path, value=1, shape=(8, 8), names=NAMES, **more):
    # The first band holds the value, the second ten times it: who is who can be read from the pixels.
    bands = np.stack([np.full(shape, value), np.full(shape, 10 * value)]).astype(np.uint8)
    write(path, bands, names=names, **more)


def mask(path, shape=(8, 8)):
    write(path, np.ones(shape, np.uint8))


def options(folder, images, **more):
    return ScenesOptions(**{"root": str(folder), "images": images, "masks": "mask/*.tif", **more})


def two_places(folder, dates=("2024-04-12", "2024-08-20")):
    for p, place in enumerate(("a", "b")):
        for d, date in enumerate(dates):
            image(folder / f"{date}/{place}.tif", 2 * d + p + 1)
        mask(folder / f"mask/{place}.tif")


def test_a_file_is_found_by_its_name_though_that_holds_brackets(tmp_path):
    image(tmp_path / "img/sheet [12].tif")
    mask(tmp_path / "mask/a.tif")
    (scene,) = find_scenes(options(tmp_path, "img/sheet [12].tif", masks="mask/a.tif"))
    assert (scene.name, scene.images) == ("sheet [12]", (str(tmp_path / "img/sheet [12].tif"),))


@pytest.mark.parametrize(
    ("file", "images", "dates", "date"),
    [
        ("x_2024-04-12.tif", "x_{date}.tif", {}, "2024-04-12"),
        ("x_20240412.tif", "x_{date}.tif", {}, "2024-04-12"),
        ("x_20240412T103021.tif", "x_{date}.tif", {}, "2024-04-12"),
        ("20240412_T31_v2.tif", "{date}_*.tif", {}, "2024-04-12"),
        ("x_202404.tif", "x_{date}.tif", {}, "2024-04"),
        ("x_2024.tif", "x_{date}.tif", {}, "2024"),
        ("x_12Apr2024.tif", "x_{date}.tif", {"format": "%d%b%Y"}, "2024-04-12"),
        ("x_2024103.tif", "x_{date}.tif", {"format": "%Y%j"}, "2024-04-12"),
        ("x_20240412T103021.tif", "x_{date}.tif", {"format": "%Y%m%dT%H%M%S"}, "2024-04-12T10:30:21"),
        ("x_april.tif", "x_{date}.tif", {"of": {"april": "2024-04-12"}}, "2024-04-12"),
        ("S2A_20240412T103021_T31.tif", "S2A_*_T31.tif", {"pattern": r"_(\d{8})T\d{6}"}, "2024-04-12"),
    ],
)
def test_a_date_is_read_as_it_is_written(tmp_path, file, images, dates, date):
    image(tmp_path / "img" / file)
    mask(tmp_path / "one.tif")
    found = find_scenes(options(tmp_path, f"img/{images}", masks=None, dates=dates), masks=False)
    assert [s.date for s in found] == [date]


def test_a_date_in_a_folder_above_the_pattern_is_not_taken(tmp_path):
    folder = tmp_path / "20230101"
    image(folder / "img/20240412_a.tif")
    found = find_scenes(options(folder, "img/*_a.tif", dates={"pattern": r"\d{8}"}), masks=False)
    assert [(s.date, s.site) for s in found] == [("2024-04-12", "a")]


def test_folders_beside_those_of_dates_are_passed_over_and_dates_that_are_wrong_are_not(tmp_path):
    for folder in ("2024-04-12", "dem"):
        image(tmp_path / folder / "a.tif")
    assert len(find_scenes(options(tmp_path, "{date}/*.tif"), masks=False)) == 1
    image(tmp_path / "2024-4-1x/a.tif")
    with pytest.raises(SceneError, match=r"'2024-4-1x' is not a date"):
        find_scenes(options(tmp_path, "{date}/*.tif"), masks=False)


def test_dates_are_samples_of_one_place_that_share_its_mask(tmp_path):
    two_places(tmp_path)
    found = find_scenes(options(tmp_path, "{date}/*.tif"))
    assert [s.name for s in found] == ["a@2024-04-12", "a@2024-08-20", "b@2024-04-12", "b@2024-08-20"]
    assert [s.site for s in found] == ["a", "a", "b", "b"]
    assert [s.mask for s in found] == [str(tmp_path / f"mask/{p}.tif") for p in "aabb"]
    assert [s.groups for s in found] == [("a",), ("a",), ("b",), ("b",)]


def test_masks_with_dates_go_with_their_own_date(tmp_path):
    two_places(tmp_path)
    for place in "ab":
        for date in ("2024-04-12", "2024-08-20"):
            mask(tmp_path / f"m/{place}_{date}.tif")
    found = find_scenes(options(tmp_path, "{date}/*.tif", masks="m/*_{date}.tif"))
    assert [s.mask for s in found] == [
        str(tmp_path / f"m/{p}_{d}.tif") for p in "ab" for d in ("2024-04-12", "2024-08-20")
    ]
    (tmp_path / "m/b_2024-08-20.tif").unlink()
    with pytest.raises(
        SceneError, match=r"2024-08-20/b\.tif has no mask: no file like .* goes with b 2024-08-20"
    ):
        find_scenes(options(tmp_path, "{date}/*.tif", masks="m/*_{date}.tif"))


@pytest.mark.parametrize("given", [None, ["red", "nir"]])
def test_a_stack_holds_the_bands_of_all_dates(tmp_path, given):
    two_places(tmp_path)
    o = options(tmp_path, "{date}/*.tif", dates="stack", bands=given)
    found = find_scenes(o)
    assert [(s.name, s.date) for s in found] == [(p, "2024-04-12/2024-08-20") for p in "ab"]
    reader = open_source(found[1], o)[0]
    with reader:
        assert reader.bands == ("red@2024-04-12", "nir@2024-04-12", "red@2024-08-20", "nir@2024-08-20")
        assert reader.read(reader.grid.window)[0][:, 0, 0].tolist() == [2, 20, 4, 40]


def test_a_band_is_picked_from_all_dates_or_from_one(tmp_path):
    two_places(tmp_path)
    o = options(tmp_path, "{date}/*.tif", dates="stack", use=["nir", "red@2024-08-20"])
    reader = open_source(find_scenes(o)[0], o)[0]
    with reader:
        assert reader.bands == ("nir@2024-04-12", "nir@2024-08-20", "red@2024-08-20")
        assert reader.read(reader.grid.window)[0][:, 0, 0].tolist() == [10, 30, 3]


def test_pre_and_post_by_two_dates_by_an_event_or_by_name(tmp_path):
    two_places(tmp_path)
    o = options(tmp_path, "{date}/*.tif", dates="pre_post")
    with open_source(find_scenes(o)[0], o)[0] as reader:
        assert reader.bands == ("pre_red", "pre_nir", "post_red", "post_nir")
        assert reader.read(reader.grid.window)[0][:, 0, 0].tolist() == [1, 10, 3, 30]
    for place in "ab":
        image(tmp_path / f"2024-10-01/{place}.tif", 9)
    with pytest.raises(
        SceneError, match=r"has the dates 2024-04-12, 2024-08-20, 2024-10-01; pre and post need two"
    ):
        find_scenes(o)
    o = options(tmp_path, "{date}/*.tif", dates={"kind": "pre_post", "event": "2024-09-01"})
    with open_source(find_scenes(o)[0], o)[0] as reader:
        assert reader.read(reader.grid.window)[0][:, 0, 0].tolist() == [3, 30, 9, 90]
    for value, side in enumerate(("post", "pre"), start=1):
        image(tmp_path / f"event/a_{side}.tif", value)
        mask(tmp_path / f"event_mask/a_{side}.tif")
    o = options(tmp_path, "event/*_{date}.tif", masks="event_mask/*_{date}.tif", dates="pre_post")
    (scene,) = find_scenes(o)
    assert (scene.date, scene.mask) == (None, str(tmp_path / "event_mask/a_post.tif"))
    with open_source(scene, o)[0] as reader:
        assert reader.read(reader.grid.window)[0][:, 0, 0].tolist() == [2, 20, 1, 10]


def test_stacks_of_other_days_are_named_by_their_order(tmp_path):
    for place, dates in (("a", ("2024-04-12", "2024-08-20")), ("b", ("2024-04-15", "2024-08-20"))):
        for date in dates:
            image(tmp_path / f"{date}/{place}.tif")
        mask(tmp_path / f"mask/{place}.tif")
    with pytest.raises(
        SceneError, match=r"b has the dates 2024-04-15, 2024-08-20, but a has 2024-04-12, .*dates\.names"
    ):
        find_scenes(options(tmp_path, "{date}/*.tif", dates="stack"))
    o = options(tmp_path, "{date}/*.tif", dates={"kind": "stack", "names": ["spring", "summer"]})
    with open_source(find_scenes(o)[1], o)[0] as reader:
        assert reader.bands == ("red@spring", "nir@spring", "red@summer", "nir@summer")


def test_weights_go_with_their_date_and_those_without_one_with_all(tmp_path):
    two_places(tmp_path)
    for place in "ab":
        mask(tmp_path / f"w/{place}.tif")
        mask(tmp_path / f"w/2024-08-20/{place}.tif")
    found = find_scenes(options(tmp_path, "{date}/*.tif", weights="w/*.tif"))
    assert [s.weights for s in found] == [str(tmp_path / f"w/{p}.tif") for p in "aabb"]
    (tmp_path / "w/2024-04-12").mkdir()
    for place in "ab":
        mask(tmp_path / f"w/2024-04-12/{place}.tif")
    dated = {"weights": "w/{date}/*.tif"}
    pairs = find_scenes(options(tmp_path, "{date}/*.tif", dates="pre_post", **dated))
    assert [s.weights for s in pairs] == [str(tmp_path / f"w/2024-08-20/{p}.tif") for p in "ab"]
    with pytest.raises(SceneError, match=r"both weigh a; .*take \{date\} out of scenes\.weights"):
        find_scenes(options(tmp_path, "{date}/*.tif", dates="stack", **dated))


def test_a_pair_is_kept_by_the_mask_of_its_second_date(tmp_path):
    two_places(tmp_path)
    mask(tmp_path / "m/2024-08-20/a.tif")
    o = options(tmp_path, "{date}/*.tif", masks="m/{date}/*.tif", dates="pre_post", without_mask="skip")
    with pytest.warns(RaremapWarning, match="1 of 2 scenes have no mask and are left out"):
        (scene,) = find_scenes(o)
    assert (scene.name, scene.mask) == ("a", str(tmp_path / "m/2024-08-20/a.tif"))


class TestBadInput:
    def test_a_date_that_does_not_parse(self, tmp_path):
        image(tmp_path / "img/x_2024-13-45.tif")
        with pytest.raises(
            SceneError, match=r"x_2024-13-45\.tif: '2024-13-45' is not a date such as 2024-04-12"
        ):
            find_scenes(options(tmp_path, "img/x_{date}.tif"), masks=False)

    def test_a_text_that_is_no_date_of_the_form(self, tmp_path):
        image(tmp_path / "img/x_early.tif")
        o = options(tmp_path, "img/x_{date}.tif", dates={"format": "%d%b%Y"})
        with pytest.raises(
            SceneError, match=r"'early' is not a date of the form %d%b%Y; .*scenes\.dates\.of"
        ):
            find_scenes(o, masks=False)

    def test_a_text_that_is_not_listed(self, tmp_path):
        image(tmp_path / "img/x_june.tif")
        o = options(tmp_path, "img/x_{date}.tif", dates={"of": {"june_1": "2024-06-01"}})
        with pytest.raises(
            SceneError, match=r"is of 'june', which scenes\.dates\.of does not list; did you mean 'june_1'"
        ):
            find_scenes(o, masks=False)

    def test_a_pattern_that_finds_none(self, tmp_path):
        image(tmp_path / "img/x_1.tif")
        o = options(tmp_path, "img/x_*.tif", dates={"pattern": r"\d{8}"})
        with pytest.raises(SceneError, match=r"scenes\.dates\.pattern .* finds no date in .*x_1\.tif"):
            find_scenes(o, masks=False)

    def test_a_stack_without_dates(self, tmp_path):
        image(tmp_path / "img/x.tif")
        with pytest.raises(
            SceneError, match=r"scenes\.dates is 'stack', but .*x\.tif has no date; put \{date\}"
        ):
            find_scenes(options(tmp_path, "img/*.tif", dates="stack"), masks=False)

    def test_one_day_twice(self, tmp_path):
        for text in ("20240412", "2024-04-12"):
            image(tmp_path / f"img/x_{text}.tif")
        with pytest.raises(SceneError, match=r"are of the same place and date \(2024-04-12\)"):
            find_scenes(options(tmp_path, "img/x_{date}.tif"), masks=False)

    def test_two_masks_for_a_stack(self, tmp_path):
        two_places(tmp_path)
        for date in ("2024-04-12", "2024-08-20"):
            for place in "ab":
                mask(tmp_path / f"m/{date}/{place}.tif")
        o = options(tmp_path, "{date}/*.tif", masks="m/{date}/*.tif", dates="stack")
        with pytest.raises(SceneError, match=r"both label a; a stack of dates has one mask"):
            find_scenes(o)

    def test_dates_of_a_stack_on_other_grids(self, tmp_path):
        image(tmp_path / "2024-04/a.tif")
        image(tmp_path / "2024-08/a.tif", shape=(8, 9))
        o = options(tmp_path, "{date}/*.tif", dates="stack")
        with pytest.raises(SceneError, match=r"2024-08/a\.tif has size 9x8, expected 8x8"):
            open_source(find_scenes(o, masks=False)[0], o)

    @pytest.mark.parametrize(
        ("dates", "match"),
        [
            (
                "stacked",
                r"scenes\.dates\.kind: input should be 'separate', 'stack' or 'pre_post', found 'stacked'",
            ),
            ({"of": {"april": "soon"}}, r"scenes\.dates\.of: 'soon' is not a date such as 2024-04-12"),
            ({"format": "%Q"}, r"format has %Q, which is not known"),
            ({"pattern": "("}, r"pattern is not a regular expression"),
            ({"names": ["a"]}, r"names is for a stack"),
            ({"kind": "stack", "event": "2024-01-01"}, r"event is for kind: pre_post"),
        ],
    )
    def test_options_that_cannot_be(self, dates, match):
        data = {"out": "o", "scenes": {"images": "{date}/*.tif", "dates": dates}, "labels": "landslide"}
        with pytest.raises(ConfigError, match=match):
            Experiment.from_dict(data)


def test_options_survive_yaml():
    given = DatesOptions(of={"april": "2024-04-12"}, kind="stack", names=["april"])
    assert DatesOptions(**given.model_dump(mode="json")) == given
