"""Crops inside tiles: where they may lie, what they hold, and how often each position is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from raremap.balance.coverage import coverage, deliveries, empty_crops, moves
from raremap.balance.mixture import lean
from raremap.labels import IGNORE
from raremap.scene.shares import planes
from raremap.tiles.windows import offsets

if TYPE_CHECKING:
    from raremap.scene.window import Window

_STEPS = 4
_ROUNDS = 30


@dataclass(frozen=True)
class CropGrid:
    """Positions of crops of `size` pixels in N tiles, on a grid of `step` pixels.

    Tile i has the positions `first[i]` to `first[i + 1] - 1`: corner `top`, `left` in the tile `[M]`, and
    `chance` `[M]`, which sums to 1 in each tile. A draw moves a position by up to half a step; `counts`
    `[M, K]` are the labelled pixels by class that it holds then on average, `empty` `[M]` is the share of its
    moves that meet none. A position from which no labelled pixel is met has no chance.
    """

    size: int
    step: int
    first: np.ndarray
    top: np.ndarray
    left: np.ndarray
    counts: np.ndarray
    empty: np.ndarray
    chance: np.ndarray

    def seen(self) -> np.ndarray:
        """Labelled pixels by class that a sample of each tile delivers on average, `[N, K]`."""
        held = np.add.reduceat(self.counts * self.chance[:, None], self.first[:-1], axis=0)
        return held * self.drawn()[:, None]

    def drawn(self) -> np.ndarray:
        """How many crops a sample of each tile draws on average, `[N]`: an empty one is drawn again."""
        return np.asarray(deliveries(np.add.reduceat(self.empty * self.chance, self.first[:-1])))

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
        self._axes: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._top: list[np.ndarray] = []
        self._left: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._empty: list[np.ndarray] = []

    def add(self, mask: np.ndarray, shares: np.ndarray | None = None) -> None:
        """The next tile's class index `[h, w]`, and the shares `[K, h, w]` where its cells hold several classes."""
        (tops, down, below), (lefts, across, beside) = (self._axis(n) for n in mask.shape)
        counts = np.zeros((len(tops) * len(lefts), self._k), np.float32)
        for c, plane in planes(mask, shares):
            counts[:, c] = (down @ plane @ across.T).ravel()
        self._top.append(np.repeat(tops, len(lefts)).astype(np.int32))
        self._left.append(np.tile(lefts, len(tops)).astype(np.int32))
        self._counts.append(counts)
        empty = np.zeros(len(counts))
        if (mask == IGNORE).any():
            empty = (below @ empty_crops(mask, self._size) @ beside.T).ravel()
        self._empty.append(empty)

    def _axis(self, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts of the positions along one side, the pixels that each covers, and where its moves begin."""
        if length not in self._axes:
            starts = np.array(offsets(length, min(self._size, length), min(self._step, length)))
            along = (starts, length, self._size, self._step)
            self._axes[length] = starts, coverage(*along).astype(np.float32), moves(*along)
        return self._axes[length]

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
            np.concatenate(self._empty),
            np.empty(len(counts)),
        )
        return replace(grid, chance=even_chance(grid))


def pixel_chances(grid: CropGrid, entry: int, shape: tuple[int, int], chance: np.ndarray) -> np.ndarray:
    """How likely each pixel `[h, w]` of the plan's row `entry` is to lie in a crop, by chances `[M]` of positions."""
    here = slice(int(grid.first[entry]), int(grid.first[entry + 1]))
    (tops, row), (lefts, col) = (np.unique(v[here], return_inverse=True) for v in (grid.top, grid.left))
    p = np.zeros((len(tops), len(lefts)))
    np.add.at(p, (row, col), chance[here])
    down, across = (
        coverage(starts, length, grid.size, grid.step)
        for starts, length in zip((tops, lefts), shape, strict=True)
    )
    return down.T @ p @ across


def even_chance(grid: CropGrid) -> np.ndarray:
    """The same chance `[M]` for all positions of a tile that hold a labelled pixel."""
    some = (grid.counts.sum(1) > 0).astype(np.float64)
    return some / np.maximum(_by_tile(grid, some), 1.0)


def aim(grid: CropGrid, weights: np.ndarray, target: np.ndarray, cap: float, share: float = 1.0) -> CropGrid:
    """Chances that bring the pixels of all crops nearest to the target, tiles drawn by `weights` `[N]`.

    Lowers KL(q ‖ P), P ∝ Σ w v x pooled over pixels, over the chances v inside tiles; none is more than `cap`
    times the even one. Each round is a step of expectation-maximisation as for the tile weights, in each tile by
    itself: KL never rises but for crops that are empty and drawn again, and the best round is kept. A tile of nothing that the target asks for
    is left even. With `share` below 1 the rest of the crops lie anywhere, so that no ground is lost.
    """
    counts = grid.counts.astype(np.float64)
    size = counts.sum(1)
    even = even_chance(grid)
    best, chance, last = even, even.copy(), np.inf
    for _ in range(_ROUNDS):
        drawn = weights * replace(grid, chance=chance).drawn()
        pooled = (np.repeat(drawn, np.diff(grid.first)) * chance) @ counts
        here = (target > 0) & (pooled > 0)
        kl = float((target[here] * np.log(target[here] / (pooled[here] / pooled.sum()))).sum())
        if kl < last:
            best = chance.copy()
        if last - kl < 1e-4:
            break
        last = kl
        ratio = np.divide(target, pooled, out=np.zeros(len(target)), where=pooled > 0)
        lean(grid.first, chance * (counts @ ratio), size / pooled.sum(), cap * even, chance)
    return replace(grid, chance=share * best + (1 - share) * even)


def _by_tile(grid: CropGrid, values: np.ndarray) -> np.ndarray:
    """The sum of each position's tile, `[M]`."""
    return np.repeat(np.add.reduceat(values, grid.first[:-1]), np.diff(grid.first))
