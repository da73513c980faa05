"""`Fusion`: an image model's and a table's log-odds of the same rows to one, in which nothing counts twice.

Both sides are first calibrated on the rows they are joined on (Platt 1999), so that each is log-odds of the same
thing, whatever prior it carried before. Less the log-odds of the rows' own share of positives they are evidence.
The fused log-odds are `log-odds of the share + bias + w_image · evidence + w_table · evidence`, the weights fitted
jointly by logistic regression (stacking: Wolpert 1992). Where the sides are independent given the class the
weights come to (1, 1); what both know of (slope) comes into both, and the weights fall short of that by as much.

The weights are drawn towards (½, ½), the pool of logarithms (Genest and Zidek 1986), with a normal prior of standard
deviation `SPREAD`: few rows give the cautious answer, that both say the same thing. The bias is not drawn
anywhere, so the mean probability of the rows is their share of positives: their prior counts once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from raremap.tabular.calibration import Calibration, log_odds, sigmoid
from raremap.tabular.measures import best_threshold

SPREAD = 0.5
"""Standard deviation of the prior of each weight: 0 and 1 lie one away from the ½ it is drawn to."""

_CUTS = 64


@dataclass(frozen=True)
class Alarms:
    """Which rows are alarms, bool `[n]`: by the fused log-odds, and by each side confirming the other."""

    fused: np.ndarray
    double_check: np.ndarray


@dataclass(frozen=True)
class Fusion:
    """Log-odds of image and table to fused ones, which carry `prior`: the share of positives in the rows of the fit.

    `threshold` is for the fused log-odds; `both` are those of image and table, after their calibration, that an alarm
    of the double check exceeds together. All are for log-odds at `prior`.
    """

    image: Calibration
    table: Calibration
    weights: tuple[float, float]
    bias: float
    prior: float
    threshold: float
    both: tuple[float, float]

    @classmethod
    def fit(cls, image: np.ndarray, table: np.ndarray, truth: np.ndarray) -> Fusion:
        """The fusion of log-odds `[n]` of rows that neither model has used; both classes must be there.

        Rows where a side is NaN (clouds, no row in the table) are left out.
        """
        known = ~(np.isnan(image) | np.isnan(table))
        i, t, y = image[known], table[known], np.asarray(truth, bool)[known]
        if y.all() or not y.any():
            raise ValueError(f"{int(y.sum())} of {len(y)} rows are positive; both classes are needed")
        sides = Calibration.fit("sigmoid", i, y), Calibration.fit("sigmoid", t, y)
        prior = float(y.mean())
        logits = np.column_stack([side(z) for side, z in zip(sides, (i, t), strict=True)])
        w = _weights(logits - log_odds(prior), y, log_odds(prior))
        fused = log_odds(prior) + w[2] + (logits - log_odds(prior)) @ w[:2]
        return cls(
            *sides,
            weights=(float(w[0]), float(w[1])),
            bias=float(w[2]),
            prior=prior,
            threshold=best_threshold(fused, y),
            both=best_pair(logits[:, 0], logits[:, 1], y),
        )

    def sides(self, image: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each side's calibrated log-odds by itself, at `prior`."""
        return self.image(image), self.table(table)

    def logits(self, image: np.ndarray, table: np.ndarray) -> np.ndarray:
        """Fused log-odds float64 `[n]` at `prior`; where one side is NaN those of the other, NaN where both are."""
        base = log_odds(self.prior)
        i, t = self.sides(image, table)
        both = base + self.bias + self.weights[0] * (i - base) + self.weights[1] * (t - base)
        return np.where(np.isnan(i), t, np.where(np.isnan(t), i, both))

    def probabilities(self, image: np.ndarray, table: np.ndarray, prior: float | None = None) -> np.ndarray:
        """Probabilities where the share of positives is `prior` (default: that of the rows of the fit)."""
        return sigmoid(self.logits(image, table) + self.moved(prior))

    def moved(self, prior: float | None = None) -> float:
        """What log-odds gain where the share of positives is `prior`: it enters once, whatever the sides carried."""
        return 0.0 if prior is None else log_odds(prior) - log_odds(self.prior)

    def alarms(self, image: np.ndarray, table: np.ndarray) -> Alarms:
        """Rows whose evidence suffices; a row that one side does not know cannot be confirmed."""
        i, t = self.sides(image, table)
        # A comparison with NaN is False.
        return Alarms(self.logits(image, table) >= self.threshold, (i >= self.both[0]) & (t >= self.both[1]))

    def least(self, double_check: bool = False) -> tuple[float | None, float | None, float | None]:
        """The probabilities of fused, image and table, at `prior`, that an alarm reaches; None where it need not."""
        if double_check:
            image, table = sigmoid(np.array(self.both)).tolist()
            return None, image, table
        return float(sigmoid(np.array(self.threshold))), None, None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()},
            "image": self.image.to_dict(),
            "table": self.table.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Fusion:
        """What `to_dict` gave."""
        one, other = data["weights"]
        first, second = data["both"]
        return cls(
            Calibration.from_dict(data["image"]), Calibration.from_dict(data["table"]), (one, other), data["bias"],
            data["prior"], data["threshold"], (first, second),
        )  # fmt: skip


def _weights(evidence: np.ndarray, y: np.ndarray, base: float) -> np.ndarray:
    """Two weights and the bias `[3]`: the largest posterior, by Newton's method with halved steps."""
    x = np.column_stack([evidence, np.ones(len(y))])
    centre = np.array([0.5, 0.5, 0.0])
    pull = np.array([1.0, 1.0, 0.0]) / SPREAD**2
    w = centre.copy()

    def loss(w: np.ndarray) -> float:
        s = base + x @ w
        return float(np.logaddexp(0, s).sum() - s[y].sum() + 0.5 * (pull * (w - centre) ** 2).sum())

    now = loss(w)
    for _ in range(100):
        p = sigmoid(base + x @ w)
        gradient = x.T @ (p - y) + pull * (w - centre)
        curve = (x * (p * (1 - p))[:, None]).T @ x + np.diag(pull + np.array([0.0, 0.0, 1e-12]))
        step = np.linalg.solve(curve, gradient)
        while (then := loss(w - step)) > now and np.abs(step).max() > 1e-12:
            step /= 2
        w, now = w - step, min(now, then)
        if np.abs(step).max() < 1e-10:
            break
    return w


def best_pair(image: np.ndarray, table: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """The two thresholds, among quantiles of the positives' scores, at which "both exceed theirs" has the highest F1.

    Of equal ones the lowest, so that a side which helps nothing stops nothing.
    """
    y = np.asarray(truth, bool)
    cuts = [np.unique(np.quantile(z[y], np.linspace(0, 1, _CUTS), method="lower")) for z in (image, table)]
    # Cell (a, b): rows that exceed the first a cuts of the image and the first b of the table.
    at = [np.searchsorted(c, z, side="right") for c, z in zip(cuts, (image, table), strict=True)]
    shape = (len(cuts[0]) + 1, len(cuts[1]) + 1)
    flat = np.ravel_multi_index(at, shape)

    def beyond(weights: np.ndarray) -> np.ndarray:
        cells = np.bincount(flat, weights, minlength=shape[0] * shape[1]).reshape(shape)
        return cells[::-1, ::-1].cumsum(0).cumsum(1)[::-1, ::-1][1:, 1:]

    hits, called = beyond(y.astype(float)), beyond(np.ones(len(y)))
    score = 2 * hits / np.maximum(called + y.sum(), 1)
    a, b = np.unravel_index(int(np.argmax(score)), score.shape)
    return float(cuts[0][a]), float(cuts[1][b])
