"""`raremap plan` on a small project: table, page, bad input."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from tests import project
from tests.command import raremap

import raremap as rm
from raremap.balance.diagnosis import diagnose
from raremap.balance.locations import COVER
from raremap.balance.plan import SamplingPlan
from raremap.errors import ConfigError, OutputError, RaremapWarning, SplitError
from raremap.tiles.splits import uses
from raremap.workflows.plan import plan, plan_experiment

DIAO = {"kind": "diao", "copy_paste": {"plausibility": 0.0, "ring": 2}}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    project.make(folder)
    return folder


def test_the_table_and_the_page_are_written_and_told(data, tmp_path):
    balance = {**DIAO, "kind": "mixture", "aim": 1}
    experiment = project.experiment(data, tmp_path / "run", "train.crop=16", balance=balance)
    result = plan_experiment(experiment, quiet=True)
    assert result.diagnosis.composites > 0
    again = SamplingPlan.load(result.path)
    assert again.weights.tolist() == result.plan.weights.tolist()
    catalog = rm.Catalog.load(tmp_path / "run/catalog.parquet")
    assert str(diagnose(again, catalog)) == str(result.diagnosis)
    text = result.page.read_text(encoding="utf-8")
    for part in ("Drawn most often", "Composites beside their sources", "Where crops are aimed"):
        assert part in text
    assert str(result).endswith(f"plan: {result.path}\npage: {result.page}")
    told = result.to_dict()
    assert told["plan"] == str(tmp_path / "run/plan.parquet")
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_looking_at_a_plan_alters_no_file_of_a_training(data, tmp_path):
    project.train(data, tmp_path / "run", "train.steps=2")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    # Other tiles and places, so that the run's catalog does not fit either.
    split = {"block_m": 1000, "folds": 2, "monitor": 0.2, "calibration": 0.2}
    other = project.experiment(
        data, tmp_path / "run", tiles={"size": 32, "overlap": 0.5}, split=split, balance=DIAO
    )
    result = plan_experiment(other, quiet=True)
    assert len(result.plan.weights) > len(SamplingPlan.load(tmp_path / "run/plan.parquet").weights)
    after = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    fresh = {p.name for p in set(after) - set(before)}
    assert fresh == {"planned.parquet", "planned.objects.parquet", "planned.html"}
    assert {p: after[p] for p in before} == before
    assert (result.path.name, result.page.name) == ("planned.parquet", "planned.html")
    moved = project.experiment(data, tmp_path / "run", split={**split, "folds": 3, "monitor": 0.25})
    plan_experiment(moved, quiet=True)
    assert (tmp_path / "run/catalog.parquet").read_bytes() == before[tmp_path / "run/catalog.parquet"]


def test_the_same_experiment_gives_the_same_bytes(data, tmp_path):
    made = [
        plan_experiment(project.experiment(data, tmp_path / n / "run", "train.crop=16", balance=DIAO), True)
        for n in "ab"
    ]
    assert made[0].path.read_bytes() == made[1].path.read_bytes()
    assert made[0].page.read_bytes() == made[1].page.read_bytes()


def test_the_plan_is_of_training_tiles_and_what_is_left_of_their_labels(data, tmp_path):
    experiment = project.experiment(data, tmp_path, thin={"keep": 0.5}, balance={"kind": "diao"})
    catalog = rm.prepare(experiment, quiet=True)
    made = rm.plan(catalog, experiment, quiet=True)
    rows = made.rows(catalog)
    assert set(uses(catalog)[rows]) == {"train"}
    assert len(rows) == round((uses(catalog) == "train").sum() / 2)
    assert set(made.target) == {1 / 3}


def test_a_catalog_of_other_labels_is_refused(data, tmp_path):
    catalog = rm.prepare(project.experiment(data, tmp_path), quiet=True)
    other = project.experiment(data, tmp_path, labels={"classes": {1: "a", 2: "b", 5: "c"}, "ignore": [0]})
    with pytest.raises(ConfigError, match="run `raremap prepare` again"):
        plan(catalog, other, quiet=True)


def test_a_plan_read_back_is_trained_on_as_one_that_training_makes(data, tmp_path):
    experiment = project.experiment(data, tmp_path / "run", "train.steps=1", balance={"kind": "diao"})
    catalog = rm.prepare(experiment, quiet=True)
    path = plan(catalog, experiment, quiet=True).save(tmp_path / "mine.parquet")
    rm.train(catalog, SamplingPlan.load(path), experiment, quiet=True)
    assert (tmp_path / "run/plan.parquet").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("train.crop=16", "made for crops of 32 pixels, train.crop is 16"),
        ("split.fold=1", r"draws tile s\d:\d+:\d+, whose use is '(test|calibration|monitor)'"),
        ("thin.imbalance=60", "counted other labels than this training sees"),
        ("points={kind: per_class, count: 2}", "counted other labels than this training sees"),
    ],
)
def test_a_plan_of_other_crops_places_or_labels_is_never_trained_on(data, tmp_path, change, line):
    sections = {"balance": {"kind": "diao"}, "loss": {"kind": "ce"}}
    experiment = project.experiment(data, tmp_path / "run", **sections)
    changed = project.experiment(data, tmp_path / "run", change, **sections)
    catalog = rm.prepare(experiment, quiet=True)
    made = plan(catalog, experiment, quiet=True)
    with pytest.raises(ConfigError, match=line + r".*; make the plan again$"):
        rm.train(catalog, made, changed, quiet=True)
    assert not (tmp_path / "run/checkpoints").exists()


def test_an_empty_training_use_is_told(data, tmp_path):
    experiment = project.experiment(data, tmp_path)
    places = sorted(set(rm.prepare(experiment, quiet=True).table["place"].astype(str)))
    split = {
        "block_m": 1000,
        "test": places[2:],
        "monitor_places": [places[0]],
        "calibration_places": places[1:2],
    }
    with pytest.raises(SplitError, match=r"0 place.* too few to train"):
        plan_experiment(project.experiment(data, tmp_path, split=split), quiet=True)


def test_a_single_class_is_told_and_planned(tmp_path):
    folder = tmp_path / "data"
    project.make(folder)
    for path in (folder / "mask").glob("*.tif"):
        with rasterio.open(path, "r+") as file:
            file.write(np.where(file.read() > 0, 1, 0).astype(np.uint8))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RaremapWarning)
        result = plan_experiment(project.experiment(folder, tmp_path / "run", balance=DIAO), quiet=True)
    text = " ".join(str(w.message) for w in told)
    assert "no training pixel of 'water', 'slide'" in text
    assert "all training labels are of class land" in text
    assert result.diagnosis.after.kl_from_target == 0
    assert result.diagnosis.after.imbalance_ratio == 1
    assert result.to_dict()["after"]["kl_uniform_from"] is None
    assert "none in natural, target, stream" in result.page.read_text(encoding="utf-8")


def test_without_an_object_that_qualifies_diao_goes_without_composites(data, tmp_path, caplog):
    balance = {"kind": "diao", "copy_paste": {"min_area": 500, "max_area": 600}}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RaremapWarning)
        result = plan_experiment(project.experiment(data, tmp_path / "run", balance=balance), quiet=True)
    text = caplog.text + " ".join(str(w.message) for w in told)
    assert "no object of 'slide' has 500 to 600 pixels" in text
    assert result.diagnosis.composites == 0
    assert result.diagnosis.after.kl_target_from < result.diagnosis.before.kl_target_from
    assert "none could be made" in result.page.read_text(encoding="utf-8")


def test_where_no_place_is_found_for_any_object_the_reasons_are_told(data, tmp_path):
    # A slide has 36 pixels, of a tile's 1,024 no more than 30 may be covered.
    balance = {"kind": "diao", "copy_paste": {**DIAO["copy_paste"], "cover": 0.03}}
    result = plan_experiment(project.experiment(data, tmp_path / "run", balance=balance), quiet=True)
    assert (result.diagnosis.composites, set(result.diagnosis.refused)) == (0, {COVER})
    refused = f"{COVER} ({result.diagnosis.refused[COVER]:,})"
    assert f"refused: {COVER} ({result.diagnosis.refused[COVER]})" in str(result)
    assert refused in result.page.read_text(encoding="utf-8")
    again = SamplingPlan.load(result.path)
    assert (
        diagnose(again, rm.Catalog.load(tmp_path / "run/catalog.parquet")).refused == result.diagnosis.refused
    )
    assert (again.bank, len(again.composites or ())) == (None, 0)
    assert not list((tmp_path / "run").glob("*objects*"))


def test_a_folder_that_cannot_be_made_is_told(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        plan_experiment(project.experiment(data, tmp_path / "file/run"), quiet=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable_is_told(data, tmp_path):
    experiment = project.experiment(data, tmp_path)
    rm.prepare(experiment, quiet=True)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            plan_experiment(experiment, quiet=True)
    finally:
        tmp_path.chmod(0o700)


def test_the_verb_prints_one_json_object(capsys, data, tmp_path):
    (tmp_path / "e.yaml").write_text(project.experiment(data, tmp_path / "run").to_yaml())
    words = ("plan", tmp_path / "e.yaml", "--set", "balance={kind: mixture}", "--root", data, "-q")
    code, out, err = raremap(capsys, *words, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["solver"] == "mixture"
    assert told["after"]["kl_target_from"] < told["before"]["kl_target_from"]
    code, out, _ = raremap(capsys, *words)
    assert code == 0
    assert "slide *" in out
    assert f"page: {tmp_path / 'run/plan.html'}" in out


@pytest.mark.parametrize(
    ("balance", "line"),
    [
        ("{kind: diao, target: {shares: {slid: 0.5}}}", "balance.target.shares names 'slid', which is not a class; did you mean 'slide'?"),
        ("{kind: diao, copy_paste: {classes: [slid]}}", "balance.copy_paste.classes names 'slid', which is not a class; did you mean 'slide'?"),
        ("{kind: dioa}", "balance"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(capsys, data, tmp_path, balance, line):
    (tmp_path / "e.yaml").write_text(project.experiment(data, tmp_path / "run").to_yaml())
    code, out, err = raremap(capsys, "plan", tmp_path / "e.yaml", "--set", f"balance={balance}", "-q")
    assert (code, out) == (2, "")
    assert err.startswith("raremap: ")
    assert line in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run/plan.parquet").exists()
