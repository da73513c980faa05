"""What becomes of small components once all that they border on is known; the records are those of `tables`."""

from __future__ import annotations

import heapq

import numpy as np
from numba import njit

from raremap.maps.tables import SLOTS, absorb, drop, find


@njit(nogil=True, cache=True)
def open_slots(frontier, nodes, edges):  # pragma: no cover
    """By slot, whether a component must wait: it, or one that it hangs together with, has a pixel in `frontier` (labels)."""
    counters, parent, slot, head = nodes[0], nodes[1], nodes[2], nodes[7]
    other, following = edges[0], edges[3]
    waiting = np.zeros(counters[SLOTS], np.bool_)
    stack = np.empty(counters[SLOTS], np.int32)
    depth = 0
    for label in frontier:
        if label >= 0:
            s = slot[find(parent, label)]
            if s >= 0 and not waiting[s]:
                waiting[s] = True
                stack[depth] = s
                depth += 1
    while depth:
        depth -= 1
        e = head[stack[depth]]
        while e >= 0:
            s = slot[find(parent, other[e])]
            if s >= 0 and not waiting[s]:
                waiting[s] = True
                stack[depth] = s
                depth += 1
            e = following[e]
    return waiting


@njit(nogil=True, cache=True)
def settle(waiting, unit, doubtful, confidence, filled, alone, nodes, edges):  # pragma: no cover
    """Settle every component that need not wait: the smallest first, of equals that with the first pixel first.

    One that is too small (`unit`, by class), or small (`doubtful`) and of a mean probability below
    `confidence`, goes to a class beside it and joins what it finds there of it; what they make is judged in its
    turn. One that may stay stays for good, with all that joins it later. Adds to `filled` and `alone` by class: how often one was given away, or found nothing beside it.
    """
    slot, root_of, area, first, cls = nodes[2], nodes[3], nodes[4], nodes[5], nodes[6]
    sides, corners = np.zeros(len(unit), np.int64), np.zeros(len(unit), np.int64)
    neighbours = np.empty(64, np.int32)
    queue = [(np.int64(0), np.int64(0), np.int32(0)) for _ in range(0)]
    for s in range(len(waiting)):
        if root_of[s] >= 0 and not waiting[s]:
            queue.append((area[s], first[s], root_of[s]))
    heapq.heapify(queue)
    while len(queue) > 0:
        size, _, root = heapq.heappop(queue)
        s = slot[root]
        if s < 0 or area[s] != size:
            continue  # it has become part of another, or has grown and stands in the queue again
        k = cls[s]
        if _stays(s, k, unit, doubtful, confidence, nodes):
            drop(root, k, nodes, edges)
            continue
        to = _chosen(s, sides, corners, nodes, edges)
        if to < 0:
            alone[k] += 1
            drop(root, k, nodes, edges)
            continue
        filled[k] += 1
        root, neighbours = _joined(root, to, neighbours, nodes, edges)
        s = slot[root]
        if s >= 0:
            heapq.heappush(queue, (area[s], first[s], root))


@njit(nogil=True, cache=True)
def _stays(s, k, unit, doubtful, confidence, nodes):  # pragma: no cover
    """Whether a component is large enough and, where it is of the doubtful ones, sure enough."""
    area, sums = nodes[4][s], nodes[9]
    if area < unit[k]:
        return False
    if area >= doubtful[k]:
        return True
    return sums[s, k] >= confidence * sums[s, sums.shape[1] - 1]


@njit(nogil=True, cache=True)
def _chosen(s, sides, corners, nodes, edges):  # pragma: no cover
    """The class that a component goes to, or -1 where nothing is beside it.

    The most probable of those beside it; without probabilities that with the longest border. Corners alone count
    only where there is no side. Of equals the longer border, then the first class.
    """
    parent, slot, cls, head, sums = nodes[1], nodes[2], nodes[6], nodes[7], nodes[9]
    other, following = edges[0], edges[3]
    own = nodes[3][s]
    sides[:] = 0
    corners[:] = 0
    by_side = False
    e = head[s]
    while e >= 0:
        root = find(parent, other[e])
        if root != own:
            t = slot[root]
            k = np.int64(cls[t]) if t >= 0 else np.int64(root)
            sides[k] += edges[1][e]
            corners[k] += edges[2][e]
            by_side |= edges[1][e] > 0
        e = following[e]
    count = sides if by_side else corners
    best = -1
    for k in range(len(count)):
        if count[k] == 0:
            continue
        if best < 0:
            best = k
        elif sums.shape[1] > 0:
            if sums[s, k] > sums[s, best] or (sums[s, k] == sums[s, best] and count[k] > count[best]):
                best = k
        elif count[k] > count[best]:
            best = k
    return best


@njit(nogil=True, cache=True)
def _joined(root, k, neighbours, nodes, edges):  # pragma: no cover
    """Give a component to class k and join it with all of that class beside it.

    Gives its root, which may be the sink, and the scratch array `neighbours`, which may have grown.
    """
    parent, slot, cls, head = nodes[1], nodes[2], nodes[6], nodes[7]
    other, following = edges[0], edges[3]
    cls[slot[root]] = k
    count = 0
    sunk = False
    e = head[slot[root]]
    while e >= 0:  # first all of them, then the joining: it changes the list
        r = find(parent, other[e])
        if r == k:
            sunk = True
        elif r != root and slot[r] >= 0 and cls[slot[r]] == k:
            if count == len(neighbours):
                more = np.empty(2 * count, np.int32)
                more[:count] = neighbours
                neighbours = more
            neighbours[count] = r
            count += 1
        e = following[e]
    for i in range(count):
        if parent[neighbours[i]] == neighbours[i]:  # it may be in the list twice
            absorb(root, neighbours[i], nodes, edges)
    if sunk:
        drop(root, k, nodes, edges)
        root = np.int32(k)
    return root, neighbours
