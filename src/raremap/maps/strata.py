"""The strata of a map: its classes, and the ground beside rare ones, where omissions hide."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from raremap.maps.classmap import NONE, ClassMap, blocks
from raremap.scene.groundarea import pixel_areas
from raremap.scene.window import Window

BESIDE = "beside rare classes"
POOLED = "small classes"
STABLE = "no change"


@dataclass(frozen=True)
class Strata:
    """Which stratum each pixel of a map is in: `of_class` by its class, `beside` within `buffer_px` of `rare` classes.

    The buffer takes pixels of other classes only (Olofsson et al. 2020); None where there is none.
    """

    source: ClassMap
    names: tuple[str, ...]
    of_class: np.ndarray
    rare: tuple[int, ...] = ()
    beside: int | None = None
    buffer_px: int = 0

    @classmethod
    def of(
        cls,
        source: ClassMap,
        rare: Collection[int] = (),
        buffer_px: int = 0,
        pooled: Collection[int] = (),
        stable: Collection[int] = (),
    ) -> Strata:
        """A stratum a class; classes in `pooled` share one, and so do those in `stable`."""
        names: list[str] = []
        of_class = np.zeros(len(source.names), np.int32)
        for i, name in enumerate(source.names):
            name = STABLE if i in stable else POOLED if i in pooled else name
            if name not in names:
                names.append(name)
            of_class[i] = names.index(name)
        buffered = bool(buffer_px and rare)
        if buffered:
            names.append(BESIDE)
        return cls(
            source,
            tuple(names),
            of_class,
            tuple(sorted(rare)),
            len(names) - 1 if buffered else None,
            buffer_px if buffered else 0,
        )

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Stratum and class index int32 `[h, w]` of a window, `NONE` where the map has no class."""
        reach = self.buffer_px
        around = Window(
            window.row_off - reach,
            window.col_off - reach,
            window.height + 2 * reach,
            window.width + 2 * reach,
        ).intersect(self.source.grid.window)
        index = self.source.read(around)
        inside = window.slices(within=around)
        own = index[inside]
        stratum = np.where(own == NONE, NONE, self.of_class[own])
        if self.beside is not None:
            import cv2

            rare = np.isin(index, self.rare)
            square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
            near = cv2.dilate(rare.astype(np.uint8), square)[inside] > 0
            stratum[near & ~rare[inside] & (own != NONE)] = self.beside
        return stratum, own


@dataclass(frozen=True)
class Survey:
    """A map counted once: `pixels [blocks, H]` of each stratum by block, `areas [H]` of its ground in square metres.

    `areas` are pixels where the map has no CRS.
    """

    pixels: np.ndarray
    areas: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Each stratum's share of the ground."""
        return self.areas / self.areas.sum()


def survey(strata: Strata) -> Survey:
    """Count pixels and ground of each stratum."""
    grid, k = strata.source.grid, len(strata.names)
    counts, areas = [], np.zeros(k)
    for window in blocks(grid):
        stratum = strata.read(window)[0]
        # NONE is -1: it is counted in front and cut off.
        counts.append(np.bincount(stratum.ravel() + 1, minlength=k + 1)[1:])
        areas += ground_of(strata, window, stratum, counts[-1])
    return Survey(np.array(counts, np.int64).reshape(-1, k), areas)


def ground_of(strata: Strata, window: Window, stratum: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Ground `[H]` of the strata in a window."""
    areas = pixel_areas(strata.source.grid, window)
    if areas is None:
        return counts.astype(float)
    weights = np.broadcast_to(areas, stratum.shape).ravel()
    return np.bincount(stratum.ravel() + 1, weights, minlength=len(strata.names) + 1)[1:]


@dataclass(frozen=True)
class Drawn:
    """Pixels that were drawn: row, column, stratum and class index `[n]` of each, in a random order."""

    rows: np.ndarray
    cols: np.ndarray
    stratum: np.ndarray
    index: np.ndarray


def draw(strata: Strata, found: Survey, sizes: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A simple random sample of `sizes [H]` pixels of each stratum, without repetition.

    The ordinal numbers of the pixels are drawn; only blocks that hold one of them are read again.
    """
    totals = found.pixels.sum(0)
    before = np.cumsum(found.pixels, 0) - found.pixels
    wanted: dict[int, list[tuple[int, np.ndarray]]] = {}
    for h, size in enumerate(sizes.tolist()):
        numbers = np.sort(rng.choice(int(totals[h]), size, replace=False, shuffle=False))
        block = np.searchsorted(before[:, h] + found.pixels[:, h], numbers, side="right")
        for b in np.unique(block).tolist():
            wanted.setdefault(b, []).append((h, numbers[block == b] - before[b, h]))
    parts = []
    for b, window in enumerate(blocks(strata.source.grid)):
        if b not in wanted:
            continue
        stratum, index = strata.read(window)
        for h, numbers in wanted[b]:
            rows, cols = np.divmod(np.flatnonzero(stratum == h)[numbers], window.width)
            here = np.full(len(rows), h)
            parts.append(np.stack([rows + window.row_off, cols + window.col_off, here, index[rows, cols]]))
    drawn = np.concatenate(parts, 1)[:, rng.permutation(int(sizes.sum()))]
    return Drawn(*drawn)
