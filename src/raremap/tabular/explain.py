"""What a model leans on: permutation importance out of fold, and how its scores move with one attribute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raremap.tabular.columns import Columns
from raremap.tabular.crossval import CrossValidated
from raremap.tabular.measures import average_precision
from raremap.tabular.model import TableModel


@dataclass(frozen=True)
class Importance:
    """What average precision out of fold loses when a column is shuffled: mean and spread over repeats."""

    name: str
    loss: float
    spread: float


def importances(
    values: np.ndarray,
    truth: np.ndarray,
    columns: Columns,
    found: CrossValidated,
    rng: np.random.Generator,
    weights: np.ndarray | None = None,
    repeats: int = 5,
) -> list[Importance]:
    """Permutation importance (Breiman 2001) of each column, by the folds' models on rows that they have not seen.

    A column is shuffled inside a fold, before encoding: all its categories and its gaps move together. Of two columns
    that tell the same, neither seems to matter.
    """
    whole = average_precision(found.calibrated, truth, weights)
    out = []
    for i, column in enumerate(columns):
        losses = []
        for _ in range(repeats):
            logits = np.empty(len(truth))
            for k, model in enumerate(found.models):
                rows = np.flatnonzero(found.fold == k)
                part = values[rows].copy()
                part[:, i] = part[rng.permutation(len(rows)), i]
                logits[rows] = found.calibrations[k](model.logits(part))
            losses.append(whole - average_precision(logits, truth, weights))
        out.append(Importance(column.name, float(np.mean(losses)), float(np.std(losses))))
    return out


@dataclass(frozen=True)
class Dependence:
    """Mean probability (Friedman 2001) where all rows have a value of a column; `ticks` are the values as text."""

    name: str
    kind: str
    at: tuple[float, ...]
    ticks: tuple[str, ...]
    mean: tuple[float, ...]


def dependence(
    values: np.ndarray,
    model: TableModel,
    column: int,
    rng: np.random.Generator,
    weights: np.ndarray | None = None,
    points: int = 15,
    rows: int = 500,
) -> Dependence:
    """Partial dependence of the final model on a column, over a sample of rows: quantiles, or all categories.

    Probabilities are for the share that the model serves, and rows count by `weights [n]`.
    """
    about = model.columns.columns[column]
    drawn = rng.permutation(len(values))[:rows]
    sample, own = values[drawn], None if weights is None else weights[drawn]
    if about.kind == "categorical":
        at, ticks = np.arange(len(about.categories), dtype=float), about.categories
    else:
        there = values[:, column]
        at = np.unique(np.quantile(there[~np.isnan(there)], np.linspace(0.02, 0.98, points)))
        ticks = tuple(f"{v:.4g}" for v in at)
    mean = []
    for value in at:
        moved = sample.copy()
        moved[:, column] = value
        mean.append(float(np.average(model.probabilities(moved), weights=own)))
    return Dependence(about.name, about.kind, tuple(at.tolist()), ticks, tuple(mean))
