"""Corners of outlines joined into polygons, holes and all."""

from __future__ import annotations

import numpy as np
import shapely
from numba import njit

from raremap.maps.outlines import DOWN, RIGHT, Outlines


def polygons(outlines: Outlines) -> np.ndarray:
    """Polygons `[n]` in pixel coordinates (x to the right, y downwards), one for each component; all are valid.

    Along a row the corners of a component pair up to its horizontal edges, along a column to its vertical ones. Where
    two of its pixels touch by a corner alone the ring is divided there, so that none touches itself: what they
    enclose becomes a hole.
    """
    o = outlines
    if not len(o.cls):
        return np.empty(0, object)
    way = o.way.copy()
    order = np.lexsort((o.x, o.y, o.of))
    here = np.stack([o.of[order], o.y[order], o.x[order]])
    twice = np.flatnonzero((here[:, 1:] == here[:, :-1]).all(0))
    for side in (0, 1):  # both corners swap their horizontal edges
        way[order[twice + side]] ^= RIGHT
    along = np.lexsort((way & RIGHT, o.x, o.y, o.of))
    down = np.lexsort((way & DOWN, o.y, o.x, o.of))
    sequence, length, whose, area = _rings(_partners(along), _partners(down), o.of, o.x, o.y)
    # The outer ring of a component is the largest; it comes first.
    rank = np.lexsort((-np.abs(area), whose))
    outer = np.concatenate([[True], whose[rank][1:] != whose[rank][:-1]])
    turn = (area[rank] < 0) != outer  # outer rings one way round, holes the other
    starts = np.cumsum(length) - length
    taken = _gathered(sequence, starts[rank], length[rank], turn)
    coordinates = np.stack([o.x[taken], o.y[taken]], 1).astype(float)
    rings = np.concatenate([[0], np.cumsum(length[rank])])
    parts = np.concatenate([np.flatnonzero(outer), [len(rank)]])
    return shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates, (rings, parts))


def _partners(order: np.ndarray) -> np.ndarray:
    """By corner the one at the other end of its edge: neighbours in `order` pair up."""
    out = np.empty(len(order), np.int64)
    out[order[::2]], out[order[1::2]] = order[1::2], order[::2]
    return out


@njit(nogil=True, cache=True)
def _rings(along, down, of, x, y):  # pragma: no cover
    """Go round: corners of all rings, each closed; by ring its length, its component and twice its area."""
    count = len(along)
    seen = np.zeros(count, np.bool_)
    sequence = np.empty(count + count // 4 + 1, np.int64)
    length, whose = np.empty(count // 4 + 1, np.int64), np.empty(count // 4 + 1, np.int64)
    area = np.empty(count // 4 + 1, np.int64)
    at = rings = 0
    for start in range(count):
        if seen[start]:
            continue
        begin, total = at, np.int64(0)
        i = start
        while not seen[i]:
            j = along[i]
            k = down[j]
            seen[i] = seen[j] = True
            sequence[at], sequence[at + 1] = i, j
            at += 2
            total += np.int64(x[i]) * y[j] - np.int64(x[j]) * y[i]
            total += np.int64(x[j]) * y[k] - np.int64(x[k]) * y[j]
            i = k
        sequence[at] = start
        at += 1
        length[rings], whose[rings], area[rings] = at - begin, of[start], total
        rings += 1
    return sequence[:at], length[:rings], whose[:rings], area[:rings]


@njit(nogil=True, cache=True)
def _gathered(sequence, starts, length, turn):  # pragma: no cover
    out = np.empty(length.sum(), np.int64)
    at = 0
    for r in range(len(starts)):
        for i in range(length[r]):
            out[at] = sequence[starts[r] + (length[r] - 1 - i if turn[r] else i)]
            at += 1
    return out
