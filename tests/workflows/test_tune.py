"""Tuning: equal trials by the monitor places, stopped and begun again, and a best experiment that is what it says."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests import project

from raremap.config import Experiment
from raremap.errors import CatalogError, ConfigError, MissingExtra, OutputError, TrainingError
from raremap.files import locked
from raremap.measure.scores import Scores
from raremap.workflows import trials as trials_module
from raremap.workflows import tune as module
from raremap.workflows.prepare import catalog_of
from raremap.workflows.resuming import goes_on
from raremap.workflows.train import train_experiment
from raremap.workflows.trials import Trial, TrialTable, Watching, further_of
from raremap.workflows.tune import tune
from raremap.workflows.tune_ray import _whole

SPACE: dict[str, Any] = {
    "optimizer.lr": {"kind": "log", "low": 1e-4, "high": 1e-1},
    "train.batch_size": {"kind": "choice", "of": [2, 4]},
}
STEPS = ("train.threads=1", "train.precision=float32", "train.norm_tiles=2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    project.make(folder)
    return folder


def experiment(data: Path, out: Path, **sections: Any) -> Experiment:
    return project.experiment(data, out, *STEPS, **sections)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory):
    """Four trials by chance, halved; of seed 1, some of them stop early and some do not."""
    out = tmp_path_factory.mktemp("finished")
    return tune(experiment(data, out, tune={"seed": 1}), SPACE, trials=4, sampler="random", quiet=True), out


def table(out: Path) -> list[dict[str, Any]]:
    """Trials without how long they took."""
    frame = pd.read_parquet(out / "tune/trials.parquet").drop(columns=["seconds", "seconds_100"])
    return frame.to_dict("records")


@pytest.mark.slow
def test_trials_are_judged_at_the_same_steps_and_the_poor_end_early(finished) -> None:
    result, _ = finished
    assert [t.state for t in result.trials].count("stopped") > 0
    for trial in result.trials:
        assert trial.steps == (8 if trial.state == "done" else trial.steps)
        assert [step for step, _ in trial.curve] == list(range(2, trial.steps + 1, 2))
        assert trial.score == trial.curve[-1][1] == max(score for _, score in trial.curve)
    assert result.best.score == max(t.score for t in result.trials if t.state == "done")


@pytest.mark.slow
def test_the_best_experiment_scores_again_what_its_trial_scored(finished, tmp_path: Path) -> None:
    result, out = finished
    best = Experiment.load(out / "tune/best.yaml")
    assert best.optimizer.lr == result.best.values["optimizer.lr"]
    assert best.train.batch_size == result.best.values["train.batch_size"]
    assert (best.out, best.tune) == (str(out), None)
    again = train_experiment(best.model_copy(update={"out": str(tmp_path)}), quiet=True)
    assert (again.monitor_macro_f1, again.best_step) == (result.best.score, result.best.best_step)


@pytest.mark.slow
def test_every_trial_is_in_tensorboard_with_its_values(finished) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    result, out = finished
    for trial in result.trials:
        events = EventAccumulator(str(out / f"tune/trials/{trial.number:03d}/tensorboard"))
        events.Reload()
        kept = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
        told = HParamsPluginData.FromString(kept).session_start_info.hparams
        assert told["optimizer.lr"].number_value == trial.values["optimizer.lr"]
        assert told["train.batch_size"].number_value == trial.values["train.batch_size"]
        assert events.Scalars("tune/macro_f1")[-1].value == pytest.approx(trial.score)
        assert len(events.Scalars("macro_f1")) == len(trial.curve)
    assert not list((out / "tune/trials").glob("*/checkpoints"))


@pytest.mark.slow
def test_its_page_has_a_row_for_each_trial_and_a_figure(finished) -> None:
    result, out = finished
    text = (out / "tune/tune.md").read_text()
    assert f"| **{result.best.number}** |" in text
    assert text.count("\n| ") == 2 + 4
    assert (out / "tune/tune.svg").read_text().startswith("<svg")
    told = json.loads((out / "tune/tune.json").read_text())
    assert told["best"]["score"] == result.best.score
    head = "macro_f1 | mIoU | F1 rare | accuracy | training loss | s / 100 steps | best step |"
    assert head in text
    for trial in result.trials:
        rows = pd.read_csv(out / f"tune/trials/{trial.number:03d}/metrics.csv").set_index("step")
        kept, last = rows.loc[trial.best_step], rows.loc[trial.steps]
        assert (trial.macro_f1, trial.miou) == pytest.approx((kept["macro_f1"], kept["miou"]))
        assert trial.rare_f1 == pytest.approx(kept["f1/slide"])  # the only rare one
        assert trial.loss == pytest.approx(last["loss"])
        assert 0 < trial.seconds_100 / 100 * trial.steps <= trial.seconds + 0.1
        assert f" {trial.miou:.3f} | " in text
    assert str(result).startswith("4 of 4 trials")


@pytest.mark.slow
def test_killed_in_the_middle_of_a_trial_and_begun_again_it_makes_the_same_table(
    finished, data: Path, tmp_path: Path
) -> None:
    _, whole = finished
    exp = experiment(data, tmp_path, tune={"seed": 1, "space": SPACE, "trials": 4, "sampler": "random"})
    path = tmp_path / "e.yaml"
    path.write_text(exp.to_yaml())
    # It waits where it is to be killed: after a checkpoint, and before the first of a trial.
    code = f"""
import sys, time
from raremap.config import Experiment
from raremap.learn.run import TrainingRun
from raremap.workflows.tune import tune
from raremap.workflows.tune_ray import _whole
after = TrainingRun._after
def slow(self, step):
    after(self, step)
    if (self._out.name, str(step)) == tuple(sys.argv[1:]):
        (self._out / "here").write_text(str(step))
        time.sleep(600)
TrainingRun._after = slow
tune(Experiment.load({str(path)!r}), quiet=True)
"""
    for name, step, checkpoint in (("000", "5", True), ("001", "1", False)):
        here = tmp_path / "tune/trials" / name
        process = subprocess.Popen([sys.executable, "-c", code, name, step], stderr=subprocess.PIPE)
        started = time.monotonic()
        while not (here / "here").exists():
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < started + 300
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        (here / "here").unlink()
        assert (here / "checkpoints/last.pt").exists() == checkpoint
    tune(Experiment.load(path), quiet=True)
    mine, theirs = table(tmp_path), table(whole)
    assert [{**row, "of": ""} for row in mine] == [{**row, "of": ""} for row in theirs]
    assert len(pd.read_csv(tmp_path / "tune/trials/000/metrics.csv")) == 4


def scores(*pairs: tuple[float, float]) -> list[Scores]:
    """Scores with a macro-F1 and an overall accuracy."""

    class Made:
        def __init__(self, macro: float, other: float) -> None:
            self.macro_f1, self.other = macro, other

    return [Made(*pair) for pair in pairs]  # pyright: ignore[reportReturnType]


def watching(folder: Path, judge: Any = lambda *_: True) -> Watching:
    return Watching(folder, lambda s: s.other, judge)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_trial_scores_what_its_kept_weights_score(tmp_path: Path) -> None:
    watch = watching(tmp_path)
    for step, each in enumerate(scores((0.2, 0.9), (0.5, 0.4), (0.5, 0.8), (0.6, 0.3)), 1):
        assert watch(step, each)
    assert watch.curve == ((1, 0.9), (2, 0.4), (3, 0.4), (4, 0.3))  # the first of equals is kept
    trial = watch.ended(3, {"a": 1})
    assert (trial.score, trial.best_step, trial.steps, trial.state) == (0.3, 4, 4, "done")


def test_a_trial_keeps_the_further_scores_of_its_kept_weights_and_what_its_training_came_to(
    tmp_path: Path,
) -> None:
    tables = ([[90, 0], [10, 0]], [[80, 10], [2, 8]], [[90, 0], [9, 1]])  # the second has the best macro-F1
    watch = Watching(tmp_path, lambda s: s.miou, lambda *_: True, further_of([1]))
    for step, each in enumerate(tables, 1):
        watch(step, Scores(np.array(each), ("ground", "slide")))
    (tmp_path / "metrics.csv").write_text("step,loss,seconds\n1,0.9,2\n2,0.8,3\n3,0.5,6\n")
    trial = watch.ended(0, {"a": 1})
    iou = [80 / 92, 8 / 20]
    assert trial.score == trial.miou == pytest.approx(np.mean(iou))
    assert trial.rare_f1 == pytest.approx(16 / 28)
    assert trial.overall_accuracy == 0.88
    assert (trial.best_step, trial.loss, trial.seconds_100) == (2, 0.5, 200.0)
    # Another process, or a later one, reads the same of it.
    again = watching(tmp_path).ended(0, {"a": 1})
    assert replace(again, seconds=trial.seconds) == trial
    failed = Trial(1, {}, "failed", error="the loss is nan")
    table = TrialTable(tmp_path / "trials.parquet", "x")
    for each in (trial, failed):
        assert _whole(json.loads(json.dumps(each.to_dict()))).to_dict() == each.to_dict()
        table.add(each)
    kept = TrialTable(tmp_path / "trials.parquet", "x").trials
    assert [kept[n].to_dict() for n in (0, 1)] == [trial.to_dict(), failed.to_dict()]


def test_a_trial_killed_between_its_score_and_the_verdict_is_judged_when_it_goes_on(tmp_path: Path) -> None:
    def dies(step: int, _: float) -> bool:
        if step == 2:
            raise KeyboardInterrupt
        return True

    first, second = scores((0.2, 0.2), (0.3, 0.3))
    watch = watching(tmp_path, dies)
    watch(1, first)
    with pytest.raises(KeyboardInterrupt):
        watch(2, second)
    assert not watching(tmp_path).called_off
    asked: list[int] = []
    again = watching(tmp_path, lambda step, _: asked.append(step) or step < 2)
    assert asked == [1, 2]
    assert again.called_off
    assert again.ended(0, {}).state == "stopped"


def test_damaged_scores_are_as_none(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text('{"scores": [[1, 0.')
    assert watching(tmp_path).curve == ()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Experiment]]:
    """Trials that take no time and score their logarithmic distance to a rate of 0.01; the list fills with them."""
    calls: list[tuple[int, Experiment]] = []

    def run(number: int, values: dict, exp: Experiment, catalog: Any, metric: str, judge: Any) -> Trial:
        calls.append((number, exp))
        if exp.optimizer.lr > 0.05:
            return Trial(number, values, "failed", error="the loss is nan")
        score = 1 - abs(math.log10(exp.optimizer.lr) + 2)
        goes_on = judge(2, score)
        steps = 8 if goes_on else 2
        return Trial(number, values, "done" if goes_on else "stopped", score, 2, steps, 1.0, ((2, score),))

    monkeypatch.setattr(module, "run_trial", run)
    return calls


def test_a_grid_is_every_combination_with_one_seed(data: Path, tmp_path: Path, fake) -> None:
    space = {
        "optimizer.lr": {"kind": "choice", "of": [0.001, 0.01]},
        "train.batch_size": {"kind": "choice", "of": [2, 4, 8]},
    }
    result = tune(
        experiment(data, tmp_path), space, sampler="grid", scheduler="none", metric="miou", quiet=True
    )
    made = [(e.optimizer.lr, e.train.batch_size) for _, e in fake]
    assert made == [(lr, size) for lr in (0.001, 0.01) for size in (2, 4, 8)]
    assert {e.train.seed for _, e in fake} == {0}
    assert {t.state for t in result.trials} == {"done"}
    assert result.best.values == {"optimizer.lr": 0.01, "train.batch_size": 2}  # the first of equals


def test_another_kind_need_not_know_what_the_first_has_by_default(data: Path, tmp_path: Path, fake) -> None:
    space = {
        "loss.kind": {"kind": "choice", "of": ["ce", "ce_dice", "hialf"]},
        "optimizer.kind": {"kind": "choice", "of": ["sgd", "adam"]},
    }
    exp = experiment(data, tmp_path, loss={"kind": "ce_dice"}, optimizer={"lr": 0.02})
    tune(exp, space, sampler="grid", quiet=True)
    assert [e.loss.kind for _, e in fake] == ["ce", "ce", "ce_dice", "ce_dice", "hialf", "hialf"]
    assert {(e.optimizer.kind, e.optimizer.lr) for _, e in fake} == {("sgd", 0.02), ("adam", 0.02)}


def test_a_failed_trial_is_told_and_the_others_go_on(data: Path, tmp_path: Path, fake) -> None:
    space = {"optimizer.lr": {"kind": "choice", "of": [0.1, 0.01]}}
    result = tune(experiment(data, tmp_path), space, sampler="grid", quiet=True)
    assert [t.state for t in result.trials] == ["failed", "done"]
    assert "failed: the loss is nan" in (tmp_path / "tune/tune.md").read_text()
    tune(experiment(data, tmp_path), space, sampler="grid", quiet=True)
    assert len(fake) == 2


def test_where_all_fail_it_says_why(data: Path, tmp_path: Path, fake) -> None:
    space = {"optimizer.lr": {"kind": "choice", "of": [0.1, 0.2]}}
    with pytest.raises(TrainingError, match="no trial of 2 has a score: the loss is nan"):
        tune(experiment(data, tmp_path), space, sampler="grid", quiet=True)


def test_values_that_are_not_possible_together_fail_alone(data: Path, tmp_path: Path, fake) -> None:
    space = {
        "pseudo.threshold": {"kind": "choice", "of": [0.6, 0.95]},
        "pseudo.floor": {"kind": "choice", "of": [0.2, 0.7]},
    }
    result = tune(experiment(data, tmp_path, loss={"kind": "ce"}), space, sampler="grid", quiet=True)
    assert [t.state for t in result.trials] == ["done", "failed", "done", "done"]
    assert "pseudo.floor 0.7 is above pseudo.threshold 0.6" in result.trials[1].error


def test_more_trials_go_on_and_another_space_is_refused(data: Path, tmp_path: Path, fake) -> None:
    space = {"optimizer.lr": {"kind": "log", "low": 1e-4, "high": 0.04}}
    exp = experiment(data, tmp_path)
    few = tune(exp, space, trials=3, sampler="random", quiet=True)
    more = tune(exp, space, trials=5, sampler="random", quiet=True)
    assert [n for n, _ in fake] == [0, 1, 2, 3, 4]
    assert more.trials[:3] == few.trials
    assert len(tune(exp, space, trials=2, sampler="random", quiet=True).trials) == 2
    for other in (
        {"space": {"optimizer.lr": {"kind": "log", "low": 1e-4, "high": 0.03}}},
        {"space": space, "metric": "miou"},
        {"space": space, "scheduler": "none"},
    ):
        with pytest.raises(
            ConfigError, match="of another experiment, space, sampler or data; choose another"
        ):
            tune(exp, **other, trials=5, sampler="random", quiet=True)
    with pytest.raises(ConfigError, match="of another experiment"):
        tune(exp.changed({"train": {"seed": 1}}), space, trials=5, sampler="random", quiet=True)


def test_a_trial_that_was_under_way_keeps_its_values(data: Path, tmp_path: Path, fake) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed")
    space = {"optimizer.lr": {"kind": "log", "low": 1e-4, "high": 0.04}}
    exp = experiment(data, tmp_path)
    tune(exp, space, trials=13, sampler="optuna", quiet=True)
    proposed = json.loads((tmp_path / "tune/proposed.json").read_text())["values"]
    # As Ray may leave it: trial 11 has not ended, later ones have.
    kept = pd.read_parquet(tmp_path / "tune/trials.parquet")
    kept[kept["number"] != 11].to_parquet(tmp_path / "tune/trials.parquet")
    again = tune(exp, space, trials=13, sampler="optuna", quiet=True)
    assert [n for n, _ in fake][13:] == [11]
    assert again.trials[11].values == proposed["11"]


def test_a_table_that_is_damaged_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "trials.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(CatalogError, match=r"trials.parquet is not a table of trials \("):
        TrialTable(tmp_path / "trials.parquet", "x")


def test_one_process_works_in_a_folder(data: Path, tmp_path: Path, fake) -> None:
    with locked(tmp_path / "tune"), pytest.raises(OutputError, match="another process is at work in"):
        tune(experiment(data, tmp_path), SPACE, trials=1, quiet=True)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "no option to tune; name some in tune.space"),
        ({"optimizer.lrr": SPACE["optimizer.lr"]}, r"unknown key 'optimizer.lrr'; did you mean 'lr'"),
        ({"optimiser.lr": SPACE["optimizer.lr"]}, r"unknown key 'optimiser'; did you mean 'optimizer'"),
        (
            {"optimizer.lr": {"kind": "linear", "low": -1, "high": 1}},
            r"optimizer\.lr -1\.0: optimizer\.lr: input",
        ),
        ({"optimizer.lr": {"kind": "lgo"}}, r"tune\.space\.optimizer\.lr"),
        ({"optimizer.kind": {"kind": "choice", "of": ["adam", "adma"]}}, r"optimizer\.kind \"adma\""),
        ({"train.batch_size": {"kind": "linear", "low": 2.5, "high": 4}}, r"should be a valid integer"),
        (
            {"loss": {"kind": "choice", "of": [{"kind": "ce"}, {"fokal": 1}]}},
            "no loss term is called 'fokal'",
        ),
        ({"tiles.size": {"kind": "int", "low": 16, "high": 64}}, "no trial may change 'tiles': it says what"),
        ({"labels.rare": {"kind": "choice", "of": [["water"]]}}, "no trial may change 'labels'"),
        ({"split.fold": {"kind": "int", "low": 0, "high": 2}}, "no trial may change 'split'"),
        ({"scenes.use": {"kind": "choice", "of": [["red"]]}}, "the scenes but for features and normalize"),
        ({"decision.shrink": {"kind": "int", "low": 0, "high": 9}}, "'decision': it comes after the scores"),
        (
            {"train.steps": {"kind": "int", "low": 8, "high": 9}},
            "'train.steps': trials are judged at the same",
        ),
        ({"train": {"kind": "choice", "of": [{"steps": 9}]}}, "no trial may change 'train.steps'"),
        ({"out": {"kind": "choice", "of": ["elsewhere"]}}, "no trial may change 'out'"),
        (
            {"train.devices": {"kind": "choice", "of": [1, 2]}},
            "'train.devices': a trial trains in one process",
        ),
        ({"train": {"kind": "choice", "of": [{"ray": "local"}]}}, "no trial may change 'train.steps'"),
    ],
)
def test_a_space_that_cannot_be_is_refused_in_one_line(
    data: Path, tmp_path: Path, fake, space: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        tune(experiment(data, tmp_path), space, trials=2, quiet=True)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "tune").exists()
    assert not fake


def test_trials_in_several_processes_are_refused_before_there_is_a_folder(
    data: Path, tmp_path: Path, fake
) -> None:
    exp = experiment(data, tmp_path).changed({"train": {"devices": 2, "ray": "local"}})
    with pytest.raises(
        ConfigError, match=r"train\.devices is 2, and a trial .* set it to 1 and leave train\.ray out"
    ) as told:
        tune(exp, SPACE, trials=2, quiet=True)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "tune").exists()


def test_a_trial_is_in_the_table_before_its_checkpoints_go(
    data: Path, tmp_path: Path, fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"optimizer.lr": {"kind": "choice", "of": [0.01]}}
    left = tmp_path / "tune/trials/000/checkpoints"
    left.mkdir(parents=True)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "tidy", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(experiment(data, tmp_path), space, sampler="grid", quiet=True)
    assert left.exists()
    tune(experiment(data, tmp_path), space, sampler="grid", quiet=True)
    assert [number for number, _ in fake] == [0]
    assert not left.exists()
    assert any((left.parent / "tensorboard").iterdir())


def test_the_mark_of_a_run_that_goes_on_is_not_touched(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exp, folder = experiment(data, tmp_path / "run"), tmp_path / "run"
    catalog = catalog_of(experiment(data, tmp_path), quiet=True)
    assert not goes_on(folder, exp, catalog)
    (folder / "checksum").chmod(0o444)
    before = (folder / "checksum").stat()
    (folder / "scores.json").write_text("{}")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", killed)
        assert not goes_on(folder, exp, catalog)
        assert (folder / "scores.json").exists()
        after = (folder / "checksum").stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        with pytest.raises(KeyboardInterrupt):
            goes_on(folder, exp.changed({"optimizer": {"lr": 0.5}}), catalog)
    assert not goes_on(folder, exp, catalog)
    assert [p.name for p in folder.iterdir()] == ["checksum"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"metric": "macrof1"}, "no score is called 'macrof1'; did you mean 'macro_f1'"),
        ({"metric": "f1/slides"}, "did you mean 'f1/slide'"),
        ({"metric": "variation"}, "no score is called 'variation'"),
        ({"sampler": "optun"}, "tune.sampler: input should be 'optuna'"),
        ({"scheduler": "ahsa"}, "tune.scheduler: input should be 'asha'"),
        ({"trials": 0}, "tune.trials: input should be greater than or equal to 1"),
    ],
)
def test_wrong_words_are_refused(
    data: Path, tmp_path: Path, fake, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(experiment(data, tmp_path), SPACE, quiet=True, **keys)
    assert not fake


def test_a_class_that_no_monitor_place_holds_cannot_judge(data: Path, tmp_path: Path, fake) -> None:
    labels = {"classes": {**project.CLASSES, 9: "ice"}, "ignore": [0]}
    with pytest.raises(ConfigError, match="f1/ice is of ice, and the monitor places hold only land, slide"):
        tune(experiment(data, tmp_path, labels=labels), SPACE, metric="f1/ice", trials=1, quiet=True)


def test_only_the_monitor_places_are_scored(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raremap.learn.monitor import Monitor
    from raremap.tiles.splits import uses as uses_of
    from raremap.workflows.prepare import catalog_of

    rows: list[set[int]] = []
    made = Monitor.__init__

    def init(self: Any, reader: Any, chosen: Any, *rest: Any) -> None:
        rows.append(set(chosen.tolist()))
        made(self, reader, chosen, *rest)

    monkeypatch.setattr(Monitor, "__init__", init)
    exp = experiment(data, tmp_path)
    space = {"optimizer.lr": {"kind": "choice", "of": [0.01]}}
    tune(exp.changed({"train": {"steps": 1}}), space, sampler="grid", quiet=True)
    uses = uses_of(catalog_of(exp, quiet=True), exp.split, warn=False)
    assert rows == [{i for i, use in enumerate(uses) if use == "monitor"}]


def test_on_the_command_line_what_is_given_goes_before_the_file(
    data: Path, tmp_path: Path, fake, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.command import raremap

    path = tmp_path / "e.yaml"
    space = {"optimizer.lr": {"kind": "choice", "of": [0.001, 0.01]}}
    path.write_text(experiment(data, tmp_path, tune={"space": space, "trials": 7}).to_yaml())
    words = ["--space", "train.batch_size=choice(2,4)", "--sampler", "random", "--trials", 3]
    code, out, _ = raremap(capsys, "tune", path, *words, "--json", "-q", "-o", tmp_path / "here")
    assert code == 0
    told = json.loads(out)
    assert (len(told["trials"]), told["best_yaml"]) == (3, str(tmp_path / "here/best.yaml"))
    assert list(told["tune"]["space"]) == ["optimizer.lr", "train.batch_size"]
    for more, message in (
        (["--grid", "--sampler", "random"], "exclude each other"),
        (
            ["--space", "optimizer.lr=log(1,2)", "--space", "optimizer.lr=log(1,3)"],
            "two are of the same option",
        ),
        (["--space", "optimizer.lr=5"], "is not of the form OPTION=KIND"),
    ):
        code, _, err = raremap(capsys, "tune", path, *more)
        assert code == 2
        assert message in " ".join(err.replace("│", " ").split())


def test_without_ray_it_names_the_extra(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raremap.workflows import tune_ray

    monkeypatch.setattr(tune_ray, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="ray is not installed; it comes with the extra 'tune'"):
        tune(experiment(data, tmp_path), SPACE, trials=1, ray="local", quiet=True)


@pytest.mark.slow
def test_on_ray_a_trial_scores_what_it_scores_alone(finished, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    alone, _ = finished
    path = tmp_path / "e.yaml"
    tuned = {"seed": 1, "space": SPACE, "trials": 2, "sampler": "random", "scheduler": "none"}
    path.write_text(experiment(data, tmp_path, tune=tuned).to_yaml())
    # In a process of its own: Ray leaves threads and warnings behind.
    done = subprocess.run(
        [sys.executable, "-m", "raremap", "tune", str(path), "--ray", "local", "--json", "-q"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    for trial, same in zip(told["trials"], alone.trials, strict=False):
        assert trial["values"] == same.values
        shared = min(len(trial["curve"]), len(same.curve))
        assert [score for _, score in trial["curve"]][:shared] == pytest.approx(
            [score for _, score in same.curve][:shared]
        )
        assert (trial["state"], trial["steps"]) == ("done", 8)
    assert not (tmp_path / "tune/ray").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert trials_module.read_json(tmp_path / "tune/proposed.json")["values"].keys() == {"0", "1"}
