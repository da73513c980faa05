"""Losses of several terms in a training: their maps, their log, their state."""

from __future__ import annotations

import csv

import pytest
import torch
from tests import project

from raremap.learn.outer import Outer
from raremap.workflows.prepare import catalog_of
from raremap.workflows.train import run

FAST = ("train.steps=8", "train.precision=float32", "train.checkpoint_every=4", "train.monitor_every=4")
TERMS = "{focal: 1, tversky: 1, boundary: {only: rare}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    project.make(folder)
    return folder


def train(folder, out, loss, resume=False):
    experiment = project.experiment(folder, out, *FAST, f"loss={loss}")
    return run(catalog_of(experiment, quiet=True), None, experiment, resume, quiet=True)


def rows(out):
    return list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))


@pytest.mark.parametrize("weighting", ["uncertainty", "gradnorm"])
def test_a_resumed_hialf_ends_with_the_weights_of_an_unbroken_one(folder, tmp_path, weighting):
    loss = f"{{kind: hialf, weighting: {weighting}, every: 2, terms: {TERMS}}}"
    with project.stopped_at(4, tmp_path / "run"):
        train(folder, tmp_path / "run", loss)
    train(folder, tmp_path / "run", loss, resume=True)
    ends = project.ends(tmp_path / "run")
    for part in ("network", "loss"):
        for key, value in ends[0][part].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value.nan_to_num(-1), ends[1][part][key].nan_to_num(-1)), key
            else:
                assert value == ends[1][part][key], key


def test_terms_and_their_weights_are_logged_by_name(folder, tmp_path):
    loss = f"{{kind: hialf, ramp: 1, terms: {TERMS}}}"
    train(folder, tmp_path / "run", loss)
    first, last = rows(tmp_path / "run")
    for name in ("focal", "tversky", "boundary"):
        assert first[name] != ""
    # By the last step of four, and of eight, the boundary has grown as the batches before it have.
    assert [float(r["lambda/boundary"]) for r in (first, last)] == pytest.approx([3 / 8, 7 / 8])
    assert [float(r["lambda/focal"]) for r in (first, last)] == [1, 1]


def test_a_sum_by_name_trains(folder, tmp_path):
    training = train(folder, tmp_path / "run", "{focal: 0.5, iou: 0.5}")
    assert {"focal", "iou"} <= set(rows(tmp_path / "run")[0])
    assert sum(training.bundle.prior) == pytest.approx(1)


def test_points_with_a_teacher_and_festa_go_on_where_they_stopped(folder, tmp_path):
    how = (
        *FAST,
        "points={kind: per_object, count: 3}",
        "pseudo={threshold: 0.4, floor: 0.3, strong: 0.1, start: 2}",
        "festa={}",
        "loss=ce_dice",
    )

    def go(resume=False):
        experiment = project.experiment(folder, tmp_path / "run", *how)
        return run(catalog_of(experiment, quiet=True), None, experiment, resume, quiet=True)

    with project.stopped_at(4, tmp_path / "run"):
        go()
    logged = rows(tmp_path / "whole")
    assert all(float(r[name]) > 0 for r in logged for name in ("ce", "pseudo", "festa"))
    assert float(logged[-1]["dice"]) > 0
    go(resume=True)
    ends = project.ends(tmp_path / "run")
    for key, value in ends[0]["network"].items():
        assert torch.equal(value, ends[1]["network"][key]), key


@pytest.mark.parametrize("classes", ["weights", "both"])
def test_an_outer_loop_moves_what_it_may_and_goes_on_where_it_stopped(folder, tmp_path, classes):
    how = (
        *FAST,
        "loss={kind: hialf, weighting: outer, tau: null, terms: {ce: 1, dice: 1}}",
        "balance={kind: mixture}",
        f"outer={{every: 2, warmup: 0, classes: {classes}, crops: 4, shrink: 0}}",
    )

    def go(resume=False):
        experiment = project.experiment(folder, tmp_path / "run", *how)
        return run(catalog_of(experiment, quiet=True), None, experiment, resume, quiet=True)

    with project.stopped_at(4, tmp_path / "run"):
        go()
    last = rows(tmp_path / "whole")[-1]
    factors = [float(last[f"factor/{n}"]) for n in project.CLASSES.values()]
    assert factors != [1, 1, 1]
    assert sum(factors) == pytest.approx(3, rel=1e-5)
    lambdas = [float(last[f"lambda/{n}"]) for n in ("ce", "dice")]
    assert lambdas != [1, 1]
    assert sum(lambdas) == pytest.approx(2, rel=1e-5)
    assert ("stream/slide" in last and last["stream/slide"] != "") == (classes == "both")
    go(resume=True)
    ends = project.ends(tmp_path / "run")
    for end in ends:
        assert end["outer"].pop("seconds") > 0
    assert ends[0]["outer"] == ends[1]["outer"]
    for key, value in ends[0]["network"].items():
        assert torch.equal(value, ends[1]["network"][key]), key


def test_the_outer_loop_looks_at_monitor_crops_in_the_precision_of_the_training(
    folder, tmp_path, monkeypatch
):
    seen, look = [], Outer._logits

    def watched(self, batch, device):
        seen.append(("prior" not in batch, torch.is_autocast_enabled(device.type)))
        return look(self, batch, device)

    monkeypatch.setattr(Outer, "_logits", watched)
    how = (
        *FAST,
        "train.precision=bf16-mixed",
        "train.steps=4",
        "loss={kind: ce_dice, tau: 1}",
        "outer={every: 2, warmup: 0, crops: 4}",
    )
    experiment = project.experiment(folder, tmp_path / "run", *how)
    run(catalog_of(experiment, quiet=True), None, experiment, False, quiet=True)
    # Crops of monitor places, then two perturbed passes.
    assert seen == [(True, True), (False, False), (False, False)]
    last = rows(tmp_path / "run")[-1]
    assert float(last["outer/seconds"]) > 0
    assert last["outer/skipped"] == "0"


@pytest.mark.parametrize("loss", ["ce_dice", "{focal: 1, iou: 1, center_ce: 1, boundary: 0.1}"])
def test_a_network_of_several_resolutions_trains(folder, tmp_path, loss):
    experiment = project.experiment(
        folder,
        tmp_path / "run",
        *FAST,
        f"loss={loss}",
        model={"kind": "unet", "width": 4, "depth": 2, "head": "multiresolution"},
    )
    training = run(catalog_of(experiment, quiet=True), None, experiment, False, quiet=True)
    assert 0 < training.monitor_macro_f1 <= 1
