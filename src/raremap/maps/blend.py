"""The arithmetic of blending: weights along an axis, and adding a window's probabilities into a strip.

Windows lie on a product lattice (rows × columns) and their weight is a product too, so the sum of the
weights at a pixel is the sum over rows times the sum over columns. Weights are therefore divided by
their sum once, along each axis, and what is added up is already the blended probability: no buffer of
weights, no division, and the true sum everywhere, scene borders included.

The kernels release the interpreter's lock. Windows are added by one thread in the lattice's order, so the
sums are the same however many threads computed them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numba import njit

from raremap.tiles.windows import offsets


def axis_weights(
    length: int, size: int, step: int, kind: Literal["hann", "mean"]
) -> tuple[list[int], np.ndarray]:
    """Starts of the windows along an axis, and their weights float32 `[windows, min(size, length)]`.

    At every pixel the weights of the windows that hold it sum to 1. Hann is taken at pixel centres,
    sin²(π (i + ½) / n): it is never 0, so a pixel that one window alone holds has weight 1.

    >>> starts, weights = axis_weights(6, 4, 2, "hann")
    >>> starts, weights[0, 2:] + weights[1, :2]
    ([0, 2], array([1., 1.], dtype=float32))
    """
    starts = offsets(length, size, step)
    n = min(size, length)
    shape = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 if kind == "hann" else np.ones(n)
    total = np.zeros(length)
    for start in starts:
        total[start : start + n] += shape
    return starts, np.stack([shape / total[s : s + n] for s in starts]).astype(np.float32)


@njit(nogil=True, cache=True)
def add(ring, probs, row_weights, col_weights, top, col, old_rows, old_cols):  # pragma: no cover
    """Add a window's probs `[K, h, w]`, weighted, into a ring `[K, R, W]`.

    The window's first row lies at ring row `top` (modulo R) and its first column at `col`. Pixels beyond
    the first `old_rows` rows and `old_cols` columns are met for the first time: they are set, not added
    to, so the ring needs no clearing.
    """
    classes, height, width = probs.shape
    ring_rows = ring.shape[1]
    for k in range(classes):
        for i in range(height):
            y = (top + i) % ring_rows
            weight = row_weights[i]
            source = probs[k, i]
            target = ring[k, y, col : col + width]
            cut = width if i < old_rows else old_cols
            for j in range(cut):
                target[j] += weight * col_weights[j] * source[j]
            for j in range(cut, width):
                target[j] = weight * col_weights[j] * source[j]


@njit(nogil=True, cache=True)
def clear(ring, top, col, height, width, old_rows, old_cols):  # pragma: no cover
    """What `add` does for a window that was skipped: 0 where it alone is met so far."""
    ring_rows = ring.shape[1]
    for k in range(ring.shape[0]):
        for i in range(old_rows, height):
            ring[k, (top + i) % ring_rows, col + old_cols : col + width] = 0


@njit(nogil=True, cache=True)
def argmax(probs, out):  # pragma: no cover
    """Write the index of the largest probability into `out` uint8 `[h, w]`; the first of equals."""
    classes, height, width = probs.shape
    best = np.empty(width, np.float32)
    for i in range(height):
        best[:] = probs[0, i]
        out[i] = 0
        for k in range(1, classes):
            row = probs[k, i]
            for j in range(width):
                larger = row[j] > best[j]
                best[j] = row[j] if larger else best[j]
                out[i, j] = k if larger else out[i, j]


@njit(nogil=True, cache=True)
def to_values(index, valid, values, nodata, counts):  # pragma: no cover
    """Turn class index `[h, w]` into map values in place, nodata where not valid; add to `counts` by index."""
    height, width = index.shape
    for i in range(height):
        for j in range(width):
            if valid[i, j]:
                k = index[i, j]
                counts[k] += 1
                index[i, j] = values[k]
            else:
                index[i, j] = nodata
