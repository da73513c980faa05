"""Cutting objects out of tiles: connected components, their surroundings, and which ones are kept."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import NamedTuple

import cv2
import numpy as np

from raremap.balance.paste import Tile, halo
from raremap.labels import IGNORE
from raremap.scene.window import Window


class Patch(NamedTuple):
    """Pixels around an object: image `[C, h, w]` as stored, validity, the object, and all labels `[h, w]`."""

    image: np.ndarray
    valid: np.ndarray
    mask: np.ndarray
    labels: np.ndarray


class Wanted(NamedTuple):
    """What is looked for: classes (indices) of so many, `least` to `most` pixels; the width of the ring, and how far
    patches reach beyond their object, where that is further."""

    classes: Sequence[int]
    num_classes: int
    least: int
    most: int
    ring: int
    margin: int = 0


@dataclass(frozen=True)
class Found:
    """An object in one tile: its class index, patch and the patch's window in the scene.

    `touches`: it reaches the tile's border, where it may go on. `ring`: shares `[K]` of the labelled pixels
    around it, all 0 where none is. `slopes`: 5th and 95th percentile of object and ring, degrees.
    """

    row: int
    klass: int
    window: Window
    area: int
    touches: bool
    ring: np.ndarray
    slopes: tuple[float, float]
    patch: Patch
    key: float

    @property
    def rank(self) -> tuple[bool, int]:
        """What makes one view of an object better than another: it is whole, it is larger."""
        return not self.touches, self.area


def objects_of(
    row: int, tile: Tile, window: Window, slope: np.ndarray | None, wanted: Wanted, rng: np.random.Generator
) -> tuple[list[Found], np.ndarray]:
    """The wanted objects of a tile, 8-connected, and pixels `[K]` of all components that are not too small.

    `window` is the tile's in its scene. Patches reach a ring's width, or the margin, beyond the object, where the tile does.
    """
    image, valid, mask = tile
    height, width = mask.shape
    found, pixels = [], np.zeros(wanted.num_classes)
    for klass in wanted.classes:
        here = (mask == klass).astype(np.uint8)
        if not here.any():
            continue
        number, parts, stats, _ = cv2.connectedComponentsWithStats(here, connectivity=8)
        keys = rng.random(number)
        area = stats[:, cv2.CC_STAT_AREA]
        large = area >= wanted.least
        large[0] = False  # all that is not of the class
        pixels[klass] = area[large].sum()
        for i in np.flatnonzero(large & (area <= wanted.most)).tolist():
            left, top, w, h = (int(v) for v in stats[i, :4])
            touches = top == 0 or left == 0 or top + h == height or left + w == width
            reach = max(wanted.ring, wanted.margin)
            r0, c0 = max(0, top - reach), max(0, left - reach)
            cut = slice(r0, top + h + reach), slice(c0, left + w + reach)
            one = parts[cut] == i
            labels = mask[cut].copy()
            near = halo(one, wanted.ring)
            counts = np.bincount(labels[near & ~one], minlength=256)[: wanted.num_classes]
            found.append(
                Found(
                    row,
                    klass,
                    Window(window.row_off + r0, window.col_off + c0, *one.shape),
                    int(area[i]),
                    touches,
                    counts / max(counts.sum(), 1),
                    _range(slope, cut, near),
                    Patch(image[:, *cut].copy(), valid[cut].copy(), one, labels),
                    float(keys[i]),
                )
            )
    return found, pixels


def _range(slope: np.ndarray | None, cut: tuple[slice, slice], near: np.ndarray) -> tuple[float, float]:
    known = np.array([]) if slope is None else slope[cut][near]
    known = known[np.isfinite(known)]
    if len(known) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(known, (5, 95))
    return float(low), float(high)


def contacts_of(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """How often labelled pixels of two classes are neighbours (8 directions), symmetric `[K, K]`, diagonal 0.

    >>> contacts_of(np.array([[0, 0], [0, 1]]), 2).tolist()
    [[0, 3], [3, 0]]
    """
    total = np.zeros((num_classes, num_classes), np.int64)
    for a, b in (
        (mask[:, :-1], mask[:, 1:]),
        (mask[:-1], mask[1:]),
        (mask[:-1, :-1], mask[1:, 1:]),
        (mask[:-1, 1:], mask[1:, :-1]),
    ):
        at = (a != b) & (a != IGNORE) & (b != IGNORE)
        pairs = a[at].astype(np.int64) * num_classes + b[at]
        total += np.bincount(pairs, minlength=num_classes**2).reshape(total.shape)
    return total + total.T


def contact_shares(counts: np.ndarray) -> np.ndarray:
    """With which class each one is in contact: rows `[K, K]` that sum to 1, Laplace-smoothed, diagonal 0."""
    smooth = counts + 1.0 - np.eye(len(counts))
    return smooth / smooth.sum(1, keepdims=True)


def plausibility(ring: np.ndarray, contacts: np.ndarray, klass: int) -> float:
    """How usual surroundings are for a class: Σ_b ring_b · contacts[klass, b] over the other classes' shares.

    The class itself says nothing (a house beside a house) and is left out. NaN where nothing else is there.
    """
    others = ring.astype(float)
    others[klass] = 0
    total = others.sum()
    return float(others @ contacts[klass] / total) if total > 0 else float("nan")


def unrepeated(old: list[Found], new: list[Found]) -> tuple[list[Found], list[Found]]:
    """The finds of two overlapping tiles of a scene without those that are views of one object: the best stays."""
    kept = []
    for n in new:
        twins = [o for o in old if _same(o, n)]
        if any(t.rank >= n.rank for t in twins):
            continue
        old = [o for o in old if not any(o is t for t in twins)]
        kept.append(n)
    return old, kept


def _same(a: Found, b: Found) -> bool:
    both = a.window.intersect(b.window)
    if a.klass != b.klass or both.empty:
        return False
    return bool((a.patch.mask[both.slices(a.window)] & b.patch.mask[both.slices(b.window)]).any())


class Reservoir:
    """At most `limit` finds, from all places as evenly as can be; within a place those of the smallest keys.

    Keys are random, so a place's finds are a uniform sample of all that were offered from it, whatever
    the order. Where it is full the place that holds most gives up one.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._places: dict[str, list[tuple[float, int, Found]]] = {}
        self._number, self._most = count(), 0

    def offer(self, place: str, find: Found) -> None:
        """Take it in, or not."""
        heap = self._places.setdefault(place, [])
        entry = (-find.key, next(self._number), find)
        if self.size >= self.limit and heap and len(heap) == self._most:
            heapq.heappushpop(heap, entry)
            return
        heapq.heappush(heap, entry)
        self.size += 1
        self._most = max(self._most, len(heap))
        self.shrink(self.limit)

    def shrink(self, limit: int) -> None:
        """Hold at most `limit` from now on."""
        self.limit = limit
        while self.size > limit:
            fullest = max(self._places.values(), key=len)
            heapq.heappop(fullest)
            self.size -= 1
            self._most = max(map(len, self._places.values()))

    def __iter__(self) -> Iterator[Found]:
        return (find for heap in self._places.values() for _, _, find in heap)


class Shelf:
    """At most `limit` finds of a class: whole ones first, and where room is left those that touch a border."""

    def __init__(self, limit: int) -> None:
        self._limit, self.whole, self._partial = limit, Reservoir(limit), Reservoir(limit)

    def offer(self, place: str, find: Found) -> None:
        """Take it in, or not."""
        (self._partial if find.touches else self.whole).offer(place, find)
        self._partial.shrink(self._limit - self.whole.size)

    def __iter__(self) -> Iterator[Found]:
        return chain(self.whole, self._partial)
