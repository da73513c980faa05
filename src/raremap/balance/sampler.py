"""Which tile each training sample is of: a sequence that depends on the seed and the draw alone."""

from __future__ import annotations

import numpy as np


def draw_rng(seed: int, draw: int) -> np.random.Generator:
    """The random numbers of one draw, for tile, crop and augmentation; independent of all other draws."""
    return np.random.default_rng((seed, draw))


class TileSampler:
    """Draws tiles by their weights, without end and without state.

    The tile of draw i follows from (seed, i): workers, batch size and resumption change nothing. Draws
    are stratified: of n tiles with equal weights every block of n draws has each one once, in an order
    of its own; with other weights each block takes n systematic points of the cumulative weights.
    """

    def __init__(self, rows: np.ndarray, weights: np.ndarray, seed: int) -> None:
        if (
            len(rows) == 0
            or len(rows) != len(weights)
            or not np.isfinite(weights).all()
            or weights.sum() <= 0
        ):
            raise ValueError(
                f"need as many finite weights as rows, and some; got {len(rows)} rows, {len(weights)} weights"
            )
        self._rows, self._seed = rows, seed
        self._edges = np.cumsum(weights / weights.sum())
        self._edges[-1] = 1.0
        self._block: tuple[int, np.ndarray] | None = None

    def __getitem__(self, draw: int) -> int:
        """Catalog row of a draw."""
        block, place = divmod(draw, len(self._rows))
        if self._block is None or self._block[0] != block:
            self._block = (block, self._order(block))
        return int(self._rows[self._block[1][place]])

    def _order(self, block: int) -> np.ndarray:
        n = len(self._rows)
        # A key of its own, so that the order shares no random number with the draws.
        rng = np.random.default_rng((self._seed, 0x7115, block))
        points = (np.arange(n) + rng.random()) / n
        picks = np.minimum(np.searchsorted(self._edges, points, side="right"), n - 1)
        return rng.permutation(picks)
