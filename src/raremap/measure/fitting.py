"""Fitting a decision: temperature first, then a bias by class, each only where it pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from raremap.errors import ConfigError, nearest
from raremap.measure import scores
from raremap.measure.decision import Decision
from raremap.measure.options import DecisionOptions
from raremap.measure.scores import Metric

_LARGEST = 4.0  # a bias beyond e^±4 says that the class cannot be told apart, not where the border lies
_GRID = np.linspace(-_LARGEST, _LARGEST, 241)
_ROUNDS = 4
_GROUPS = 5
_LEAST = float(np.finfo(np.float32).tiny)  # as `Decision.posterior`
_PARTS = 0.5, 0.25, 1.0
_EFFORT = 2_000_000  # numbers that further starts may look at
_COOLEST, _HOTTEST = 0.25, 4.0


def fit_decision(
    probs: np.ndarray,
    truth: np.ndarray,
    place: np.ndarray,
    weight: np.ndarray,
    options: DecisionOptions,
    way: dict[str, Any] | None = None,
    names: Sequence[str] = (),
    objects: Sequence[int] | None = None,
) -> Decision:
    """Temperature and bias for calibration pixels, or neither where it does not pay.

    `probs [n, K]`, `truth [n]`, `place [n]` and `weight [n]` are the pixels kept (`sample`); `names` are
    needed where the metric is of one class. The temperature minimises the cross-entropy (Guo et al. 2017);
    the bias is added to the tempered log probabilities and maximises the metric. A class's bias is shrunk
    to n/(n + `options.shrink`) of it for n `objects` of the class in the calibration places.

    Both are cross-fitted: places are dealt to five groups, each judged by what was fitted on the others.
    Each is kept where its gain exceeds its standard error, a jackknife over places. The likeliest class
    and those without a pixel keep a zero bias.
    """
    k, way = probs.shape[1], way or {}
    label, zero = _label(options), (0.0,) * k
    if options.kind == "argmax":
        return Decision(zero, label, note="argmax, as asked", way=way)
    metric = _metric(options, names)
    places = np.unique(place)
    held = tuple(len(np.unique(place[truth == c])) for c in range(k))
    told = {"places": len(places), "held": held, "way": way, "objects": tuple(objects or ())}
    if len(places) < 2:
        note = f"argmax: {len(places)} calibration place(s) are too few to fit a bias"
        return Decision(zero, label, note=note, **told)
    logs = np.log(np.maximum(probs, _LEAST))
    at = np.searchsorted(places, place)
    groups = at % min(_GROUPS, len(places))
    kept = _kept(objects, k, options.shrink)
    temperature, warm = np.ones(len(truth)), np.empty(len(truth), np.intp)
    for g in np.unique(groups):
        inside = groups == g
        rest = (logs[~inside], truth[~inside], weight[~inside])
        temperature[inside] = t = _best_temperature(*rest)
        bias = kept * best_bias(rest[0] / t, *rest[1:], metric)
        warm[inside] = (logs[inside] / t + bias).argmax(1)
    final = (
        _best_temperature(logs, truth, weight)
        if _tempering_pays(logs, truth, weight, at, temperature)
        else 1.0
    )
    before, after = (_by_place(truth, d, at, weight, len(places), k) for d in (logs.argmax(1), warm))
    gain, error = _jackknife(before, after, metric)
    known = f"{error:.4f}" if error is not None else "unknown"
    figures = f"cross-fitted gain in {label} {gain:+.4f}, standard error {known}, {len(places)} places"
    if error is None or not gain > error:
        note = f"argmax, since a bias by class would not pay ({figures})"
        return Decision(zero, label, gain, error, note=note, temperature=final, **told)
    bias = kept * best_bias(logs / final, truth, weight, metric)
    note = f"bias by class ({figures})"
    return Decision(tuple(bias.tolist()), label, gain, error, note=note, temperature=final, **told)


def _kept(objects: Sequence[int] | None, k: int, shrink: float) -> np.ndarray:
    """The share of each class's bias that is kept."""
    if objects is None or not shrink:
        return np.ones(k)
    n = np.asarray(objects, np.float64)
    return n / (n + shrink)


def _nll(logs: np.ndarray, truth: np.ndarray, temperature: np.ndarray | float) -> np.ndarray:
    """Cross-entropy of each pixel at a temperature (or each pixel's own)."""
    scaled = logs / (temperature[:, None] if isinstance(temperature, np.ndarray) else temperature)
    top = scaled.max(1)
    return np.log(np.exp(scaled - top[:, None]).sum(1)) + top - scaled[np.arange(len(truth)), truth]


def _best_temperature(logs: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> float:
    from scipy.optimize import minimize_scalar

    if len(truth) == 0:
        return 1.0
    bounds = np.log([_COOLEST, _HOTTEST])
    found: Any = minimize_scalar(
        lambda log_t: float(np.average(_nll(logs, truth, float(np.exp(log_t))), weights=weight)),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-3},
    )
    return float(np.exp(found.x))


def _tempering_pays(
    logs: np.ndarray, truth: np.ndarray, weight: np.ndarray, place: np.ndarray, temperature: np.ndarray
) -> bool:
    """Whether cross-fitted temperatures lower the mean cross-entropy by more than its standard error over places."""
    gain = weight * (_nll(logs, truth, 1.0) - _nll(logs, truth, temperature))
    total = np.bincount(place, gain)
    size = np.bincount(place, weight)
    mean = total.sum() / size.sum()
    left_out = (total.sum() - total) / (size.sum() - size)
    n = len(total)
    return mean > np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())


def _label(options: DecisionOptions) -> str:
    names = {"macro_f1": "macro-F1", "miou": "mIoU", "balanced_accuracy": "balanced accuracy"}
    return names[options.metric] if options.of is None else f"F{options.beta:g} of {options.of}"


def _metric(options: DecisionOptions, names: Sequence[str]) -> Metric:
    """The metric as a function of confusion matrices; means are over classes with a true pixel."""
    if options.of is not None:
        if options.of not in names:
            raise ConfigError(
                f"decision.of is '{options.of}', which is not a class; {nearest(options.of, names)}"
            )
        of = list(names).index(options.of)
        return lambda matrices: scores.f_beta(matrices, options.beta)[..., of]
    return lambda matrices: scores.headline(options.metric, matrices, np.zeros(matrices.shape[-1], bool))


def _by_place(
    truth: np.ndarray, decided: np.ndarray, place: np.ndarray, weight: np.ndarray, places: int, k: int
) -> np.ndarray:
    """Weighted confusion matrices `[places, K, K]`."""
    index = (place * k + truth) * k + decided
    return np.bincount(index, weight, minlength=places * k * k).reshape(places, k, k)


def _jackknife(before: np.ndarray, after: np.ndarray, metric: Metric) -> tuple[float, float | None]:
    """Gain of `after` over `before`, pooled over places, and its jackknife standard error."""
    n = len(before)
    gain = float(metric(after.sum(0)) - metric(before.sum(0)))
    left_out = metric(after.sum(0) - after) - metric(before.sum(0) - before)
    left_out = left_out[np.isfinite(left_out)]
    if len(left_out) < 2 or not np.isfinite(gain):
        return (gain if np.isfinite(gain) else 0.0), None
    return gain, float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))


def best_bias(logs: np.ndarray, truth: np.ndarray, weight: np.ndarray, metric: Metric) -> np.ndarray:
    """The bias `[K]` that maximises a metric of tempered log probabilities `[n, K]`.

    Only differences matter, so that the likeliest class stays at zero; so do classes without a pixel
    here: nothing is known of them. One class at a time is raised or lowered as long as the metric rises,
    from zero, from the classes' shares (a part of `-log share`, which favours the rare) and from random
    places near the best; the more of these, the fewer the pixels, since few pixels make many local optima.
    """
    k = logs.shape[1]
    support = np.bincount(truth, weight, minlength=k)
    free = [c for c in range(k) if support[c] > 0 and c != support.argmax()]
    if not free:
        return np.zeros(k)
    rarity = np.where(support > 0, np.log(support.max() / np.maximum(support, 1e-12)), 0.0)
    best, top = _climb(logs, truth, weight, metric, free, np.zeros(k))
    if k == 2:
        return best
    tries = int(np.clip(_EFFORT // logs.size, 1, 24))
    rng = np.random.default_rng(0)
    for i in range(tries):
        if i < len(_PARTS):
            start = np.clip(_PARTS[i] * rarity, 0, _LARGEST)
        else:
            start = np.clip(best + rng.normal(0, 0.5, k) * np.isin(np.arange(k), free), -_LARGEST, _LARGEST)
        bias, value = _climb(logs, truth, weight, metric, free, start)
        if value > top + 1e-9:
            best, top = bias, value
    return best


def _climb(
    logs: np.ndarray,
    truth: np.ndarray,
    weight: np.ndarray,
    metric: Metric,
    free: list[int],
    start: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Coordinate ascent from a bias: where it ends, and the metric there."""
    k, bias = logs.shape[1], start.copy()
    matrix = np.bincount(truth * k + (logs + bias).argmax(1), weight, minlength=k * k)
    best = float(metric(matrix.reshape(k, k)))
    for _ in range(_ROUNDS if k > 2 else 1):
        before = best
        for c in free:
            bias[c], best = _best_of_class(logs, truth, weight, bias, c, metric, best)
        if best <= before + 1e-6:
            break
    return bias, best


def _best_of_class(
    logs: np.ndarray,
    truth: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    c: int,
    metric: Metric,
    best: float,
) -> tuple[float, float]:
    """The best bias of class c with the others as they are, and the score it gives.

    A pixel goes to c when its bias exceeds that pixel's own threshold: counts along all biases are
    cumulative sums of one histogram. Two classes are solved exactly, more on a fixed grid.
    """
    k = logs.shape[1]
    threshold, rival = _thresholds(logs, bias, c)
    grid = _between(threshold) if k == 2 else _GRID
    moved = _histogram(threshold, rival, truth, weight, grid, k).cumsum(
        0
    )  # [bias, truth, rival] that went to c
    start = np.bincount(truth * k + rival, weight, minlength=k * k).reshape(k, k)
    matrices = start - moved
    matrices[:, :, c] += moved.sum(2)
    values = metric(matrices)
    if not np.isfinite(values).all():  # the metric's class has no pixel here
        return float(bias[c]), best
    top = float(values.max())
    if top <= best + 1e-9:
        return float(bias[c]), best
    # The middle of the best values: the least sensitive to where they end.
    ties = np.flatnonzero(values >= top - 1e-12)
    return float(grid[ties[len(ties) // 2]]), top


@numba.njit(cache=True, nogil=True)
def _thresholds(logs, bias, c):  # pragma: no cover - compiled
    """Each pixel's best other class, and the bias of c beyond which it goes to c."""
    n, k = logs.shape
    threshold, rival = np.empty(n), np.empty(n, np.intp)
    for i in range(n):
        best, at = -np.inf, 0
        for j in range(k):
            score = logs[i, j] + bias[j]
            if j != c and score > best:
                best, at = score, j
        threshold[i], rival[i] = best - logs[i, c], at
    return threshold, rival


@numba.njit(cache=True, nogil=True)
def _histogram(threshold, rival, truth, weight, grid, k):  # pragma: no cover - compiled
    """Weights by the first grid value that is not below the threshold, by class and rival."""
    out = np.zeros((len(grid), k, k))
    for i in range(len(threshold)):
        step = np.searchsorted(grid, threshold[i])
        if step < len(grid):
            out[step, truth[i], rival[i]] += weight[i]
    return out


def _between(threshold: np.ndarray) -> np.ndarray:
    """Biases that divide the pixels in every way that there is: one between each two thresholds, and zero."""
    levels = np.unique(np.clip(threshold, -_LARGEST, _LARGEST))
    ends = np.concatenate([[-_LARGEST], levels, [_LARGEST]])
    return np.unique(np.append((ends[1:] + ends[:-1]) / 2, 0.0))
