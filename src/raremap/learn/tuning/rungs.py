"""Successive halving without waiting: which trials go on, by the scores of those that came as far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Curve = Mapping[int, float]
"""Score by step: of the weights that would be kept if the training ended there."""


class Rungs:
    """The stopping rule of ASHA (Li et al. 2020), as Ray's scheduler has it.

    At `grace`, `grace`·`reduction`, … steps, before the last, a trial ends unless its score is at least the quantile
    1 − 1/`reduction` of the scores that others had there. The first that comes to a rung always goes on.
    """

    def __init__(self, steps: int, grace: int, reduction: float) -> None:
        self._quantile = 1 - 1 / reduction
        self._rungs: list[tuple[float, dict[int, float]]] = []
        at = float(grace)
        while at < steps:
            self._rungs.append((at, {}))
            at *= reduction

    @property
    def at(self) -> tuple[float, ...]:
        """Steps at which trials may end."""
        return tuple(step for step, _ in self._rungs)

    def record(self, trial: int, curve: Curve) -> None:
        """Take in what a trial scored, whether it ended early or not."""
        for step in sorted(curve):
            self.goes_on(trial, step, curve[step])

    def goes_on(self, trial: int, step: int, score: float) -> bool:
        """Whether a trial with this score at this step goes on; the score counts for those that come later.

        Asked again about the same step it says the same.
        """
        import numpy as np

        for rung, scores in reversed(self._rungs):
            if step < rung:
                continue
            if trial in scores:
                return True
            others = list(scores.values())
            scores[trial] = score
            return not others or score >= float(np.quantile(others, self._quantile))
        return True

    @classmethod
    def of(cls, steps: int, grace: int, reduction: float, curves: Iterable[tuple[int, Curve]]) -> Rungs:
        """With the scores of trials that have ended."""
        rungs = cls(steps, grace, reduction)
        for trial, curve in curves:
            rungs.record(trial, curve)
        return rungs
