"""How likely each pixel of a tile is to be delivered by a crop: in closed form, since both sides are drawn alone."""

from __future__ import annotations

import cv2
import numpy as np

from raremap.labels import IGNORE

TRIES = 5
"""Crops that are drawn for one sample until one of them holds a labelled pixel."""


def anywhere(length: int, size: int) -> np.ndarray:
    """How likely each of `length` pixels is to lie in a crop that starts anywhere, `[length]`.

    >>> anywhere(4, 3).tolist()
    [0.5, 1.0, 1.0, 0.5]
    """
    last, pixel = max(0, length - size), np.arange(length)
    return (np.minimum(pixel, last) - np.maximum(pixel - size + 1, 0) + 1) / (last + 1)


def moves(starts: np.ndarray, length: int, size: int, step: int) -> np.ndarray:
    """How likely a crop drawn at each start, moved by up to half a step, begins where: `[starts, begins]`.

    >>> moves(np.array([0, 2]), 4, 2, 2).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]
    """
    last = max(0, length - size)
    begin = np.clip(starts[:, None] + np.arange(-(step // 2), step - step // 2), 0, last)
    times = np.zeros((len(starts), last + 1))
    np.add.at(times, (np.arange(len(starts))[:, None], begin), 1)
    return times / step


def coverage(starts: np.ndarray, length: int, size: int, step: int) -> np.ndarray:
    """How likely each of `length` pixels is to lie in a crop drawn at each start, `[starts, length]`.

    >>> coverage(np.array([0, 2]), 4, 2, 2).tolist()
    [[1.0, 1.0, 0.0, 0.0], [0.0, 0.5, 1.0, 0.5]]
    """
    begin, pixel = np.arange(max(0, length - size) + 1)[:, None], np.arange(length)
    return moves(starts, length, size, step) @ ((begin <= pixel) & (pixel < begin + size))


def empty_crops(mask: np.ndarray, size: int) -> np.ndarray:
    """Where a crop begins that holds no labelled pixel, bool by its first row and column."""
    height, width = (min(size, n) for n in mask.shape)
    return box_sums((mask != IGNORE).astype(np.float32), height, width) < 0.5


def deliveries(empty: np.ndarray | float) -> np.ndarray | float:
    """How often a sample draws a crop, where a share `empty` of them holds no label and is drawn again.

    That is Σ emptyᵗ over the tries, and what crops hold on average is delivered so many times.
    """
    return sum(empty**t for t in range(TRIES))


def delivered(mask: np.ndarray, size: int) -> np.ndarray:
    """How often a sample of a tile delivers each pixel `[h, w]`, where its crop lies anywhere.

    Exact: the chance to lie in a crop, times the crops that are drawn where some are empty.
    """
    chance = np.outer(*(anywhere(n, size) for n in mask.shape))
    empty = 0.0 if (mask != IGNORE).all() else float(empty_crops(mask, size).mean())
    return chance * deliveries(empty)


def box_sums(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sums over all boxes of that size inside the array."""
    s = cv2.integral(values, sdepth=cv2.CV_64F)
    return s[height:, width:] - s[:-height, width:] - s[height:, :-width] + s[:-height, :-width]
