"""Windows at another resolution: bilinear, over valid pixels alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_LEAST = 1e-6  # a pixel with less valid ground than this is not valid


def resized(values: np.ndarray, valid: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Values `[B, C, h, w]` with validity `[B, h, w]` at another `size`, float32, with the validity there.

    Bilinear with centres of pixels at halves; where pixels become fewer the filter grows with them, so that all of
    them count. A pixel is a mean of the valid ones alone, and valid where there is any.

    >>> values, valid = np.array([[[[2.0, 4.0, 8.0, 8.0]]]]), np.array([[[True, True, False, False]]])
    >>> small, there = resized(values, valid, (1, 1))  # 5 and 7 eighths of 2 and 4
    >>> round(float(small[0, 0, 0, 0]), 4), bool(there[0, 0, 0])
    (3.1667, True)
    """
    rows = _weights(values.shape[-2], size[0])
    cols = _weights(values.shape[-1], size[1]).T
    if valid.all():
        shape = (*valid.shape[:-2], *size)
        return rows @ values.astype(np.float32, copy=False) @ cols, np.ones(shape, bool)
    # Not a product: what is not valid may be NaN.
    known = np.where(valid[:, None], values, np.float32(0)).astype(np.float32, copy=False)
    weight = rows @ valid.astype(np.float32) @ cols
    there = weight > _LEAST
    out = rows @ known @ cols
    out /= np.where(there, weight, np.float32(1))[:, None]
    return out, there


@lru_cache(maxsize=64)
def _weights(length: int, wanted: int) -> np.ndarray:
    """`[wanted, length]`: what each old pixel of an axis gives to each new one; rows sum to 1."""
    step = length / wanted
    reach = max(1.0, step)
    distance = np.abs((np.arange(wanted)[:, None] + 0.5) * step - (np.arange(length)[None, :] + 0.5))
    weights = np.maximum(0.0, 1 - distance / reach)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
