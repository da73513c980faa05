"""Classes in the cells of a window, the many of one class apart from the few of several.

Where each fine pixel lies in one cell (a whole ratio, edges on edges) they are counted here: a cell whose pixels
are all equal, or of two values, is told and counted by comparing rows, many pixels at a time, and only the others
are looked through. Everything else is counted by `counting` and brought to the same form.

`h w` cells of the window, `k` classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from raremap.scene.counting import UNSEEN, Counts, lookup_table

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


def decided(cells: Cells, needed: float, table: np.ndarray, nodata: int) -> np.ndarray:
    """What `table` says of each cell's leading class `[h, w]`; no data where less than `needed` is labelled."""
    return _decided(cells.best, cells.total, needed, table, nodata)


@numba.njit(nogil=True, cache=True)
def _decided(best, total, needed, table, nodata):  # pragma: no cover - compiled
    out = np.empty(best.shape, table.dtype)
    for r in range(best.shape[0]):
        for c in range(best.shape[1]):
            known = total[r, c] >= needed and total[r, c] > 0
            out[r, c] = table[best[r, c]] if known else nodata
    return out


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
        full, cell, each, number, amount = _count(
            raw, top, int(inside[0]), int(inside[-1]) + 1, first, end, *self._cols, self._lookup, self._found,
            self._order, self._whole, self._best, self._total, self._ground,
        )  # fmt: skip
        self.full |= full
        self._parts.append((cell, each, number, amount))

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
def _compare(raw, up, down, first, either, both, alike):  # pragma: no cover - compiled
    """How the pixels of each column differ (bit by bit, exclusive or) from `first`, the first one of their cell.

    `either` are the differences of all of them, `both` what those that differ have in common, `alike` how many do
    not differ. All are of the pixels' own type, so that a processor takes many columns at a time.
    """
    none, one = raw.dtype.type(0), raw.dtype.type(1)
    either[:] = none
    both[:] = ~none
    alike[:] = none
    for i in range(up, down):
        row = raw[i]
        for j in range(raw.shape[1]):
            odd = row[j] ^ first[j]
            same = one if odd == none else none
            either[j] |= odd
            both[j] &= odd | (none - same)
            alike[j] += same


@numba.njit(nogil=True, cache=True)
def _count(  # pragma: no cover - compiled
    raw, top, r_first, r_end, row_first, row_end, col_first, col_end,
    lookup, found, order, whole, best, total, ground,
):  # fmt: skip
    width, left = len(col_first), col_first[0]
    columns = raw.shape[1]
    cell, each = np.empty(1024, np.int64), np.empty(1024, np.int64)
    number, amount = np.empty(4096, np.uint8), np.empty(4096, np.float32)
    n = s = 0
    first, either, both, alike = (
        np.empty(columns, raw.dtype), np.empty(columns, raw.dtype), np.empty(columns, raw.dtype),
        np.empty(columns, raw.dtype),
    )  # fmt: skip
    histogram = np.zeros(
        len(order) + 2, np.int64
    )  # the first two places are for the unlabelled and for what never is
    tied = np.zeros(len(order), np.bool_)
    differing = np.zeros(columns + 1, np.int32)  # columns up to each one
    origin = np.zeros(columns, np.uint32)  # the first column of each one's cell
    for c in range(width):
        origin[col_first[c] - left : col_end[c] - left] = col_first[c] - left
    for r in range(r_first, r_end):
        up, down = row_first[r] - top, row_end[r] - top
        row = raw[up]
        # One long loop each, where one for each cell would take several times as long.
        for j in range(columns):
            first[j] = row[origin[j]]
        _compare(raw, up, down, first, either, both, alike)
        different = 0
        for j in range(columns):
            different += either[j] != 0
            differing[j + 1] = different
        countable = down - up < 256  # as `alike` holds
        for c in range(width):
            a, b = col_first[c] - left, col_end[c] - left
            if a >= b:
                continue
            pixels = (down - up) * (b - a)
            value = row[a]
            k = lookup[value]
            if k == UNSEEN:
                k = _number(value, lookup, found, order)
                if k < 0:
                    return True, cell[:n], each[:n], number[:s], amount[:s]
            if differing[b] == differing[a]:
                if k >= 0:
                    whole[r, c] = best[r, c] = k
                    total[r, c] = pixels
                    ground[r, k] += pixels
                continue
            if n == len(cell):
                cell, each = np.append(cell, cell), np.append(each, each)
            if s + len(order) > len(number):
                number, amount = np.append(number, number), np.append(amount, amount)
            begun = s
            odd, common, count = either[a], both[a], np.int64(0)
            for j in range(a, b):
                odd |= either[j]
                common &= both[j]
                count += alike[j]
            if countable and common == odd:  # two values
                other = value ^ odd
                m = lookup[other]
                if m == UNSEEN:
                    m = _number(other, lookup, found, order)
                    if m < 0:
                        return True, cell[:n], each[:n], number[:s], amount[:s]
                if k >= 0 and m >= 0 and other < value:
                    k, m, count = m, k, pixels - count
                if k >= 0:
                    number[s], amount[s] = k, count
                    s += 1
                if m >= 0:
                    number[s], amount[s] = m, pixels - count
                    s += 1
            else:
                for i in range(up, down):
                    for j in range(a, b):
                        k = lookup[raw[i, j]]
                        if k == UNSEEN:
                            k = _number(raw[i, j], lookup, found, order)
                            if k < 0:
                                return True, cell[:n], each[:n], number[:s], amount[:s]
                        histogram[k + 2] += 1
                histogram[0] = 0
                for o in range(found[-1]):
                    k = order[o]
                    if histogram[k + 2]:
                        number[s], amount[s] = k, histogram[k + 2]
                        histogram[k + 2] = 0
                        s += 1
            if s == begun:
                continue
            labelled = most = np.float32(0)
            ties = 0
            for i in range(begun, s):
                labelled += amount[i]
                ground[r, number[i]] += amount[i]
                if amount[i] > most:
                    best[r, c] = number[i]
                    most, ties = amount[i], 1
                elif amount[i] == most:
                    ties += 1
            total[r, c] = labelled
            if s == begun + 1:
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
