"""Points through the workflows: what training sees, what its bundle says, and what a comparison keeps apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import project

from raremap.bundle import Bundle
from raremap.config import Experiment
from raremap.errors import ConfigError
from raremap.labels import IGNORE
from raremap.maps.options import PredictOptions
from raremap.tiles.options import PerClassPoints, PerObjectPoints, UniformPoints, points_text
from raremap.workflows.census import census
from raremap.workflows.compare import compare, read_points
from raremap.workflows.plan import plan, seen_by_training
from raremap.workflows.prepare import catalog_of
from raremap.workflows.runs import RunTable
from raremap.workflows.shares import sampled_scores, with_true_shares
from raremap.workflows.train import run

POINTS: dict[str, Any] = {"kind": "per_class", "count": 4}
TRUE = {"land": 0.61, "water": 0.32, "slide": 0.07}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    project.make(folder)
    return folder


def experiment(folder: Path, out: Path, **more: Any) -> Experiment:
    return project.experiment(folder, out, **{"points": POINTS, **more})


def test_census_and_plan_count_points_of_training_places_and_everything_of_others(folder, tmp_path) -> None:
    exp = experiment(folder, tmp_path)
    catalog = catalog_of(exp, quiet=True)
    dense, points = census(catalog), census(catalog, exp)
    assert points.by_use["test"].counts.tolist() == dense.by_use["test"].counts.tolist()
    tiles_with = dense.by_use["train"].tiles_with
    assert points.by_use["train"].counts.tolist() == (4 * tiles_with).tolist()
    made = plan(catalog, exp)
    assert made.shares == pytest.approx(tiles_with / tiles_with.sum())


def test_points_come_after_thinning(folder, tmp_path) -> None:
    exp = experiment(folder, tmp_path, thin={"keep": 0.5})
    seen, uses = seen_by_training(catalog_of(exp, quiet=True), exp)
    assert set(seen.points) == set(np.flatnonzero(uses == "train"))
    assert (uses == "dropped").any()


def test_with_given_shares_the_bundle_has_the_prior_of_the_ground(folder, tmp_path) -> None:
    exp = experiment(folder, tmp_path, points={**POINTS, "shares": TRUE})
    training = run(catalog_of(exp, quiet=True), None, exp, False, True)
    assert training.bundle.prior == pytest.approx(tuple(TRUE.values()))
    assert "shares_estimated" not in training.bundle.info
    assert training.bundle.info["points"]["shares"] == TRUE


def test_without_shares_they_are_estimated_and_put_into_the_scores(folder, tmp_path) -> None:
    """The slides have a seventh of the points and a thirty-sixth of the ground; the scores know better."""
    able = {"encoder": "resnet18", "decoder_channels": [16, 8, 8]}
    exp = experiment(
        folder, tmp_path, train={"steps": 60, "batch_size": 8, "crop": 32, "threads": 1}, model=able
    )
    catalog = catalog_of(exp, quiet=True)
    training = run(catalog, None, exp, False, True)
    seen, uses = seen_by_training(catalog, exp)
    counts = catalog.counts[uses == "train"].sum(0)
    truth = counts / counts.sum()
    found = np.array(list(training.bundle.info["shares_estimated"].values()))
    points = seen.counts[uses == "train"].sum(0)
    assert np.abs(found - truth).max() < 0.3 * np.abs(points / points.sum() - truth).max()
    assert training.bundle.shares == pytest.approx(found)
    assert training.bundle.prior == pytest.approx(found)  # tau 0: the scores have the shares of the ground
    saved = Bundle.load(training.path)
    assert saved.prior == pytest.approx(training.bundle.prior)
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(saved.module(image), training.bundle.module(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, None])
def test_the_logits_move_by_what_tau_leaves_of_the_prior(folder, tmp_path, tau) -> None:
    exp = experiment(folder, tmp_path)
    catalog = catalog_of(exp, quiet=True)
    seen, uses = seen_by_training(catalog, exp)
    learned = np.array([0.4, 0.3, 0.3]) ** (1.0 if tau is None else 1 - tau)
    learned /= learned.sum()
    torch.manual_seed(0)
    from raremap.scene.normalize import Normalization

    bundle = Bundle(
        exp.model.build(3, 3).eval(),
        catalog.scheme,
        catalog.bands,
        Normalization("standard", (90.0,) * 3, (0.02,) * 3),
        options=exp.model,
        prior=tuple(learned),
    )
    moved = with_true_shares(bundle, seen, uses, tau, "cpu")
    if tau is None:
        assert moved is bundle
        return
    found = np.array(list(moved.info["shares_estimated"].values()))
    expected = (1 - tau) * (np.log(found) - np.log([0.4, 0.3, 0.3]))
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        shift = (moved.module(image) - bundle.module(image)).mean((0, 2, 3)).double().numpy()
    assert shift - shift[0] == pytest.approx(expected - expected[0], abs=1e-4)
    assert moved.prior == pytest.approx(found ** (1 - tau) / (found ** (1 - tau)).sum())


def test_only_unlabelled_valid_training_pixels_are_scored(folder, tmp_path) -> None:
    exp = experiment(folder, tmp_path)
    catalog = catalog_of(exp, quiet=True)
    seen, uses = seen_by_training(catalog, exp)
    rows = np.flatnonzero(uses == "train")
    met: list[int] = []

    class Blank:
        scheme = catalog.scheme
        predict = PredictOptions()

        def network(self, device: str = "auto"):
            def scores(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
                met.append(int(valid.sum()))
                return np.full((1, 3, *valid.shape[1:]), 1 / 3, np.float32)

            return scores

    probs, _ = sampled_scores(Blank(), seen, rows, labelled=False)  # type: ignore[arg-type]
    assert len(met) == len(rows)
    assert len(probs) == sum(met) - seen.counts[rows].sum()
    _, truth = sampled_scores(Blank(), seen, rows, labelled=True)  # type: ignore[arg-type]
    assert np.bincount(truth, minlength=3).tolist() == seen.counts[rows].sum(0).tolist()


# --- what cannot be


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"loss": {"kind": "ce_dice"}}, "the loss has dice, which measure areas, and points have none"),
        (
            {"points": {"kind": "per_object", "count": 0}},
            r"points\.per_object\.count: input should be greater",
        ),
        ({"points": {"kind": "per_objects"}}, "per_object"),
        ({"points": {**POINTS, "cuont": 3}}, "unknown key 'points.per_class.cuont'; did you mean 'count'"),
        (
            {"points": {**POINTS, "shares": {"lnad": 1.0}}},
            "'lnad', which is not a class; did you mean 'land'",
        ),
        ({"points": {**POINTS, "shares": [0.2, 0.2, 0.2]}}, r"sum to 1; these sum to 0\.6"),
        ({"balance": {"kind": "diao", "copy_paste": True}}, "copy_paste cuts objects out by their labels"),
        ({"pseudo": {"threshold": 0.4}}, r"pseudo\.floor 0\.5 is above pseudo\.threshold 0\.4"),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(folder, tmp_path, sections, message) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        experiment(folder, tmp_path, **sections)
    assert "\n" not in str(caught.value)


def test_region_terms_may_stay_with_pseudo_labels_or_without_weight(folder, tmp_path) -> None:
    experiment(folder, tmp_path, loss={"kind": "ce_dice"}, pseudo={})
    experiment(folder, tmp_path, loss={"kind": "ce_dice", "dice": 0})
    assert project.experiment(folder, tmp_path, loss={"kind": "ce_dice"}).points is None


# --- as text, and in a comparison


@pytest.mark.parametrize(
    "points",
    [
        None,
        PerObjectPoints(),
        PerObjectPoints(count=5, margin=2, radius=1),
        UniformPoints(share=0.01),
        PerClassPoints(count=10, shares={"bare ground": 0.25, "a/b: c": 0.75}),
        PerClassPoints(shares=(0.5, 0.5)),
        PerClassPoints(shares="counted"),
    ],
)
def test_their_text_says_all_of_them(points) -> None:
    assert read_points(points_text(points) or "dense") == points


def test_their_text_is_short() -> None:
    assert points_text(PerObjectPoints()) == "per_object count=1"
    assert points_text(PerClassPoints(count=3, margin=2)) == "per_class count=3 margin=2"
    assert points_text(None) == ""


@pytest.mark.parametrize("text", ["per_object count=0", "per_objekt", "dense count=3", "uniform", ""])
def test_text_that_is_none_is_refused(text) -> None:
    with pytest.raises(ConfigError, match="points '"):
        read_points(text)


def test_a_comparison_trains_on_points_and_on_dense_labels_and_tells_them_apart(folder, tmp_path) -> None:
    exp = project.experiment(folder, tmp_path, "train.steps=2")
    kinds = ["dense", "per_object count=2"]
    result = compare(exp, ["baseline"], seeds=1, folds=[0], points=kinds, quiet=True)
    frame = RunTable(tmp_path / "compare" / "runs.parquet").frame
    assert set(frame["points"]) == {"", "per_object count=2"}
    assert {e.to_dict()["points"] for e in result.entries} == {None, "per_object count=2"}
    ratio = {e.condition[2]: e.imbalance for e in result.entries}
    assert ratio[""] > 2 * ratio["per_object count=2"]
    # Judged by the same dense truth.
    pixels = frame.groupby("points")["matrices"].apply(lambda m: sum(x["count"].sum() for x in m))
    assert len(set(pixels)) == 1
    folders = sorted(p.name for p in (tmp_path / "compare" / "runs").iterdir())
    assert folders == ["baseline-seed-0-fold-0", "baseline-seed-0-fold-0-points-per_object-count=2"]
    text = (tmp_path / "compare" / "comparison.md").read_text()
    assert "points: per_object count=2" in text
    assert json.loads((tmp_path / "compare" / "comparison.json").read_text())["entries"]

    with pytest.raises(ConfigError, match="the loss has dice"):
        compare(exp, ["ce-dice"], seeds=1, folds=[0], points=kinds, quiet=True)
    with pytest.raises(ConfigError, match="changes 'points'"):
        compare(exp, variants={"x": {"points": POINTS}}, quiet=True)


def test_a_table_of_before_there_were_points_is_one_of_dense_labels(folder, tmp_path) -> None:
    exp = project.experiment(folder, tmp_path, "train.steps=2")
    compare(exp, ["baseline"], seeds=1, folds=[0], quiet=True)
    path = tmp_path / "compare" / "runs.parquet"
    table = RunTable(path)
    table.frame.drop(columns="points").to_parquet(path)
    assert RunTable(path).done() == table.done()


# --- partial cross-entropy


def test_a_crop_with_one_point_weighs_one_pixel_and_not_one_image() -> None:
    """The mean is over the batch's labelled pixels: 100 of one image and 1 of the other count as 101."""
    from raremap.measure.terms import CrossEntropy

    torch.manual_seed(0)
    logits = torch.randn(2, 3, 10, 10, dtype=torch.float64, requires_grad=True)
    mask = torch.full((2, 10, 10), IGNORE)
    mask[0] = 1
    mask[1, 4, 4] = 2
    costs = -torch.log_softmax(logits, 1).detach().numpy()
    by_hand = (costs[0, 1].sum() + costs[1, 2, 4, 4]) / 101
    value = CrossEntropy()(logits, mask)
    assert value.item() == pytest.approx(by_hand)
    value.backward()
    assert logits.grad is not None
    assert logits.grad[1].abs().sum() < 2.01 / 101  # at most 2/101; a mean by image would allow 2/2


def test_a_batch_without_a_point_is_zero_and_finite() -> None:
    from raremap.measure.terms import CrossEntropy

    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = CrossEntropy()(logits, torch.full((2, 4, 4), IGNORE))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
