"""Outlines of the components of a map, row after row: each is handed over as soon as no later row can touch it.

Pixels that share a side and a class are a component. Its outline is kept as its corners alone, each with the
two directions in which its edges leave; `rings` joins them. Memory is that of a strip and of the outlines
that are not finished.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

from raremap.maps.index import index_type, none_of
from raremap.maps.tables import find

# Bits of a corner's directions; without them its edges leave to the left and upwards.
RIGHT, DOWN = 1, 2
# Places in `counters`.
_LABELS, _CORNERS, _FREE, _FREES = range(4)
_RECORD = {
    "parent": np.int32, "cls": np.uint16, "area": np.int64, "pixels": np.int64, "prob": np.int64,
    "head": np.int32, "tail": np.int32,
}  # fmt: skip
_CORNER = {"x": np.int32, "y": np.int32, "way": np.uint8, "next": np.int32}


@dataclass(frozen=True)
class Outlines:
    """Finished components: class index, area, pixels and sum of probabilities by component `[n]`; corners by component.

    `of` `[c]` says whose corner each is (grouped), `x`, `y` where, `way` which directions its edges leave in.
    """

    cls: np.ndarray
    area: np.ndarray
    pixels: np.ndarray
    prob: np.ndarray
    of: np.ndarray
    x: np.ndarray
    y: np.ndarray
    way: np.ndarray


class Tracer:
    """Strips from the top down to finished outlines; `wanted` bool `[K]` are the classes that are traced."""

    def __init__(self, width: int, wanted: np.ndarray) -> None:
        self._width, self._wanted = width, wanted
        self._row, self._kind = 0, index_type(len(wanted))
        self._none = none_of(self._kind)
        self._above = np.full(width, self._none, self._kind)
        self._labels = np.full(width, -1, np.int32)
        self._counters = np.array([0, 0, -1, 0], np.int64)
        self._records = {k: np.empty(0, t) for k, t in _RECORD.items()}
        self._corners = {k: np.empty(0, t) for k, t in _CORNER.items()}

    def add(self, index: np.ndarray, areas: np.ndarray, probs: np.ndarray | None = None) -> Outlines:
        """What a strip finishes; as `components.SmallComponents.add` takes it."""
        probs = np.empty((0, 0, 0), np.uint16) if probs is None else probs
        row = 0
        while row < len(index):
            c = self._counters
            _make_room(self._records, c[_LABELS] + self._width)
            _make_room(self._corners, c[_CORNERS] + max(0, 4 * (self._width + 1) - c[_FREES]))
            row = _trace(
                index, areas, probs, row, self._row, self._above, self._labels, self._wanted, self._none, self._counters,
                *self._records.values(), *self._corners.values(),
            )  # fmt: skip
        self._row += len(index)
        return self._finished()

    def finish(self) -> Outlines:
        """What the end of the scene finishes."""
        return self.add(np.full((1, self._width), self._none, self._kind), np.zeros((1, 1), np.int64))

    def _finished(self) -> Outlines:
        """Take out what has no pixel in the last row, and number the rest from 0."""
        r, count = self._records, int(self._counters[_LABELS])
        roots = np.flatnonzero(r["parent"][:count] == np.arange(count)).astype(np.int32)
        waiting = np.zeros(count, bool)
        _mark(self._labels, r["parent"], waiting)
        done, left = roots[~waiting[roots]], roots[waiting[roots]]
        corners = _corners_of(done, r["head"], self._counters, *self._corners.values())
        out = Outlines(r["cls"][done], r["area"][done], r["pixels"][done], r["prob"][done], *corners)
        _renumber(self._labels, r["parent"], left)
        for key, array in r.items():
            array[: len(left)] = array[left]
            if key == "parent":
                array[: len(left)] = np.arange(len(left))
        self._counters[_LABELS] = len(left)
        return out


def _make_room(arrays: dict[str, np.ndarray], need: int) -> None:
    for key, array in arrays.items():
        if len(array) < need:
            fresh = np.empty(max(int(need), 2 * len(array)), array.dtype)
            fresh[: len(array)] = array
            arrays[key] = fresh


def batches(found: Iterator[Outlines], most: int = 20_000) -> Iterator[Outlines]:
    """The same outlines, some thousands together."""
    held: list[Outlines] = []
    for outlines in found:
        held.append(outlines)
        if sum(len(o.cls) for o in held) >= most:
            yield joined(held)
            held = []
    if held:
        yield joined(held)


def joined(parts: list[Outlines]) -> Outlines:
    """Several as one."""
    shift = np.cumsum([0, *(len(p.cls) for p in parts)])
    of = [p.of + s for p, s in zip(parts, shift, strict=False)]
    whole = {k: np.concatenate([getattr(p, k) for p in parts]) for k in ("cls", "area", "pixels", "prob")}
    return Outlines(
        **whole, of=np.concatenate(of), **{k: np.concatenate([getattr(p, k) for p in parts]) for k in ("x", "y", "way")}
    )  # fmt: skip


@njit(nogil=True, cache=True)
def _corner(label, cx, cy, direction, counters, parent, head, tail, x, y, way, following):  # pragma: no cover
    root = find(parent, label)
    if counters[2] >= 0:
        v = counters[2]
        counters[2] = following[v]
        counters[3] -= 1
    else:
        v = counters[1]
        counters[1] += 1
    x[v], y[v], way[v], following[v] = cx, cy, direction, head[root]
    if head[root] < 0:
        tail[root] = v
    head[root] = v


@njit(nogil=True, cache=True)
def _trace(
    index, areas, probs, start, offset, above, labels_above, wanted, none, counters,
    parent, cls, area, pixels, prob, head, tail, x_of, y_of, way, following,
):  # fmt: skip # pragma: no cover
    height, width = index.shape
    labels = np.empty(width, np.int32)
    for y in range(start, height):
        if counters[0] + width > len(parent) or counters[1] + 4 * (width + 1) - counters[3] > len(x_of):
            return y
        here = index[y]
        for x in range(width):
            k = here[x]
            if k == none or not wanted[k]:
                labels[x] = -1
                continue
            if x > 0 and here[x - 1] == k:
                label = labels[x - 1]
            elif above[x] == k:
                label = labels_above[x]
            else:
                label = np.int32(counters[0])
                counters[0] += 1
                parent[label], cls[label], head[label] = label, k, -1
                area[label] = pixels[label] = prob[label] = 0
            labels[x] = label
            root = find(parent, label)
            if above[x] == k and labels_above[x] != label:
                other = find(parent, labels_above[x])
                if other != root:
                    root, other = min(root, other), max(root, other)
                    parent[other] = root
                    area[root] += area[other]
                    pixels[root] += pixels[other]
                    prob[root] += prob[other]
                    if head[other] >= 0:
                        if head[root] < 0:
                            head[root] = head[other]
                        else:
                            following[tail[root]] = head[other]
                        tail[root] = tail[other]
            area[root] += areas[y, x if areas.shape[1] > 1 else 0]
            pixels[root] += 1
            if probs.shape[0] > 0:
                prob[root] += probs[k, y, x]
        # The four pixels around each point between the two rows.
        for x in range(width + 1):
            left, right = x > 0, x < width
            a, b = above[x - 1] if left else none, above[x] if right else none
            c, d = here[x - 1] if left else none, here[x] if right else none
            if (a == c and b == d) or (a == b and c == d):
                continue
            label_a, label_b = labels_above[x - 1] if left else -1, labels_above[x] if right else -1
            label_c, label_d = labels[x - 1] if left else -1, labels[x] if right else -1
            for label, own, beside, across, facing, out, inward in (
                (label_a, a, b, c, d, 0, 3),
                (label_b, b, a, d, c, 1, 2),
                (label_c, c, d, a, b, 2, 1),
                (label_d, d, c, b, a, 3, 0),
            ):
                if label < 0:
                    continue
                # A corner that juts out has the pixel's own edges; one that is notched in those of the missing pixel.
                if own != beside and own != across:
                    direction = out
                elif own == beside and own == across and own != facing:
                    direction = inward
                else:
                    continue
                _corner(
                    label, x, offset + y, direction, counters, parent, head, tail, x_of, y_of, way, following
                )
        above[:] = here
        labels_above[:] = labels
    return height


@njit(nogil=True, cache=True)
def _mark(labels, parent, waiting):  # pragma: no cover
    for label in labels:
        if label >= 0:
            waiting[find(parent, label)] = True


@njit(nogil=True, cache=True)
def _renumber(labels, parent, left):  # pragma: no cover
    """Labels to the place of their root in `left`, which is sorted."""
    for i in range(len(labels)):
        if labels[i] >= 0:
            labels[i] = np.searchsorted(left, find(parent, labels[i]))


@njit(nogil=True, cache=True)
def _corners_of(done, head, counters, x, y, way, following):  # pragma: no cover
    """The corners of finished components, one after the other; their places become free."""
    total = 0
    for root in done:
        v = head[root]
        while v >= 0:
            total += 1
            v = following[v]
    of, xs, ys = np.empty(total, np.int64), np.empty(total, np.int32), np.empty(total, np.int32)
    ways = np.empty(total, np.uint8)
    at = 0
    for i, root in enumerate(done):
        v = head[root]
        while v >= 0:
            of[at], xs[at], ys[at], ways[at] = i, x[v], y[v], way[v]
            at += 1
            after = following[v]
            following[v] = counters[2]
            counters[2] = v
            counters[3] += 1
            v = after
    return of, xs, ys, ways
