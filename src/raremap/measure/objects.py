"""Objects of a class: how many were found, and how many were called that are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

OVERLAP = 0.5
"""The share of an object that has to be met."""

_EIGHT = np.ones((3, 3), bool)


def object_counts(
    truth: np.ndarray,
    predicted: np.ndarray,
    classes: Sequence[int],
    num_classes: int,
    overlap: float = OVERLAP,
) -> np.ndarray:
    """Objects by class, int64 `[K, 4]`: true ones, those found, predicted ones, those right; 0 for other classes.

    Objects are 8-connected pixels of a class in class indices `[h, w]`; those cut by the image's edge count as
    they are seen. A true object is found where at least `overlap` of its pixels are predicted as its class; a
    predicted one is right where at least that share of its labelled pixels are of its class, and is a false alarm
    otherwise. One without a labelled pixel does not count.
    """
    labelled = truth < num_classes
    out = np.zeros((num_classes, 4), np.int64)
    for c in classes:
        true, found = truth == c, (predicted == c) & labelled
        out[c, :2] = _met(true, found, overlap)
        out[c, 2:] = _met(found, true, overlap)
    return out


def _met(mask: np.ndarray, by: np.ndarray, overlap: float) -> tuple[int, int]:
    """Objects of a mask, and how many of them are met by another mask."""
    if not mask.any():
        return 0, 0
    number, count = _label(mask)
    size = np.bincount(number.ravel(), minlength=count + 1)[1:]
    hits = np.bincount(number.ravel(), by.ravel(), minlength=count + 1)[1:]
    return count, int((hits >= overlap * size).sum())


def _label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    from scipy import ndimage

    found: Any = ndimage.label(mask, _EIGHT)
    return found


def count_pieces(truth: np.ndarray, num_classes: int, cell: int = 32) -> np.ndarray:
    """Objects of each class int64 `[K]` after a grid of `cell` pixels has cut them.

    It says how much there is to learn a class from: a forest that fills the image is many pieces, not one.
    """
    h, w = truth.shape
    padded = np.full((-(-h // cell) * cell, -(-w // cell) * cell), 255, np.uint8)
    padded[:h, :w] = truth
    # A row and a column between the cells keep their pieces apart.
    spread = np.full((len(padded) // cell, cell + 1, padded.shape[1] // cell, cell + 1), 255, np.uint8)
    spread[:, :cell, :, :cell] = padded.reshape(spread.shape[0], cell, spread.shape[2], cell)
    spread = spread.reshape(spread.shape[0] * (cell + 1), -1)
    out = np.zeros(num_classes, np.int64)
    for c in np.unique(truth[truth < num_classes]):
        out[c] = _label(spread == c)[1]
    return out


def object_recall(counts: np.ndarray) -> np.ndarray:
    """Share `[..., K]` of true objects that were found, from counts `[..., K, 4]`; NaN where there is none."""
    return _share(counts[..., 1], counts[..., 0])


def false_alarms(counts: np.ndarray) -> np.ndarray:
    """Share `[..., K]` of predicted objects that are none, from counts `[..., K, 4]`; NaN where nothing was predicted."""
    return _share(counts[..., 2] - counts[..., 3], counts[..., 2])


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)
