"""What a training on a table is worth: the final model with its threshold, and figures on rows it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from raremap.tabular import measures
from raremap.tabular.calibration import log_odds, sigmoid
from raremap.tabular.columns import Columns
from raremap.tabular.crossval import CrossValidated, Trial
from raremap.tabular.explain import dependence, importances
from raremap.tabular.fitting import Fitted
from raremap.tabular.folds import Places
from raremap.tabular.model import TableModel
from raremap.tabular.options import TableOptions

_DEPENDENCES = 6
_CURVE = 400
_CURVE_START = 60


def evaluate(
    values: np.ndarray,
    truth: np.ndarray,
    places: Places,
    columns: Columns,
    checked: CrossValidated,
    fitted: Fitted,
    options: TableOptions,
    positive: str,
    where: str,
) -> tuple[TableModel, dict[str, Any]]:
    """The model of `fitted` with its threshold and figures, and all that evaluation.json tells of its scores.

    `values [n, p]` and `truth [n]` are the labelled rows of the table at `where`, `checked` their scores out of fold.
    Where the options say the true share of positives (`prior`), every figure is for it: log-odds are moved to it and
    rows weighted, those of each class by `weights`.
    """
    share = float(truth.mean())
    serves = options.prior if options.prior is not None else share
    moved = log_odds(serves) - log_odds(share)
    weight = measures.weights_for(truth, options.prior)
    one = np.ones(len(truth)) if weight is None else weight
    called = _called(checked, truth, weight)
    threshold = measures.best_threshold(checked.calibration(checked.own), truth, weight)
    scores = measures.intervals(
        checked.calibrated, truth, called, places.index, options.replicates, options.seed, weights=weight
    )
    texts = {k: str(v) for k, v in scores.items()}
    kind = "random folds" if places.kind == "row" else f"folds of {places.count:,} {places.kind}s"
    folds = f"{options.folds} {kind}"
    model = TableModel.of(
        fitted, columns, checked.calibration, prior=share, serves=serves, threshold=threshold,
        positive=positive, metrics=texts,
        info={"name": Path(where).stem, "label": options.label, "rows": len(truth), "folds": folds, "balance": options.balance},
    )  # fmt: skip
    steps = {"raw": checked.unshifted, "before": checked.logits + moved, "after": checked.calibrated + moved}
    right = float(one[called & truth].sum())
    return model, {
        "rows": len(truth),
        "positives": int(truth.sum()),
        "share": share,
        "serves": serves,
        "moved": moved,
        "weights": {"negative": float(one[~truth][0]), "positive": float(one[truth][0])},
        "label": options.label,
        "positive": positive,
        "least": model.least(),
        "folds": {
            "text": folds,
            "kind": places.kind,
            "places": places.count,
            "each": [_fold(k, checked, truth, places, weight) for k in range(options.folds)],
        },
        "intervals": {k: v.to_dict() for k, v in scores.items()},
        "texts": texts,
        "calibration": {name: _honesty(logits, truth, weight) for name, logits in steps.items()},
        "curve": _precision_recall(checked.calibrated, truth, one),
        "called": int(called.sum()),
        "right": int((called & truth).sum()),
        "precision": right / float(one[called].sum()) if called.any() else None,
        "recall": right / float(one[truth].sum()),
        "options": options.model_dump(mode="json"),
        "versions": {n: version(n) for n in ("scikit-learn", "onnxruntime", "raremap")},
    }


def explain(
    values: np.ndarray, truth: np.ndarray, model: TableModel, checked: CrossValidated, options: TableOptions
) -> dict[str, Any]:
    """What evaluation.json tells of the columns: what each is worth, and how scores move with the first of them."""
    rng = np.random.default_rng((options.seed, 0xE4B1))
    weight = measures.weights_for(truth, options.prior)
    ranked = sorted(importances(values, truth, model.columns, checked, rng, weight), key=lambda i: -i.loss)
    names = model.columns.names
    return {
        "importance": [asdict(i) for i in ranked],
        "dependence": [
            asdict(dependence(values, model, names.index(i.name), rng, weight)) for i in ranked[:_DEPENDENCES]
        ],
        "columns": [_column(c, values[:, i], truth) for i, c in enumerate(model.columns)],
    }


def trials(tried: Sequence[Trial]) -> list[dict[str, Any]]:
    """Settings that were tried, with their scores, JSON-ready."""
    return [{**t.options.model_dump(mode="json"), "score": t.score} for t in tried]


def _called(checked: CrossValidated, truth: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Which rows are called positive: the threshold of each comes from the other folds, as its calibration does."""
    called = np.zeros(len(truth), bool)
    for k in range(len(checked.models)):
        own = checked.fold == k
        cut = measures.best_threshold(checked.calibrated[~own], truth[~own], _of(weight, ~own))
        called[own] = checked.calibrated[own] >= cut
    return called


def _of(weight: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if weight is None else weight[rows]


def _fold(
    k: int, checked: CrossValidated, truth: np.ndarray, places: Places, weight: np.ndarray | None
) -> dict[str, Any]:
    own = checked.fold == k
    settings = checked.models[k].options.model_dump(mode="json")
    return {
        "fold": k,
        "rows": int(own.sum()),
        "positives": int(truth[own].sum()),
        "places": len(np.unique(places.index[own])),
        "average_precision": measures.average_precision(
            checked.calibrated[own], truth[own], _of(weight, own)
        ),
        "auc": measures.auc(checked.calibrated[own], truth[own]),
        "settings": {a: b for a, b in settings.items() if a != "kind"},
    }


def _honesty(logits: np.ndarray, truth: np.ndarray, weight: np.ndarray | None) -> dict[str, Any]:
    """How far probabilities are from shares."""
    return {
        "error": measures.calibration_error(logits, truth, weights=weight),
        "brier": measures.brier(logits, truth, weight),
        "log_loss": measures.log_loss(logits, truth, weight),
        "mean": float(np.average(sigmoid(logits), weights=weight)),
        "curve": _reliability(logits, truth, weight),
    }


def _reliability(logits: np.ndarray, truth: np.ndarray, weight: np.ndarray | None) -> list[dict[str, float]]:
    """Mean probability and share of positives in cells of equally many rows, or of equal weight."""
    cells = max(2, min(10, int(truth.sum()) // 5))
    p = sigmoid(logits)
    return [
        {
            "claimed": float(np.average(p[rows], weights=_of(weight, rows))),
            "share": float(np.average(truth[rows], weights=_of(weight, rows))),
            "rows": len(rows),
        }
        for rows in measures.cells_of(np.argsort(logits, kind="stable"), cells, weight)
    ]


def _precision_recall(logits: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> list[list[float]]:
    """Recall and precision at each distinct score, thinned to what a figure shows."""
    hits, misses = measures.Ranked(logits, truth).counts(weight)
    found, given = hits[0].cumsum(), (hits + misses)[0].cumsum()
    at = np.unique(np.linspace(0, len(found) - 1, _CURVE).astype(int))
    at = np.unique(np.r_[np.arange(min(_CURVE_START, len(found))), at])
    return [[float(found[i] / found[-1]), float(found[i] / given[i])] for i in at]


def _column(column: Any, values: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """What the labelled rows hold of a column, negatives before positives."""
    gone = np.isnan(values)
    number = column.kind == "numeric" and not gone.all()
    return {
        "name": column.name,
        "kind": column.kind,
        "distinct": len(np.unique(values[~gone])),
        "missing": [float(gone[~truth].mean()), float(gone[truth].mean())],
        "middle": [
            float(np.median(s)) if number and len(s := values[side & ~gone]) else None
            for side in (~truth, truth)
        ],
        "range": [float(values[~gone].min()), float(values[~gone].max())] if number else None,
        "categories": list(column.categories),
    }
