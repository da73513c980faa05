"""Scores of one pooled confusion matrix; a class that is absent scores NaN and is left out of means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(len(b), np.nan), where=b > 0)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


@dataclass(frozen=True)
class Scores:
    """Scores by class `[K]` and over classes, from pixels by true (rows) and predicted class (columns).

    Classes without a true pixel are absent: their recall, precision, F1 and IoU are NaN, they are in no
    mean, and `predicted` still tells how many pixels were given to them.
    """

    matrix: np.ndarray
    names: tuple[str, ...]
    rare: tuple[str, ...] = ()

    @cached_property
    def support(self) -> np.ndarray:
        """True pixels by class."""
        return self.matrix.sum(1).astype(np.float64)

    @cached_property
    def predicted(self) -> np.ndarray:
        """Pixels given to each class."""
        return self.matrix.sum(0).astype(np.float64)

    @cached_property
    def _hits(self) -> np.ndarray:
        return np.diag(self.matrix).astype(np.float64)

    @cached_property
    def recall(self) -> np.ndarray:
        """Share of a class's true pixels that were found (producer's accuracy)."""
        return _ratio(self._hits, self.support)

    @cached_property
    def precision(self) -> np.ndarray:
        """Share of the pixels given to a class that are right (user's accuracy); 0 where none was given."""
        out = _ratio(self._hits, self.predicted)
        out[(self.support > 0) & (self.predicted == 0)] = 0
        out[self.support == 0] = np.nan
        return out

    @cached_property
    def f1(self) -> np.ndarray:
        """2·TP / (2·TP + FP + FN), also called Dice."""
        out = _ratio(2 * self._hits, self.support + self.predicted)
        out[self.support == 0] = np.nan
        return out

    @cached_property
    def iou(self) -> np.ndarray:
        """TP / (TP + FP + FN), also called Jaccard."""
        out = _ratio(self._hits, self.support + self.predicted - self._hits)
        out[self.support == 0] = np.nan
        return out

    @property
    def area_ratio(self) -> np.ndarray:
        """Predicted area over true area of each class."""
        return _ratio(self.predicted, self.support)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that are present."""
        return _mean(self.f1)

    @property
    def miou(self) -> float:
        """Mean IoU of the classes that are present."""
        return _mean(self.iou)

    @property
    def overall_accuracy(self) -> float:
        """Share of all pixels that are right; the micro-averaged precision, recall and F1 are the same number."""
        total = self.matrix.sum()
        return float(self._hits.sum() / total) if total else float("nan")

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that are present."""
        return _mean(self.recall)

    @property
    def rare_f1(self) -> float:
        """Mean F1 of the rare classes."""
        return _mean(self.f1[[n in self.rare for n in self.names]])

    @property
    def common_f1(self) -> float:
        """Mean F1 of the other classes."""
        return _mean(self.f1[[n not in self.rare for n in self.names]])

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without a true pixel."""
        return tuple(n for n, s in zip(self.names, self.support, strict=True) if s == 0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready scores; NaN is null."""
        overall = {
            key: _json(getattr(self, key))
            for key in ("macro_f1", "miou", "rare_f1", "common_f1", "overall_accuracy", "balanced_accuracy")
        }
        per_class = ("precision", "recall", "f1", "iou", "support", "predicted", "area_ratio")
        columns = {key: getattr(self, key) for key in per_class}
        by_class = {
            n: {key: _json(float(columns[key][i])) for key in per_class} for i, n in enumerate(self.names)
        }
        return {
            **overall,
            "micro_f1": overall["overall_accuracy"],
            "absent": list(self.absent),
            "by_class": by_class,
            "confusion": self.matrix.tolist(),
        }


def _json(value: float) -> float | None:
    return None if np.isnan(value) else value
