"""Nested cross-validation: each row scored by a model that has neither seen it nor was chosen by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raremap.jobs import Progress, Silent
from raremap.tabular.calibration import Calibration
from raremap.tabular.columns import Columns
from raremap.tabular.fitting import Fitted, Options, fit
from raremap.tabular.folds import Places, deal
from raremap.tabular.measures import auc, average_precision, weights_for
from raremap.tabular.options import TableOptions


@dataclass(frozen=True)
class Trial:
    """One setting of the grid and its score on the inner folds."""

    options: Options
    score: float


@dataclass(frozen=True)
class CrossValidated:
    """Log-odds out of fold `[n]`, before (`logits`) and after calibration, of the folds' models.

    `calibrated` are of calibrations fitted on the other folds' scores. `calibration` is fitted on all of them: it is
    the one that the final model gets.
    """

    fold: np.ndarray
    logits: np.ndarray
    unshifted: np.ndarray
    calibrated: np.ndarray
    calibration: Calibration
    models: tuple[Fitted, ...]
    trials: tuple[tuple[Trial, ...], ...]


def cross_validate(
    values: np.ndarray,
    truth: np.ndarray,
    columns: Columns,
    places: Places,
    options: TableOptions,
    progress: Progress | None = None,
) -> CrossValidated:
    """Score every row out of fold; settings are chosen inside the rows of training, on folds of the same kind."""
    bar = progress or Silent()
    fold = deal(truth, places, options.folds, options.seed)
    logits, unshifted = np.empty(len(truth)), np.empty(len(truth))
    models, trials = [], []
    for k in range(options.folds):
        train, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        chosen, tried = choose(values[train], truth[train], columns, places.of(train), options)
        model = fit(values[train], truth[train], columns, chosen, options.balance, options.seed)
        logits[test] = model.logits(values[test])
        unshifted[test] = logits[test] + model.shift
        models.append(model)
        trials.append(tried)
        bar.advance()
    calibrated = np.empty(len(truth))
    for k in range(options.folds):
        others = fold != k
        calibrated[~others] = Calibration.fit(options.calibration, logits[others], truth[others])(
            logits[~others]
        )
    whole = Calibration.fit(options.calibration, logits, truth)
    return CrossValidated(fold, logits, unshifted, calibrated, whole, tuple(models), tuple(trials))


def choose(
    values: np.ndarray, truth: np.ndarray, columns: Columns, places: Places, options: TableOptions
) -> tuple[Options, tuple[Trial, ...]]:
    """The setting of the grid with the best score on inner folds of the same kind; the first where nothing is tuned.

    The score is for the true share of positives, where the options say it.
    """
    if not options.tune:
        return options.model, ()
    grid = tuple(dict.fromkeys(options.model.grid))
    fold = deal(truth, places, options.inner_folds, options.seed + 1, "inner folds")
    tried = []
    for setting in grid:
        logits = np.empty(len(truth))
        for k in range(options.inner_folds):
            train = fold != k
            model = fit(values[train], truth[train], columns, setting, options.balance, options.seed)
            logits[~train] = model.logits(values[~train])
        score = auc if options.metric == "auc" else average_precision
        tried.append(Trial(setting, score(logits, truth, weights_for(truth, options.prior))))
    return max(tried, key=lambda t: t.score).options, tuple(tried)
