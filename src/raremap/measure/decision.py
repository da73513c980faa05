"""The decision: which class, given probabilities. A bias by class, fitted last and only where it pays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numba
import numpy as np

from raremap.errors import ConfigError, nearest
from raremap.measure.options import DecisionOptions

_LARGEST = 4.0  # a bias beyond e^±4 says that the class cannot be told apart, not where the border lies
_GRID = np.linspace(-_LARGEST, _LARGEST, 241)
_ROUNDS = 4
_GROUPS = 5
_LEAST = 1e-6

# Confusion matrices `[..., K, K]` to one figure each.
Metric = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Decision:
    """`argmax_c [log p_c + bias_c]`; a zero bias is the plain argmax, and for two classes a threshold.

    `gain` is what the bias gains in `metric` on calibration places that it was not fitted on, `gain_se`
    its standard error over places (None: unknown). `held` counts the calibration places that hold each
    class. `way` is the way of predicting that it was fitted for.
    """

    bias: tuple[float, ...]
    metric: str = "macro-F1"
    gain: float = 0.0
    gain_se: float | None = None
    places: int = 0
    held: tuple[int, ...] = ()
    note: str = "argmax"
    way: dict[str, Any] = field(default_factory=dict)

    @property
    def fitted(self) -> bool:
        """Whether it differs from the plain argmax."""
        return any(self.bias)

    @cached_property
    def _factors(self) -> np.ndarray:
        return np.exp(np.asarray(self.bias, np.float64)).astype(np.float32)

    def apply(self, probs: np.ndarray) -> np.ndarray:
        """Class index uint8 `[h, w]` of probabilities float32 `[K, h, w]`."""
        if len(self.bias) != len(probs):
            raise ValueError(f"a decision of {len(self.bias)} classes on probabilities of {len(probs)}")
        return _argmax(probs, self._factors)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "bias": list(self.bias), "held": list(self.held)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Decision:
        """What `to_dict` gave."""
        return cls(**{**data, "bias": tuple(data["bias"]), "held": tuple(data.get("held", ()))})


def most_likely(probs: np.ndarray) -> np.ndarray:
    """Class index uint8 `[h, w]` of the greatest of probabilities `[K, h, w]`; the first where equal."""
    return _argmax(probs, np.ones(len(probs), np.float32))


@numba.njit(cache=True, nogil=True)
def _argmax(probs, factors):  # pragma: no cover - compiled
    k, h, w = probs.shape
    out = np.zeros((h, w), np.uint8)
    best = np.empty(w, np.float32)
    for r in range(h):
        for x in range(w):
            best[x] = probs[0, r, x] * factors[0]
        for c in range(1, k):
            for x in range(w):
                score = probs[c, r, x] * factors[c]
                if score > best[x]:
                    best[x] = score
                    out[r, x] = c
    return out


class PixelSample:
    """A bounded sample of pixels, as many of each class as fit, with the weight that each stands for.

    Every pixel gets a random key, and the smallest keys of each class stay: a sample without
    replacement, whatever the order of what comes in.
    """

    def __init__(self, num_classes: int, size: int, seed: int) -> None:
        self._k, self._each = num_classes, max(1, size // num_classes)
        self._rng = np.random.default_rng((seed, 0xCA11))
        self._seen = np.zeros(num_classes, np.int64)
        self._filled = np.zeros(num_classes, np.int64)
        self._keys = np.empty((num_classes, self._each))
        self._probs = np.empty((num_classes, self._each, num_classes), np.float32)
        self._place = np.empty((num_classes, self._each), np.int64)

    def add(self, probs: np.ndarray, truth: np.ndarray, place: int) -> None:
        """Pixels with probabilities `[K, n]` and class index `[n]` of one place."""
        keys = self._rng.random(len(truth))
        for c in range(self._k):
            here = np.flatnonzero(truth == c)
            self._seen[c] += len(here)
            room = self._each - self._filled[c]
            self._put(
                c,
                np.arange(self._filled[c], self._filled[c] + len(here[:room])),
                here[:room],
                keys,
                probs,
                place,
            )
            here = here[room:]
            if len(here) == 0:
                continue
            here = here[keys[here] < self._keys[c].max()]
            if len(here) == 0:
                continue
            both = np.concatenate([self._keys[c], keys[here]])
            out = np.argpartition(both, self._each - 1)[self._each :]
            stay = np.ones(len(both), bool)
            stay[out] = False
            self._put(c, np.sort(out[out < self._each]), here[stay[self._each :]], keys, probs, place)

    def _put(
        self, c: int, at: np.ndarray, pixels: np.ndarray, keys: np.ndarray, probs: np.ndarray, place: int
    ) -> None:
        self._keys[c, at], self._probs[c, at], self._place[c, at] = keys[pixels], probs[:, pixels].T, place
        self._filled[c] = max(self._filled[c], at[-1] + 1 if len(at) else 0)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Probabilities `[n, K]`, class index, place and weight `[n]`."""
        truth = np.repeat(np.arange(self._k), self._filled)
        probs = np.concatenate([self._probs[c, :n] for c, n in enumerate(self._filled)])
        place = np.concatenate([self._place[c, :n] for c, n in enumerate(self._filled)])
        return probs, truth, place, np.repeat(self._seen / np.maximum(self._filled, 1), self._filled)


def fit_decision(
    probs: np.ndarray,
    truth: np.ndarray,
    place: np.ndarray,
    weight: np.ndarray,
    options: DecisionOptions,
    way: dict[str, Any] | None = None,
    names: Sequence[str] = (),
) -> Decision:
    """The bias that maximises the metric on calibration pixels, or none where it does not pay.

    `probs [n, K]`, `truth [n]`, `place [n]` and `weight [n]` are sampled pixels; `names` are needed where
    the metric is of one class. The gain is cross-fitted: places are dealt to five groups, each group
    decided by the bias of the others; its standard error is the jackknife over places. The bias is kept
    where the gain exceeds that. The likeliest class and those without a sampled pixel keep a zero bias.
    """
    k, way = probs.shape[1], way or {}
    zero, label = (0.0,) * k, _label(options)
    if options.kind == "argmax":
        return Decision(zero, label, note="argmax, as asked", way=way)
    metric = _metric(options, names)
    places = np.unique(place)
    held = tuple(len(np.unique(place[truth == c])) for c in range(k))
    if len(places) < 2:
        note = f"argmax: {len(places)} calibration place(s) are too few to fit a bias"
        return Decision(zero, label, places=len(places), held=held, note=note, way=way)
    logs = np.log(np.maximum(probs, _LEAST))
    groups = np.searchsorted(places, place) % min(_GROUPS, len(places))
    decided = np.empty(len(truth), np.intp)
    for g in np.unique(groups):
        inside = groups == g
        bias = _best_bias(logs[~inside], truth[~inside], weight[~inside], metric)
        decided[inside] = (logs[inside] + bias).argmax(1)
    plain = logs.argmax(1)
    before, after = (_by_place(truth, d, place, weight, places, k) for d in (plain, decided))
    gain, error = _jackknife(before, after, metric)
    known = f"{error:.4f}" if error is not None else "unknown"
    figures = f"cross-fitted gain in {label} {gain:+.4f}, standard error {known}, {len(places)} places"
    if error is None or not gain > error:
        note = f"argmax, since a bias by class would not pay ({figures})"
        return Decision(zero, label, gain, error, len(places), held, note, way)
    bias = _best_bias(logs, truth, weight, metric)
    note = f"bias by class ({figures})"
    return Decision(tuple(bias.tolist()), label, gain, error, len(places), held, note, way)


def _label(options: DecisionOptions) -> str:
    names = {"macro_f1": "macro-F1", "miou": "mIoU", "balanced_accuracy": "balanced accuracy"}
    return names[options.metric] if options.of is None else f"F{options.beta:g} of {options.of}"


def _metric(options: DecisionOptions, names: Sequence[str]) -> Metric:
    """The metric as a function of confusion matrices; means are over classes with a true pixel."""
    if options.of is not None and options.of not in names:
        raise ConfigError(
            f"decision.of is '{options.of}', which is not a class; {nearest(options.of, names)}"
        )
    of, beta2 = (list(names).index(options.of) if options.of else None), options.beta**2

    def value(matrices: np.ndarray) -> np.ndarray:
        hits = np.diagonal(matrices, axis1=-2, axis2=-1)
        support, given = matrices.sum(-1), matrices.sum(-2)
        top, bottom = {
            "macro_f1": (2 * hits, support + given),
            "miou": (hits, support + given - hits),
            "balanced_accuracy": (hits, support),
            "f_beta": ((1 + beta2) * hits, beta2 * support + given),
        }[options.metric]
        present = support > 0
        scores = np.divide(top, bottom, out=np.zeros(np.shape(hits)), where=present)
        if of is not None:
            return np.where(present[..., of], scores[..., of], np.nan)
        count = present.sum(-1)
        return np.divide(scores.sum(-1), count, out=np.full(np.shape(count), np.nan), where=count > 0)

    return value


def _by_place(
    truth: np.ndarray, decided: np.ndarray, place: np.ndarray, weight: np.ndarray, places: np.ndarray, k: int
) -> np.ndarray:
    """Weighted confusion matrices `[places, K, K]`."""
    index = (np.searchsorted(places, place) * k + truth) * k + decided
    return np.bincount(index, weight, minlength=len(places) * k * k).reshape(len(places), k, k)


def _jackknife(before: np.ndarray, after: np.ndarray, metric: Metric) -> tuple[float, float | None]:
    """Gain of `after` over `before`, pooled over places, and its jackknife standard error."""
    n = len(before)
    gain = float(metric(after.sum(0)) - metric(before.sum(0)))
    left_out = metric(after.sum(0) - after) - metric(before.sum(0) - before)
    left_out = left_out[np.isfinite(left_out)]
    if len(left_out) < 2 or not np.isfinite(gain):
        return (gain if np.isfinite(gain) else 0.0), None
    return gain, float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))


def _best_bias(logs: np.ndarray, truth: np.ndarray, weight: np.ndarray, metric: Metric) -> np.ndarray:
    """Coordinate ascent: the bias of each class in turn, as long as the metric rises.

    Only differences matter, so that the likeliest class stays at zero; so do classes without a pixel
    here: nothing is known of them.
    """
    k = logs.shape[1]
    support = np.bincount(truth, weight, minlength=k)
    free = [c for c in range(k) if support[c] > 0 and c != support.argmax()]
    bias = np.zeros(k)
    start = np.bincount(truth * k + logs.argmax(1), weight, minlength=k * k)
    best = float(metric(start.reshape(k, k)))
    for _ in range(_ROUNDS if k > 2 else 1):
        before = best
        for c in free:
            bias[c], best = _best_of_class(logs, truth, weight, bias, c, metric, best)
        if best <= before + 1e-6:
            break
    return bias


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
    scores = logs + bias
    scores[:, c] = -np.inf
    rival = scores.argmax(1)
    threshold = scores[np.arange(len(truth)), rival] - logs[:, c]
    grid = _between(threshold) if k == 2 else _GRID
    step = np.searchsorted(grid, threshold, side="left")  # first grid value that is not below the threshold
    moved = np.bincount((step * k + truth) * k + rival, weight, minlength=(len(grid) + 1) * k * k)
    moved = moved.reshape(len(grid) + 1, k, k)[:-1].cumsum(0)  # [bias, truth, rival] that went to c
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


def _between(threshold: np.ndarray) -> np.ndarray:
    """Biases that divide the pixels in every way that there is: one between each two thresholds, and zero."""
    levels = np.unique(np.clip(threshold, -_LARGEST, _LARGEST))
    ends = np.concatenate([[-_LARGEST], levels, [_LARGEST]])
    return np.unique(np.append((ends[1:] + ends[:-1]) / 2, 0.0))
