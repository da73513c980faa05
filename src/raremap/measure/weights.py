"""Class weights of the cross-entropy, from the class shares of the training stream."""

from __future__ import annotations

from typing import Literal

import numpy as np

WeightKind = Literal["none", "ins", "sqrt_ins"]
_LARGEST = 10.0


def class_weights(kind: WeightKind, shares: np.ndarray) -> np.ndarray:
    """Weights `[K]` with mean 1 over the classes present, at most 10, for class shares `[K]`.

    ins: 1/n (inverse number of samples); sqrt_ins: 1/√n. A class without a pixel weighs 0.

    >>> class_weights("ins", np.array([0.8, 0.2])).round(3).tolist()
    [0.4, 1.6]
    """
    present = shares > 0
    if kind == "none" or not present.any():
        return present.astype(np.float64)
    power = {"ins": 1.0, "sqrt_ins": 0.5}[kind]
    raw = np.where(present, np.where(present, shares, 1.0) ** -power, 0.0)
    return np.minimum(raw / raw[present].mean(), _LARGEST)
