"""Ranking and honesty of scores of rows, with intervals by a bootstrap over places (or rows, where there are none)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from raremap.measure.interval import FEW_PLACES, Interval, Resample

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]
_VALUES = 1 << 23


class Ranked:
    """Rows from the highest score down, to measure their ranking under many sets of weights at once."""

    def __init__(self, scores: np.ndarray, truth: np.ndarray) -> None:
        self.order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
        ranked = np.asarray(scores, np.float64)[self.order]
        self.truth = np.asarray(truth, bool)[self.order]
        self.starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])

    def counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positives and negatives `[B, ties]` at each distinct score, of weights `[B, n]`."""
        w = np.atleast_2d(weights)[:, self.order]
        both = np.add.reduceat(w, self.starts, 1)
        hits = np.add.reduceat(np.where(self.truth, w, 0), self.starts, 1)
        return hits, both - hits


def _average_precision(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    found, given = hits.cumsum(1), (hits + misses).cumsum(1)
    precision = np.divide(found, given, out=np.zeros_like(found), where=given > 0)
    return _ratio((precision * hits).sum(1), found[:, -1])


def _auc(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    passed = misses.cumsum(1) - misses / 2
    total, others = hits.sum(1), misses.sum(1)
    return 1 - _ratio((hits * passed).sum(1), total * others)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def weights_for(truth: np.ndarray, prior: float | None) -> np.ndarray | None:
    """Weights `[n]` under which the share of positive rows is `prior`, on average 1; None where none is given."""
    if prior is None:
        return None
    share = float(np.mean(truth))
    return np.where(truth, prior / share, (1 - prior) / (1 - share))


def cells_of(order: np.ndarray, cells: int, weights: np.ndarray | None = None) -> list[np.ndarray]:
    """Rows in `order`, cut into cells of equally many of them, or of equal weight."""
    if weights is None:
        return np.array_split(order, cells)
    passed = weights[order].cumsum()
    cuts = np.searchsorted(passed, passed[-1] * np.arange(1, cells) / cells)
    return [rows for rows in np.split(order, cuts) if len(rows)]


def average_precision(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Σ precision · gain of recall over distinct scores; scikit-learn's `average_precision_score`."""
    one = np.ones(len(truth)) if weights is None else weights
    return float(_average_precision(*Ranked(scores, truth).counts(one))[0])


def auc(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Probability that a positive row scores above a negative one, ties half."""
    one = np.ones(len(truth)) if weights is None else weights
    return float(_auc(*Ranked(scores, truth).counts(one))[0])


def best_threshold(logits: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The log-odds from which on calling rows positive has the highest F1; midway to the next score below."""
    ranked = Ranked(logits, truth)
    hits, misses = ranked.counts(np.ones(len(truth)) if weights is None else weights)
    found, given = hits[0].cumsum(), (hits + misses)[0].cumsum()
    best = int(np.argmax(2 * found / (given + found[-1])))
    scores = np.asarray(logits, np.float64)[ranked.order][ranked.starts]
    return float(scores[best] if best + 1 == len(scores) else (scores[best] + scores[best + 1]) / 2)


def f1(called: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """F1 `[B]` of booleans under weights `[B, n]`; NaN where nothing is positive, called or true."""
    w = np.atleast_2d(weights)
    return _ratio(2 * (w @ (called & truth)), w @ called.astype(float) + w @ truth.astype(float))


def log_loss(logits: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean negative log-likelihood."""
    return float(np.average(np.logaddexp(0, np.where(truth, -logits, logits)), weights=weights))


def brier(logits: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean squared difference of probability and truth."""
    from raremap.tabular.calibration import sigmoid

    return float(np.average((sigmoid(logits) - truth) ** 2, weights=weights))


def calibration_error(
    logits: np.ndarray, truth: np.ndarray, cells: int = 15, weights: np.ndarray | None = None
) -> float:
    """Expected calibration error: mean over cells of equally many rows (or weight) of |share - mean probability|.

    Even cells of probability, which are usual, would hold nearly all rows of a rare class in the first.
    """
    from raremap.tabular.calibration import sigmoid

    one = np.ones(len(truth)) if weights is None else weights
    p, y = one * sigmoid(logits), one * truth
    parts = cells_of(np.argsort(logits, kind="stable"), cells, weights)
    return float(sum(abs(p[rows].sum() - y[rows].sum()) for rows in parts) / one.sum())


def intervals(
    logits: np.ndarray,
    truth: np.ndarray,
    called: np.ndarray,
    place: np.ndarray,
    replicates: int,
    seed: int,
    other: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> dict[str, Interval]:
    """Average precision, AUC and (of `called`) F1 with 95 % intervals; places int `[n]` are drawn with replacement.

    With `other`, logits of another method for the same rows, the differences to it, paired; without F1. `weights [n]`
    say how much each row counts.
    """  # fmt: skip
    ranked = Ranked(logits, truth)
    against = Ranked(other, truth) if other is not None else None

    def figures(w: np.ndarray) -> np.ndarray:
        def ranking(r: Ranked) -> np.ndarray:
            counts = r.counts(w)
            return np.stack([_average_precision(*counts), _auc(*counts)])

        if against is not None:
            return ranking(ranked) - ranking(against)
        return np.concatenate([ranking(ranked), f1(called, truth, w)[None]])

    n, places = len(truth), int(place.max()) + 1
    one = np.ones(n) if weights is None else weights
    rng = np.random.default_rng((seed, 0x7AB1E))
    drawn = []
    step = max(1, _VALUES // (4 * n))
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        counts = np.stack(
            [np.bincount(rng.integers(places, size=places), minlength=places) for _ in range(rows)]
        )
        drawn.append(figures(counts[:, place] * one))
    replicas, value = np.concatenate(drawn, 1), figures(one[None])[:, 0]
    holding = len(np.unique(place[truth]))
    names = ("average_precision", "auc", "f1")[: len(value)]
    out = {}
    for name, one, many in zip(names, value, replicas, strict=True):
        # No bounds here are of the jackknife, which is what the third part is for.
        sample = Resample(float(one), many, np.full(places, np.nan))
        low, high = sample.bounds("expanded", 0.95, holding)
        out[name] = Interval(
            float(one),
            low,
            high,
            0.95,
            places,
            holding,
            holding < FEW_PLACES,
            "expanded",
            other is not None,
            sample.left_out,
        )
    return out
