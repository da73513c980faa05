"""What is made of single pixels: ratios of bands, and bands stretched to 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ratio(plus: Sequence[np.ndarray], minus: Sequence[np.ndarray], offset: float = 0.0) -> np.ndarray:
    """(sum of `plus` − sum of `minus`) / (sum of both) of bands float32 `[h, w]`, cut at −1 and 1; 0 where that sum is 0."""
    high, low = _sum(plus, offset), _sum(minus, offset)
    total = high + low
    out = np.zeros_like(total)
    np.divide(high - low, total, out=out, where=total != 0)
    return np.clip(out, -1, 1, out=out)


def _sum(bands: Sequence[np.ndarray], offset: float) -> np.ndarray:
    total = bands[0] + np.float32(len(bands) * offset)
    for band in bands[1:]:
        total += band
    return total


def stretched(bands: Sequence[np.ndarray], low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """(x − low) / (high − low) of each band, float32 `[n, h, w]`; 0 where low and high are one."""
    out = np.zeros((len(bands), *bands[0].shape), np.float32)
    for i, (band, least, greatest) in enumerate(zip(bands, low, high, strict=True)):
        if greatest > least:
            out[i] = (band - np.float32(least)) / np.float32(greatest - least)
    return out
