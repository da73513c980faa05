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

from raremap.scene.cells import EMPTY, MIXED, Cells


@dataclass(frozen=True)
class Shares:
    """A window's cells block by block, with what each block holds.

    `whole` uint8 `[h, w]`: the class number of a cell of one class, `MIXED`, or `EMPTY` (too little labelled
    ground). The mixed cells of block b are listed from `block[b]`; cell i is `cell[i]` (row · w + column) and
    holds the classes `number[s]` with the shares `share[s]`, s from `start[i]`.
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


def shares(cells: Cells, needed: float, block: int) -> Shares:
    """The shares of a window's cells; those with less than `needed` labelled are empty.

    Each block keeps the proportions of the ground in its cells, also where that is not all labelled.
    """
    found = _shares(
        cells.whole.copy(), cells.total, cells.cell, cells.start, cells.number, cells.amount, len(cells.values),
        needed, block,
    )  # fmt: skip
    return Shares(*found, cells.values)


@numba.njit(nogil=True, cache=True)
def _shares(whole, total, mixed, begin, numbers, amount, k, needed, block):  # pragma: no cover - compiled
    height, width = whole.shape
    down, across = -(-height // block), -(-width // block)
    first, entry = np.zeros(down * across + 1, np.int64), np.zeros(down * across + 1, np.int64)
    ground, counted = np.zeros((down * across, k)), np.zeros(down * across)
    pure, held = np.zeros((down * across, k), np.int64), np.zeros((down * across, k), np.int64)
    cells = np.zeros(down * across, np.int64)
    m = 0
    for r in range(height):
        for c in range(width):
            kind = whole[r, c]
            m += kind == MIXED
            if kind == EMPTY:
                continue
            if total[r, c] < needed:
                whole[r, c] = EMPTY
                continue
            b = r // block * across + c // block
            cells[b] += 1
            counted[b] += total[r, c]
            if kind != MIXED:
                pure[b, kind] += 1
                held[b, kind] += 1
                ground[b, kind] += total[r, c]
                continue
            for s in range(begin[m - 1], begin[m]):
                ground[b, numbers[s]] += amount[s]
                held[b, numbers[s]] += 1
            first[b + 1] += 1
            entry[b + 1] += begin[m] - begin[m - 1]
    for b in range(down * across):
        first[b + 1] += first[b]
        entry[b + 1] += entry[b]
        if counted[b] > 0:
            ground[b] *= cells[b] / counted[b]
    # The mixed cells once more, each to its block.
    cell, start = np.empty(first[-1], np.int64), np.zeros(first[-1] + 1, np.int64)
    number, share = np.empty(entry[-1], np.uint8), np.empty(entry[-1], np.float32)
    place = first[:-1].copy()
    for m in range(len(mixed)):
        r, c = mixed[m] // width, mixed[m] % width
        if whole[r, c] == EMPTY:
            continue
        b = r // block * across + c // block
        cell[place[b]] = mixed[m]
        s = entry[b]
        for t in range(begin[m], begin[m + 1]):
            number[s] = numbers[t]
            share[s] = amount[t] / total[r, c]
            s += 1
        entry[b] = s
        place[b] += 1
        start[place[b]] = s
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
            limit = np.partition(key[:n], left[i] - 1)[left[i] - 1] if n > left[i] else np.inf
            for equal in (False, True):
                for p in range(n):
                    if left[i] > 0 and (key[p] == limit if equal else key[p] < limit):
                        given[which[p]] = i
                        left[i] -= 1
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


def whole_shares(
    cells: Cells, needed: float, block: int, steps: int, band: np.ndarray, bands: int
) -> np.ndarray:
    """Shares of each cell in whole `steps` that sum to `steps`, uint8 `[bands, h, w]`; 255 where too little is labelled.

    Class number i goes to `band[i]`. What rounding leaves of a class in one cell is carried to the next within a
    block, so that the block keeps the class's area to one step.
    """
    return _whole_shares(
        cells.whole, cells.total, cells.start, cells.number, cells.amount, needed, block, steps, band,
        np.zeros((bands, *cells.whole.shape), np.uint8),
    )  # fmt: skip


@numba.njit(nogil=True, cache=True)
def _whole_shares(
    whole, total, start, number, amount, needed, block, steps, band, out
):  # pragma: no cover - compiled
    height, width = whole.shape
    carry = np.zeros((-(-width // block), len(band)))
    m = 0
    for r in range(height):
        if r % block == 0:
            carry[:] = 0
        for c in range(width):
            kind = whole[r, c]
            m += kind == MIXED
            if kind == EMPTY or total[r, c] < needed:
                out[:, r, c] = 255
                continue
            if kind != MIXED:
                out[band[kind], r, c] = steps
                continue
            owed = carry[c // block]
            rest = steps
            for s in range(start[m - 1], start[m]):
                i = number[s]
                target = amount[s] / total[r, c] * steps + owed[i]
                # A little more, so that what is whole but for float32's rounding is whole.
                given = min(max(int(np.floor(target + 1e-3)), 0), steps)
                out[band[i], r, c] = given
                owed[i] = target - given
                rest -= given
            while rest != 0:  # to the largest remainders, or from the smallest
                way = 1 if rest > 0 else -1
                most, at = -np.inf, -1
                for s in range(start[m - 1], start[m]):
                    i = number[s]
                    given = out[band[i], r, c]
                    room = given < steps if way > 0 else given > 0
                    if room and way * owed[i] > most:
                        most, at = way * owed[i], i
                out[band[at], r, c] += way
                owed[at] -= way
                rest -= way
    return out
