"""`Calibration`: scores as log-odds to log-odds that hold what they promise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["none", "sigmoid", "isotonic"]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of log-odds.

    >>> sigmoid(np.array([0.0, -1000.0])).tolist()
    [0.5, 0.0]
    """
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def log_odds(share: float) -> float:
    """Log-odds of a share between 0 and 1."""
    return float(np.log(share) - np.log1p(-share))


@dataclass(frozen=True)
class Calibration:
    """A rising map of log-odds: none, `slope · z + offset`, or steps through `points`.

    Sigmoid: Platt 1999, by maximum likelihood on log-odds and without his smoothed targets, so that the mean
    probability of the rows that it was fitted on is their share of positives. Isotonic: Zadrozny and Elkan 2002, linear between the
    middles of its steps, which stay half a row away from 0 and 1.
    """

    kind: Kind = "none"
    slope: float = 1.0
    offset: float = 0.0
    points: tuple[tuple[float, float], ...] = ()

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated log-odds float64 of log-odds."""
        z = np.asarray(logits, np.float64)
        if self.kind == "isotonic":
            x, y = np.array(self.points).T
            return np.interp(z, x, y)
        return self.slope * z + self.offset

    @classmethod
    def fit(cls, kind: Kind, logits: np.ndarray, truth: np.ndarray) -> Calibration:
        """The calibration of log-odds out of fold; both classes must be there."""
        z, y = np.asarray(logits, np.float64), np.asarray(truth, bool)
        if kind == "none":
            return cls()
        return _isotonic(z, y) if kind == "isotonic" else _platt(z, y)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "kind": self.kind,
            "slope": self.slope,
            "offset": self.offset,
            "points": [list(p) for p in self.points],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Calibration:
        """What `to_dict` gave."""
        return cls(data["kind"], data["slope"], data["offset"], tuple((x, y) for x, y in data["points"]))


_LEAST_SLOPE = 1e-3  # scores that tell nothing keep their order
_MOST_SLOPE = 1e3  # scores that part the classes have no largest likelihood


def _platt(z: np.ndarray, y: np.ndarray) -> Calibration:
    """Newton's method with halved steps; the slope stays within bounds, and the offset fits the share to it."""
    centre, scale = z.mean(), z.std() or 1.0
    x = np.column_stack([(z - centre) / scale, np.ones_like(z)])
    w = np.array([1.0, log_odds(y.mean())])

    def loss(w: np.ndarray) -> float:
        s = x @ w
        return float(np.logaddexp(0, s).sum() - s[y].sum()) + 1e-6 * float(w[0] ** 2)

    now = loss(w)
    for _ in range(100):
        p = sigmoid(x @ w)
        gradient = x.T @ (p - y) + np.array([2e-6 * w[0], 0.0])
        curve = (x * (p * (1 - p))[:, None]).T @ x + np.diag([2e-6, 1e-12])
        step = np.linalg.solve(curve, gradient)
        while (then := loss(w - step)) > now and np.abs(step).max() > 1e-12:
            step /= 2
        w, now = w - step, min(now, then)
        if np.abs(step).max() < 1e-10:
            break
    slope = float(np.clip(w[0] / scale, _LEAST_SLOPE, _MOST_SLOPE))
    offset = float(w[1] - w[0] / scale * centre)
    if slope != w[0] / scale:
        from scipy.optimize import brentq

        reach = slope * np.abs(z).max() + 50
        offset = float(brentq(lambda b: sigmoid(slope * z + b).mean() - y.mean(), -reach, reach))  # type: ignore[arg-type]
    return Calibration("sigmoid", slope, offset)


def _isotonic(z: np.ndarray, y: np.ndarray) -> Calibration:
    from scipy.optimize import isotonic_regression

    there, index, count = np.unique(z, return_inverse=True, return_counts=True)
    share = np.bincount(index.reshape(-1), weights=y) / count
    steps = np.asarray(isotonic_regression(share, weights=count).x)
    starts = np.flatnonzero(np.r_[True, np.diff(steps) > 1e-12])
    rows = np.add.reduceat(count, starts)
    middle = np.add.reduceat(there * count, starts) / rows
    p = np.clip(steps[starts], 0.5 / rows, 1 - 0.5 / rows)
    # Half a row away from 0 may not fall behind a step that lies lower.
    p = np.maximum.accumulate(p)
    return Calibration(
        "isotonic", points=tuple(zip(middle.tolist(), np.log(p / (1 - p)).tolist(), strict=True))
    )
