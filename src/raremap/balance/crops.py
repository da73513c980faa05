"""Crops inside tiles: where they may lie, what they hold, and how often each position is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from raremap.labels import IGNORE
from raremap.tiles.windows import offsets

if TYPE_CHECKING:
    from raremap.scene.window import Window

_STEPS = 4
_ROUNDS = 30


@dataclass(frozen=True)
class CropGrid:
    """Positions of crops of `size` pixels in N tiles, on a grid of `step` pixels.

    Tile i has the positions `first[i]` to `first[i + 1] - 1`: corner `top`, `left` in the tile `[M]`, labelled
    pixels by class `counts` `[M, K]`, and `chance` `[M]`, which sums to 1 in each tile. A crop without a
    labelled pixel has no chance.
    """

    size: int
    step: int
    first: np.ndarray
    top: np.ndarray
    left: np.ndarray
    counts: np.ndarray
    chance: np.ndarray

    def seen(self) -> np.ndarray:
        """Labelled pixels by class that a crop of each tile holds on average, `[N, K]`."""
        return np.add.reduceat(self.counts * self.chance[:, None], self.first[:-1], axis=0)

    def draw(self, tile: int, window: Window, rng: np.random.Generator) -> tuple[int, int]:
        """A corner in the tile: a position by its chance, moved by up to half a step each way."""
        here = slice(int(self.first[tile]), int(self.first[tile + 1]))
        edges = np.cumsum(self.chance[here])
        j = here.start + int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
        j = min(j, here.stop - 1)
        shift = rng.integers(-(self.step // 2), self.step - self.step // 2, size=2)
        last = (max(0, window.height - self.size), max(0, window.width - self.size))
        return (
            int(np.clip(self.top[j] + shift[0], 0, last[0])),
            int(np.clip(self.left[j] + shift[1], 0, last[1])),
        )


class CropCounter:
    """Fills a `CropGrid` tile by tile, so that masks are read once and none is kept."""

    def __init__(self, size: int, num_classes: int) -> None:
        self._size, self._k, self._step = size, num_classes, max(1, size // _STEPS)
        self._top: list[np.ndarray] = []
        self._left: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []

    def add(self, mask: np.ndarray) -> None:
        """The next tile's class index `[h, w]`."""
        height, width = mask.shape
        tops = np.array(offsets(height, min(self._size, height), min(self._step, height)))
        lefts = np.array(offsets(width, min(self._size, width), min(self._step, width)))
        bottoms, rights = np.minimum(tops + self._size, height), np.minimum(lefts + self._size, width)
        counts = np.zeros((len(tops) * len(lefts), self._k), np.float32)
        for c in np.unique(mask):
            if c == IGNORE:
                continue
            table = np.zeros((height + 1, width + 1), np.int64)
            table[1:, 1:] = (mask == c).cumsum(0).cumsum(1)
            inside = table[np.ix_(bottoms, rights)] - table[np.ix_(tops, rights)]
            inside = inside - table[np.ix_(bottoms, lefts)] + table[np.ix_(tops, lefts)]
            counts[:, c] = inside.ravel()
        self._top.append(np.repeat(tops, len(lefts)).astype(np.int32))
        self._left.append(np.tile(lefts, len(tops)).astype(np.int32))
        self._counts.append(counts)

    def grid(self) -> CropGrid:
        """All tiles that were added, every position of a tile with a labelled pixel alike."""
        first = np.concatenate([[0], np.cumsum([len(t) for t in self._top])]).astype(np.int64)
        counts = np.concatenate(self._counts)
        grid = CropGrid(
            self._size,
            self._step,
            first,
            np.concatenate(self._top),
            np.concatenate(self._left),
            counts,
            np.empty(len(counts)),
        )
        return replace(grid, chance=even_chance(grid))


def even_chance(grid: CropGrid) -> np.ndarray:
    """The same chance `[M]` for all positions of a tile that hold a labelled pixel."""
    some = (grid.counts.sum(1) > 0).astype(np.float64)
    return some / np.maximum(_by_tile(grid, some), 1.0)


def aim(grid: CropGrid, weights: np.ndarray, target: np.ndarray, cap: float) -> CropGrid:
    """Chances that bring the mixture of all crops nearest to the target, tiles drawn by `weights` `[N]`.

    Minimises KL(q ‖ P) over the chances inside tiles by the same expectation-maximisation as the tile weights
    (`v ← v Σ_c q_c d_c/P_c`, normalised within the tile); none is more than `cap` times the even one.
    """
    size = grid.counts.sum(1)
    density = grid.counts / np.maximum(size, 1.0)[:, None]
    even = even_chance(grid)
    own = np.repeat(weights, np.diff(grid.first))
    chance, last = even, np.inf
    for _ in range(_ROUNDS):
        share = (own * chance) @ density
        here = (target > 0) & (share > 0)
        kl = float((target[here] * np.log(target[here] / (share[here] / share.sum()))).sum())
        if last - kl < 1e-4:
            break
        last = kl
        ratio = np.divide(target, share, out=np.zeros(len(target)), where=share > 0)
        chance = chance * (density @ ratio)
        for _ in range(4):
            chance = np.minimum(chance / np.maximum(_by_tile(grid, chance), 1e-300), cap * even)
        chance = chance / np.maximum(_by_tile(grid, chance), 1e-300)
    return replace(grid, chance=chance)


def _by_tile(grid: CropGrid, values: np.ndarray) -> np.ndarray:
    """The sum of each position's tile, `[M]`."""
    return np.repeat(np.add.reduceat(values, grid.first[:-1]), np.diff(grid.first))
