"""Majority, opening and closing of class maps, in pieces that agree with the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit

from raremap.errors import ConfigError
from raremap.maps.index import none_of

MOST_PIXELS = 101
"""Side in pixels of the largest element."""


@dataclass(frozen=True)
class Step:
    """A filter of class index `[h, w]`, exact where `reach` pixels more are known on every side."""

    reach: int
    apply: Callable[[np.ndarray], np.ndarray]

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """The filtered classes, of the same shape."""
        return self.apply(index)


def majority(side: int, classes: int) -> Step:
    """Each pixel gets the commonest class of the `side`² pixels around it: its own where that is among the commonest."""

    def apply(index: np.ndarray) -> np.ndarray:
        best = np.zeros(index.shape, np.int32)
        out = index.copy()
        for own in (True, False):  # first what the own class counts, which wins where it is equalled
            for k in range(classes):
                here = index == k
                if not here.any():
                    continue
                count = cv2.boxFilter(
                    here.astype(np.uint8), cv2.CV_32S, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT
                )  # fmt: skip
                if own:
                    best[here] = count[here]
                else:
                    more = count > best
                    out[more], best[more] = k, count[more]
        empty = index == none_of(index.dtype)
        out[empty] = index[empty]
        return out

    return Step(side // 2, apply)


def opening(k: int, element: np.ndarray) -> Step:
    """What is narrower than the element leaves class k for the nearest other class (of equals the first, row by row).

    Beyond the scene and where there is no data the class is taken to go on. Where no other class is within
    the element's size the pixel stays.
    """
    height, width = element.shape
    offsets = _by_distance(height, width)

    def apply(index: np.ndarray) -> np.ndarray:
        here, none = index == k, none_of(index.dtype)
        left = _dilated(_eroded(here | (index == none), element), element)
        gone = here & ~left
        return _nearest_other(index, gone, k, none, offsets) if gone.any() else index

    # Erosion and dilation look half an element far each; the search a whole one, at what was there before.
    return Step(max(height, width), apply)


def closing(k: int, element: np.ndarray) -> Step:
    """Gaps of class k that the element does not fit into become class k."""

    def apply(index: np.ndarray) -> np.ndarray:
        grown, empty = _dilated(index == k, element), index == none_of(index.dtype)
        filled = _eroded(grown | empty, element)
        return np.where(filled & ~empty, index.dtype.type(k), index)

    return Step(max(element.shape), apply)  # half an element twice


def disc(size_m: float, pixel_m: tuple[float, float], what: str) -> np.ndarray:
    """A disc of a diameter in metres as pixels uint8, of (height, width) metres each; `what` is named in errors."""
    sides = [max(1, round(size_m / p)) for p in pixel_m]
    if max(sides) > MOST_PIXELS:
        raise ConfigError(
            f"{what} of {size_m:g} m is {max(sides)} pixels wide, more than {MOST_PIXELS}; give a smaller size"
        )
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in sides)
    return (y[:, None] ** 2 + x**2 <= 0.25 + 1e-9).astype(np.uint8)


def _eroded(mask: np.ndarray, element: np.ndarray) -> np.ndarray:
    return _morphed(cv2.erode, mask, element, (element.shape[1] // 2, element.shape[0] // 2), 1)


def _dilated(mask: np.ndarray, element: np.ndarray) -> np.ndarray:
    # Of an even element the anchor is the mirrored one, so that both together do not shift the map.
    height, width = element.shape
    return _morphed(cv2.dilate, mask, element, (width - 1 - width // 2, height - 1 - height // 2), 0)


def _morphed(how: Callable, mask: np.ndarray, element: np.ndarray, anchor: tuple[int, int], beyond: int):
    made = how(
        mask.astype(np.uint8), element, anchor=anchor, borderType=cv2.BORDER_CONSTANT, borderValue=beyond
    )  # fmt: skip
    return made.astype(bool)


def _by_distance(height: int, width: int) -> np.ndarray:
    """Offsets (row, column) within an element's size, the nearest first, of equals from the top left on."""
    y, x = np.mgrid[-height : height + 1, -width : width + 1].reshape(2, -1)
    order = np.lexsort((x, y, (y / height) ** 2 + (x / width) ** 2))
    return np.stack([y, x], 1)[order][1:].astype(np.int64)


@njit(nogil=True, cache=True)
def _nearest_other(index, gone, k, none, offsets):  # pragma: no cover
    out = index.copy()
    height, width = index.shape
    for y in range(height):
        for x in range(width):
            if not gone[y, x]:
                continue
            for i in range(len(offsets)):
                v, u = y + offsets[i, 0], x + offsets[i, 1]
                if 0 <= v < height and 0 <= u < width and index[v, u] != k and index[v, u] != none:
                    out[y, x] = index[v, u]
                    break
    return out
