"""What probabilities are worth: ranking (PR-AUC) and honesty (calibration error), from histograms."""

from __future__ import annotations

import numpy as np

BINS = 512
_REACH = 32.0  # log-odds beyond which all probabilities share a step
_EVEN = 2.0  # up to about here steps are even in log-odds, further out each is as long as its distance asks
_WIDTH = 2 * np.arcsinh(_REACH / _EVEN) / BINS
_CELLS = 15


def probability_counts(probs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Labelled pixels int64 `[K, BINS, 2]` by class, step of the class's probability, and whether it is the truth.

    `probs [K, n]` and class index `[n]`; pixels whose truth is no class do not count. Steps are of log-odds
    from -32 to 32, from .03 in the middle to .4 at the ends, so that a ranking is kept however small or
    sure its probabilities are.
    """
    k = len(probs)
    labelled = truth < k
    p, t = np.asarray(probs[:, labelled], np.float32), truth[labelled]
    # The other classes' sum, and not 1 - p, which float32 rounds to 0 from log-odds of 17 on.
    below, above = np.zeros_like(p), np.zeros_like(p)
    np.cumsum(p[:-1], 0, out=below[1:])
    np.cumsum(p[:0:-1], 0, out=above[-2::-1])
    least = np.finfo(np.float32).tiny
    odds = np.log(np.maximum(p, least)) - np.log(np.maximum(below + above, least))
    step = np.clip(np.arcsinh(odds / _EVEN) / _WIDTH + BINS / 2, 0, BINS - 1).astype(np.intp)
    out = np.empty((k, BINS, 2), np.int64)
    for c in range(k):
        out[c] = np.bincount(2 * step[c] + (t == c), minlength=2 * BINS).reshape(BINS, 2)
    return out


def average_precision(counts: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve `[..., K]` from counts `[..., K, BINS, 2]`; NaN without a true pixel.

    scikit-learn's `average_precision_score` where no two pixels are equally sure. Inside a step hits and pixels
    given grow evenly (Davis & Goadrich 2006, section 4), and precision is integrated over recall: from G
    pixels with precision P, a step of g pixels with a share r of hits has a mean precision of
    w·P + (1 - w)·r, w = ln(1 + g/G)·G/g.
    """
    down = np.asarray(counts, np.float64)[..., ::-1, :]
    gained, more = down[..., 1], down.sum(-1)
    hits, given = gained.cumsum(-1) - gained, more.cumsum(-1) - more  # before the step

    def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)

    growth = ratio(more, given)
    weight = ratio(np.log1p(growth), growth)
    area = (gained * (weight * ratio(hits, given) + (1 - weight) * ratio(gained, more))).sum(-1)
    total = gained.sum(-1)
    return np.divide(area, total, out=np.full(area.shape, np.nan), where=total > 0)


def calibration_error(counts: np.ndarray) -> np.ndarray:
    """Expected calibration error `[..., K]` of each class's probability, in 15 even cells of probability.

    Σ n_b/n · |share of the class - mean probability| (Naeini et al. 2015, class by class); probabilities are
    taken at the middle of their step. NaN where nothing is labelled.
    """
    counts = np.asarray(counts, np.float64)
    middle = 1 / (1 + np.exp(-_EVEN * np.sinh(_WIDTH * (np.arange(BINS) + 0.5 - BINS / 2))))
    cell = np.minimum((middle * _CELLS).astype(int), _CELLS - 1)
    gather = np.eye(_CELLS)[cell]  # [BINS, cells]
    both = counts.sum(-1)
    share, claimed = counts[..., 1] @ gather, (both * middle) @ gather
    total = both.sum(-1)
    error = np.abs(share - claimed).sum(-1)
    return np.divide(error, total, out=np.full(total.shape, np.nan), where=total > 0)
