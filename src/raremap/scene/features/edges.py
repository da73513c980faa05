"""Canny's edges, of a reach that is capped: then a window knows what the whole scene knows."""

from __future__ import annotations

import numpy as np
from numba import njit

# OpenCV's tangent of 22.5 degrees, in 32768ths.
_TANGENT = 13573.0 / 32768.0


def canny(right: np.ndarray, down: np.ndarray, low: float, high: float, reach: int) -> np.ndarray:
    """Edges, 0 or 1 uint8 `[h, w]`, of a gradient `[h, w]` (0 where it is unknown).

    A ridge of the gradient's size above `high` is an edge, and so is one above `low` that is joined to such
    by at most `reach` steps along ridges, to the eight neighbours (Canny 1986; ridges as OpenCV finds them, with
    the true size of the gradient). Without the cap an edge here could depend on the scene's other end.
    """
    return _follow(_ridges(right, down, low * low, high * high), reach)


@njit(cache=True, nogil=True)
def _ridges(right, down, low, high):
    height, width = right.shape
    size = right * right + down * down
    out = np.zeros((height, width), np.uint8)
    for r in range(height):
        for c in range(width):
            m = size[r, c]
            if m <= low:
                continue
            x, y = abs(right[r, c]), abs(down[r, c])
            if y < _TANGENT * x:
                ridge = m > _at(size, r, c - 1) and m >= _at(size, r, c + 1)
            elif y > (_TANGENT + 2) * x:
                ridge = m > _at(size, r - 1, c) and m >= _at(size, r + 1, c)
            else:
                s = -1 if (right[r, c] < 0) != (down[r, c] < 0) else 1
                ridge = m > _at(size, r - 1, c - s) and m > _at(size, r + 1, c + s)
            if ridge:
                out[r, c] = 2 if m > high else 1
    return out


@njit(cache=True, nogil=True)
def _at(array, r, c):
    return array[r, c] if 0 <= r < array.shape[0] and 0 <= c < array.shape[1] else 0.0


@njit(cache=True, nogil=True)
def _follow(ridges, reach):
    """1 where a ridge is strong (2), or weak (1) and so many steps from a strong one."""
    height, width = ridges.shape
    out = np.zeros((height, width), np.uint8)
    queue = np.empty(np.count_nonzero(ridges), np.int64)
    end = 0
    for r in range(height):
        for c in range(width):
            if ridges[r, c] == 2:
                out[r, c] = 1
                queue[end] = r * width + c
                end += 1
    start = 0
    for _ in range(reach):
        stop = end
        if start == stop:
            break
        for i in range(start, stop):
            r, c = queue[i] // width, queue[i] % width
            for row in range(max(0, r - 1), min(height, r + 2)):
                for col in range(max(0, c - 1), min(width, c + 2)):
                    if ridges[row, col] == 1 and out[row, col] == 0:
                        out[row, col] = 1
                        queue[end] = row * width + col
                        end += 1
        start = stop
    return out
