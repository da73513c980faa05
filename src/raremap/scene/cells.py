"""Classes in the cells of a window, the many of one class apart from the few of several.

Where each fine pixel lies in one cell (a whole ratio, edges on edges) they are counted here: a cell whose pixels
are all equal is told by comparing rows, many pixels at a time, and only the others are looked through. Everything
else is counted by `counting` and brought to the same form.

`h w` cells of the window, `k` classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from raremap.scene.counting import UNLABELLED, UNSEEN, Counts, lookup_table

MIXED, EMPTY = 255, 254
CLASSES = 254
"""Classes that a window may hold."""


@dataclass(frozen=True)
class Cells:
    """What a window's cells hold, in pixels.

    `whole` uint8 `[h, w]`: the class number of a cell of one class, `MIXED`, or `EMPTY` (nothing labelled).
    `best` uint8 `[h, w]` is the class that first reached the largest count; `total` float32 `[h, w]` the
    labelled ground. Mixed cells are listed row by row: cell i is `cell[i]` (row · w + column) and holds the
    classes `number[s]`, by ascending value, with the ground `amount[s]`, s from `start[i]`.
    `by_row` float64 `[h, k]`: labelled ground by row and class. `values`: source value of each class number.
    """

    whole: np.ndarray
    best: np.ndarray
    total: np.ndarray
    cell: np.ndarray
    start: np.ndarray
    number: np.ndarray
    amount: np.ndarray
    by_row: np.ndarray
    values: np.ndarray


def sparse(counts: Counts) -> Cells:
    """The cells of dense counts, which must not be weighted."""
    # By value and not by number, which depends on what a window met first.
    order = np.argsort(counts.values, kind="stable")
    found = _sparse(counts.classes, counts.best, counts.lead, order)
    return Cells(found[0], counts.best, *found[1:], counts.by_row, counts.values)


@numba.njit(nogil=True, cache=True)
def _sparse(classes, best, lead, order):  # pragma: no cover - compiled
    height, _, width = classes.shape
    whole = np.empty((height, width), np.uint8)
    total = np.zeros((height, width), np.float32)
    mixed = entries = 0
    for r in range(height):
        for i in order:
            for c in range(width):
                total[r, c] += classes[r, i, c]
        for c in range(width):
            if total[r, c] == 0:
                whole[r, c] = EMPTY
            elif total[r, c] == lead[r, c]:
                whole[r, c] = best[r, c]
            else:
                whole[r, c] = MIXED
                mixed += 1
                for i in order:
                    entries += classes[r, i, c] > 0
    cell, start = np.empty(mixed, np.int64), np.zeros(mixed + 1, np.int64)
    number, amount = np.empty(entries, np.uint8), np.empty(entries, np.float32)
    n = s = 0
    for r in range(height):
        for c in range(width):
            if whole[r, c] != MIXED:
                continue
            cell[n] = r * width + c
            for i in order:
                if classes[r, i, c] > 0:
                    number[s] = i
                    amount[s] = classes[r, i, c]
                    s += 1
            n += 1
            start[n] = s
    return whole, total, cell, start, number, amount


class CellCounter:
    """Counts the cells of a window whose edges are pixels' edges, from pieces of whole rows of cells.

    `rows` and `cols` are the first and end pixel of each row and column of cells. `full` says that there are
    more classes than a class raster has.
    """

    def __init__(
        self, rows: tuple[np.ndarray, np.ndarray], cols: tuple[np.ndarray, np.ndarray], unlabelled: tuple[int, ...]
    ) -> None:  # fmt: skip
        self._rows, self._cols = rows, cols
        shape = len(rows[0]), len(cols[0])
        self._lookup = lookup_table(unlabelled)
        self._found = np.zeros(CLASSES + 1, np.int64)  # the last entry is how many there are
        self._order = np.zeros(CLASSES, np.int64)
        self._whole = np.full(shape, EMPTY, np.uint8)
        self._best = np.zeros(shape, np.uint8)
        self._total = np.zeros(shape, np.float32)
        self._ground = np.zeros((shape[0], CLASSES))
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self.full = False

    def add(self, raw: np.ndarray, top: int) -> None:
        """Count a piece whose first row is `top` and whose first column is that of the first cell."""
        first, end = self._rows
        inside = np.flatnonzero((first >= top) & (end <= top + len(raw)) & (end > first))
        if not len(inside):
            return
        full, *part = _count(
            raw, top, int(inside[0]), int(inside[-1]) + 1, first, end, *self._cols, self._lookup, self._found,
            self._order, self._whole, self._best, self._total, self._ground,
        )  # fmt: skip
        self.full |= full
        self._parts.append(tuple(part))

    def cells(self) -> Cells:
        """What was counted."""
        values = self._found[: self._found[-1]]
        none = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.float32)
        cell, each, number, amount = (np.concatenate(a) for a in zip(none, *self._parts, strict=True))
        start = np.concatenate([[0], np.cumsum(each)])
        ground = self._ground[:, : len(values)]
        return Cells(self._whole, self._best, self._total, cell, start, number, amount, ground, values)


@numba.njit(nogil=True, cache=True)
def _number(value, lookup, found, order):  # pragma: no cover - compiled
    """The class number of a value met for the first time, or -1 where there is no room; keeps `order` by value."""
    k = found[-1]
    if k >= len(order):
        return -1
    found[k] = value
    found[-1] = k + 1
    lookup[value] = k
    i = k
    while i > 0 and found[order[i - 1]] > value:
        order[i] = order[i - 1]
        i -= 1
    order[i] = k
    return k


@numba.njit(nogil=True, cache=True)
def _first_to_reach(raw, up, down, left, right, lookup, tied):  # pragma: no cover - compiled
    """Of the classes that are `tied` the one that had all its pixels first, row by row."""
    remaining = tied.sum()
    for i in range(down - 1, up - 1, -1):
        for j in range(right - 1, left - 1, -1):
            k = lookup[raw[i, j]]
            if k >= 0 and tied[k]:
                if remaining == 1:
                    tied[k] = False
                    return k
                tied[k] = False
                remaining -= 1
    return 0


@numba.njit(nogil=True, cache=True)
def _count(  # pragma: no cover - compiled
    raw, top, r_first, r_end, row_first, row_end, col_first, col_end,
    lookup, found, order, whole, best, total, ground,
):  # fmt: skip
    width, left = len(col_first), col_first[0]
    n_pixels = raw.shape[1]
    cell, each = np.empty(1024, np.int64), np.empty(1024, np.int64)
    number, amount = np.empty(4096, np.uint8), np.empty(4096, np.float32)
    n = s = 0
    differs = np.zeros(n_pixels, raw.dtype)
    # Four counts of each class, of pixels in turn, so that equal neighbours do not wait for one another. The first
    # two places are for the unlabelled (-2) and for what never is (-1).
    histogram = np.zeros((len(order) + 2, 4), np.int32)
    tied = np.zeros(len(order), np.bool_)
    for r in range(r_first, r_end):
        up, down = row_first[r] - top, row_end[r] - top
        row = raw[up]
        differs[:] = 0
        for i in range(up + 1, down):
            other = raw[i]
            for j in range(n_pixels):
                differs[j] |= other[j] ^ row[j]
        for c in range(width):
            a, b = col_first[c] - left, col_end[c] - left
            if a >= b:
                continue
            value, odd = row[a], differs[a]
            for j in range(a + 1, b):
                odd |= differs[j] | (row[j] ^ value)
            if odd == 0:
                k = lookup[value]
                if k == UNLABELLED:
                    continue
                if k == UNSEEN:
                    k = _number(value, lookup, found, order)
                    if k < 0:
                        return True, cell[:n], each[:n], number[:s], amount[:s]
                whole[r, c] = k
                best[r, c] = k
                total[r, c] = (down - up) * (b - a)
                ground[r, k] += (down - up) * (b - a)
                continue
            for i in range(up, down):
                for j in range(a, b):
                    k = lookup[raw[i, j]]
                    if k == UNSEEN:
                        k = _number(raw[i, j], lookup, found, order)
                        if k < 0:
                            return True, cell[:n], each[:n], number[:s], amount[:s]
                    histogram[k + 2, j & 3] += 1
            if n == len(cell):
                cell, each = np.append(cell, cell), np.append(each, each)
            if s + len(order) > len(number):
                number, amount = np.append(number, number), np.append(amount, amount)
            labelled = most = ties = 0
            begun = s
            for o in range(found[-1]):
                k = order[o]
                count = 0
                for i in range(4):
                    count += histogram[k + 2, i]
                    histogram[k + 2, i] = 0
                if count == 0:
                    continue
                number[s], amount[s] = k, count
                s += 1
                labelled += count
                ground[r, k] += count
                if count > most:
                    best[r, c] = k
                    most, ties = count, 1
                elif count == most:
                    ties += 1
            histogram[0] = 0
            if labelled == 0:
                continue
            total[r, c] = labelled
            if labelled == most:
                whole[r, c] = best[r, c]
                s = begun
                continue
            if ties > 1:
                for i in range(begun, s):
                    tied[number[i]] = amount[i] == most
                best[r, c] = _first_to_reach(raw, up, down, a, b, lookup, tied)
            whole[r, c] = MIXED
            cell[n] = r * width + c
            each[n] = s - begun
            n += 1
    return False, cell[:n], each[:n], number[:s], amount[:s]
