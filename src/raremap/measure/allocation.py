"""How many reference points a map needs, and how many of them in each stratum."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

Allocation = Literal["proportional", "neyman", "equal"]


def sample_size(weights: np.ndarray, expected: np.ndarray, se: float) -> int:
    """Points for the wanted standard error of overall accuracy (Olofsson et al. 2014, equation 13).

    `weights [H]` are the strata's shares of the map, `expected [H]` the user's accuracies that are expected.

    >>> sample_size(np.array([.02, .015, .32, .645]), np.array([.7, .6, .9, .95]), 0.01)  # their section 5.1.1
    641
    """
    return math.ceil(float((weights * deviation(expected)).sum() ** 2 / se**2) - 1e-9)


def deviation(expected: np.ndarray) -> np.ndarray:
    """Standard deviation of being right, by stratum: √(U (1 − U))."""
    return np.sqrt(expected * (1 - expected))


def allocate(
    total: int,
    weights: np.ndarray,
    expected: np.ndarray,
    pixels: np.ndarray,
    minimum: int = 50,
    kind: Allocation = "proportional",
) -> np.ndarray:
    """Points by stratum, int64 `[H]`: `minimum` in each (or all its pixels), the rest in proportion.

    In proportion to weights (proportional), to weights times deviations (neyman), or alike (equal).
    The sum is `total`, or what the minima add up to where that is more.

    >>> w = np.array([0.02, 0.08, 0.9])
    >>> allocate(300, w, np.full(3, 0.9), np.full(3, 10**6), minimum=50)
    array([ 50,  50, 200])
    """
    share = {
        "proportional": weights,
        "neyman": weights * deviation(expected),
        "equal": np.ones(len(weights)),
    }[kind] * (pixels > 0)
    if not share.any():  # all strata are expected to be pure
        share = weights
    low = np.minimum(minimum, pixels).astype(float)
    total = int(min(max(total, low.sum()), pixels.sum()))
    # The share of each is min(pixels, max(low, factor · share)) for the one factor at which all add up.
    least, most = 0.0, total / max(share[share > 0].min(), 1e-12)
    for _ in range(200):
        factor = (least + most) / 2
        enough = np.clip(factor * share, low, pixels).sum() >= total
        least, most = (least, factor) if enough else (factor, most)
    exact = np.clip(most * share, low, pixels)
    out = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(out - exact, kind="stable")
    room = [h for h in order if out[h] < pixels[h]]
    for h in room[: max(0, total - int(out.sum()))]:
        out[h] += 1
    return out


def expected_se(weights: np.ndarray, expected: np.ndarray, points: np.ndarray) -> float:
    """Standard error of overall accuracy that an allocation leads to expect."""
    return float(np.sqrt((weights**2 * deviation(expected) ** 2 / np.maximum(points, 1)).sum()))


def allocate_for(
    se: float,
    weights: np.ndarray,
    expected: np.ndarray,
    pixels: np.ndarray,
    minimum: int = 50,
    kind: Allocation = "proportional",
) -> np.ndarray:
    """Points by stratum that bring the expected standard error down to `se`, in this allocation.

    Equation 13 is of the best allocation; with another one, or with minima, more points are needed.
    """

    def of(total: int) -> np.ndarray:
        return allocate(total, weights, expected, pixels, minimum, kind)

    least = most = sample_size(weights, expected, se)
    while expected_se(weights, expected, of(most)) > se and most < pixels.sum():
        least, most = most, 2 * most
    while least < most:
        middle = (least + most) // 2
        enough = expected_se(weights, expected, of(middle)) <= se
        least, most = (least, middle) if enough else (middle + 1, most)
    return of(most)
