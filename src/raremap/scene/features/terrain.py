"""The shape of the ground from heights: slope, aspect, shade and curvature."""

from __future__ import annotations

import numpy as np
from numba import njit

from raremap.scene.features.filters import gradient
from raremap.scene.steps import Steps


def uphill(heights: np.ndarray, valid: np.ndarray, steps: Steps) -> tuple[np.ndarray, np.ndarray]:
    """Rise of the ground to the east and to the north, metres a metre, float64 `[h, w]` (Horn 1981)."""
    right, down = gradient(heights, valid)
    return steps.uphill(right, down)


def slope(east: np.ndarray, north: np.ndarray) -> np.ndarray:
    """Steepest slope, degrees from 0 to 90."""
    return np.degrees(np.arctan(np.hypot(east, north)))


def aspect(east: np.ndarray, north: np.ndarray) -> np.ndarray:
    """Sine and cosine `[2, h, w]` of the azimuth that the slope faces, clockwise from north; both 0 where it is flat."""
    size = np.hypot(east, north)
    size[size == 0] = np.inf
    return np.stack([-east / size, -north / size])


def hillshade(east: np.ndarray, north: np.ndarray, azimuth: float, altitude: float) -> np.ndarray:
    """Light that ground takes from a sun there (degrees): cosine of its angle of incidence, 0 in the shade."""
    a, h = np.radians(azimuth), np.radians(altitude)
    light = np.sin(h) - np.cos(h) * (np.sin(a) * east + np.cos(a) * north)
    return np.maximum(0, light / np.sqrt(1 + east**2 + north**2))


def curvature(heights: np.ndarray, valid: np.ndarray, steps: Steps, form: str) -> np.ndarray:
    """Curvature of the ground, a metre, above 0 where it is convex (Zevenbergen & Thorne 1987, their signs turned).

    `total` is minus the sum of both second derivatives; `profile` its part along the slope, `plan` that across: they
    add up to it. Those are 0 where it is flat, and a second derivative is 0 where a pixel that it needs is not valid.
    """
    ee, en, nn = steps.bend(*_second(heights, valid))
    if form == "total":
        return -(ee + nn)
    east, north = uphill(heights, valid, steps)
    size = east**2 + north**2
    size[size == 0] = np.inf
    if form == "profile":
        return -(ee * east**2 + 2 * en * east * north + nn * north**2) / size
    return -(ee * north**2 - 2 * en * east * north + nn * east**2) / size


@njit(cache=True, nogil=True)
def _second(heights, valid):
    """Second derivatives by pixels: to the right, mixed (right and downwards), downwards; float64 `[3, h, w]`."""
    height, width = heights.shape
    out = np.zeros((3, height, width))
    for r in range(height):
        for c in range(width):
            if not valid[r, c]:
                continue
            middle = float(heights[r, c])
            above, below = r > 0, r < height - 1
            before, after = c > 0, c < width - 1
            if before and after and valid[r, c - 1] and valid[r, c + 1]:
                out[0, r, c] = float(heights[r, c - 1]) - 2 * middle + float(heights[r, c + 1])
            if above and below and valid[r - 1, c] and valid[r + 1, c]:
                out[2, r, c] = float(heights[r - 1, c]) - 2 * middle + float(heights[r + 1, c])
            if (
                above
                and below
                and before
                and after
                and valid[r - 1, c - 1]
                and valid[r - 1, c + 1]
                and valid[r + 1, c - 1]
                and valid[r + 1, c + 1]
            ):
                right = float(heights[r + 1, c + 1]) - float(heights[r - 1, c + 1])
                out[1, r, c] = (right - float(heights[r + 1, c - 1]) + float(heights[r - 1, c - 1])) / 4
    return out
