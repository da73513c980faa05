"""What probabilities are worth: ranking (PR-AUC) and honesty (calibration error), from histograms."""

from __future__ import annotations

import numpy as np

BINS = 256
_REACH = 8.0  # log-odds beyond which all probabilities share a bin
_CELLS = 15


def probability_counts(probs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Labelled pixels int64 `[K, BINS, 2]` by class, step of the class's probability, and whether it is the truth.

    `probs [K, n]` and class index `[n]`; pixels whose truth is no class do not count. Steps are even in
    log-odds from -8 to 8, fine where rare classes' probabilities lie.
    """
    k = len(probs)
    labelled = truth < k
    p, t = np.asarray(probs[:, labelled], np.float32), truth[labelled]
    odds = np.log(np.maximum(p, 1e-30)) - np.log(np.maximum(1 - p, 1e-30))
    step = np.clip((odds + _REACH) * (BINS / (2 * _REACH)), 0, BINS - 1).astype(np.intp)
    out = np.empty((k, BINS, 2), np.int64)
    for c in range(k):
        out[c] = np.bincount(2 * step[c] + (t == c), minlength=2 * BINS).reshape(BINS, 2)
    return out


def average_precision(counts: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve `[..., K]` from counts `[..., K, BINS, 2]`, without interpolation.

    Σ (R_i - R_{i-1}) P_i over thresholds, as scikit-learn's `average_precision_score`, but that precision
    changes evenly inside a step. NaN where a class has no true pixel.
    """
    down = np.asarray(counts, np.float64)[..., ::-1, :].cumsum(-2)
    hits, given = down[..., 1], down.sum(-1)
    total = hits[..., -1:]
    gained = np.diff(hits, axis=-1, prepend=0)
    precision = np.divide(hits, given, out=np.full_like(hits, np.nan), where=given > 0)
    before = np.concatenate([precision[..., :1], precision[..., :-1]], -1)
    before = np.where(np.isnan(before), precision, before)
    area = np.nansum(gained * (before + precision) / 2, -1)
    return np.divide(area, total[..., 0], out=np.full(area.shape, np.nan), where=total[..., 0] > 0)


def calibration_error(counts: np.ndarray) -> np.ndarray:
    """Expected calibration error `[..., K]` of each class's probability, in 15 even cells of probability.

    Σ n_b/n · |share of the class - mean probability| (Naeini et al. 2015, class by class); probabilities are
    taken at the middle of their step. NaN where nothing is labelled.
    """
    counts = np.asarray(counts, np.float64)
    width = 2 * _REACH / BINS
    middle = 1 / (1 + np.exp(_REACH - width * (np.arange(BINS) + 0.5)))
    cell = np.minimum((middle * _CELLS).astype(int), _CELLS - 1)
    gather = np.eye(_CELLS)[cell]  # [BINS, cells]
    both = counts.sum(-1)
    share, claimed = counts[..., 1] @ gather, (both * middle) @ gather
    total = both.sum(-1)
    error = np.abs(share - claimed).sum(-1)
    return np.divide(error, total, out=np.full(total.shape, np.nan), where=total > 0)
