"""Small components of a map found and given to their neighbours, row after row, whatever the scene's size.

A map is read from the top down twice. The first reading joins pixels of a class into components (a
union-find over provisional labels) and lets every component that is large enough fall into the sink of its class: a
sink's identity does not matter, so only small components are kept, with their ground area, the sums of their
probabilities and what they border on. A cluster of small ones that no later row can touch is settled at once. The
second reading numbers the provisional labels again, which is the same work without its tables, and looks up
their classes.

All sums are of whole numbers, and components are ordered by area and first pixel, so the result depends on no strip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from raremap.maps.index import index_type, none_of
from raremap.maps.settle import open_slots, settle
from raremap.maps.tables import LABELS, Tables, absorb, begin, border, drop, find, full, sinks_of


@dataclass(frozen=True)
class Limits:
    """By class `[K]`, in the whole-number unit of area: what is too small, and what is small enough to need confidence.

    `confidence` is the mean probability that those under `doubtful` need, in the unit of the probabilities.
    """

    unit: np.ndarray
    doubtful: np.ndarray
    confidence: float = 0.0

    @property
    def any(self) -> np.ndarray:
        """Area from which a component stays, whatever else is known of it."""
        return np.maximum(self.unit, self.doubtful)


class SmallComponents:
    """The first reading: `add` strips from the top down, then `finish` gives the class of every label.

    `filled` and `alone` count by class: components given away, and those too small with nothing beside
    them, which stay.
    """

    def __init__(self, width: int, limits: Limits, eight: bool, sums: bool = False) -> None:
        classes = len(limits.unit)
        self._width, self._limits, self._eight = width, limits, eight
        self._tables = Tables(classes, sums)
        self._row, self._kind = 0, index_type(classes)
        self._above = np.full(width, none_of(self._kind), self._kind)
        self._labels = np.full(width, -1, np.int32)
        self.filled, self.alone = np.zeros(classes, np.int64), np.zeros(classes, np.int64)

    def add(self, index: np.ndarray, areas: np.ndarray, probs: np.ndarray | None = None) -> None:
        """A strip of class index `[h, w]`, areas of its pixels int64 `[h, w]` or `[h, 1]`, and probs uint16 `[K, h, w]`."""
        t, limit = self._tables, self._limits.any
        none = none_of(self._kind)
        probs = np.empty((0, 0, 0), np.uint16) if probs is None else probs
        row = 0
        while row < len(index):
            t.make_room(self._width)
            row = _join(
                index, areas, probs, row, self._row, self._above, self._labels, limit, self._eight, none, t.nodes, t.edges
            )  # fmt: skip
        self._row += len(index)
        self._settle(self._labels)

    def finish(self) -> np.ndarray:
        """Class index of every provisional label, as `Relabelling` numbers them."""
        self._settle(np.empty(0, np.int32))
        t = self._tables
        out = np.empty(t.counters[LABELS], self._kind)
        sinks_of(t.parent[: len(out)], out)
        return out

    def _settle(self, frontier: np.ndarray) -> None:
        t, limits = self._tables, self._limits
        waiting = open_slots(frontier, t.nodes, t.edges)
        settle(
            waiting, limits.unit, limits.doubtful, limits.confidence, self.filled, self.alone, t.nodes, t.edges
        )  # fmt: skip


class Relabelling:
    """The second reading: strips from the top down to the classes that `SmallComponents.finish` gave."""

    def __init__(self, width: int, final: np.ndarray, limits: Limits, eight: bool) -> None:
        self._final, self._limit, self._eight = final, limits.any, eight
        self._none = none_of(final.dtype)
        self._above = np.full(width, self._none, final.dtype)
        self._labels = np.full(width, -1, np.int32)
        self._next = len(limits.unit)

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """The classes `[h, w]` of a strip, once its small components have gone."""
        out = np.empty_like(index)
        self._next = _look_up(
            index,
            out,
            self._above,
            self._labels,
            self._limit,
            self._eight,
            self._none,
            self._final,
            self._next,
        )
        return out


@njit(nogil=True, cache=True)
def _label(k, x, here, above, labels_here, labels_above, eight):  # pragma: no cover
    """The label that a pixel takes over from the left or from above, or -1: the same in both readings."""
    if x > 0 and here[x - 1] == k:
        return labels_here[x - 1]
    if above[x] == k:
        return labels_above[x]
    if eight:
        if x > 0 and above[x - 1] == k:
            return labels_above[x - 1]
        if x + 1 < len(above) and above[x + 1] == k:
            return labels_above[x + 1]
    return np.int32(-1)


@njit(nogil=True, cache=True)
def _unite(a, b, k, limit, nodes, edges):  # pragma: no cover
    """Join two components of class k, one of which may be its sink."""
    parent, slot, area = nodes[1], nodes[2], nodes[4]
    a, b = find(parent, a), find(parent, b)
    if a == b:
        return
    if a > b:
        a, b = b, a
    if slot[a] < 0:
        drop(b, k, nodes, edges)
        return
    absorb(a, b, nodes, edges)
    if area[slot[a]] >= limit:
        drop(a, k, nodes, edges)


@njit(nogil=True, cache=True)
def _meet(label, other, corner, nodes, edges):  # pragma: no cover
    """Note a border between two pixels of different classes, for those of the two that are small."""
    parent, slot = nodes[1], nodes[2]
    a, b = find(parent, label), find(parent, other)
    if slot[a] >= 0:
        border(a, b, corner, nodes, edges)
    if slot[b] >= 0:
        border(b, a, corner, nodes, edges)


@njit(nogil=True, cache=True)
def _join(
    index, areas, probs, start, offset, above, labels_above, limit, eight, none, nodes, edges
):  # pragma: no cover
    """Take rows in from `start` on, until the tables may have no room for one more; gives the row to go on with."""
    parent, slot, area, sums = nodes[1], nodes[2], nodes[4], nodes[9]
    height, width = index.shape
    classes = probs.shape[0]
    labels = np.empty(width, np.int32)
    for y in range(start, height):
        if full(width, nodes, edges):
            return y
        here = index[y]
        for x in range(width):
            k = here[x]
            if k == none:
                labels[x] = -1
                continue
            left = x > 0
            right = x + 1 < width
            label = np.int32(k)
            if limit[k] > 0:
                label = _label(k, x, here, above, labels, labels_above, eight)
                if label < 0:
                    label = begin(k, (offset + y) * width + x, nodes)
                if above[x] == k:
                    if labels_above[x] != label:
                        _unite(label, labels_above[x], k, limit[k], nodes, edges)
                elif eight:  # the one above would have joined these already
                    if left and above[x - 1] == k and labels_above[x - 1] != label:
                        _unite(label, labels_above[x - 1], k, limit[k], nodes, edges)
                    if right and above[x + 1] == k and labels_above[x + 1] != label:
                        _unite(label, labels_above[x + 1], k, limit[k], nodes, edges)
                root = find(parent, label)
                s = slot[root]
                if s >= 0:
                    area[s] += areas[y, x if areas.shape[1] > 1 else 0]
                    if classes > 0:
                        for i in range(classes):
                            sums[s, i] += probs[i, y, x]
                        sums[s, classes] += 1
                    if area[s] >= limit[k]:
                        drop(root, k, nodes, edges)
            labels[x] = label
            if left and here[x - 1] != k and here[x - 1] != none:
                _meet(label, labels[x - 1], False, nodes, edges)
            if above[x] != k and above[x] != none:
                _meet(label, labels_above[x], False, nodes, edges)
            if eight and left and above[x - 1] != k and above[x - 1] != none:
                _meet(label, labels_above[x - 1], True, nodes, edges)
            if eight and right and above[x + 1] != k and above[x + 1] != none:
                _meet(label, labels_above[x + 1], True, nodes, edges)
        above[:] = here
        labels_above[:] = labels
    return height


@njit(nogil=True, cache=True)
def _look_up(index, out, above, labels_above, limit, eight, none, final, following):  # pragma: no cover
    height, width = index.shape
    labels = np.empty(width, np.int32)
    for y in range(height):
        here = index[y]
        for x in range(width):
            k = here[x]
            if k == none:
                labels[x] = -1
                out[y, x] = none
                continue
            label = np.int32(k)
            if limit[k] > 0:
                label = _label(k, x, here, above, labels, labels_above, eight)
                if label < 0:
                    label = np.int32(following)
                    following += 1
            labels[x] = label
            out[y, x] = final[label]
        above[:] = here
        labels_above[:] = labels
    return following
