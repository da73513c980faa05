"""Dynamic sampling and composites in training: the stream moves, and stays the same in any worker and after a stop."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import project

from raremap.balance.make import make_plan
from raremap.balance.plan import SamplingPlan
from raremap.errors import RaremapWarning
from raremap.learn import checkpoint
from raremap.workflows.prepare import catalog_of

DYNAMIC = "balance={kind: mixture, aim: 1, target: {gamma: 1, momentum: 0.5, inertia: 0}}"
SHORT = ("train.steps=12", "train.crop=16")
PASTED = "balance={kind: diao, aim: 0.5, target: {gamma: 1}, copy_paste: {classes: [slide], share: 1, min_area: 2}, budget: 2}"


def log(training):
    rows = csv.DictReader((training.path.parent / "metrics.csv").read_text().splitlines())
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def same(a, b):
    pairs = zip(a.bundle.module.state_dict().values(), b.bundle.module.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs) and log(a) == log(b)


@pytest.mark.slow
@pytest.mark.parametrize("balance", [DYNAMIC, PASTED], ids=["tiles", "composites"])
def test_workers_and_a_stop_leave_the_stream_and_the_weights_as_they_were(
    folder, tmp_path, balance, monkeypatch
):
    whole = project.train(folder, tmp_path / "whole", *SHORT, balance)
    assert same(whole, project.train(folder, tmp_path / "workers", *SHORT, balance, "train.workers=2"))
    save = checkpoint.save

    def stop(path, state):
        save(path, state)
        if path.name == "last.pt" and state["task"]["step"] == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        project.train(folder, tmp_path / "stopped", *SHORT, balance)
    monkeypatch.setattr(checkpoint, "save", save)
    assert same(whole, project.train(folder, tmp_path / "stopped", *SHORT, balance, resume=True))


def test_the_target_follows_the_worst_class(folder, tmp_path):
    training = project.train(folder, tmp_path, *SHORT, DYNAMIC)
    rows = log(training)
    names = ("land", "water", "slide")
    f1 = np.array([[float(r[f"f1/{n}"]) for n in names] for r in rows])
    target = np.array([[float(r[f"target/{n}"]) for n in names] for r in rows])
    assert target.sum(1) == pytest.approx(1)
    moving = f1[0]
    for row, wanted in zip(f1, target, strict=True):
        moving = 0.5 * moving + 0.5 * row
        need = 1 - moving
        # Uniform times (1 - m), where neither the floor (0.2/3) nor the cap (5/3) is met.
        free = need / need.sum()
        if free.min() > 0.2 / 3:
            assert wanted == pytest.approx(free)
        assert wanted.min() >= 0.2 / 3 - 1e-9
    assert np.ptp(target, axis=0).max() > 0.01


def test_composites_are_trained_on_and_are_in_the_plan(folder, tmp_path):
    training = project.train(folder, tmp_path, *SHORT, PASTED, "train.steps=2")
    plan = SamplingPlan.load(training.path.parent / "plan.parquet")
    assert plan.composite.any()
    assert plan.weights[plan.composite].sum() > 0
    assert plan.shares[2] > plan.natural[2]


def test_the_number_of_images_seen_does_not_change_with_the_plan(folder, tmp_path):
    seen = {}
    for name, balance in {"uniform": "balance={kind: uniform}", "diao": "balance={kind: diao}"}.items():
        seen[name] = project.train(folder, tmp_path / name, *SHORT, balance, "train.crop=32", "train.steps=3")
    delivered = {
        name: torch.load(t.path.parent / "checkpoints/last.pt", weights_only=True)["task"]["delivered"].sum()
        for name, t in seen.items()
    }
    # Three steps of four crops of 32 x 32 pixels, less the unlabelled rows.
    assert all(0.9 * 3 * 4 * 1024 < d <= 3 * 4 * 1024 for d in delivered.values()), delivered


@pytest.mark.parametrize("aim", [0, 1])
def test_what_the_loss_received_is_what_the_plan_says(folder, tmp_path, aim):
    balance = f"balance={{kind: mixture, aim: {aim}}}"
    more = (
        "train.steps=40",
        "train.batch_size=48",
        "train.monitor_every=40",
        "model.decoder_channels=[4, 4, 4]",
    )
    training = project.train(folder, tmp_path, *SHORT, balance, *more)
    plan = SamplingPlan.load(training.path.parent / "plan.parquet")
    state = torch.load(training.path.parent / "checkpoints/last.pt", weights_only=True)
    received = state["task"]["delivered"].numpy() / int(state["task"]["delivered"].sum())
    assert received == pytest.approx(plan.shares, rel=0.06)
    tiles = plan.weights @ plan.counts
    assert np.abs(received / (tiles / tiles.sum()) - 1).max() > 0.12, "whole tiles say something else"


def test_one_class_in_training_is_told(folder, tmp_path):
    experiment = project.experiment(folder, tmp_path, "balance={kind: diao}")
    catalog = catalog_of(experiment, quiet=True)
    table = catalog.table.copy()
    table["counts"] = list(catalog.counts * [1, 0, 0])
    with pytest.warns(RaremapWarning, match="all training labels are of class land"):
        plan = make_plan(
            replace(catalog, table=table), np.ones(len(catalog), bool), experiment.balance, 32, seed=0
        )
    assert plan.shares.tolist() == [1, 0, 0]
