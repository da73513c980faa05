"""Ground: ridges and valleys cut by running water, rivers that flow downhill, a reservoir, a coast.

The relief is worn from random uplift by stream-power erosion, solved implicitly along the drainage
(Braun & Willett 2013, with slope exponent 1 and area exponent ½), with slopes held below the angle of
rest; then valley floors are filled with sediment.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numba
import numpy as np

from raremap.valley.noise import fractal

CELL = 10.0  # metres of an image pixel
_REST = 0.9  # steepest slope that holds, as a tangent (42 degrees)
_ROUNDS = 24


@dataclass(frozen=True)
class Terrain:
    """Ground on the 10 m grid, all `[size, size]`.

    `height` (m), `slope` (degrees), `aspect` (radians from north, clockwise, downhill), `receiver` (flat
    index of the cell that water runs to), `drained` (m² upstream), `above_river` (m), `lake`, `sea` (bool).
    """

    height: np.ndarray
    slope: np.ndarray
    aspect: np.ndarray
    receiver: np.ndarray
    drained: np.ndarray
    above_river: np.ndarray
    lake: np.ndarray
    sea: np.ndarray


def make_terrain(size: int, rng: np.random.Generator, coast: bool) -> Terrain:
    """A terrain that drains to its southern edge, or to the sea there."""
    coarse = size // 2
    relief = 3.5 + 4 * rng.random()
    height = _erode(coarse, 2 * CELL, rng, relief)
    import cv2

    height = cv2.resize(height, (size, size), interpolation=cv2.INTER_CUBIC)
    height += 1.2 * fractal(size, 2.2, rng, longest=0.1)
    sea = np.zeros((size, size), bool)
    if coast:
        height, sea = _coast(height, rng)
    filled = _fill(height.astype(np.float64))
    receiver = _receivers(filled)
    drained = _accumulate(filled, receiver) * CELL**2
    above = _above_river(filled, receiver, drained, 0.15e6)
    floor = 6 + 14 * rng.random()
    ground = filled - above + np.sqrt(above**2 + floor**2) - floor
    # The floors are new ground: route the water again, so that rivers, lakes and slopes agree.
    filled = _fill(ground)
    receiver = _receivers(filled)
    drained = _accumulate(filled, receiver) * CELL**2
    lake, filled = _reservoir(filled, receiver, drained, sea, rng)
    slope, aspect = slope_aspect(filled)
    above = _above_river(filled, receiver, drained, 0.15e6)
    return Terrain(
        filled.astype(np.float32), slope, aspect, receiver, drained, above.astype(np.float32), lake, sea
    )


def slope_aspect(height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope in degrees and aspect (radians from north, clockwise, downhill), float32."""
    dy, dx = np.gradient(height.astype(np.float64), CELL)
    slope = np.degrees(np.arctan(np.hypot(dx, dy)))
    aspect = np.arctan2(-dx, dy) % (2 * np.pi)
    return slope.astype(np.float32), aspect.astype(np.float32)


def _erode(n: int, cell: float, rng: np.random.Generator, relief: float) -> np.ndarray:
    """Height float32 `[n, n]` of worn ground."""
    import cv2

    lift = np.exp(0.55 * fractal(n, 3.0, rng)).astype(np.float64)
    lift *= np.linspace(1.25, 0.5, n)[:, None]  # lower towards the outlet
    height = (6 * fractal(n, 2.4, rng) + np.linspace(60, 0, n)[:, None]).astype(np.float64)
    height -= height.min()
    for _ in range(_ROUNDS):
        filled = _fill(height)
        receiver = _receivers(filled)
        area = _accumulate(filled, receiver) * cell**2
        height = _wear(filled, receiver, area, lift * relief, cell)
        # Soil creeps: without it slopes are facets along the eight directions of flow.
        height = cv2.GaussianBlur(height, (0, 0), 0.6)
    return cv2.GaussianBlur(height, (0, 0), 1.0).astype(np.float32)


@numba.njit(cache=True)
def _wear(height, receiver, area, lift, cell):  # pragma: no cover - compiled
    """One implicit step of uplift and stream-power erosion, from the outlet upwards."""
    out = height.copy().ravel()
    flat, up, a = height.ravel(), lift.ravel(), area.ravel()
    n = height.shape[1]
    for i in np.argsort(flat):
        r = receiver.ravel()[i]
        if r == i:
            out[i] = 0.0
            continue
        diagonal = (i // n != r // n) & (i % n != r % n)
        distance = cell * (1.41421356 if diagonal else 1.0)
        k = 0.032 * np.sqrt(a[i]) / distance * 20.0 / 30.0
        z = (flat[i] + up[i] + k * out[r]) / (1.0 + k)
        out[i] = min(z, out[r] + 0.9 * distance)
    return out.reshape(height.shape)


@numba.njit(cache=True)
def _fill(height):  # pragma: no cover - compiled
    """Height without pits that water could not leave (priority flood, Barnes et al. 2014); outlet: last row."""
    rows, cols = height.shape
    out = height.copy()
    done = np.zeros((rows, cols), np.bool_)
    heap = [(out[rows - 1, 0], (rows - 1) * cols)]
    done[rows - 1, 0] = True
    for c in range(1, cols):
        heapq.heappush(heap, (out[rows - 1, c], (rows - 1) * cols + c))
        done[rows - 1, c] = True
    while len(heap) > 0:
        z, i = heapq.heappop(heap)
        r, c = i // cols, i % cols
        for dr in range(-1, 2):
            for dc in range(-1, 2):
                y, x = r + dr, c + dc
                if y < 0 or x < 0 or y >= rows or x >= cols or done[y, x]:
                    continue
                done[y, x] = True
                # A little higher each step, so that water on filled ground still has a way out.
                out[y, x] = max(out[y, x], z + 1e-3 * (1.0 + 0.4 * (dr * dc != 0)))
                heapq.heappush(heap, (out[y, x], y * cols + x))
    return out


@numba.njit(cache=True)
def _receivers(height):  # pragma: no cover - compiled
    """Flat index of the steepest lower neighbour of each cell; its own at the outlet."""
    rows, cols = height.shape
    out = np.empty((rows, cols), np.int64)
    for r in range(rows):
        for c in range(cols):
            best, to = 0.0, r * cols + c
            if r < rows - 1:
                for dr in range(-1, 2):
                    for dc in range(-1, 2):
                        y, x = r + dr, c + dc
                        if (dr == 0 and dc == 0) or y < 0 or x < 0 or y >= rows or x >= cols:
                            continue
                        drop = (height[r, c] - height[y, x]) / (1.41421356 if dr * dc != 0 else 1.0)
                        if drop > best:
                            best, to = drop, y * cols + x
            out[r, c] = to
    return out


@numba.njit(cache=True)
def _accumulate(height, receiver):  # pragma: no cover - compiled
    """Cells upstream of each cell, itself included."""
    total = np.ones(height.size)
    flat, to = height.ravel(), receiver.ravel()
    for i in np.argsort(-flat):
        if to[i] != i:
            total[to[i]] += total[i]
    return total.reshape(height.shape)


@numba.njit(cache=True)
def _above_river(height, receiver, drained, least):  # pragma: no cover - compiled
    """Height above the first cell downstream that drains at least `least` m²."""
    base = height.copy().ravel()
    flat, to, a = height.ravel(), receiver.ravel(), drained.ravel()
    for i in np.argsort(flat):
        if a[i] < least and to[i] != i:
            base[i] = base[to[i]]
    return height - base.reshape(height.shape)


def _coast(height: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Height that falls below the sea in the south, and the sea."""
    from scipy import ndimage

    size = len(height)
    # The shore wavers, smoothly enough that the ground behind it, which falls towards it, has no creases.
    line = size * (0.86 + 0.03 * ndimage.gaussian_filter1d(fractal(size, 3.0, rng)[0], size / 24))
    distance = (line[None, :] - np.arange(size)[:, None]) / size  # to the shore, positive inland
    height = height * np.clip(distance / 0.25, 0.02, 1) ** 0.8
    sea = distance <= 0
    height[sea] = np.minimum(height[sea], 0) + distance[sea] * 40
    return height, sea


def _reservoir(
    height: np.ndarray, receiver: np.ndarray, drained: np.ndarray, sea: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A lake behind a dam on a middling river (the flooded cells, and the ground with a level lake)."""
    from scipy import ndimage

    lake = np.zeros(height.shape, bool)
    candidates = np.flatnonzero((drained > 0.2e6) & (drained < 0.35 * drained.max()) & ~sea)
    goal = 0.012 * height.size * (0.4 + 1.2 * rng.random())
    for _ in range(40):
        if len(candidates) == 0:
            break
        dam = int(rng.choice(candidates))
        upstream = _upstream(height, receiver, dam)
        for rise in (6, 10, 15, 22):
            low = upstream & (height < height.ravel()[dam] + rise)
            parts = np.asarray(ndimage.label(low)[0])  # pyright: ignore[reportIndexIssue, reportGeneralTypeIssues]
            flooded = parts == parts.ravel()[dam]
            if flooded.sum() >= 0.5 * goal:
                break
        if 0.5 * goal <= flooded.sum() <= 3 * goal:
            lake = flooded
            height = np.where(lake, height.ravel()[dam] + rise, height)
            break
    return lake, height


@numba.njit(cache=True)
def _upstream(height, receiver, outlet):  # pragma: no cover - compiled
    """Cells whose water passes `outlet`."""
    inside = np.zeros(height.size, np.bool_)
    inside[outlet] = True
    flat, to = height.ravel(), receiver.ravel()
    for i in np.argsort(flat):
        if inside[to[i]]:
            inside[i] = True
    return inside.reshape(height.shape)
