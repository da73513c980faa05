"""All that is counted of a prediction, and every score that follows from the counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raremap.measure.boundary import boundary_counts, boundary_f1
from raremap.measure.confusion import confusion
from raremap.measure.objects import false_alarms, object_counts, object_recall
from raremap.measure.ranking import BINS, average_precision, calibration_error, probability_counts
from raremap.measure.scores import Scores, mean_of_present
from raremap.plain import plain

FIELDS = ("matrices", "outlines", "objects", "ranking")
"""The arrays of a tally."""


@dataclass(frozen=True)
class Tally:
    """Counts of n tiles or places: `matrices [n, K, K]`, `outlines [n, K, 4]`, `objects [n, K, 4]` and
    `ranking [n, K, BINS, 2]` (see `confusion`, `boundary`, `objects`, `ranking`). Counts of parts add up."""

    matrices: np.ndarray
    outlines: np.ndarray
    objects: np.ndarray
    ranking: np.ndarray

    @classmethod
    def empty(cls, n: int, num_classes: int, dtype: type = np.int64) -> Tally:
        """Nothing counted yet; a tile's counts fit into int32."""
        k = num_classes
        shapes = ((n, k, k), (n, k, 4), (n, k, 4), (n, k, BINS, 2))
        return cls(*(np.zeros(shape, dtype) for shape in shapes))

    def add_map(self, at: int, truth: np.ndarray, predicted: np.ndarray, rare: Sequence[int]) -> None:
        """Count a whole tile: class indices `[h, w]`; objects of the classes `rare`."""
        k = self.matrices.shape[1]
        self.matrices[at] += confusion(truth, predicted, k)
        self.outlines[at] += boundary_counts(truth, predicted, k)
        self.objects[at] += object_counts(truth, predicted, rare, k)

    def add_probs(self, at: int, truth: np.ndarray, probs: np.ndarray) -> None:
        """Count a part of a tile: class index `[h, w]` and probabilities `[K, h, w]`."""
        self.ranking[at] += probability_counts(probs.reshape(len(probs), -1), truth.ravel())

    def summed_by(self, groups: np.ndarray) -> tuple[np.ndarray, Tally]:
        """The sorted groups `[n]` and the tally of each."""
        names, inverse = np.unique(groups, return_inverse=True)
        out = Tally.empty(len(names), self.matrices.shape[1])
        for field in FIELDS:
            np.add.at(getattr(out, field), inverse, getattr(self, field))
        return names, out

    def scores(self, names: tuple[str, ...], rare: tuple[str, ...]) -> Scores:
        """Scores of the pooled confusion matrix."""
        return Scores(self.matrices.sum(0), names, rare)

    @property
    def by_class(self) -> dict[str, np.ndarray]:
        """Pooled scores `[K]` that no confusion matrix has; NaN where a class is absent or was not asked for."""
        outlines, objects, ranking = (a.sum(0) for a in (self.outlines, self.objects, self.ranking))
        return {
            "boundary_f1": boundary_f1(outlines),
            "object_recall": object_recall(objects),
            "false_alarms": false_alarms(objects),
            "pr_auc": average_precision(ranking),
            "calibration_error": calibration_error(ranking),
        }

    def to_dict(self, names: tuple[str, ...], rare: tuple[str, ...]) -> dict[str, Any]:
        """JSON-ready scores of all counts; NaN is null."""
        out = self.scores(names, rare).to_dict()
        for key, values in self.by_class.items():
            out[key] = plain(mean_of_present(values))
            for name, value in zip(names, values, strict=True):
                out["by_class"][name][key] = plain(value)
        return out
