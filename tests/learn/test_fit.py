"""Training on a small project: the same numbers whatever is interrupted, and how many workers help."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys

import pytest
import torch
from tests import project

from raremap.errors import TrainingError
from raremap.workflows.prepare import catalog_of


def weights(training):
    return list(training.bundle.module.state_dict().values())


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    return project.train(folder, tmp_path_factory.mktemp("whole"))


def test_a_run_leaves_everything_that_it_should(whole):
    out = whole.path.parent
    for name in (
        "experiment.yaml",
        "versions.json",
        "uses.csv",
        "plan.parquet",
        "metrics.csv",
        "checkpoints/last.pt",
        "bundle/model.safetensors",
    ):
        assert (out / name).exists(), name
    assert any((out / "tensorboard").iterdir())
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert [int(r["step"]) for r in rows] == [2, 4, 6, 8]
    best = max(rows, key=lambda r: float(r["macro_f1"]))
    assert whole.best_step == int(best["step"])
    assert whole.monitor_macro_f1 == pytest.approx(float(best["macro_f1"]))
    assert sum(whole.bundle.prior) == pytest.approx(1)


def test_a_bundle_knows_the_shares_and_the_pixels_of_its_training(folder, whole):
    uses = {
        r["tile_id"]: r["use"]
        for r in csv.DictReader((whole.path.parent / "uses.csv").read_text().splitlines())
    }
    catalog = catalog_of(project.experiment(folder, whole.path.parent), quiet=True)
    counts = catalog.counts[[uses[i] == "train" for i in catalog.table["tile_id"]]].sum(0)
    assert whole.bundle.shares == pytest.approx(counts / counts.sum())
    assert whole.bundle.info["resolution_m"] == 10


@pytest.mark.slow
def test_two_workers_give_the_numbers_of_none(folder, whole, tmp_path):
    other = project.train(folder, tmp_path, "train.workers=2")
    assert same(whole, other)
    drop = lambda p: [r.rsplit(",", 1)[0] for r in (p.parent / "metrics.csv").read_text().splitlines()]  # noqa: E731
    assert drop(other.path) == drop(whole.path)


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "schedule"), [(signal.SIGKILL, "onecycle"), (signal.SIGINT, "plateau")])
def test_a_broken_run_goes_on_to_the_same_weights(folder, tmp_path, stop, schedule):
    overrides = [f"optimizer.schedule={schedule}", "train.steps=12", "train.threads=1"]
    unbroken = project.train(folder, tmp_path / "unbroken", *overrides)
    # The run stops itself, so that it is always in the middle however busy the machine is.
    script = f"""
import os, signal, sys
from pathlib import Path
from raremap.learn import checkpoint
from tests import project
# What a shell starts in the background is started with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
save = checkpoint.save
def stopping(path, state):
    save(path, state)
    if path.name == "last.pt" and state["task"]["step"] == 4:
        os.kill(os.getpid(), {int(stop)})
checkpoint.save = stopping
project.train(Path({str(folder)!r}), Path({str(tmp_path / "broken")!r}), *{overrides!r})
"""
    root = project.__file__.rsplit("/", 2)[0]
    ended = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, cwd=root, check=False)
    assert ended.returncode != 0
    last = tmp_path / "broken" / "checkpoints" / "last.pt"
    step = torch.load(last, weights_only=True)["task"]["step"]
    assert not list(last.parent.glob(".*")) or stop == signal.SIGKILL
    resumed = project.train(folder, tmp_path / "broken", *overrides, resume=True)
    assert step < 12, "the run had ended before it was stopped"
    assert same(unbroken, resumed)
    assert unbroken.monitor_macro_f1 == resumed.monitor_macro_f1
    log = (tmp_path / "broken" / "metrics.csv").read_text().splitlines()
    steps = [r["step"] for r in csv.DictReader(log)]
    assert steps == ["2", "4", "6", "8", "10", "12"]


def test_the_threads_of_a_training_are_its_own(folder, tmp_path):
    before = torch.get_num_threads()
    project.train(folder, tmp_path, "train.steps=2", f"train.threads={before + 1}")
    assert torch.get_num_threads() == before


def test_resuming_nothing_or_another_experiment_is_refused(folder, tmp_path, whole):
    with pytest.raises(TrainingError, match="nothing to resume"):
        project.train(folder, tmp_path, resume=True)
    with pytest.raises(TrainingError, match=r"last\.pt is of a training of another experiment or network"):
        project.train(folder, whole.path.parent, "optimizer.lr=0.5", resume=True)


def test_a_loss_that_is_no_number_is_told(folder, tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) by step 2 .*lower optimizer\.lr"):
        project.train(folder, tmp_path, "optimizer.lr=1e30", "optimizer.schedule=constant")


def test_a_damaged_checkpoint_is_told(folder, tmp_path):
    project.train(folder, tmp_path, "train.steps=2")
    (tmp_path / "checkpoints" / "last.pt").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(TrainingError, match=r"last\.pt cannot be read"):
        project.train(folder, tmp_path, "train.steps=2", resume=True)
