"""Comparisons: equal conditions, resumption, thinned labels, held-out places, and figures that are right."""

from __future__ import annotations

import json
import os
import shutil
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from sklearn.metrics import f1_score
from tests.rasters import write

from raremap.config import Experiment, preset
from raremap.errors import CatalogError, ConfigError, OutputError, RaremapWarning, SplitError, TrainingError
from raremap.files import locked
from raremap.measure.tally import Tally
from raremap.tiles.splits import uses as uses_of
from raremap.workflows import compare as module
from raremap.workflows.compare import compare, read_variant
from raremap.workflows.prepare import catalog_of
from raremap.workflows.runs import KEY, WAYS, Run, RunTable

KEYS: dict[str, Any] = {
    "labels": {"classes": {1: "meadow", 2: "forest", 3: "water"}, "ignore": [0]},
    "tiles": {"size": 32},
    "model": {"encoder": "tu-mobilenetv3_small_100", "decoder_channels": [8, 8, 8]},
    "optimizer": {"lr": 1e-2},
    "train": {"steps": 3, "batch_size": 2, "crop": 32, "threads": 1},
    "predict": {"window": 32, "overlap": 0.0},
    "decision": {"sample": 1000},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve small scenes, each a place, whose bands tell the classes apart."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for i in range(12):
        truth = rng.choice(3, (48, 48), p=(0.7, 0.22, 0.08)).repeat(2, 0).repeat(2, 1)[:48, :48] + 1
        image = np.stack([truth * 40, 200 - truth * 30]) + rng.integers(0, 40, (2, 48, 48))
        origin = (4e5 + 5000 * i, 4.6e6)
        write(folder / f"image/s{i:02d}.tif", image.astype(np.uint8), origin=origin)
        write(folder / f"mask/s{i:02d}.tif", truth.astype(np.uint8), origin=origin)
    return folder


def experiment(data: Path, out: Path, **more: Any) -> Experiment:
    split = {"folds": 2, "monitor": 0.2, "calibration": 0.35, **more.pop("split", {})}
    scenes = {"images": str(data / "image/*.tif"), "masks": str(data / "mask/*.tif")}
    return Experiment.from_dict({**KEYS, "scenes": scenes, "out": str(out), "split": split, **more})


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("finished")
    return compare(experiment(data, out), ["baseline", "ins"], seeds=2, quiet=True, keep_bundles=True), out


def test_every_variant_seed_and_fold_is_run_with_the_same_steps_and_crops(finished) -> None:
    result, out = finished
    frame = RunTable(out / "compare" / "runs.parquet").frame
    assert len(frame.drop_duplicates(KEY)) == result.planned == result.done == 2 * 2 * 2
    assert set(frame["steps"]) == {3}
    assert set(frame["crops"]) == {6}
    assert set(frame["decision"]) == {"argmax", "decision"}
    places = frame[(frame["variant"] == "ins") & (frame["seed"] == 1) & (frame["decision"] == "argmax")]
    assert sorted(places["place"]) == sorted(set(frame["place"]))  # each place is tested once
    assert len(places) == 12


def test_its_scores_are_scikit_learns_on_the_maps_of_its_bundles(finished, data: Path) -> None:
    import rasterio

    from raremap.bundle import Bundle
    from raremap.workflows.predict import predict

    result, out = finished
    scores = []
    for seed in (0, 1):
        truth, told = [], []
        for fold in (0, 1):
            folder = out / "compare" / "runs" / f"ins-seed-{seed}-fold-{fold}"
            bundle = Bundle.load(folder / "bundle")
            for place in bundle.info["places"]["test"]:
                image = data / "image" / f"{place}.tif"
                predict(bundle, image, folder / "map.tif", argmax=True, quiet=True)
                with rasterio.open(folder / "map.tif") as a, rasterio.open(data / f"mask/{place}.tif") as b:
                    told.append(a.read(1).ravel())
                    truth.append(b.read(1).ravel())
        scores.append(f1_score(np.concatenate(truth), np.concatenate(told), average="macro"))
    entry = next(e for e in result.entries if (e.variant, e.way) == ("ins", "argmax"))
    assert entry.scores["macro_f1"] == pytest.approx(np.mean(scores))
    assert entry.spread["macro_f1"] == pytest.approx(np.std(scores, ddof=1))
    base = next(e for e in result.entries if (e.variant, e.way) == ("baseline", "argmax"))
    difference = entry.differences["macro_f1"]
    assert difference.value == pytest.approx(entry.scores["macro_f1"] - base.scores["macro_f1"])
    assert difference.few
    assert base.differences["macro_f1"].value == 0


def test_differences_may_be_to_the_baseline_with_its_decision(finished, data: Path, tmp_path: Path) -> None:
    _, out = finished
    folder = tmp_path / "again"
    shutil.copytree(out / "compare", folder)
    again = compare(
        experiment(data, out), ["baseline", "ins"], seeds=2, fitted_baseline=True, out=folder, quiet=True
    )
    assert len(again.entries) == 4  # read, not trained
    entries = {(e.variant, e.way): e for e in again.entries}
    base = entries["baseline", "decision"]
    for e in entries.values():
        assert e.differences["rare_f1"].value == pytest.approx(e.scores["rare_f1"] - base.scores["rare_f1"])
    page = (folder / "comparison.md").read_text(encoding="utf-8")
    assert "to baseline with its decision" in page
    assert [
        line for line in page.splitlines() if "| baseline | fitted |" in line and "| baseline |" in line[22:]
    ]


def test_killed_at_any_run_and_started_again_it_gives_the_same_table(
    finished, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = finished
    exp = experiment(data, tmp_path)
    original, calls = module._run, []

    def stops(run: Run, *rest: Any) -> str:
        calls.append(run)
        if len(calls) in (2, 4, 9):
            raise KeyboardInterrupt
        return original(run, *rest)

    monkeypatch.setattr(module, "_run", stops)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            compare(exp, ["baseline", "ins"], seeds=2, quiet=True)
    again = compare(exp, ["baseline", "ins"], seeds=2, quiet=True)
    assert len(calls) == 8 + 3  # each run once, and those that were under way

    def table(c: Any) -> list[Any]:
        return [{k: v for k, v in e.to_dict().items() if k != "seconds_per_run"} for e in c.entries]

    assert table(again) == table(result)


def test_a_stop_inside_a_training_goes_on_from_its_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raremap.learn.run import TrainingRun

    exp = experiment(data, tmp_path / "a", train={**KEYS["train"], "checkpoint_every": 1})
    whole = compare(exp, ["baseline"], seeds=1, folds=[0], quiet=True)
    exp = experiment(data, tmp_path / "b", train={**KEYS["train"], "checkpoint_every": 1})
    after, steps = TrainingRun._after, []

    def stop(self: Any, step: int) -> None:
        after(self, step)
        steps.append(step)
        if len(steps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "_after", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(exp, ["baseline"], seeds=1, folds=[0], quiet=True)
    again = compare(exp, ["baseline"], seeds=1, folds=[0], quiet=True)
    assert steps == [1, 2, 3]
    assert again.entries[0].scores == whole.entries[0].scores


def test_a_variant_may_not_change_what_is_the_same_for_all(data: Path, tmp_path: Path) -> None:
    exp = experiment(data, tmp_path)
    for text, section in (
        ("longer: train.steps=9", "train"),
        ("other: split.folds=3", "split"),
        ("plain: decision.kind=argmax", "decision"),
    ):
        with pytest.raises(ConfigError, match=f"changes '{section}', which a fair comparison keeps the same"):
            compare(exp, variants=dict([read_variant(text)]), quiet=True)
    assert not (tmp_path / "compare").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to compare"),
        ({"presets": ["basline"]}, "no preset is called 'basline'; did you mean 'baseline'"),
        ({"presets": ["ins"], "baseline": "baseline"}, "the baseline 'baseline' is not a variant"),
        ({"presets": ["ins"], "folds": [7]}, "fold 7 does not exist"),
        ({"presets": ["ins"], "seeds": 0}, "no seed to train with"),
        ({"presets": ["ins"], "variants": {"ins": {}}}, "two variants are called 'ins'"),
        ({"presets": ["ins"], "final": True}, "final figures need places that were held out"),
        ({"variants": {"../x": {}}}, "names of variants are names of folders"),
        ({"variants": {"x": {"preset": "ce-dice"}}}, "variant 'x' names a preset"),
        ({"variants": {"a b": {}, "a-b": {}}}, "would share a folder; rename a variant"),
        ({"presets": ["ins"], "folds": []}, "no fold to test on"),
        ({"presets": ["ins"], "folds": [0.5]}, r"fold 0\.5 does not exist"),
        ({"presets": ["ins"], "keep": [0.0]}, r"thin\.keep: input should be greater than 0"),
        ({"presets": ["ins"], "imbalance": [1.0]}, r"thin\.imbalance: input should be greater than 1"),
        ({"variants": {"x": {"loss": {"kind": "cee"}}}}, "variant x: "),
    ],
)
def test_a_design_that_cannot_be_is_refused_in_one_line(
    data: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(experiment(data, tmp_path), quiet=True, **arguments)
    assert not (tmp_path / "compare").exists()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Run, Experiment]]:
    """Runs that take no time: random confusion matrices of the test places. The list fills with what was run."""
    calls: list[tuple[Run, Experiment]] = []

    def run(run: Run, exp: Experiment, catalog: Any, table: RunTable, checksum: str, keep: bool) -> str:
        calls.append((run, exp))
        places = np.unique(catalog.table["place"][uses_of(catalog, exp.split, warn=False) == "test"])
        rng = np.random.default_rng(zlib.crc32(str(run).encode()))
        ways = {way: Tally.empty(len(places), 3) for way in WAYS}
        for counts in ways.values():
            counts.matrices[:] = rng.integers(1, 50, counts.matrices.shape)
        table.add(run, checksum, places, ways, {"seconds": 1.0, "imbalance_realised": run.imbalance or 9.0})
        return "fake"

    monkeypatch.setattr(module, "_run", run)
    return calls


def failing(monkeypatch: pytest.MonkeyPatch, *runs: str) -> None:
    """These runs cannot be trained."""
    fake_run = module._run

    def run(run: Run, *rest: Any) -> str:
        if str(run) in runs:
            raise TrainingError("it diverged")
        return fake_run(run, *rest)

    monkeypatch.setattr(module, "_run", run)


@pytest.mark.parametrize(
    "scenes", [{"normalize": {"kind": "minmax"}}, {"bands": ["a", "b"], "use": ["b"]}, {"nodata": 3}]
)
def test_data_read_another_way_are_other_runs(data: Path, tmp_path: Path, fake, scenes: dict) -> None:
    exp = experiment(data, tmp_path)
    compare(exp, ["baseline"], seeds=1, quiet=True)
    with pytest.raises(ConfigError, match="of another definition or other data"):
        compare(exp.changed({"scenes": scenes}), ["baseline", "ins"], seeds=1, quiet=True)


def test_data_that_were_moved_are_the_same(data: Path, tmp_path: Path, fake) -> None:
    compare(experiment(data, tmp_path), ["baseline"], seeds=1, quiet=True)
    shutil.copytree(data, tmp_path / "moved", copy_function=shutil.copy2)
    result = compare(experiment(tmp_path / "moved", tmp_path), ["baseline"], seeds=2, quiet=True)
    assert len(fake) == result.done == 4


@pytest.mark.parametrize("what", ["places", "holdout"])
def test_an_edited_list_of_places_is_noticed(data: Path, tmp_path: Path, fake, what: str) -> None:
    path = tmp_path / "lists.json"

    def write_lists(of_one_place: int, held: list[str]) -> None:
        groups = {f"s{i:02d}": f"g{i // of_one_place}" for i in range(12)}
        (tmp_path / "places.json").write_text(json.dumps(groups))
        path.write_text(json.dumps({"x": {"places": held}}))

    write_lists(1, ["g1"])
    split = {"places": str(tmp_path / "places.json"), "holdout": f"{path}#x"}
    exp = experiment(data, tmp_path, split=split)
    before = catalog_of(exp, quiet=True)
    compare(exp, ["baseline"], seeds=1, quiet=True)
    write_lists(*((2, ["g1"]) if what == "places" else (1, ["g1", "g4"])))
    after = catalog_of(exp, quiet=True)
    assert after.fingerprint != before.fingerprint
    assert catalog_of(exp, quiet=True).fingerprint == after.fingerprint
    with pytest.raises(ConfigError, match="of another definition or other data"):
        compare(exp, ["baseline"], seeds=2, quiet=True)


def test_runs_that_were_tested_on_other_places_are_not_put_together(
    data: Path, tmp_path: Path, fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(experiment(data, tmp_path), ["baseline"], seeds=1, folds=[0], quiet=True)
    monkeypatch.setattr(module, "checksum_of", lambda *_: "same")
    frame = pd.read_parquet(tmp_path / "compare/runs.parquet").assign(of="same")
    frame = frame.assign(place=frame["place"].replace(frame["place"].iloc[0], "elsewhere"))
    frame.to_parquet(tmp_path / "compare/runs.parquet")
    with pytest.raises(CatalogError, match="'baseline' with seed 1 was tested on other places than the runs"):
        compare(experiment(data, tmp_path), ["baseline"], seeds=2, folds=[0], quiet=True)


def test_a_preset_over_any_experiment_is_that_preset(data: Path, tmp_path: Path, fake) -> None:
    exp = experiment(data, tmp_path, loss={"kind": "ce", "weights": "ins"})
    compare(exp, ["baseline", "ins", "ce-dice"], seeds=1, folds=[0], quiet=True)
    losses = {run.variant: e.loss.model_dump() for run, e in fake}
    assert {name: loss["weights"] for name, loss in losses.items()} == {
        "baseline": "none",
        "ins": "ins",
        "ce-dice": "none",
    }
    assert losses == {name: preset(name)["loss"] for name in losses}


def test_the_experiments_own_thinning_is_kept_and_can_be_changed(data: Path, tmp_path: Path, fake) -> None:
    exp = experiment(data, tmp_path, thin={"keep": 0.25, "imbalance": 50})

    def thinned(**more: Any) -> set[tuple[float, float | None]]:
        fake.clear()
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        compare(exp, ["ins"], seeds=1, folds=[0], quiet=True, out=out, **more)
        return {(e.thin.keep, e.thin.imbalance) for _, e in fake}

    assert thinned() == {(0.25, 50)}
    assert thinned(keep=[0.5, 1]) == {(0.5, 50), (1, 50)}
    assert thinned(imbalance=[10, 100]) == {(0.25, 50), (0.25, 10), (0.25, 100)}


def test_a_decision_is_fitted_whatever_the_experiment_says(data: Path, tmp_path: Path, fake) -> None:
    exp = experiment(data, tmp_path, decision={"kind": "argmax", "metric": "miou", "sample": 1000})
    compare(exp, ["baseline"], seeds=1, folds=[0], quiet=True)
    decision = fake[0][1].decision
    assert (decision.kind, decision.metric, decision.sample) == ("bias", "miou", 1000)


def test_what_is_shown_rests_on_the_seeds_that_all_variants_share(
    data: Path, tmp_path: Path, fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "baseline seed 1 fold 0")
    result = compare(experiment(data, tmp_path), ["baseline", "ins"], seeds=2, quiet=True)
    base, ins = (next(e for e in result.entries if e.variant == v) for v in ("baseline", "ins"))
    assert base.seeds == ins.seeds == (0,)
    assert (base.folds, base.places) == (("0", "1"), 12)
    difference = ins.scores["macro_f1"] - base.scores["macro_f1"]
    assert ins.differences["macro_f1"].value == pytest.approx(difference)
    assert "| 1 × 2 |" in (tmp_path / "compare/comparison.md").read_text()
    assert "1 × 2" in (tmp_path / "compare/comparison.html").read_text()


def test_a_fold_that_nobody_has_leaves_the_other_folds(
    data: Path, tmp_path: Path, fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, *(f"{v} seed {s} fold 1" for v in ("baseline", "ins") for s in (0, 1)))
    result = compare(experiment(data, tmp_path), ["baseline", "ins"], seeds=2, quiet=True)
    assert {(e.variant, e.seeds, e.folds) for e in result.entries} == {
        ("baseline", (0, 1), ("0",)),
        ("ins", (0, 1), ("0",)),
    }


def test_without_the_baseline_the_scores_of_the_others_are_shown(
    data: Path, tmp_path: Path, fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "baseline seed 0 fold 0", "baseline seed 0 fold 1")
    result = compare(experiment(data, tmp_path), ["baseline", "ins"], seeds=1, quiet=True)
    assert {e.variant for e in result.entries} == {"ins"}
    assert result.holding == {"meadow": 12, "forest": 12, "water": 12}
    table = (tmp_path / "compare/comparison.md").read_text()
    assert "| forest, 12 places |" in table or "forest, 12 places" in table
    assert "Fewer than 20 places hold meadow (12), forest (12), water (12)" in table


def test_other_networks_are_told_by_variant(data: Path, tmp_path: Path, fake) -> None:
    deep = {"model": {"encoder": "resnet34"}}
    compare(experiment(data, tmp_path), ["baseline"], {"deep": deep}, seeds=1, folds=[0], quiet=True)
    table, page = ((tmp_path / f"compare/comparison.{kind}").read_text() for kind in ("md", "html"))
    assert "networks by variant" in table
    assert "tu-mobilenetv3_small_100" not in table
    assert page.count("network: ") == 2
    assert page.count("encoder resnet34") == 2  # its key, and its network


def test_the_realised_imbalance_is_printed_and_plotted(data: Path, tmp_path: Path, fake) -> None:
    compare(experiment(data, tmp_path), ["ins"], seeds=1, folds=[0], imbalance=[30, 300], quiet=True)
    assert "imbalance 30 (asked: 30)" in (tmp_path / "compare/comparison.md").read_text()
    told = json.loads((tmp_path / "compare/comparison.json").read_text())
    assert [e["imbalance_realised"] for e in told["entries"][::2]] == [9, 30, 300]
    page = (tmp_path / "compare/comparison.html").read_text()
    assert "imbalance ratio that the training labels really have" in page
    assert "mIoU, argmax" in page


def test_every_fold_is_tried_before_the_first_training(data: Path, tmp_path: Path, fake) -> None:
    exp = experiment(data, tmp_path, split={"folds": 5, "monitor_places": ["s01"]})
    catalog = catalog_of(exp, quiet=True)
    held = [p for p in catalog.table["place"][catalog.table["fold"] == 3].unique() if p != "s01"]
    exp = exp.changed({"split": {"calibration_places": held, "monitor_places": ["s01"]}})
    with pytest.raises(SplitError, match="fold 3: no labelled pixel is in the use 'test'"):
        compare(exp, ["baseline"], seeds=1, quiet=True)
    assert not fake
    assert not (tmp_path / "compare").exists()


def test_one_place_is_too_few_in_one_line(data: Path, tmp_path: Path, fake) -> None:
    exp = experiment(data, tmp_path, split={"block_m": 1e6})
    with pytest.raises(SplitError, match=r"fold \d: (0|1) place\(s\) are left besides the test, too few"):
        compare(exp, ["baseline"], seeds=1, quiet=True)


def test_seeds_and_folds_given_twice_count_once(data: Path, tmp_path: Path, fake) -> None:
    result = compare(experiment(data, tmp_path), ["ins"], seeds=[0, 4, 0], folds=[1, 1], quiet=True)
    assert [str(run) for run, _ in fake] == ["ins seed 0 fold 1", "ins seed 4 fold 1"]
    assert (result.planned, result.entries[0].places) == (2, 6)


def test_two_comparisons_in_one_folder_do_not_go_on_together(data: Path, tmp_path: Path, fake) -> None:
    exp = experiment(data, tmp_path)
    with locked(tmp_path / "compare"), pytest.raises(OutputError, match="another process is at work in"):
        compare(exp, ["ins"], seeds=1, quiet=True)
    assert compare(exp, ["ins"], seeds=1, quiet=True).done == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folds", ""], "no fold to test on"),
        (["--imbalance", "0"], "thin.imbalance: input should be greater than 1, found 0"),
        (["--keep", "2"], "thin.keep: input should be less than or equal to 1, found 2"),
        (["--folds", "0.5"], "'0.5' is not a list of whole numbers"),
        (["--folds", "x"], "'x' is not a list of whole numbers"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    data: Path, tmp_path: Path, fake, capsys, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    from raremap.cli import main

    path = tmp_path / "e.yaml"
    path.write_text(experiment(data, tmp_path).to_yaml())
    monkeypatch.setattr("sys.argv", ["raremap", "compare", str(path), "--presets", "ins", *words])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not fake


def interrupted(exp: Experiment, monkeypatch: pytest.MonkeyPatch, step: int = 2) -> Path:
    """The folder of a run that was stopped after a step."""
    from raremap.learn.run import TrainingRun

    after = TrainingRun._after

    def stop(self: Any, at: int) -> None:
        after(self, at)
        if at == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_after", stop)
        with pytest.raises(KeyboardInterrupt):
            compare(exp, ["baseline"], seeds=1, folds=[0], quiet=True)
    return Path(exp.out) / "compare/runs/baseline-seed-0-fold-0"


def test_a_stopped_run_whose_data_changed_is_trained_anew(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(data, tmp_path / "data")
    train = {**KEYS["train"], "checkpoint_every": 1}
    exp = experiment(tmp_path / "data", tmp_path, train=train)
    interrupted(exp, monkeypatch)
    with rasterio.open(tmp_path / "data/mask/s02.tif", "r+") as file:
        mask = file.read(1)
        mask[:10] = 1
        file.write(mask, 1)
    result = compare(exp, ["baseline"], seeds=1, folds=[0], quiet=True)
    assert (result.done, result.failed) == (1, {})


def test_a_damaged_checkpoint_is_cleared_and_the_run_trained_anew(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {**KEYS["train"], "checkpoint_every": 1}
    whole = compare(
        experiment(data, tmp_path / "whole", train=train), ["baseline"], seeds=1, folds=[0], quiet=True
    )
    exp = experiment(data, tmp_path, train=train)
    last = interrupted(exp, monkeypatch) / "checkpoints/last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    result = compare(exp, ["baseline"], seeds=1, folds=[0], quiet=True)
    assert (result.done, result.failed) == (1, {})
    assert result.entries[0].scores == whole.entries[0].scores


def test_the_time_of_a_stopped_run_is_that_of_all_its_parts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exp = experiment(data, tmp_path, train={**KEYS["train"], "checkpoint_every": 1})
    folder = interrupted(exp, monkeypatch)
    started = (folder / "versions.json").stat().st_mtime
    os.utime(folder / "checkpoints/last.pt", (started + 500, started + 500))
    folder = interrupted(exp, monkeypatch, step=3)
    os.utime(folder / "checkpoints/last.pt", (started + 9000, started + 9000))
    second = (folder / "versions.json").stat().st_mtime
    result = compare(exp, ["baseline"], seeds=1, folds=[0], quiet=True)
    assert result.entries[0].seconds == pytest.approx(500 + started + 9000 - second, abs=100)


@pytest.mark.parametrize("text", ["no colon", ": a.b=1", "x: a.b", "x: =3"])
def test_a_variant_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not of the form"):
        read_variant(text)


def test_another_definition_under_the_same_name_is_refused_and_the_runs_stay(finished, data: Path) -> None:
    _, out = finished
    before = (out / "compare" / "runs.parquet").read_bytes()
    with pytest.raises(ConfigError, match="holds a run 'ins seed 0 fold 0' of another definition"):
        compare(
            experiment(data, out), ["baseline"], {"ins": {"loss": {"kind": "ce_dice"}}}, seeds=2, quiet=True
        )
    assert (out / "compare" / "runs.parquet").read_bytes() == before


def test_a_table_that_is_none_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "compare").mkdir()
    (tmp_path / "compare" / "runs.parquet").write_text("no table")
    with pytest.raises(CatalogError, match=r"runs\.parquet is not a table of runs"):
        compare(experiment(data, tmp_path), ["ins"], quiet=True)


def test_a_training_that_fails_is_told_and_the_others_go_on(data: Path, tmp_path: Path) -> None:
    diverges = {"optimizer": {"lr": 1e30, "schedule": "constant"}}
    result = compare(
        experiment(data, tmp_path), ["baseline"], {"wild": diverges}, seeds=1, folds=[0], quiet=True
    )
    assert result.done == 1
    assert result.planned == 2
    assert list(result.failed) == ["wild seed 0 fold 0"]
    assert "1 of 2 runs are missing" in str(result)
    assert {e.variant for e in result.entries} == {"baseline"}


def test_thinned_labels_make_curves(data: Path, tmp_path: Path) -> None:
    result = compare(
        experiment(data, tmp_path),
        ["baseline"],
        seeds=1,
        folds=[0],
        keep=[0.3, 1],
        imbalance=[100],
        quiet=True,
    )
    assert [e.condition for e in result.entries[::2]] == [(0.3, 0, ""), (1.0, 0, ""), (1.0, 100, "")]
    page = (tmp_path / "compare" / "comparison.html").read_text()
    assert "share of training tiles that keep their labels" in page
    assert "| 30 % |" in (tmp_path / "compare" / "comparison.md").read_text()


def test_held_out_places_are_touched_with_final_only_and_that_is_counted(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "holdout.json"
    path.write_text(json.dumps({"here": {"places": ["s01", "s07"]}}))
    exp = experiment(data, tmp_path, split={"holdout": f"{path}#here"})
    with pytest.raises(ConfigError, match="touches held-out places with --final only"):
        compare(experiment(data, tmp_path, split={"holdout": f"{path}#here", "fold": "holdout"}), ["ins"])
    compare(exp, ["ins"], seeds=1, quiet=True)
    frame = RunTable(tmp_path / "compare" / "runs.parquet").frame
    assert not set(frame["place"]) & {"s01", "s07"}
    with pytest.warns(RaremapWarning, match="held-out places for the first time"):
        compare(exp, ["ins"], seeds=1, final=True, out=tmp_path / "final", quiet=True)
    frame = RunTable(tmp_path / "final" / "runs.parquet").frame
    assert set(frame["place"]) == {"s01", "s07"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(exp, ["ins"], seeds=1, final=True, out=tmp_path / "final", quiet=True)  # nothing new
    with pytest.warns(RaremapWarning, match="second time"):
        compare(exp, ["ins"], seeds=1, final=True, out=tmp_path / "more", quiet=True)
    uses = json.loads((tmp_path / "holdout-uses.json").read_text())["here"]
    assert [list(u["runs"]) for u in uses] == [["ins seed 0 fold holdout"]] * 2
    assert "Final figures, use 2 of the held-out places" in (tmp_path / "more/comparison.html").read_text()


def test_every_new_set_of_final_runs_is_a_use_and_an_unfinished_one_is_not(
    data: Path, tmp_path: Path, fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    exp = experiment(data, tmp_path, split={"holdout": ["s01", "s07"]})  # a list: counted in the folder

    def final(*names: str) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compare(exp, names, seeds=1, final=True, out=tmp_path / "final", quiet=True)
        return len(json.loads((tmp_path / "final/holdout-uses.json").read_text())["listed"])

    with monkeypatch.context() as patch:
        failing(patch, "ins seed 0 fold holdout")
        assert final("baseline", "ins") == 1
    assert final("baseline", "ins") == 1  # what was left of it
    assert final("baseline", "ins", "sqrt-ins") == 2


def test_bundles_are_kept_where_that_is_asked_for_only(finished, data: Path, tmp_path: Path) -> None:
    _, out = finished
    assert (out / "compare/runs/ins-seed-0-fold-0/bundle/model.json").exists()
    compare(experiment(data, tmp_path), ["ins"], seeds=1, folds=[0], quiet=True)
    run = tmp_path / "compare/runs/ins-seed-0-fold-0"
    assert (run / "metrics.csv").exists()
    assert not list(run.rglob("*.safetensors")) + list(run.rglob("*.pt"))
