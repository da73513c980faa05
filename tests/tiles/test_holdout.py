"""Held-out places are in no fold and no use, until the final figures are taken; and that is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from tests.rasters import write
from tests.workflows.scenes import SCHEME, make

from raremap.config import Experiment
from raremap.errors import SplitError
from raremap.scene.sources import ScenesOptions
from raremap.tiles.holdout import held_out, record_use, times_used
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.places import assign_places
from raremap.tiles.prepare import prepare
from raremap.tiles.splits import uses

SPLIT = {"folds": 3, "holdout": ["s1", "s4"]}


def places_by_use(catalog, split: SplitOptions) -> dict[str, set[str]]:
    use = uses(catalog, split, warn=False)
    return {u: set(catalog.table["place"][use == u]) for u in set(use)}


def test_they_are_in_no_fold_and_no_use(tmp_path: Path) -> None:
    catalog, _ = make(tmp_path, scenes=12, split=SplitOptions(**SPLIT))
    held = catalog.table["place"].isin(["s1", "s4"])
    assert set(catalog.table["fold"][held]) == {-1}
    assert set(catalog.table["fold"][~held]) == {0, 1, 2}
    for fold in range(3):
        found = places_by_use(catalog, SplitOptions(**SPLIT, fold=fold))
        assert found.pop("holdout") == {"s1", "s4"}
        assert not set.union(*found.values()) & {"s1", "s4"}


def test_for_the_final_figures_they_are_the_test_and_all_others_may_train(tmp_path: Path) -> None:
    catalog, _ = make(tmp_path, scenes=12, split=SplitOptions(**SPLIT))
    found = places_by_use(catalog, SplitOptions(**SPLIT, fold="holdout"))
    assert found.pop("test") == {"s1", "s4"}
    assert len(set.union(*found.values())) == 10


def test_a_file_names_them_and_every_use_is_written_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "holdout.json"
    path.write_text(json.dumps({"set": {"places": ["s1", "s4"]}}))
    split = SplitOptions(holdout=f"{path}#set")
    assert held_out(split) == ["s1", "s4"]
    one, other = tmp_path / "one", tmp_path / "other"
    assert times_used(split, one) == 0
    assert record_use(split, one, {"a": "1", "b": "2"})
    assert not record_use(split, one, {"b": "2"})  # what was left of it when it was stopped
    assert times_used(split, one) == 1
    assert record_use(split, one, {"b": "3"})  # the same name, another definition
    assert record_use(split, one, {"c": "1"})
    assert record_use(split, other, {"b": "2"})
    assert times_used(split, one) == times_used(split, other) == 4
    assert times_used(SplitOptions(holdout=f"{path}#another"), one) == 0
    assert json.loads(path.read_text()) == {"set": {"places": ["s1", "s4"]}}


def test_uses_of_listed_places_are_written_into_the_comparisons_folder(tmp_path: Path) -> None:
    split = SplitOptions(holdout=["s1"])
    assert record_use(split, tmp_path, {"a": "1"})
    assert (times_used(split, tmp_path), times_used(split, tmp_path / "elsewhere")) == (1, 0)
    assert json.loads((tmp_path / "holdout-uses.json").read_text())["listed"][0]["runs"] == {"a": "1"}


@pytest.mark.parametrize("key", ["test", "monitor_places", "calibration_places"])
@pytest.mark.parametrize("fold", [0, "holdout"])
def test_a_held_out_place_that_is_listed_for_another_use_is_refused(tmp_path: Path, key: str, fold) -> None:
    catalog, _ = make(tmp_path, scenes=12, split=SplitOptions(**SPLIT))
    split = SplitOptions(**SPLIT, fold=fold, **{key: ["s4", "s5"]})
    if (key, fold) == ("test", "holdout"):  # the held-out places are the test, and no other is
        assert places_by_use(catalog, split)["test"] == {"s1", "s4"}
        return
    with pytest.raises(
        SplitError, match=rf"split\.{key} lists the place 's4', which is listed for another use"
    ):
        uses(catalog, split)


def test_a_place_listed_for_two_uses_is_refused(tmp_path: Path) -> None:
    catalog, _ = make(tmp_path, scenes=6)
    with pytest.raises(SplitError, match=r"split\.calibration_places lists the place 's3'"):
        uses(catalog, SplitOptions(test=["s3"], calibration_places=["s2", "s3"]))


def test_no_pixel_of_held_out_ground_is_in_another_use(tmp_path: Path) -> None:
    truth = np.random.default_rng(0).choice([1, 2, 5], (192, 192)).astype(np.uint8)
    write(tmp_path / "img/a.tif", np.stack([truth, truth]))
    write(tmp_path / "mask/a.tif", truth)
    scenes = ScenesOptions(images="img/*.tif", masks="mask/*.tif", root=str(tmp_path))
    split = SplitOptions(block_px=64, folds=2, monitor=0.2, calibration=0.2, holdout=["a/1_1"])
    catalog = prepare(scenes, SCHEME, TileOptions(size=32, overlap=0.5), split, quiet=True)
    held, others = np.zeros((192, 192), bool), np.zeros((192, 192), bool)
    for fold in (0, 1):
        use = uses(catalog, split.model_copy(update={"fold": fold}), warn=False)
        for window, u in zip(catalog.windows, use, strict=True):
            if u != "dropped":
                (held if u == "holdout" else others)[window.slices()] = True
    assert held.sum() >= 64 * 64
    assert not (held & others).any()


@pytest.mark.parametrize(
    ("text", "address", "message"),
    [
        ("{}", "holdout.json#nowhere", "names no places of 'nowhere'"),
        ('{"a": ["s1"]}', "holdout.json#a", "does not name places"),
        ("not json", "holdout.json#a", "does not name places"),
        ("{}", "holdout.json", "expected FILE.json#NAME"),
        ("{}", "missing.json#a", "does not exist"),
    ],
)
def test_a_file_that_does_not_say_is_refused_in_one_line(
    tmp_path: Path, text: str, address: str, message: str
) -> None:
    (tmp_path / "holdout.json").write_text(text)
    with pytest.raises(SplitError, match=message):
        held_out(SplitOptions(holdout=str(tmp_path / address)))


def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    catalog, _ = make(tmp_path, scenes=6)
    for make_use in (uses, assign_places):
        with pytest.raises(SplitError, match=r"split\.holdout names the place 's77'"):
            make_use(catalog, SplitOptions(folds=3, holdout=["s77"]))


def test_the_holdout_fold_needs_places() -> None:
    with pytest.raises(ValidationError, match="no place is held out"):
        SplitOptions(fold="holdout")


def test_every_development_set_has_frozen_places() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "holdout.json"
    sets = json.loads(path.read_text())
    assert set(sets) == {"naip", "river", "dubai", "chattogram", "valleys"}
    assert all(len(set(s["places"])) == len(s["places"]) > 0 for s in sets.values())
    for name in set(sets) - {"valleys"}:
        example = Experiment.load(path.parents[1] / "examples" / f"{name}.yaml")
        assert example.split.holdout == f"benchmarks/holdout.json#{name}"
        assert not set(example.split.test or ()) & set(sets[name]["places"])
    assert np.array_equal(sets["valleys"]["places"], [f"valley_{i}" for i in range(24, 36)])
