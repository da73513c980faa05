"""Two processes that train as one: the same losses, the same end after a stop, and an end together."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import threading
import time
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests import project

from raremap.errors import ConfigError, TrainingError
from raremap.learn import several
from raremap.learn.fit import fit

HOW = (
    "train.device=cpu",
    "train.precision=float32",
    "train.steps=6",
    "train.ema=0.8",
    "optimizer.clip=1",
    "optimizer.schedule=plateau",
    "optimizer.patience=0",
    "model.norm=group",
    "model.decoder_channels=[8,8,8]",
    "augment.cutmix=0.5",
    "balance={kind: mixture, target: {gamma: 1.0}}",
    "loss={kind: hialf, weighting: gradnorm, every: 2, terms: {ce: 1, dice: 1, boundary: 1}}",
)


def rows(out: Path) -> list[dict[str, float]]:
    found = csv.DictReader((out / "metrics.csv").read_text().splitlines())
    return [{k: float(v) for k, v in r.items() if v and k != "seconds"} for r in found]


def state(out: Path) -> dict:
    return torch.load(out / "checkpoints/last.pt", weights_only=True)


def test_each_of_several_processes_is_asked_what_one_would_be(monkeypatch) -> None:
    asked = {name: object() for name in signature(fit).parameters if name not in ("watch", "team", "module")}
    asked["train"] = SimpleNamespace(devices=2)

    class Given(Exception):
        pass

    def give(**given):
        raise Given(given)

    monkeypatch.setattr(several, "train_together", give)
    with pytest.raises(Given) as found:
        fit(**asked)
    assert found.value.args[0] == asked


@pytest.fixture(scope="module")
def pair(folder, tmp_path_factory):
    """The run folder of a training in two processes, and what they said."""
    place, popen = tmp_path_factory.mktemp("pair"), subprocess.Popen
    with pytest.MonkeyPatch.context() as patch, (place / "said").open("w") as said:
        patch.setattr(several.subprocess, "Popen", lambda *args, **more: popen(*args, stderr=said, **more))
        project.train(folder, place / "run", *HOW, "train.devices=2")
    (place / "run").rename(place / "whole")
    return place


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_with_the_same_batches(folder, tmp_path, pair):
    project.train(folder, tmp_path / "run", *HOW)
    alone, together = rows(tmp_path / "run"), rows(pair / "whole")
    assert len(together) == 3
    for a, b in zip(alone, together, strict=True):
        for name in ("loss", "ce", "dice", "boundary", "macro_f1", "target/slide", "stream/slide", "lr"):
            assert b[name] == pytest.approx(a[name], abs=1e-4), name
    mine, theirs = (state(out)["task"] for out in (tmp_path / "run", pair / "whole"))
    assert torch.equal(mine["delivered"], theirs["delivered"])
    for key, value in mine["network"].items():
        torch.testing.assert_close(theirs["network"][key], value, atol=1e-3, rtol=1e-2)
    assert len(state(pair / "whole")["others"]) == 1
    boards = list((pair / "whole/tensorboard").iterdir())
    assert len(boards) == 1, "one process logs"
    assert (pair / "said").read_text() == ""


@pytest.mark.slow
def test_one_that_is_killed_ends_the_other_and_the_run_goes_on_from_the_last_checkpoint(
    folder, pair, monkeypatch
):
    out, started, popen = pair / "run", [], subprocess.Popen

    def kept(*args, **more):
        started.append(popen(*args, **more))
        return started[-1]

    def kill():
        while not (out / "checkpoints/last.pt").exists():
            time.sleep(0.002)
        os.kill(started[1].pid, signal.SIGKILL)

    monkeypatch.setattr(several.subprocess, "Popen", kept)
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(
        TrainingError, match=r"training process 1 of 2 was ended \(SIGKILL\).*--resume"
    ) as told:
        project.train(folder, out, *HOW, "train.devices=2")
    assert "\n" not in str(told.value)
    assert all(process.poll() is not None for process in started)
    assert 0 < state(out)["task"]["step"] < 6
    project.train(folder, out, *HOW, "train.devices=2", resume=True)
    ends = project.ends(out)
    for part in ("network", "loss"):
        for key, value in ends[0][part].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value.nan_to_num(-1), ends[1][part][key].nan_to_num(-1)), key
    assert rows(out) == rows(pair / "whole")


@pytest.mark.slow
def test_what_a_process_says_is_said_in_one_line(folder, tmp_path):
    plain = [key for key in HOW if not key.startswith(("loss", "balance"))]
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) by step 2 .*lower optimizer\.lr") as told:
        project.train(folder, tmp_path / "run", *plain, "train.devices=2", "optimizer.lr=1e30")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["outer={}"], "outer trains on one device only, and train.devices is 2; set it to 1"),
        (["pseudo={}", "points={kind: per_object, count: 3}"], "pseudo trains on one device only"),
        (["festa={}"], "festa trains on one device only"),
        (["loss={ce: 1, lovasz: 1}"], "loss term 'lovasz' trains on one device only"),
        (["train.batch_size=5"], "batch_size 5 is not a multiple of devices 2"),
        (["train.device=cuda:1"], "device 'cuda:1' is one, and devices is 2"),
    ],
)
def test_what_several_devices_cannot_do_is_told_before_anything_starts(tmp_path, keys, says):
    with pytest.raises(ConfigError, match=says) as told:
        project.experiment(tmp_path, tmp_path, "train.devices=2", *keys)
    assert "\n" not in str(told.value)


def test_ray_for_one_device_is_told(tmp_path):
    with pytest.raises(ConfigError, match="say how many: devices: 2"):
        project.experiment(tmp_path, tmp_path, "train.ray=local")


@pytest.mark.slow
def test_workers_of_ray_give_the_losses_of_processes(folder, tmp_path, pair):
    pytest.importorskip("ray.train")
    project.train(folder, tmp_path / "run", *HOW, "train.devices=2", "train.ray=local")
    for a, b in zip(rows(tmp_path / "run"), rows(pair / "whole"), strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    assert not (tmp_path / "run/ray").exists()


@pytest.mark.slow
def test_a_fault_in_a_worker_of_ray_is_said_in_one_line(folder, tmp_path):
    pytest.importorskip("ray.train")
    plain = [key for key in HOW if not key.startswith(("loss", "balance"))]
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) by step 2 .*lower optimizer\.lr") as told:
        project.train(
            folder, tmp_path / "run", *plain, "train.devices=2", "train.ray=local", "optimizer.lr=1e30"
        )
    assert "\n" not in str(told.value)
