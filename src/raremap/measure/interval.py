"""How sure a score is: a block bootstrap over places and seeds, paired where two methods are compared.

Pixels of one place are alike, so places are drawn and not pixels: a place's whole confusion matrix is drawn
with it. What decides the width is the number of places that hold the class, not the number of pixels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import norm, t

from raremap.measure.scores import Metric
from raremap.plain import plain

Method = Literal["percentile", "bca", "expanded"]

# With fewer places than this that hold a class, bounds are computed and not shown as an interval.
FEW_PLACES = 20

_BLOCK = 2**22  # float64 values that a block of replicates may take: 32 MB


@dataclass(frozen=True)
class Interval:
    """A figure with its bounds; a difference of two methods where `paired`.

    `holding` counts the places that hold the class in question, `few` says that they are fewer than
    `FEW_PLACES`, `left_out` counts the replicates in which the figure was undefined. Bounds are NaN where
    nothing can be said. Of the `judged` places that have the figure in both methods it is higher in `higher`.

    >>> str(Interval(0.021, 0.003, 0.04, 0.95, 60, 24, few=False, method="expanded", paired=True))
    '+0.021 [+0.003, +0.040]'
    >>> str(Interval(0.021, 0.003, 0.04, 0.95, 18, 7, few=True, method="expanded", paired=True))
    '+0.021 (too few places: 7)'
    >>> str(Interval(0.021, 0.003, 0.04, 0.95, 18, 7, few=True, method="expanded", paired=True, higher=6, judged=7))
    '+0.021 (higher in 6 of 7 places)'
    """

    value: float
    low: float
    high: float
    level: float
    places: int
    holding: int
    few: bool
    method: str
    paired: bool = False
    left_out: int = 0
    higher: int = 0
    judged: int = 0

    def __str__(self) -> str:
        return self.text()

    def text(self, scale: float = 1, digits: int = 3) -> str:
        """The figure, times `scale`, with its bounds or why there are none."""

        def said(value: float) -> str:
            return f"{scale * value:{'+' if self.paired else ''}.{digits}f}"

        value = "undefined" if np.isnan(self.value) else said(self.value)
        if self.few and self.judged > 1:
            return f"{value} (higher in {self.higher} of {self.judged} places)"
        if self.few:
            return f"{value} (too few places: {self.holding})"
        if np.isnan(self.low) or np.isnan(self.high):
            return f"{value} (no interval)"
        return f"{value} [{said(self.low)}, {said(self.high)}]"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields; NaN is null."""
        return plain(asdict(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Interval:
        """What `to_dict` gave."""
        fields: dict[str, Any] = {k: float("nan") if v is None else v for k, v in data.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Resample:
    """A figure, its replicates `[B]`, and the figure without each place `[P]`; NaN where undefined."""

    value: float
    drawn: np.ndarray
    without: np.ndarray

    @property
    def left_out(self) -> int:
        """Replicates in which the figure is undefined."""
        return int(np.isnan(self.drawn).sum())

    def bounds(self, method: Method, level: float, holding: int) -> tuple[float, float]:
        """Lower and upper bound of a two-sided interval; NaN where nothing can be said.

        percentile: the quantiles (1 ∓ level) / 2 of the replicates (Efron 1979). bca: the same, with levels
        moved for bias, read from the replicates, and for skewness, read from the jackknife over places
        (Efron 1987, equations 2.3 and 6.6). expanded: percentile with the tail α/2 replaced by
        Φ(-√(n/(n-1)) · t(1-α/2; n-1)), n = `holding` (Hesterberg 2015, section 3.3).
        """
        drawn = self.drawn[~np.isnan(self.drawn)]
        if np.isnan(self.value) or not len(drawn) or min(holding, len(self.without)) < 2:
            return float("nan"), float("nan")
        tail = (1 - level) / 2
        if method == "expanded":
            tail = norm.cdf(-np.sqrt(holding / (holding - 1)) * t.ppf(1 - tail, holding - 1))
        levels = np.array([tail, 1 - tail])
        if method == "bca":
            levels = _bca(levels, self.value, drawn, self.without[~np.isnan(self.without)])
        low, high = np.quantile(drawn, levels)
        return float(low), float(high)


def resample(
    metric: Metric,
    matrices: np.ndarray,
    baseline: np.ndarray | None = None,
    *,
    rng: np.random.Generator,
    replicates: int = 2000,
) -> Resample:
    """Draws places and, independently, seeds with replacement from confusion matrices `[S, P, K, K]`.

    The figure is the mean over seeds of the metric of the sum over places; with a baseline of the same
    places and seeds, it is the method's figure minus the baseline's, under the same draws.
    """
    sides = [_flat(m) for m in ([matrices] if baseline is None else [matrices, baseline])]
    if baseline is not None and baseline.shape != matrices.shape:
        raise ValueError(
            f"the method's matrices have shape {matrices.shape}, the baseline's {baseline.shape}; "
            "a paired interval needs the same seeds, places and classes"
        )
    seeds, places, k, _ = matrices.shape

    def figures(place_counts: np.ndarray, seed_counts: np.ndarray) -> np.ndarray:
        """Figures `[B]` of draws given as counts `[B, P]` and `[B, S]`."""
        method, *other = (_mean_over_seeds(metric, place_counts @ side, seed_counts, k) for side in sides)
        return method - other[0] if other else method

    block = max(1, _BLOCK // (4 * seeds * k * k + 2 * places))
    seed_counts = _counts(rng, replicates, seeds)
    drawn = [
        figures(_counts(rng, len(part), places), part)
        for part in np.split(seed_counts, range(block, replicates, block))
    ]
    without = [
        figures(1 - np.eye(places)[i : i + block], np.ones((1, seeds))) for i in range(0, places, block)
    ]
    value = figures(np.ones((1, places)), np.ones((1, seeds)))
    return Resample(float(value[0]), np.concatenate(drawn), np.concatenate(without))


def interval(
    metric: Metric,
    matrices: np.ndarray,
    baseline: np.ndarray | None = None,
    *,
    holding: int,
    rng: np.random.Generator,
    level: float = 0.95,
    replicates: int = 2000,
    method: Method = "expanded",
) -> Interval:
    """The figure of `[S, P, K, K]` confusion matrices (see `resample`) with its bounds.

    `holding` is the number of places that hold the class that the metric is about; for a mean over classes,
    the fewest over its classes. The default is "expanded": in benchmarks/interval_coverage.py it covers most
    often throughout (from 24 places on, with five seeds: 91 to 95 %, percentile 89 to 94 %, BCa 81 to 90 %)
    and is at most 7 % wider than percentile there. The metric must not warn where it is undefined.

    >>> place = np.array([[90, 10], [5, 5]])
    >>> accuracy = lambda m: m.trace(axis1=-2, axis2=-1) / m.sum((-2, -1))
    >>> same = np.broadcast_to(place, (1, 30, 2, 2))
    >>> print(interval(accuracy, same, holding=30, rng=np.random.default_rng(0)))
    0.864 [0.864, 0.864]
    """
    places = matrices.shape[1]
    if not 0 <= holding <= places:
        raise ValueError(f"holding is {holding}, there are {places} places; give how many hold the class")
    draws = resample(metric, matrices, baseline, rng=rng, replicates=replicates)
    low, high = draws.bounds(method, level, holding)
    gains = np.empty(0) if baseline is None else metric(matrices.sum(0)) - metric(baseline.sum(0))
    return Interval(
        draws.value,
        low,
        high,
        level,
        places,
        holding,
        few=holding < FEW_PLACES,
        method=method,
        paired=baseline is not None,
        left_out=draws.left_out,
        higher=int((gains > 0).sum()),
        judged=int(np.isfinite(gains).sum()),
    )


def _flat(matrices: np.ndarray) -> np.ndarray:
    """`[S, P, K, K]` as float64 `[P, S·K·K]`."""
    if matrices.ndim != 4 or matrices.shape[2] != matrices.shape[3] or 0 in matrices.shape:
        raise ValueError(f"matrices have shape {matrices.shape}, expected [seeds, places, classes, classes]")
    return matrices.transpose(1, 0, 2, 3).reshape(matrices.shape[1], -1).astype(np.float64)


def _counts(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """How often each of n things is drawn in n draws with replacement, `[rows, n]`."""
    # Much faster than rng.multinomial, which draws n binomials a row.
    flat = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(flat.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _mean_over_seeds(metric: Metric, pooled: np.ndarray, seed_counts: np.ndarray, k: int) -> np.ndarray:
    """`[B]` from pooled matrices `[B, S·K·K]`; a seed that is not drawn may be undefined."""
    seeds = seed_counts.shape[1]
    by_seed = metric(pooled.reshape(-1, seeds, k, k))
    return np.where(seed_counts > 0, seed_counts * by_seed, 0).sum(1) / seeds


def _bca(levels: np.ndarray, value: float, drawn: np.ndarray, without: np.ndarray) -> np.ndarray:
    n = len(drawn)
    below = ((drawn < value).sum() + (drawn <= value).sum()) / (2 * n)
    # Half a replicate on the empty side, lest the bias be infinite where all lie on one side.
    bias = norm.ppf(np.clip(below, 0.5 / n, 1 - 0.5 / n))
    pull = without.mean() - without if len(without) else np.zeros(1)
    square = (pull**2).sum()
    acceleration = (pull**3).sum() / (6 * square**1.5) if square > 0 else 0.0
    z = bias + norm.ppf(levels)
    room = 1 - acceleration * z
    moved = norm.cdf(bias + np.divide(z, room, out=np.zeros(2), where=room > 0))
    # Beyond the pole of the formula lies the last replicate.
    return np.where(room > 0, moved, z > 0)
