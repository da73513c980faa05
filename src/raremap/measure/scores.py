"""Scores of pooled confusion matrices; a class that is absent scores NaN and is left out of means.

Functions take matrices `[..., K, K]` of pixels by true (rows) and predicted class (columns), so that a
bootstrap's thousand matrices are scored at once; `Scores` is one matrix with its classes' names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from raremap.plain import plain

Metric = Callable[[np.ndarray], np.ndarray]
"""Confusion matrices `[..., K, K]` to one figure each `[...]`, NaN where it is undefined."""

HEADLINES = (
    "macro_f1",
    "miou",
    "rare_f1",
    "common_f1",
    "overall_accuracy",
    "balanced_accuracy",
    "variation",
)
"""The scores over classes, by their keys in files; all but the last are better when higher."""


def _ratio(top: np.ndarray, bottom: np.ndarray, known: np.ndarray) -> np.ndarray:
    out = np.full(np.shape(top), np.nan)
    out[known] = 0
    return np.divide(top, bottom, out=out, where=known & (bottom > 0))


def _counts(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right pixels, true pixels and predicted pixels `[..., K]`, as floats."""
    matrices = np.asarray(matrices, np.float64)
    return np.diagonal(matrices, axis1=-2, axis2=-1), matrices.sum(-1), matrices.sum(-2)


def recall(matrices: np.ndarray) -> np.ndarray:
    """Share `[..., K]` of a class's true pixels that were found (producer's accuracy)."""
    hits, support, _ = _counts(matrices)
    return _ratio(hits, support, support > 0)


def precision(matrices: np.ndarray) -> np.ndarray:
    """Share `[..., K]` of the pixels given to a class that are right (user's accuracy); 0 where none was given."""
    hits, support, given = _counts(matrices)
    return _ratio(hits, given, support > 0)


def f_beta(matrices: np.ndarray, beta: float = 1.0) -> np.ndarray:
    """(1+β²)·TP / ((1+β²)·TP + β²·FN + FP), `[..., K]`; with β 1 the F1, also called Dice."""
    hits, support, given = _counts(matrices)
    return _ratio((1 + beta**2) * hits, beta**2 * support + given, support > 0)


def iou(matrices: np.ndarray) -> np.ndarray:
    """TP / (TP + FP + FN), `[..., K]`, also called Jaccard."""
    hits, support, given = _counts(matrices)
    return _ratio(hits, support + given - hits, support > 0)


def overall_accuracy(matrices: np.ndarray) -> np.ndarray:
    """Share `[...]` of all pixels that are right; micro-averaged precision, recall and F1 are the same number."""
    hits, support, _ = _counts(matrices)
    total = support.sum(-1)
    return _ratio(hits.sum(-1), total, total > 0)


def mean_of_present(values: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
    """Mean `[...]` over the classes of `values [..., K]` that are present (not NaN), of `chosen` (bool `[K]`) only."""
    known = ~np.isnan(values)
    if chosen is not None:
        known = known & chosen
    count = known.sum(-1)
    return _ratio(np.where(known, values, 0).sum(-1), count, count > 0)


def variation(matrices: np.ndarray) -> np.ndarray:
    """Coefficient of variation `[...]` of the F1 of the classes present: their standard deviation over their mean."""
    f1 = f_beta(matrices)
    mean = mean_of_present(f1)
    spread = np.sqrt(mean_of_present((f1 - mean[..., None]) ** 2))
    return _ratio(spread, mean, mean > 0)


def headline(key: str, matrices: np.ndarray, rare: np.ndarray) -> np.ndarray:
    """One of `HEADLINES` `[...]`; `rare` is bool `[K]`."""
    match key:
        case "macro_f1":
            return mean_of_present(f_beta(matrices))
        case "miou":
            return mean_of_present(iou(matrices))
        case "rare_f1":
            return mean_of_present(f_beta(matrices), rare)
        case "common_f1":
            return mean_of_present(f_beta(matrices), ~rare)
        case "overall_accuracy":
            return overall_accuracy(matrices)
        case "balanced_accuracy":
            return mean_of_present(recall(matrices))
        case "variation":
            return variation(matrices)
    raise ValueError(f"no score is called '{key}'; there are {', '.join(HEADLINES)}")


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
    def _is_rare(self) -> np.ndarray:
        return np.isin(self.names, self.rare)

    @cached_property
    def support(self) -> np.ndarray:
        """True pixels by class."""
        return self.matrix.sum(1).astype(np.float64)

    @cached_property
    def predicted(self) -> np.ndarray:
        """Pixels given to each class."""
        return self.matrix.sum(0).astype(np.float64)

    @cached_property
    def recall(self) -> np.ndarray:
        """Share of a class's true pixels that were found (producer's accuracy)."""
        return recall(self.matrix)

    @cached_property
    def precision(self) -> np.ndarray:
        """Share of the pixels given to a class that are right (user's accuracy); 0 where none was given."""
        return precision(self.matrix)

    @cached_property
    def f1(self) -> np.ndarray:
        """2·TP / (2·TP + FP + FN), also called Dice."""
        return f_beta(self.matrix)

    @cached_property
    def iou(self) -> np.ndarray:
        """TP / (TP + FP + FN), also called Jaccard."""
        return iou(self.matrix)

    @property
    def area_ratio(self) -> np.ndarray:
        """Predicted area over true area of each class."""
        return _ratio(self.predicted, self.support, self.support > 0)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that are present."""
        return self._headline("macro_f1")

    @property
    def miou(self) -> float:
        """Mean IoU of the classes that are present."""
        return self._headline("miou")

    @property
    def overall_accuracy(self) -> float:
        """Share of all pixels that are right; the micro-averaged precision, recall and F1 are the same number."""
        return self._headline("overall_accuracy")

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that are present."""
        return self._headline("balanced_accuracy")

    @property
    def rare_f1(self) -> float:
        """Mean F1 of the rare classes."""
        return self._headline("rare_f1")

    @property
    def common_f1(self) -> float:
        """Mean F1 of the other classes."""
        return self._headline("common_f1")

    @property
    def variation(self) -> float:
        """Coefficient of variation of the classes' F1: 0 where all are alike."""
        return self._headline("variation")

    def _headline(self, key: str) -> float:
        return float(headline(key, self.matrix, self._is_rare))

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without a true pixel."""
        return tuple(n for n, s in zip(self.names, self.support, strict=True) if s == 0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready scores; NaN is null."""
        overall = {key: plain(getattr(self, key)) for key in HEADLINES}
        per_class = ("precision", "recall", "f1", "iou", "support", "predicted", "area_ratio")
        columns = {key: getattr(self, key) for key in per_class}
        by_class = {
            n: {key: plain(float(columns[key][i])) for key in per_class} for i, n in enumerate(self.names)
        }
        return {
            **overall,
            "micro_f1": overall["overall_accuracy"],
            "absent": list(self.absent),
            "by_class": by_class,
            "confusion": self.matrix.tolist(),
        }
