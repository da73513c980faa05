"""Dynamic adaptive sampling: the target follows the scores on the monitor places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.balance.make import target_of
from raremap.balance.target import target_shares

if TYPE_CHECKING:
    from raremap.balance.plan import SamplingPlan


class Follower:
    """m, the moving F1 of each class, and q, the target that follows it.

    `m ← momentum·m + (1 − momentum)·F1`, `q ← inertia·q + (1 − inertia)·q(m)`; a class that the monitor
    places do not hold (F1 is NaN) keeps its m, and without one its q. After AEL (Hu et al. 2021) and
    recall loss (Tian et al. 2022), with F1 in the place of confidence and recall: a class predicted
    everywhere has a high recall and needs no more samples.
    """

    def __init__(self, plan: SamplingPlan, names: tuple[str, ...]) -> None:
        options = target_of(plan.options)
        # Classes without a training pixel have left the target, and making the plan has said so.
        there = {n: s for n, s in options.shares.items() if plan.natural[names.index(n)] > 0}
        self._options = options.model_copy(update={"shares": there})
        self._names, self._natural = names, plan.natural
        self.moving = np.full(len(names), np.nan)
        self.target = plan.target

    def update(self, f1: np.ndarray, offsets: np.ndarray | None = None) -> np.ndarray:
        """The new target `[K]`, for the latest F1 `[K]` of the classes and the outer loop's offsets φ `[K]`."""
        o = self._options
        moved = np.where(np.isnan(self.moving), f1, o.momentum * self.moving + (1 - o.momentum) * f1)
        self.moving = np.where(np.isnan(f1), self.moving, moved)
        fresh = target_shares(self._natural, self._names, o, self.moving if o.gamma > 0 else None, offsets)
        self.target = o.inertia * self.target + (1 - o.inertia) * fresh
        return self.target

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"moving": self.moving.tolist(), "target": self.target.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `state`."""
        self.moving, self.target = np.array(state["moving"], np.float64), np.array(state["target"])
