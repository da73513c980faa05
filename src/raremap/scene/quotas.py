"""Keeping areas: quotas of whole cells by block of ground, and which cells fill them.

Johnson & Clarke (2021), "An area preserving method for improved categorical raster resampling": quotas by
largest remainder; cells of one class first; then the rarest class first, in the cells with its largest shares.
Ours works block by block, which keeps the geography, and carries each block's remainders to the next, so that
the whole keeps every class's area, too. A cell whose own classes have all had their quotas is repaired by
exchange, where Johnson and Clarke leave it to the last class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from raremap.scene.counting import Counts

MIXED, EMPTY = 255, 254


@dataclass(frozen=True)
class Shares:
    """A window's cells, with the many of one class kept apart from the few of several.

    `whole` uint8 `[h, w]`: the class number of a cell of one class, `MIXED`, or `EMPTY` (too little labelled
    ground). The mixed cells are listed block by block: those of block b from `block[b]`; cell i is `cell[i]`
    (row · w + column) and holds the classes `number[s]` with the shares `share[s]`, s from `start[i]`.
    `ground` float64 `[blocks, k]`: cells of each class by block, as shares; `pure` those of one class, `held`
    those with any. `values`: the source value of each class number.
    """

    whole: np.ndarray
    block: np.ndarray
    cell: np.ndarray
    start: np.ndarray
    number: np.ndarray
    share: np.ndarray
    ground: np.ndarray
    pure: np.ndarray
    held: np.ndarray
    values: np.ndarray


def shares(counts: Counts, needed: float, block: int, values: np.ndarray) -> Shares:
    """The shares of a window's counts; cells with less than `needed` counted are empty.

    Each block keeps the proportions of the ground in its cells, also where that is not all labelled.
    """
    # By value and not by number, which depends on what a window met first.
    order = np.argsort(values, kind="stable")
    found = _shares(counts.classes, counts.best, counts.lead, order, needed, block)
    return Shares(*found, values)


@numba.njit(nogil=True, cache=True)
def _shares(classes, best, lead, order, needed, block):  # pragma: no cover - compiled
    height, _, width = classes.shape
    k = len(order)
    down, across = -(-height // block), -(-width // block)
    whole = np.empty((height, width), np.uint8)
    total = np.empty((height, width), np.float32)
    mixed = entries = 0
    for r in range(height):
        total[r] = 0
        for i in order:
            for c in range(width):
                total[r, c] += classes[r, i, c]
        for c in range(width):
            if total[r, c] < needed or total[r, c] == 0:
                whole[r, c] = EMPTY
            elif total[r, c] == lead[r, c]:
                whole[r, c] = best[r, c]
            else:
                whole[r, c] = MIXED
                mixed += 1
                for i in order:
                    entries += classes[r, i, c] > 0
    first = np.zeros(down * across + 1, np.int64)
    cell, start = np.empty(mixed, np.int64), np.zeros(mixed + 1, np.int64)
    number, share = np.empty(entries, np.uint8), np.empty(entries, np.float32)
    ground = np.zeros((down * across, k))
    pure, held = np.zeros((down * across, k), np.int64), np.zeros((down * across, k), np.int64)
    n = s = 0
    for b in range(down * across):
        top, left = b // across * block, b % across * block
        cells, counted = 0, 0.0
        for r in range(top, min(top + block, height)):
            for c in range(left, min(left + block, width)):
                kind = whole[r, c]
                if kind == EMPTY:
                    continue
                cells += 1
                counted += total[r, c]
                if kind != MIXED:
                    pure[b, kind] += 1
                    held[b, kind] += 1
                    ground[b, kind] += total[r, c]
                    continue
                cell[n] = r * width + c
                for i in order:
                    amount = classes[r, i, c]
                    if amount > 0:
                        ground[b, i] += amount
                        held[b, i] += 1
                        number[s] = i
                        share[s] = amount / total[r, c]
                        s += 1
                n += 1
                start[n] = s
        first[b + 1] = n
        if counted > 0:
            ground[b] *= cells / counted
    return whole, first, cell, start, number, share, ground, pure, held


@numba.njit(nogil=True, cache=True)
def apportion(target, total, low, high, order):  # pragma: no cover - compiled
    """Whole numbers that sum to `total` and lie nearest to `target`, each within `low` … `high`.

    Largest remainder; between equal ones the class that comes first in `order`. The bounds must admit the sum.

    >>> apportion(np.array([1.5, 0.2, 1.3]), 3, np.zeros(3, np.int64), np.full(3, 9), np.arange(3)).tolist()
    [2, 0, 1]
    """
    n = len(target)
    out = np.empty(n, np.int64)
    left = total
    for i in range(n):
        out[i] = min(max(int(np.floor(target[i])), low[i]), high[i])
        left -= out[i]
    while left != 0:
        way = 1 if left > 0 else -1
        best, most = -1, -np.inf
        for i in order:
            room = out[i] < high[i] if way > 0 else out[i] > low[i]
            gain = way * (target[i] - out[i])
            if room and gain > most:
                best, most = i, gain
        if best < 0:
            break
        out[best] += way
        left -= way
    return out


@numba.njit(nogil=True, cache=True)
def _quotas(ground, pure, held, slot, order, carry, blocks):  # pragma: no cover - compiled
    out = np.zeros(ground.shape, np.int64)
    k = ground.shape[1]
    for b in blocks:
        # The ground of a block sums to its cells.
        cells = int(np.rint(ground[b].sum()))
        if cells == 0:
            continue
        target = ground[b].copy()
        for i in range(k):
            if held[b, i]:
                target[i] += carry[slot[i]]
        out[b] = apportion(target, cells, pure[b], held[b], order)
        for i in range(k):
            if held[b, i]:
                carry[slot[i]] = target[i] - out[b, i]
    return out


def quotas(found: Shares, carry: np.ndarray, slot: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Cells of each class in each of some blocks `[blocks, k]`; `carry` moves on.

    `carry` float64 holds what is owed to each class so far, in cells; class number i is entry `slot[i]` of it.
    A class gets cells only in blocks where it has ground, and at least the cells that are wholly its own.
    """
    order = np.argsort(found.values, kind="stable")
    return _quotas(found.ground, found.pure, found.held, slot, order, carry, blocks)


def fill(found: Shares, quota: np.ndarray, seed: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Class numbers uint8 `[h, w]` with each block's quotas met, and how many cells got a class they do not hold.

    `seed` is the window's first row and column: cells of equal share are picked by a hash of their place, so
    that no side of a block is preferred and any window picks the same.
    """
    order = np.argsort(found.values, kind="stable")
    return _fill(
        found.whole.copy(), found.block, found.cell, found.start, found.number, found.share,
        quota - found.pure, order, found.whole.shape[1], seed[0], seed[1],
    )  # fmt: skip


@numba.njit(nogil=True, cache=True)
def _hash(row, col):  # pragma: no cover - compiled
    """A number in [0, 1) that looks random and depends on the place alone."""
    x = np.uint64(row) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(col) * np.uint64(0xC2B2AE3D27D4EB4F)
    x ^= x >> np.uint64(29)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(32)
    return np.float64(x >> np.uint64(11)) / 9007199254740992.0


@numba.njit(nogil=True, cache=True)
def _fill(out, block, cell, start, number, share, quota, order, width, row_off, col_off):  # pragma: no cover
    flat = out.reshape(-1)
    forced = 0
    given = np.full(len(cell), -1, np.int64)
    for b in range(len(block) - 1):
        first, end = block[b], block[b + 1]
        if first == end:
            continue
        left = quota[b].copy()
        # Rarest first: the class with the fewest cells still to get; of equal ones the first in `order`.
        turn = order[np.argsort(left[order], kind="mergesort")]
        key = np.empty(end - first)
        which = np.empty(end - first, np.int64)
        for i in turn:
            if left[i] <= 0:
                continue
            n = 0
            for m in range(first, end):
                if given[m] >= 0:
                    continue
                for s in range(start[m], start[m + 1]):
                    if number[s] == i:
                        place = cell[m]
                        key[n] = -share[s] - 1e-6 * _hash(row_off + place // width, col_off + place % width)
                        which[n] = m
                        n += 1
            picked = np.argsort(key[:n])[: left[i]] if n > left[i] else np.arange(n)
            for p in picked:
                given[which[p]] = i
            left[i] -= len(picked)
        for m in range(first, end):
            if given[m] < 0:
                forced += _settle(m, first, end, start, number, share, given, left, order)
        for m in range(first, end):
            flat[cell[m]] = given[m]
    return out, forced


@numba.njit(nogil=True, cache=True)
def _share_of(m, i, start, number, share):  # pragma: no cover - compiled
    for s in range(start[m], start[m + 1]):
        if number[s] == i:
            return share[s]
    return np.float32(0)


@numba.njit(nogil=True, cache=True)
def _settle(m, first, end, start, number, share, given, left, order):  # pragma: no cover - compiled
    """Give cell m one of its own classes by taking it from a cell that can do with a class still owed."""
    best, cost, taken, owed = -1, -np.inf, -1, -1
    for s in range(start[m], start[m + 1]):
        i = number[s]
        for other in range(first, end):
            if given[other] != i:
                continue
            for t in range(start[other], start[other + 1]):
                if left[number[t]] > 0:
                    gain = share[s] + share[t] - _share_of(other, i, start, number, share)
                    if gain > cost:
                        best, cost, taken, owed = other, gain, i, number[t]
    if best >= 0:
        given[m], given[best] = taken, owed
        left[owed] -= 1
        return 0
    for i in order:
        if left[i] > 0:
            given[m] = i
            left[i] -= 1
            return 1
    given[m] = number[start[m]]
    return 1


def whole_shares(counts: Counts, needed: float, block: int, steps: int, values: np.ndarray) -> np.ndarray:
    """Shares of each cell in whole `steps` that sum to `steps`, uint8 `[k, h, w]`; 255 where too little is labelled.

    What rounding leaves of a class in one cell is carried to the next within a block, so that the block keeps
    the class's area to one step.
    """
    order = np.argsort(values, kind="stable")
    return _whole_shares(counts.classes, counts.best, counts.lead, needed, block, steps, order)


@numba.njit(nogil=True, cache=True)
def _whole_shares(classes, best, lead, needed, block, steps, order):  # pragma: no cover - compiled
    height, _, width = classes.shape
    k = len(order)
    out = np.zeros((k, height, width), np.uint8)
    total = np.zeros((height, width), np.float32)
    for r in range(height):
        for i in order:
            for c in range(width):
                total[r, c] += classes[r, i, c]
    carry = np.zeros(k)
    present = np.zeros(k, np.int64)
    for top in range(0, height, block):
        for left in range(0, width, block):
            carry[:] = 0
            for r in range(top, min(top + block, height)):
                for c in range(left, min(left + block, width)):
                    if total[r, c] < needed or total[r, c] == 0:
                        out[:, r, c] = 255
                        continue
                    if total[r, c] == lead[r, c]:
                        out[best[r, c], r, c] = steps
                        continue
                    n, rest = 0, steps
                    for i in order:
                        if classes[r, i, c] > 0:
                            target = classes[r, i, c] / total[r, c] * steps + carry[i]
                            # A little more, so that what is whole but for float32's rounding is whole.
                            amount = min(max(int(np.floor(target + 1e-3)), 0), steps)
                            out[i, r, c] = amount
                            carry[i] = target - amount
                            rest -= amount
                            present[n] = i
                            n += 1
                    while rest != 0:  # to the largest remainders, or from the smallest
                        way = 1 if rest > 0 else -1
                        most, at = -np.inf, -1
                        for m in range(n):
                            i = present[m]
                            room = out[i, r, c] < steps if way > 0 else out[i, r, c] > 0
                            if room and way * carry[i] > most:
                                most, at = way * carry[i], i
                        out[at, r, c] += way
                        carry[at] -= way
                        rest -= way
    return out
