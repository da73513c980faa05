"""The confusion matrix: the one thing that every score is computed from."""

from __future__ import annotations

import numpy as np


def confusion(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels by true class (rows) and predicted class (columns), int64 `[K, K]`.

    Both are class indices of one shape; pixels whose truth is no class (`IGNORE`) do not count. Raises
    `ValueError` where a counted pixel's prediction is no class.

    >>> confusion(np.array([0, 0, 1, 255]), np.array([0, 1, 1, 0]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, predicted {predicted.shape}")
    counted = truth < num_classes
    t, p = truth[counted].astype(np.intp), predicted[counted]
    if p.size and p.max() >= num_classes:
        raise ValueError(f"predicted index {p.max()} at a labelled pixel, there are {num_classes} classes")
    return np.bincount(t * num_classes + p, minlength=num_classes**2).reshape(num_classes, num_classes)
