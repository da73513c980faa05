"""Going on with a training that was stopped, or refusing to in one line."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
import rasterio
import torch
from tests import project

from raremap.errors import OutputError, TrainingError
from raremap.files import locked
from raremap.learn import checkpoint
from raremap.learn import fit as fitting
from raremap.learn.run import TrainingRun

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


SHORT = ("train.steps=4", "train.precision=float32", "train.norm_tiles=2")


@pytest.fixture
def restored(monkeypatch):
    """The steps from which trainings went on, as they do."""
    steps, restore = [], TrainingRun.restore

    def noted(run):
        restore(run)
        steps.append(run.task.step)

    monkeypatch.setattr(TrainingRun, "restore", noted)
    return steps


def stopped_before_its_first_step(*given, **more):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "fit_normalization", stop)
        with pytest.raises(KeyboardInterrupt):
            project.train(*given, **more)


def test_a_stopped_training_goes_on_by_itself_and_a_finished_one_begins_anew(
    folder, tmp_path, restored, caplog
):
    out = tmp_path / "run"
    with project.stopped_at(2, out):
        whole = project.train(folder, out, *SHORT, resume=None)
    shutil.copytree(out, tmp_path / "again")
    # What comes after the steps, and how fast they are, may differ.
    again = project.train(folder, out, *SHORT, "decision.kind=argmax", "train.cache=false", resume=None)
    assert restored == [2]
    assert f"{out} was stopped; it goes on from step 2 (--no-resume begins anew)" in caplog.messages
    assert same(whole.bundle.module.state_dict(), again.bundle.module.state_dict())
    stopped_before_its_first_step(folder, out, *SHORT, resume=None)  # it is finished
    stopped_before_its_first_step(folder, tmp_path / "again", *SHORT, resume=False)
    assert not [*out.glob("checkpoints/*"), *tmp_path.glob("again/checkpoints/*")]


def test_what_another_experiment_left_is_not_taken_for_this_ones(folder, tmp_path, restored):
    out = tmp_path / "run"
    project.train(folder, out, *SHORT, "optimizer.lr=1e-5")
    older = (out / "checkpoints/last.pt").read_bytes()
    stopped_before_its_first_step(folder, out, *SHORT)
    assert not (out / "metrics.csv").exists()
    with pytest.raises(TrainingError, match="nothing to resume"):
        project.train(folder, out, *SHORT, resume=True)
    (out / "checkpoints/last.pt").write_bytes(older)
    for key in ("optimizer.lr=0.01", "loss={kind: ce_dice}", "augment.cutmix=0.5", "train.seed=1"):
        with pytest.raises(TrainingError, match=r"last\.pt is of a training of another experiment") as told:
            project.train(folder, out, *SHORT, key, resume=True)
        one_line(told)
    stopped_before_its_first_step(folder, out, *SHORT, resume=None)
    assert not (out / "checkpoints/last.pt").exists()
    assert not restored


def test_one_process_trains_in_a_folder(folder, tmp_path):
    with locked(tmp_path), pytest.raises(OutputError, match="another process is at work in") as told:
        project.train(folder, tmp_path, *SHORT)
    assert "-o" not in one_line(told).split()
    assert not (tmp_path / "catalog.parquet").exists()
