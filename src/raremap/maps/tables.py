"""The records of small components: by label who belongs together, by component its area, sums and borders.

Labels below K are the sinks of the classes: everything of a class that is large enough, which needs no record. Records
and borders are in arrays with lists of free places, so that they take no more room than there are small components
at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit

from raremap.maps.index import index_type

# Places in `counters`: how many are in use or free, then the first of the free ones, and their number.
LABELS, EDGES, FREE_EDGE, FREE_EDGES, SLOTS, FREE_SLOT, FREE_SLOTS = range(7)


@dataclass
class Tables:
    """What is known of small components of `classes` classes, in arrays that grow."""

    classes: int
    sums_too: bool
    counters: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        k = self.classes
        self.counters = np.array([k, 0, -1, 0, 0, -1, 0], np.int64)
        self.parent = np.arange(k, dtype=np.int32)  # by label
        self.slot = -np.ones(k, np.int32)  # of roots: where their record lies; -1: a sink
        self.root = np.empty(0, np.int32)  # by slot; -1: free
        self.area = np.empty(0, np.int64)
        self.first = np.empty(0, np.int64)
        self.cls = np.empty(0, index_type(k))
        self.head, self.tail = np.empty(0, np.int32), np.empty(0, np.int32)
        self.sums = np.empty((0, k + 1 if self.sums_too else 0), np.int64)  # the last: pixels
        self.other = np.empty(0, np.int32)  # by border: the component on its far side
        self.sides, self.corners = np.empty(0, np.int32), np.empty(0, np.int32)
        self.next = np.empty(0, np.int32)

    def make_room(self, width: int) -> None:
        """Room for one more row, whatever is in it."""
        c = self.counters
        if c[LABELS] + width > np.iinfo(np.int32).max:
            raise MemoryError("more than 2 billion small components")
        self.parent, self.slot = (_grown(a, c[LABELS] + width) for a in (self.parent, self.slot))
        need = c[SLOTS] + max(0, width - c[FREE_SLOTS])
        for name in ("root", "area", "first", "cls", "head", "tail", "sums"):
            setattr(self, name, _grown(getattr(self, name), need))
        need = c[EDGES] + max(0, 8 * width - c[FREE_EDGES])
        for name in ("other", "sides", "corners", "next"):
            setattr(self, name, _grown(getattr(self, name), need))

    @property
    def nodes(self) -> tuple[np.ndarray, ...]:
        """The tables of labels and components, in the order in which the kernels take them."""
        return (
            self.counters, self.parent, self.slot, self.root, self.area, self.first, self.cls,
            self.head, self.tail, self.sums,
        )  # fmt: skip

    @property
    def edges(self) -> tuple[np.ndarray, ...]:
        """The tables of borders."""
        return self.other, self.sides, self.corners, self.next


def _grown(array: np.ndarray, need: int) -> np.ndarray:
    if len(array) >= need:
        return array
    out = np.empty((max(int(need), 2 * len(array)), *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out


@njit(nogil=True, cache=True)
def full(width, nodes, edges):  # pragma: no cover
    """Whether there may be no room for one more row."""
    counters = nodes[0]
    return (
        counters[LABELS] + width > len(nodes[1])
        or counters[SLOTS] + width - counters[FREE_SLOTS] > len(nodes[4])
        or counters[EDGES] + 8 * width - counters[FREE_EDGES] > len(edges[0])
    )


@njit(nogil=True, cache=True)
def find(parent, label):  # pragma: no cover
    """The root of a label."""
    while parent[label] != label:
        parent[label] = parent[parent[label]]
        label = parent[label]
    return label


@njit(nogil=True, cache=True)
def _taken(counters, table, link):  # pragma: no cover
    """A free place of the slots or edges: of those given back the last, which `link` leads on from, else a new one."""
    place = counters[table + 1]
    if place >= 0:
        counters[table + 1] = link[place]
        counters[table + 2] -= 1
    else:
        place = counters[table]
        counters[table] += 1
    return place


@njit(nogil=True, cache=True)
def _given_back(place, counters, table, link):  # pragma: no cover
    """A place is free for what comes."""
    link[place] = counters[table + 1]
    counters[table + 1] = place
    counters[table + 2] += 1


@njit(nogil=True, cache=True)
def begin(k, first_pixel, nodes):  # pragma: no cover
    """A new component of class k; gives its label."""
    counters, parent, slot, slot_root, area, first, cls, head, _, sums = nodes
    label = np.int32(counters[LABELS])
    counters[LABELS] += 1
    s = _taken(counters, SLOTS, head)
    parent[label], slot[label], slot_root[s] = label, s, label
    area[s], first[s], cls[s], head[s] = 0, first_pixel, k, -1
    sums[s] = 0
    return label


@njit(nogil=True, cache=True)
def drop(root, into, nodes, edges):  # pragma: no cover
    """A component is part of another, or of the sink of its class: its record is free."""
    counters, parent, slot, slot_root, head = nodes[0], nodes[1], nodes[2], nodes[3], nodes[7]
    following = edges[3]
    s = slot[root]
    e = head[s]
    while e >= 0:
        after = following[e]
        _given_back(e, counters, EDGES, following)
        e = after
    slot_root[s] = -1
    _given_back(s, counters, SLOTS, head)
    slot[root] = -1
    parent[root] = into


@njit(nogil=True, cache=True)
def absorb(root, part, nodes, edges):  # pragma: no cover
    """Add the record of the component `part` to that of `root`."""
    slot, area, first = nodes[2], nodes[4], nodes[5]
    head, tail, sums = nodes[7], nodes[8], nodes[9]
    s, t = slot[root], slot[part]
    area[s] += area[t]
    first[s] = min(first[s], first[t])
    for i in range(sums.shape[1]):
        sums[s, i] += sums[t, i]
    if head[t] >= 0:
        if head[s] < 0:
            head[s] = head[t]
        else:
            edges[3][tail[s]] = head[t]
        tail[s] = tail[t]
        head[t] = -1
    drop(part, root, nodes, edges)


@njit(nogil=True, cache=True)
def border(a, b, corner, nodes, edges):  # pragma: no cover
    """Note once more that the small component a borders on b."""
    counters, s, head, tail = nodes[0], nodes[2][a], nodes[7], nodes[8]
    other, sides, corners, following = edges
    e = head[s]
    if e < 0 or other[e] != b:
        e = _taken(counters, EDGES, following)
        other[e], sides[e], corners[e], following[e] = b, 0, 0, head[s]
        if head[s] < 0:
            tail[s] = e
        head[s] = e
    if corner:
        corners[e] += 1
    else:
        sides[e] += 1


@njit(nogil=True, cache=True)
def sinks_of(parent, out):  # pragma: no cover
    """The sink of every label, once all is settled, into `out`."""
    for label in range(len(parent)):
        out[label] = find(parent, label)
