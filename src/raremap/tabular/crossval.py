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
class Chosen:
    """A setting, all that were tried, and its log-odds out of the inner folds (None where nothing was tuned)."""

    options: Options
    trials: tuple[Trial, ...] = ()
    logits: np.ndarray | None = None


@dataclass(frozen=True)
class CrossValidated:
    """Log-odds out of fold `[n]`, before (`logits`) and after calibration, of the folds' models.

    `calibrations` has that of each fold's model, fitted on rows outside its fold. `chosen` is the final model's setting,
    `own [n]` are log-odds out of fold by models of this setting, and `calibration`, fitted on them, is the final model's.
    """

    fold: np.ndarray
    logits: np.ndarray
    unshifted: np.ndarray
    calibrated: np.ndarray
    calibrations: tuple[Calibration, ...]
    models: tuple[Fitted, ...]
    trials: tuple[tuple[Trial, ...], ...]
    chosen: Chosen
    own: np.ndarray
    calibration: Calibration


def cross_validate(
    values: np.ndarray,
    truth: np.ndarray,
    columns: Columns,
    places: Places,
    options: TableOptions,
    progress: Progress | None = None,
) -> CrossValidated:
    """Score every row out of fold; settings are chosen inside the rows of training, on folds of the same kind.

    Models of different settings give log-odds of different widths, which may not be put together as they are. So where
    settings are tuned, each model's calibration is fitted on its own setting's scores out of the inner folds; where
    they are not, on the scores of the other folds.
    """
    bar = progress or Silent()
    fold = deal(truth, places, options.folds, options.seed)
    logits, unshifted = np.empty(len(truth)), np.empty(len(truth))
    models, found = [], []
    for k in range(options.folds):
        train, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        chosen = choose(values[train], truth[train], columns, places.of(train), options)
        model = fit(values[train], truth[train], columns, chosen.options, options.balance, options.seed)
        logits[test] = model.logits(values[test])
        unshifted[test] = logits[test] + model.shift
        models.append(model)
        found.append(chosen)
        bar.advance()
    calibrated, calibrations = np.empty(len(truth)), []
    for k, chosen in enumerate(found):
        others = fold != k
        seen = logits[others] if chosen.logits is None else chosen.logits
        calibrations.append(Calibration.fit(options.calibration, seen, truth[others]))
        calibrated[~others] = calibrations[k](logits[~others])
    final = choose(values, truth, columns, places, options)
    own = logits if final.logits is None else final.logits
    whole = Calibration.fit(options.calibration, own, truth)
    trials = tuple(chosen.trials for chosen in found)
    return CrossValidated(
        fold, logits, unshifted, calibrated, tuple(calibrations), tuple(models), trials, final, own, whole
    )


def choose(
    values: np.ndarray, truth: np.ndarray, columns: Columns, places: Places, options: TableOptions
) -> Chosen:
    """The setting of the grid with the best score on inner folds of the same kind; the first where nothing is tuned.

    The score is for the true share of positives, where the options say it.
    """
    if not options.tune:
        return Chosen(options.model)
    grid = tuple(dict.fromkeys(options.model.grid))
    fold = deal(truth, places, options.inner_folds, options.seed + 1, "inner folds")
    score = auc if options.metric == "auc" else average_precision
    tried, scored = [], []
    for setting in grid:
        logits = np.empty(len(truth))
        for k in range(options.inner_folds):
            train = fold != k
            model = fit(values[train], truth[train], columns, setting, options.balance, options.seed)
            logits[~train] = model.logits(values[~train])
        tried.append(Trial(setting, score(logits, truth, weights_for(truth, options.prior))))
        scored.append(logits)
    best = max(range(len(grid)), key=lambda i: tried[i].score)
    return Chosen(grid[best], tuple(tried), scored[best])
