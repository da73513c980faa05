"""Filters that know which pixels are valid, the same to the last bit in a window and in the whole scene.

Every value is computed in one order of operations, wherever its pixel lies in the array; what is outside of
the array is as if it were invalid.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

# A side of the blocks that the median sorts at a time.
_BLOCK = 48


@lru_cache
def gaussian_weights(radius: int, sigma: float) -> np.ndarray:
    """Weights float32 `[2 radius + 1]` of a Gaussian at whole pixels, of sum 1."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def smooth(values: np.ndarray, valid: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Values float32 `[h, w]` (0 where invalid) averaged with separable weights over valid pixels only.

    Normalised convolution (Knutsson & Westin 1993): the weighted sum of the valid, by the sum of their
    weights. 0 where there is none.
    """
    return _smooth(np.ascontiguousarray(values), np.ascontiguousarray(valid).astype(np.float32), weights)


@njit(cache=True, nogil=True)
def _smooth(values, valid, weights):
    height, width = values.shape
    radius = len(weights) // 2
    out = np.zeros((height, width), np.float32)
    above, known = np.empty(width, np.float32), np.empty(width, np.float32)
    sums, shares = np.empty(width, np.float32), np.empty(width, np.float32)
    for r in range(height):
        above[:] = 0
        known[:] = 0
        for k in range(-radius, radius + 1):
            if 0 <= r + k < height:
                weight, row, ok = weights[k + radius], values[r + k], valid[r + k]
                for c in range(width):
                    above[c] += weight * row[c]
                    known[c] += weight * ok[c]
        sums[:] = 0
        shares[:] = 0
        for k in range(-radius, radius + 1):
            weight = weights[k + radius]
            first, last = max(0, -k), min(width, width - k)
            for c in range(first, last):
                sums[c] += weight * above[c + k]
                shares[c] += weight * known[c + k]
        for c in range(width):
            if shares[c] > 0:
                out[r, c] = sums[c] / shares[c]
    return out


@njit(cache=True, nogil=True)
def gradient(values, valid):
    """Change a pixel to the right and downwards, float64 `[2, h, w]`: an eighth of Sobel's kernels.

    Each is the mean (1, 2, 1) of three differences of the pixels on both sides; where one side is not
    valid that of the middle to the other side counts, where that is not there either the mean is of the others,
    or 0. A plane has its true gradient everywhere, at the rim and beside holes, too.
    """
    height, width = values.shape
    out = np.zeros((2, height, width))
    for r in range(height):
        for c in range(width):
            if not valid[r, c]:
                continue
            if (
                0 < r < height - 1
                and 0 < c < width - 1
                and valid[r - 1, c - 1]
                and valid[r - 1, c]
                and valid[r - 1, c + 1]
                and valid[r, c - 1]
                and valid[r, c + 1]
                and valid[r + 1, c - 1]
                and valid[r + 1, c]
                and valid[r + 1, c + 1]
            ):
                nw, ne = float(values[r - 1, c - 1]), float(values[r - 1, c + 1])
                sw, se = float(values[r + 1, c - 1]), float(values[r + 1, c + 1])
                west, east = float(values[r, c - 1]), float(values[r, c + 1])
                north, south = float(values[r - 1, c]), float(values[r + 1, c])
                out[0, r, c] = ((ne - nw) + (se - sw) + 2 * (east - west)) / 8
                out[1, r, c] = ((sw - nw) + (se - ne) + 2 * (south - north)) / 8
            else:
                out[0, r, c] = _along(values, valid, r, c, 0, 1)
                out[1, r, c] = _along(values, valid, r, c, 1, 0)
    return out


@njit(cache=True, nogil=True)
def _along(values, valid, r, c, down, right):
    total, weights = 0.0, 0.0
    for k in (-1, 1, 0):
        weight = 2.0 if k == 0 else 1.0
        row, col = r + k * right, c + k * down
        middle = _is(valid, row, col)
        before, after = _is(valid, row - down, col - right), _is(valid, row + down, col + right)
        if before and after:
            change = (float(values[row + down, col + right]) - float(values[row - down, col - right])) / 2
        elif middle and after:
            change = float(values[row + down, col + right]) - float(values[row, col])
        elif middle and before:
            change = float(values[row, col]) - float(values[row - down, col - right])
        else:
            continue
        total += weight * change
        weights += weight
    return total / weights if weights > 0 else 0.0


@njit(cache=True, nogil=True)
def _is(valid, r, c):
    return 0 <= r < valid.shape[0] and 0 <= c < valid.shape[1] and valid[r, c]


def median(values: np.ndarray, valid: np.ndarray, size: int) -> np.ndarray:
    """Median of the valid pixels in a window of `size` by `size`, float32 `[h, w]`; of an even number the mean of
    the middle two. 0 where none is valid.

    An even window reaches one pixel further up and left, as scipy's does. By bit sets of ranks in blocks (Suomela 2014,
    arXiv:1406.1717): exact, and little slower for large windows.
    """
    before, after = size // 2, (size - 1) // 2
    return _median(np.ascontiguousarray(values), np.ascontiguousarray(valid), before, after, _BLOCK + size)


@njit(cache=True, nogil=True)
def _median(values, valid, before, after, block):
    height, width = values.shape
    out = np.zeros((height, width), np.float32)
    side = block + before + after
    ranks = np.empty((side, side), np.int32)
    for top in range(0, height, block):
        for left in range(0, width, block):
            _median_block(values, valid, before, after, top, left, block, ranks, out)
    return out


@njit(cache=True, nogil=True)
def _median_block(values, valid, before, after, top, left, block, ranks, out):
    """The medians of one block: its pixels ranked once, then a set of ranks follows the window, to and fro."""
    height, width = values.shape
    r0, r1 = max(0, top - before), min(height, top + block + after)
    c0, c1 = max(0, left - before), min(width, left + block + after)
    n = 0
    for r in range(r0, r1):
        for c in range(c0, c1):
            n += valid[r, c]
    if n == 0:
        return
    found, places = np.empty(n, np.float32), np.empty(n, np.int64)
    i = 0
    for r in range(r0, r1):
        for c in range(c0, c1):
            ranks[r - r0, c - c0] = -1
            if valid[r, c]:
                found[i], places[i] = values[r, c], (r - r0) * ranks.shape[1] + c - c0
                i += 1
    order = np.argsort(found)
    found = found[order]
    for rank in range(n):
        place = places[order[rank]]
        ranks[place // ranks.shape[1], place % ranks.shape[1]] = rank
    words = np.zeros((n + 63) // 64, np.uint64)
    state = np.zeros(3, np.int64)  # word in question, ranks in the words below it, ranks in all
    bottom, right = min(height, top + block), min(width, left + block)
    for r in range(max(r0, top - before), min(r1, top + after + 1)):
        for c in range(max(c0, left - before), min(c1, left + after + 1)):
            _put(words, state, ranks[r - r0, c - c0], 1)
    for r in range(top, bottom):
        rightward = (r - top) % 2 == 0
        first, last = max(r0, r - before), min(r1, r + after + 1)
        for i in range(right - left):
            c = left + i if rightward else right - 1 - i
            if i > 0:
                gone = c - before - 1 if rightward else c + after + 1
                come = c + after if rightward else c - before
                if c0 <= gone < c1:
                    for row in range(first, last):
                        _put(words, state, ranks[row - r0, gone - c0], -1)
                if c0 <= come < c1:
                    for row in range(first, last):
                        _put(words, state, ranks[row - r0, come - c0], 1)
            count = state[2]
            if count > 0:
                high = found[_nth(words, state, count // 2)]
                if count % 2 == 0:
                    low = found[_nth(words, state, count // 2 - 1)]
                    high = (low + high) / np.float32(2)
                out[r, c] = high
        if r + 1 < bottom:
            c = right - 1 if rightward else left
            first_col, last_col = max(c0, c - before), min(c1, c + after + 1)
            if r - before >= r0:
                for col in range(first_col, last_col):
                    _put(words, state, ranks[r - before - r0, col - c0], -1)
            if r + 1 + after < r1:
                for col in range(first_col, last_col):
                    _put(words, state, ranks[r + 1 + after - r0, col - c0], 1)


@njit(cache=True, nogil=True)
def _put(words, state, rank, sign):
    if rank >= 0:
        words[rank >> 6] ^= np.uint64(1) << np.uint64(rank & 63)
        state[2] += sign
        if (rank >> 6) < state[0]:
            state[1] += sign


@njit(cache=True, nogil=True)
def _nth(words, state, n):
    """The n-th rank of the set, from 0; the word it lies in is where the next search begins."""
    while state[1] > n:
        state[0] -= 1
        state[1] -= _ones(words[state[0]])
    ones = _ones(words[state[0]])
    while state[1] + ones <= n:
        state[1] += ones
        state[0] += 1
        ones = _ones(words[state[0]])
    word = words[state[0]]
    for _ in range(n - state[1]):
        word &= word - np.uint64(1)
    return (state[0] << 6) + _ones((word & (~word + np.uint64(1))) - np.uint64(1))


@njit(cache=True, nogil=True)
def _ones(word):
    """How many bits of 64 are set."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))
