"""Boundary F1: whether the outlines of classes lie where they should."""

from __future__ import annotations

import numpy as np

from raremap.scene.edges import class_edges

TOLERANCE = 2
"""Pixels that an outline may be off."""


def boundary_counts(
    truth: np.ndarray, predicted: np.ndarray, num_classes: int, tolerance: int = TOLERANCE
) -> np.ndarray:
    """Outline pixels by class, int64 `[K, 4]`: predicted ones, those of them near a true one, true ones, those found.

    Both are class indices `[h, w]`; pixels whose truth is no class do not count. An outline pixel of a
    class has one of its four neighbours, labelled too, in another class: the edge of the image and of
    ignored ground is no outline. Near is within a disk of `tolerance` pixels (Csurka et al. 2013).
    """
    import cv2

    labelled = truth < num_classes
    predicted = np.where(labelled, predicted, num_classes)
    truth = np.where(labelled, truth, num_classes)
    reach = np.arange(-tolerance, tolerance + 1)
    disk = (reach[:, None] ** 2 + reach[None] ** 2 <= tolerance**2).astype(np.uint8)
    true_edges, found_edges = class_edges(truth, labelled), class_edges(predicted, labelled)
    out = np.zeros((num_classes, 4), np.int64)
    for c in np.union1d(np.unique(truth[true_edges]), np.unique(predicted[found_edges])):
        true, found = true_edges & (truth == c), found_edges & (predicted == c)
        near_true, near_found = (cv2.dilate(e.astype(np.uint8), disk) > 0 for e in (true, found))
        out[int(c)] = found.sum(), (found & near_true).sum(), true.sum(), (true & near_found).sum()
    return out


def boundary_f1(counts: np.ndarray) -> np.ndarray:
    """F1 `[..., K]` of outlines from counts `[..., K, 4]`; NaN where a class has no true outline."""
    found, right, true, hit = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(found > 0, right / found, 0.0)
        recall = hit / true
        f1 = np.where(precision + recall > 0, 2 * precision * recall / (precision + recall), 0.0)
    return np.where(true > 0, f1, np.nan)
