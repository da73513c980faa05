"""Held-out places are in no fold and no use, until the final figures are taken; and that is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from tests.workflows.scenes import make

from raremap.errors import SplitError
from raremap.tiles.holdout import held_out, record_use, times_used
from raremap.tiles.options import SplitOptions
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
    assert times_used(split) == 0
    assert record_use(split, {"variants": ["a"]}) == 1
    assert record_use(split, {"variants": ["b"]}) == 2
    assert times_used(split) == 2
    assert times_used(SplitOptions(holdout=f"{path}#other")) == 0
    assert json.loads(path.read_text()) == {"set": {"places": ["s1", "s4"]}}


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
    with pytest.raises(SplitError, match=r"split\.holdout names the place 's77'"):
        uses(catalog, SplitOptions(folds=3, holdout=["s77"]))


def test_the_holdout_fold_needs_places() -> None:
    with pytest.raises(ValidationError, match="no place is held out"):
        SplitOptions(fold="holdout")


def test_every_development_set_has_frozen_places() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "holdout.json"
    sets = json.loads(path.read_text())
    assert set(sets) == {"naip", "river", "dubai", "chattogram", "valleys"}
    assert all(len(set(s["places"])) == len(s["places"]) > 0 for s in sets.values())
    assert np.array_equal(sets["valleys"]["places"], [f"valley_{i}" for i in range(24, 36)])
