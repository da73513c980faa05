"""Comparisons: equal conditions, resumption, thinned labels, held-out places, and figures that are right."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score
from tests.rasters import write

from raremap.config import Experiment
from raremap.errors import CatalogError, ConfigError, RaremapWarning
from raremap.workflows import compare as module
from raremap.workflows.compare import compare, read_variant
from raremap.workflows.runs import KEY, Run, RunTable

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
    from raremap.learn.fit import _Run

    exp = experiment(data, tmp_path / "a", train={**KEYS["train"], "checkpoint_every": 1})
    whole = compare(exp, ["baseline"], seeds=1, folds=[0], quiet=True)
    exp = experiment(data, tmp_path / "b", train={**KEYS["train"], "checkpoint_every": 1})
    after, steps = _Run._after, []

    def stop(self: Any, step: int) -> None:
        after(self, step)
        steps.append(step)
        if len(steps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Run, "_after", stop)
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
        ({"variants": {"x": {"loss": {"kind": "cee"}}}}, "variant x: "),
    ],
)
def test_a_design_that_cannot_be_is_refused_in_one_line(
    data: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(experiment(data, tmp_path), quiet=True, **arguments)
    assert not (tmp_path / "compare").exists()


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
    assert [e.condition for e in result.entries[::2]] == [(0.3, 0), (1.0, 0), (1.0, 100)]
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
    assert len(json.loads((tmp_path / "holdout-uses.json").read_text())["here"]) == 2


def test_bundles_are_kept_where_that_is_asked_for_only(finished, data: Path, tmp_path: Path) -> None:
    _, out = finished
    assert (out / "compare/runs/ins-seed-0-fold-0/bundle/model.json").exists()
    compare(experiment(data, tmp_path), ["ins"], seeds=1, folds=[0], quiet=True)
    run = tmp_path / "compare/runs/ins-seed-0-fold-0"
    assert (run / "metrics.csv").exists()
    assert not list(run.rglob("*.safetensors")) + list(run.rglob("*.pt"))
