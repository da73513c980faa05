"""Which row of the plan each training sample is of: a sequence that depends on the seed and the draw alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from raremap.balance.plan import SamplingPlan


def draw_rng(seed: int, draw: int, *part: int) -> np.random.Generator:
    """The random numbers of one draw, for tile, crop and augmentation; independent of all other draws.

    Those of a `part` are independent of the others, so that what is drawn there moves nothing else.
    """
    return np.random.default_rng((seed, draw, *part))


class WeightedOrder:
    """Row numbers by their weights, without end and without state.

    The row of draw i follows from (seed, i): workers, batch size and resumption change nothing. Draws
    are stratified: of n rows with equal weights every block of n draws has each one once, in an order
    of its own; with other weights each block takes n systematic points of the cumulative weights.
    """

    def __init__(self, weights: np.ndarray, seed: int, key: int = 0x7115) -> None:
        if len(weights) == 0 or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
            raise ValueError(f"need finite weights of 0 or more, and some above; got {len(weights)}")
        self._seed, self._key = seed, key
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
        rng = np.random.default_rng((self._seed, self._key, block))
        points = (np.arange(n) + rng.random()) / n
        picks = np.minimum(np.searchsorted(self._edges, points, side="right"), n - 1)
        return rng.permutation(picks)


class Stream:
    """The plan in force at each draw: one from the start, others from a later draw on (dynamic sampling)."""

    def __init__(self, plan: SamplingPlan, seed: int) -> None:
        self._seed = seed
        self._plans = [(0, plan, *self._orders(plan))]

    def follow(self, plan: SamplingPlan, draw: int) -> None:
        """From this draw on, the plan is in force; it has the same rows. The one before it is kept, older ones are not."""
        self._plans = [p for p in self._plans if p[0] < draw][-1:]
        self._plans.append((draw, plan, *self._orders(plan)))

    def __getitem__(self, draw: int) -> tuple[SamplingPlan, int]:
        """The plan in force, and the number of its row that is drawn."""
        _, plan, order, _ = self._in_force(draw)
        return plan, order[draw]

    def partner(self, draw: int) -> int:
        """The number of the row that comes as a second one with a draw: an order of its own, by the same plan."""
        return self._in_force(draw)[3][draw]

    def _in_force(self, draw: int) -> tuple[int, SamplingPlan, WeightedOrder, WeightedOrder]:
        return next(p for p in reversed(self._plans) if p[0] <= draw)

    def _orders(self, plan: SamplingPlan) -> tuple[WeightedOrder, WeightedOrder]:
        return WeightedOrder(plan.weights, self._seed), WeightedOrder(plan.weights, self._seed, 0xC071)

    @property
    def plan(self) -> SamplingPlan:
        """The latest plan."""
        return self._plans[-1][1]
