"""What a fusion gains over each of its sides: cross-fitted on places, with paired intervals over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from raremap.measure.interval import Interval, interval
from raremap.plain import plain
from raremap.tabular import measures
from raremap.tabular.folds import Places, deal
from raremap.tabular.fusion import Fusion

SIDES = ("image", "table")
METHODS = (*SIDES, "fused", "double_check")


@dataclass(frozen=True)
class CrossFitted:
    """Rows scored by fusions that have not seen their places.

    `logits` by method (image, table, fused), each calibrated, NaN where a row is not known to both sides; `called` by
    method, also for the double check; `raw` are the table's log-odds as they came.
    """

    logits: dict[str, np.ndarray]
    called: dict[str, np.ndarray]
    truth: np.ndarray
    place: np.ndarray
    raw: dict[str, np.ndarray]


@dataclass(frozen=True)
class Gains:
    """Figures of each method, gains of "fused" and "double_check" over each side, and calibration errors."""

    rows: int
    positives: int
    places: int
    figures: dict[str, dict[str, Interval]]
    gains: dict[str, dict[str, Interval]]
    calibration: dict[str, float]

    @property
    def verdict(self) -> str:
        """What can be said, in one sentence."""
        found = {side: self.gains[f"fused over {side}"]["average_precision"] for side in SIDES}
        told = ", ".join(f"{g} over the {side} alone" for side, g in found.items())
        if any(g.few for g in found.values()):
            return f"whether fusion gains cannot be said, too few places: average precision {told}"
        if all(g.low > 0 for g in found.values()):
            return f"fusion gains: average precision {told}"
        worse = [side for side, g in found.items() if g.high < 0]
        if worse:
            return f"fusion loses to the {worse[0]} alone: average precision {told}"
        nothing = [side for side, g in found.items() if not g.low > 0]
        return f"fusion gains nothing over the {' or the '.join(nothing)} alone that these places can show: average precision {told}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return plain(
            {
                "rows": self.rows,
                "positives": self.positives,
                "places": self.places,
                "verdict": self.verdict,
                "figures": {m: {k: v.to_dict() for k, v in f.items()} for m, f in self.figures.items()},
                "gains": {m: {k: v.to_dict() for k, v in f.items()} for m, f in self.gains.items()},
                "calibration_error": self.calibration,
            }
        )

    def __str__(self) -> str:
        lines = [
            f"{self.rows:,} rows in {self.places} places, {self.positives:,} positive; none scored by a fit that saw its place"
        ]
        lines.append(f"  {'':<26} {'average precision':<26} {'AUC':<26} F1")
        for name, f in {**self.figures, **self.gains}.items():
            cells = [str(f[k]) if k in f else "–" for k in ("average_precision", "auc", "f1")]
            lines.append(f"  {name:<26} {cells[0]:<26} {cells[1]:<26} {cells[2]}")
        error = ", ".join(f"{k} {v:.4f}" for k, v in self.calibration.items())
        return "\n".join([*lines, f"  calibration error: {error}", f"  {self.verdict}"])


def cross_fit(
    image: np.ndarray, table: np.ndarray, truth: np.ndarray, places: Places, folds: int = 5, seed: int = 0
) -> CrossFitted:
    """Each row scored by a fusion fitted on the other folds' places; rows that a side does not know are left out.

    Raises `SplitError` where positives or negatives lie in fewer places than folds.
    """
    known = np.flatnonzero(~(np.isnan(image) | np.isnan(table)))
    i, t, y = image[known], table[known], np.asarray(truth, bool)[known]
    here = places.of(known)
    fold = deal(y, here, folds, seed)
    logits = {m: np.empty(len(y)) for m in METHODS[:3]}
    called = {m: np.empty(len(y), bool) for m in METHODS}
    for k in range(folds):
        own, rest = fold == k, fold != k
        fusion = Fusion.fit(i[rest], t[rest], y[rest])
        sides = dict(zip(SIDES, fusion.sides(i[own], t[own]), strict=True))
        for (name, z), fitted in zip(sides.items(), fusion.sides(i[rest], t[rest]), strict=True):
            logits[name][own] = z
            called[name][own] = z >= measures.best_threshold(fitted, y[rest])
        logits["fused"][own] = fusion.logits(i[own], t[own])
        alarms = fusion.alarms(i[own], t[own])
        called["fused"][own], called["double_check"][own] = alarms.fused, alarms.double_check
    return CrossFitted(logits, called, y, here.index, {"image": i, "table": t})


def gains(done: CrossFitted, replicates: int = 2000, seed: int = 0) -> Gains:
    """Figures with 95 % intervals over places; gains under the same draws of places for both methods."""
    y, place = done.truth, done.place
    figures = {
        m: measures.intervals(z, y, done.called[m], place, replicates, seed) for m, z in done.logits.items()
    }
    figures["double_check"] = {"f1": _f1(done, "double_check", None, replicates, seed)}
    over: dict[str, dict[str, Interval]] = {}
    for side in SIDES:
        over[f"fused over {side}"] = {
            **measures.intervals(
                done.logits["fused"], y, done.called["fused"], place, replicates, seed, done.logits[side]
            ),
            "f1": _f1(done, "fused", side, replicates, seed),
        }
    for side in (*SIDES, "fused"):
        over[f"double check over {side}"] = {"f1": _f1(done, "double_check", side, replicates, seed)}
    errors = {f"{m} as it came": measures.calibration_error(z, y) for m, z in done.raw.items()}
    errors |= {m: measures.calibration_error(z, y) for m, z in done.logits.items()}
    summed = done.raw["image"] + done.raw["table"]
    errors["sum of both as they came"] = measures.calibration_error(summed, y)
    return Gains(len(y), int(y.sum()), int(place.max()) + 1, figures, over, errors)


def _f1(done: CrossFitted, method: str, other: str | None, replicates: int, seed: int) -> Interval:
    """F1 of alarms, or its difference to another method's, from a confusion matrix a place."""

    def matrices(name: str) -> np.ndarray:
        count = int(done.place.max()) + 1
        cell = done.place * 4 + done.truth * 2 + done.called[name]
        return np.bincount(cell, minlength=4 * count).reshape(1, count, 2, 2)

    holding = len(np.unique(done.place[done.truth]))
    rng = np.random.default_rng((seed, 0xF0))
    base = None if other is None else matrices(other)
    return interval(_f1_of, matrices(method), base, holding=holding, rng=rng, replicates=replicates)


def _f1_of(m: np.ndarray) -> np.ndarray:
    hit, rest = 2 * m[..., 1, 1], m[..., 0, 1] + m[..., 1, 0]
    return np.divide(hit, hit + rest, out=np.full(hit.shape, np.nan), where=hit + rest > 0)
