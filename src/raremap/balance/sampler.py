"""Which row of the plan each training sample is of: a sequence that depends on the seed and the draw alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from raremap.balance.plan import SamplingPlan


def draw_rng(seed: int, draw: int) -> np.random.Generator:
    """The random numbers of one draw, for tile, crop and augmentation; independent of all other draws."""
    return np.random.default_rng((seed, draw))


class WeightedOrder:
    """Row numbers by their weights, without end and without state.

    The row of draw i follows from (seed, i): workers, batch size and resumption change nothing. Draws
    are stratified: of n rows with equal weights every block of n draws has each one once, in an order
    of its own; with other weights each block takes n systematic points of the cumulative weights.
    """

    def __init__(self, weights: np.ndarray, seed: int) -> None:
        if len(weights) == 0 or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
            raise ValueError(f"need finite weights of 0 or more, and some above; got {len(weights)}")
        self._seed = seed
        self._edges = np.cumsum(weights / weights.sum())
        self._edges[-1] = 1.0
        self._block: tuple[int, np.ndarray] | None = None

    def __getitem__(self, draw: int) -> int:
        """Row number of a draw."""
        block, place = divmod(draw, len(self._edges))
        if self._block is None or self._block[0] != block:
            self._block = (block, self._order(block))
        return int(self._block[1][place])

    def _order(self, block: int) -> np.ndarray:
        n = len(self._edges)
        # A key of its own, so that the order shares no random number with the draws.
        rng = np.random.default_rng((self._seed, 0x7115, block))
        points = (np.arange(n) + rng.random()) / n
        picks = np.minimum(np.searchsorted(self._edges, points, side="right"), n - 1)
        return rng.permutation(picks)


class Stream:
    """The plan in force at each draw: one from the start, others from a later draw on (dynamic sampling)."""

    def __init__(self, plan: SamplingPlan, seed: int) -> None:
        self._seed = seed
        self._plans = [(0, plan, WeightedOrder(plan.weights, seed))]

    def follow(self, plan: SamplingPlan, draw: int) -> None:
        """From this draw on, the plan is in force; it has the same rows. The one before it is kept, older ones are not."""
        self._plans = [p for p in self._plans if p[0] < draw][-1:]
        self._plans.append((draw, plan, WeightedOrder(plan.weights, self._seed)))

    def __getitem__(self, draw: int) -> tuple[SamplingPlan, int]:
        """The plan in force, and the number of its row that is drawn."""
        _, plan, order = next(p for p in reversed(self._plans) if p[0] <= draw)
        return plan, order[draw]

    @property
    def plan(self) -> SamplingPlan:
        """The latest plan."""
        return self._plans[-1][1]
