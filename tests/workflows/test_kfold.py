"""k folds in one command: what is pooled, what goes on after a stop, the ensemble, and how its decision is fitted."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.command import raremap
from tests.rasters import write

from raremap.config import Experiment
from raremap.ensembles import Ensemble, load_bundle
from raremap.errors import BundleError, CatalogError, ConfigError, RaremapWarning
from raremap.measure.options import DecisionOptions
from raremap.measure.tally import Tally
from raremap.tiles.catalog import Catalog
from raremap.tiles.splits import uses as uses_of
from raremap.workflows import compare as machinery
from raremap.workflows.calibrate import calibrate
from raremap.workflows.evaluate import evaluate
from raremap.workflows.folds import KFold
from raremap.workflows.kfold import kfold
from raremap.workflows.predict import predict
from raremap.workflows.prepare import catalog_of
from raremap.workflows.runs import Run, RunTable
from raremap.workflows.scoring import scored
from raremap.workflows.uses import uses_for

KEYS: dict[str, Any] = {
    "labels": {"classes": {1: "meadow", 2: "forest", 3: "water"}, "ignore": [0]},
    "tiles": {"size": 32},
    "model": {"encoder": "tu-mobilenetv3_small_100", "decoder_channels": [8, 8, 8]},
    "optimizer": {"lr": 1e-2},
    "train": {"steps": 2, "batch_size": 2, "crop": 32, "threads": 1, "norm_tiles": 0, "seed": 4},
    "predict": {"window": 32, "overlap": 0.0},
    "decision": {"sample": 3000},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small scenes, each a place, whose bands tell the classes apart."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for i in range(10):
        truth = rng.choice(3, (48, 48), p=(0.7, 0.22, 0.08)).repeat(2, 0).repeat(2, 1)[:48, :48] + 1
        image = np.stack([truth * 40, 200 - truth * 30]) + rng.integers(0, 40, (2, 48, 48))
        origin = (4e5 + 5000 * i, 4.6e6)
        write(folder / f"image/s{i:02d}.tif", image.astype(np.uint8), origin=origin, names=("a", "b"))
        write(folder / f"mask/s{i:02d}.tif", truth.astype(np.uint8), origin=origin)
    return folder


def experiment(data: Path, out: Path, **more: Any) -> Experiment:
    split = {"folds": 3, "monitor": 0.2, "calibration": 0.3, **more.pop("split", {})}
    scenes = {"images": str(data / "image/*.tif"), "masks": str(data / "mask/*.tif")}
    return Experiment.from_dict({**KEYS, "scenes": scenes, "out": str(out), "split": split, **more})


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, KFold]:
    """A run of three folds that was stopped in the second and started again, and what it says."""
    out = tmp_path_factory.mktemp("run")
    exp, original, calls = experiment(data, out), machinery._run, []

    def stopped(run, *rest):
        calls.append(run.fold)
        if calls == ["0", "1"]:
            raise KeyboardInterrupt
        return original(run, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machinery, "_run", stopped)
        with pytest.raises(KeyboardInterrupt):
            kfold(exp, quiet=True)
        result = kfold(exp, quiet=True)
    assert calls == ["0", "1", "1", "2"]  # the first fold was not trained again
    return out, result


def test_pooled_scores_are_of_all_test_places_each_by_the_network_that_has_not_seen_it(made) -> None:
    out, result = made
    catalog = Catalog.load(out / "catalog.parquet")
    pooled, tested = np.zeros((2, 3, 3), np.int64), []
    for fold in result.folds:
        found = evaluate(load_bundle(fold["bundle"]), catalog, quiet=True)
        pooled += found.scores.matrix, found.argmax.matrix
        tested += sorted(set(found.places))
        assert fold["places"] == sorted(set(found.places))
        assert fold["decision"]["macro_f1"] == pytest.approx(found.scores.macro_f1, nan_ok=True)
    assert sorted(tested) == sorted(set(catalog.table["place"].astype(str)))
    for matrix, way in zip(pooled, ("decision", "argmax"), strict=True):
        np.testing.assert_array_equal(result.pooled[way]["confusion"], matrix)
        hits = np.diagonal(matrix)
        f1 = 2 * hits / (matrix.sum(0) + matrix.sum(1))
        assert result.pooled[way]["macro_f1"] == pytest.approx(f1.mean())
    spread = np.std([f["decision"]["miou"] for f in result.folds], ddof=1)
    assert result.spread["decision"]["miou"] == pytest.approx(spread)


def test_it_writes_a_page_and_numbers_and_says_the_same_again(made, data: Path) -> None:
    out, result = made
    folder = out / "kfold"
    told = json.loads((folder / "kfold.json").read_text())
    assert [f["fold"] for f in told["folds"]] == ["0", "1", "2"]
    assert told["ensemble"]["members"] == 3
    page = (folder / "kfold.html").read_text()
    assert "3 folds, 10 test places" in page
    assert not any(word in page for word in ("<script", "<link", 'src="http', 'href="http'))
    before = (folder / "ensemble" / "ensemble.json").read_bytes()
    again = kfold(experiment(data, out), quiet=True)
    assert again.pooled == result.pooled
    assert (folder / "ensemble" / "ensemble.json").read_bytes() == before  # nothing was made again
    assert "pooled, argmax" in str(again)


def test_of_two_classes_it_says_each_folds_threshold_and_both_scores(data: Path, tmp_path: Path) -> None:
    """Truth by hand: tables of 100 pixels, and a bias of -log 19 over the temperature, which is a threshold of 0.95."""
    labels = {"classes": {1: "ground", 2: "slide"}, "ignore": [0, 3]}
    exp = experiment(data, tmp_path, labels=labels)
    catalog = catalog_of(exp, quiet=True)
    table, runs = RunTable(tmp_path / "runs.parquet"), [Run("fold", 4, str(f)) for f in range(3)]
    # Hits, false alarms and omissions of the slide in 100 pixels.
    counted = {"argmax": [(8, 8, 0), (6, 2, 2), (5, 5, 5)], "decision": [(8, 0, 0), (6, 2, 2), (5, 0, 5)]}
    for f, run in enumerate(runs):
        ways = {}
        for way, cases in counted.items():
            hits, false, missed = cases[f]
            tally = Tally.empty(1, 2)
            tally.matrices[0] = [[100 - hits - false - missed, false], [missed, hits]]
            ways[way] = tally
        bias = [0.0, (-math.log(19) / 2, 0.0, -math.log(19))[f]]
        told = {"steps": 2, "best_step": 2, "monitor_macro_f1": 0.5, "seconds": 1.0, "note": "", "bias": bias}
        table.add(run, "x", np.array([f"p{f}"]), ways, {**told, "temperature": (2.0, 2.0, 1.0)[f]})
    result = KFold.of(table, runs, catalog, exp, tmp_path).write(tmp_path)
    data_of = json.loads((tmp_path / "kfold.json").read_text())
    assert data_of["threshold_of"] == "slide"
    assert [f["threshold"] for f in data_of["folds"]] == pytest.approx([0.95, 0.5, 0.95], abs=1e-6)
    f1 = {"argmax": [2 / 3, 0.75, 0.5], "decision": [1.0, 0.75, 2 / 3]}
    for way, each in f1.items():
        assert data_of["mean_over_folds"][way]["f1/slide"] == pytest.approx(np.mean(each))
        assert data_of["spread_over_folds"][way]["f1/slide"] == pytest.approx(np.std(each, ddof=1))
    lines = [line.split() for line in str(result).splitlines()]
    assert ["fold", "0", "0.950", "0.667", "1.000", "0.707", "1.000"] in lines  # IoU 8/16 and 84/92 at 0.5
    assert "mean ± std 0.639 ± 0.127 0.806 ± 0.173" in " ".join(" ".join(line) for line in lines)
    page = (tmp_path / "kfold.html").read_text()
    assert "<h2>Thresholds</h2>" in page
    assert "<td>0.950</td>" in page


def test_the_ensemble_of_folds_maps_by_the_mean_of_all(made, data: Path, tmp_path: Path) -> None:
    import rasterio

    out, result = made
    scene, probs = data / "image/s00.tif", []
    for i, path in enumerate([*(f["bundle"] for f in result.folds), out / "kfold/ensemble"]):
        predict(
            path,
            scene,
            tmp_path / f"{i}.tif",
            "float32",
            argmax=True,
            device="cpu",
            precision="float32",
            quiet=True,
        )
        with rasterio.open(tmp_path / f"{i}.probs.tif") as file:
            probs.append(file.read())
    # The folds have learned nearly the same shares, so that little is moved before the mean.
    np.testing.assert_allclose(probs[3], np.mean(probs[:3], axis=0), atol=0.02)


def test_an_ensemble_of_folds_has_no_test_and_is_told_so(made) -> None:
    out, _ = made
    with pytest.raises(CatalogError, match="Every place was used by a member of the ensemble, as with folds"):
        evaluate(out / "kfold/ensemble", out / "catalog.parquet", quiet=True)


def test_the_decision_of_folds_rests_on_what_each_member_says_of_its_own_calibration_places(made) -> None:
    out, _ = made
    ensemble, catalog = Ensemble.load(out / "kfold/ensemble"), Catalog.load(out / "catalog.parquet")
    free = catalog.table["place"].astype(str)[uses_for(ensemble, catalog)[0] == "calibration"]
    assert len(set(free)) < 2
    seen: list[tuple[int, set[str]]] = []

    def spied(bundle, network, of, rows, progress=None):
        assert len(bundle.members) == 1
        seen.append((id(bundle.members[0].module), set(of.table["place"].astype(str).iloc[rows])))
        return scored(bundle, network, of, rows, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raremap.workflows.calibrate.scored", spied)
        found = calibrate(ensemble, catalog, options=DecisionOptions(sample=3000), quiet=True)
    for member in ensemble.members:
        own = uses_of(catalog, member_split(member), warn=False) == "calibration"
        assert (id(member.module), set(catalog.table["place"].astype(str)[own])) in seen
    assert len(seen) == 3
    assert "on each member's own calibration places" in found.decision.note
    assert found.decision.way["fitted_on"] == "members"


def member_split(member):
    from raremap.tiles.options import SplitOptions

    return SplitOptions(**member.info["split"])


def test_an_ensemble_of_seeds_is_fitted_and_tested_on_places_that_none_has_seen(made) -> None:
    out, result = made
    catalog = Catalog.load(out / "catalog.parquet")
    first = load_bundle(result.folds[0]["bundle"])
    both = Ensemble.of([first, replace(first, info={**first.info, "name": "again", "seed": 5})])
    uses, remarks = uses_for(both, catalog)
    np.testing.assert_array_equal(uses, uses_of(catalog, member_split(first), warn=False))
    assert remarks == []
    fitted = calibrate(both, catalog, options=DecisionOptions(), quiet=True)
    assert "fitted_on" not in fitted.decision.way
    # Twice the same network is that network: so is what is fitted to it, and how it scores.
    alone = calibrate(first, catalog, options=DecisionOptions(), quiet=True)
    assert fitted.decision.bias == pytest.approx(alone.decision.bias)
    found, expected = (evaluate(b.bundle, catalog, quiet=True) for b in (fitted, alone))
    np.testing.assert_array_equal(found.scores.matrix, expected.scores.matrix)
    assert found.facts["model"]["networks"] == 2


def test_a_bundle_on_disk_gets_a_decision_for_turns_and_is_scored_with_it(made, tmp_path: Path) -> None:
    out, result = made
    folder = tmp_path / "bundle"
    shutil.copytree(result.folds[0]["bundle"], folder)
    own = load_bundle(folder).decision
    found = calibrate(folder, out / "catalog.parquet", tta=True, quiet=True)
    assert found.path == folder
    bundle = load_bundle(folder)
    assert bundle.decision == own
    assert [d.way["tta"] for d in bundle.decisions] == ["d4"]
    card = (folder / "model.json").read_bytes()
    scores = evaluate(folder, out / "catalog.parquet", tta=True, out=tmp_path / "scores", quiet=True)
    assert [f.name for f in scores.files] == ["evaluation-d4.json", "report-d4.html"]
    assert scores.facts["predict"]["tta"] == "d4"
    assert not any("fitted with" in r for r in scores.remarks)
    assert (folder / "model.json").read_bytes() == card  # the card tells of the bundle's own way
    if own.fitted:
        other = evaluate(folder, out / "catalog.parquet", tta="flips", out=tmp_path / "scores", quiet=True)
        assert any("fitted with tta none, this was predicted with flips" in r for r in other.remarks)


def test_turned_scores_of_a_tile_are_those_of_the_turned_scene(made) -> None:
    from raremap.ways import predicting

    out, result = made
    catalog = Catalog.load(out / "catalog.parquet")
    bundle = load_bundle(result.folds[0]["bundle"])
    turned = predicting(bundle, window=48, tta="flips")  # the scene is one window
    network = bundle.network("cpu", "float32")
    with catalog.open_image(str(catalog.scene_names[0])) as image:
        pixels, valid = image.read(image.grid.window)
    views = []
    for axes in ((), (-1,), (-2,), (-1, -2)):
        flipped = [np.flip(a, axes).copy() if axes else a for a in (pixels, valid)]
        probs = network(flipped[0][None], flipped[1][None])[0]
        views.append(np.flip(probs, axes) if axes else probs)
    expected = np.mean(views, 0)
    parts = list(scored(turned, turned.network("cpu", "float32"), catalog, np.array([0])))
    assert parts
    for part in parts:
        np.testing.assert_allclose(part.probs, expected[:, *part.window.slices()], atol=1e-5)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"test": ["s00"]}, "split.test names the test places, so that there is one fold only"),
        (
            {"fold": "holdout", "holdout": ["s00"]},
            "split.fold is 'holdout'; k folds leave held-out places alone",
        ),
    ],
)
def test_what_makes_no_folds_is_refused(data: Path, tmp_path: Path, split: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kfold(experiment(data, tmp_path, split=split), quiet=True)


def test_a_bundle_that_was_taken_away_is_missed_in_one_line(made, data: Path, tmp_path: Path) -> None:
    out, _ = made
    shutil.copytree(out, tmp_path / "run")
    exp = experiment(data, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/kfold/ensemble")
    shutil.rmtree(tmp_path / "run/kfold/runs/fold-seed-4-fold-1/bundle")
    with pytest.raises(BundleError, match=r"fold-1/bundle is missing, though its fold is in"):
        kfold(exp, quiet=True)
    assert kfold(exp, ensemble=False, quiet=True).ensemble is None


def test_on_the_command_line(made, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, result = made
    bundles = [f["bundle"] for f in result.folds]
    code, text, _ = raremap(capsys, "ensemble", *bundles, "-o", tmp_path / "both", "--json")
    assert code == 0
    assert json.loads(text)["decision"] is None
    code, _, err = raremap(capsys, "ensemble", bundles[0], "-o", tmp_path / "one")
    assert (code, err) == (2, "raremap: an ensemble needs two bundles at least, 1 given\n")
    code, _, err = raremap(capsys, "ensemble", tmp_path / "both", bundles[0], "-o", tmp_path / "x")
    assert code == 2
    assert "is an ensemble itself; give its members" in err
    code, _, err = raremap(capsys, "calibrate", bundles[0], "--catalog", tmp_path / "none.parquet")
    assert code == 2
    assert "none.parquet" in err
    scene = data / "image/s00.tif"
    code, _, err = raremap(
        capsys, "predict", tmp_path / "both", scene, "-o", tmp_path / "m.tif", "--flips", "--tta", "-q"
    )
    assert code == 2
    assert "--flips and --tta are two ways" in err
    code, text, err = raremap(
        capsys,
        "predict",
        tmp_path / "both",
        scene,
        "-o",
        tmp_path / "m.tif",
        "--tta",
        "--scales",
        "1,0.5",
        "-q",
    )
    assert (code, err) == (0, "")
    import rasterio

    with rasterio.open(tmp_path / "m.tif") as file:
        assert file.tags()["raremap_averaged"] == "3 networks, 8 turns, scales 1, 0.5"


def test_a_way_without_a_decision_of_its_own_is_told_in_one_line(made, data: Path, tmp_path: Path) -> None:
    from raremap.measure.decision import Decision

    _, result = made
    bundle = load_bundle(result.folds[0]["bundle"])
    bundle = bundle.with_decision(Decision((0.0, 0.4, 0.0), way={"window": 32, "overlap": 0.0}))
    scene = data / "image/s00.tif"
    with pytest.warns(RaremapWarning, match=r"fitted for another way of predicting.*tta d4 \(it: none\)"):
        predict(bundle, scene, tmp_path / "m.tif", tta=True, quiet=True)
    predict(bundle, scene, tmp_path / "m.tif", tta=True, argmax=True, quiet=True)  # nothing to warn of
