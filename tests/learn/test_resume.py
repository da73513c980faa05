"""Going on with a training that was stopped, or refusing to in one line."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
import rasterio
import torch
from tests import project

from raremap.errors import TrainingError
from raremap.learn import checkpoint

STEPS = ("train.steps=12", "train.precision=float32")


@pytest.fixture(scope="module")
def unbroken(folder, tmp_path_factory):
    """A training of the run folder `run`, kept as `whole`; beside it `best-STEP`: the run folder as it was
    when best.pt of that step was written and last.pt was not yet."""
    place = tmp_path_factory.mktemp("runs")
    save = checkpoint.save

    def save_and_copy(path, state):
        save(path, state)
        if path.name == "best.pt":
            shutil.copytree(place / "run", place / f"best-{state['step']}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_copy)
        training = project.train(folder, place / "run", *STEPS)
    (place / "run").rename(place / "whole")
    return place, training


def state(path):
    return torch.load(path, weights_only=True)


def scores(out):
    """metrics.csv without the seconds."""
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


@pytest.mark.slow
def test_a_run_killed_between_its_best_and_its_last_checkpoint_ends_as_an_unbroken_one(folder, unbroken):
    place, whole = unbroken
    run_folder = place / "run"
    shutil.copytree(max(place.glob("best-*"), key=lambda p: int(p.name.split("-")[1])), run_folder)
    best, last = (state(run_folder / f"checkpoints/{n}.pt") for n in ("best", "last"))
    assert best["step"] > last["task"]["step"] > 0
    resumed = project.train(folder, run_folder, *STEPS, resume=True)
    ends = [state(f / "checkpoints/last.pt")["task"] for f in (place / "whole", run_folder)]
    assert [end["step"] for end in ends] == [12, 12]
    assert same(ends[0]["network"], ends[1]["network"])
    assert same(whole.bundle.module.state_dict(), resumed.bundle.module.state_dict())
    assert resumed.best_step == whole.best_step
    assert resumed.monitor_macro_f1 == whole.monitor_macro_f1
    assert resumed.bundle.prior == whole.bundle.prior
    assert scores(run_folder) == scores(place / "whole")
    with (run_folder / "metrics.csv").open() as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    assert seconds == sorted(seconds)  # of the whole training, with those before the stop
    assert state(run_folder / "checkpoints/last.pt")["seconds"] > last["seconds"] > 0


def one_line(told):
    assert "\n" not in str(told.value)
    return str(told.value)


def other_tiles(folder):
    project.make(folder, scenes=7)


def other_labels(folder):
    with rasterio.open(folder / "mask/s2.tif", "r+") as file:
        mask = file.read(1)
        mask[30:40, 30:40] = 5
        file.write(mask, 1)


def other_pixels(folder):
    with rasterio.open(folder / "img/s2.tif", "r+") as file:
        file.write(np.clip(file.read() + 1, 1, 255).astype(np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("change", [other_tiles, other_labels, other_pixels])
def test_resuming_on_other_data_is_refused(tmp_path, change):
    project.make(tmp_path / "data")
    project.train(tmp_path / "data", tmp_path / "run", *STEPS, "train.steps=2")
    kept = (tmp_path / "run/checkpoints/last.pt").read_bytes()
    change(tmp_path / "data")
    with pytest.raises(TrainingError, match=r"last\.pt is of a training on other tiles") as told:
        project.train(tmp_path / "data", tmp_path / "run", *STEPS, "train.steps=2", resume=True)
    assert "without --resume" in one_line(told)
    assert (tmp_path / "run/checkpoints/last.pt").read_bytes() == kept


def shortened(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not a checkpoint")


def holed(path):
    data = bytearray(path.read_bytes())
    data[-400:-200] = bytes(200)
    path.write_bytes(data)


def another_list(path):
    torch.save([1, 2, 3], path)


def another_dict(path):
    torch.save({"network": {}}, path)


def a_folder(path):
    path.unlink()
    path.mkdir()


HARMS = [shortened, emptied, text, holed, another_list, another_dict, a_folder]


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_checkpoint_is_told_in_one_line(unbroken, tmp_path, harm, name):
    path = tmp_path / name
    shutil.copy(unbroken[0] / "whole/checkpoints" / name, path)
    harm(path)
    with pytest.raises(TrainingError, match="cannot be read") as told:
        checkpoint.load(path)
    assert name in one_line(told)
    assert "without --resume" in one_line(told)


def test_a_damaged_last_checkpoint_stops_a_resumed_training(folder, tmp_path):
    project.train(folder, tmp_path, *STEPS, "train.steps=2")
    for harm in (another_list, shortened):
        harm(tmp_path / "checkpoints/last.pt")
        with pytest.raises(TrainingError, match=r"last\.pt cannot be read") as told:
            project.train(folder, tmp_path, *STEPS, "train.steps=2", resume=True)
        one_line(told)
