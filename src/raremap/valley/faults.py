"""Labels as people draw them: shifted by half a pixel, with boundaries a few metres off."""

from __future__ import annotations

import numba
import numpy as np

from raremap.valley.layout import FINE
from raremap.valley.noise import fractal

_SHIFT = 5.0  # metres: half an image pixel
_WAVER = 5.0  # metres: deviation of drawn boundaries


def misdraw(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The labels `[n, n]` at 1 m, moved by a constant shift and a wavering one."""
    size = len(labels) // FINE
    turn = rng.random() * 2 * np.pi
    longest = min(1.0, 10 / size)
    dy = _SHIFT * np.sin(turn) + _WAVER * fractal(size, 3.0, rng, longest)
    dx = _SHIFT * np.cos(turn) + _WAVER * fractal(size, 3.0, rng, longest)
    return _moved(labels, dy.astype(np.float32), dx.astype(np.float32))


@numba.njit(cache=True, parallel=True)
def _moved(labels, dy, dx):  # pragma: no cover - compiled
    n, size = labels.shape[0], dy.shape[0]
    out = np.empty_like(labels)
    for y in numba.prange(n):
        gy = min(max((y + 0.5) / 10 - 0.5, 0.0), size - 1.001)
        iy = int(gy)
        ty = gy - iy
        for x in range(n):
            gx = min(max((x + 0.5) / 10 - 0.5, 0.0), size - 1.001)
            ix = int(gx)
            tx = gx - ix
            w00, w01, w10, w11 = (1 - ty) * (1 - tx), (1 - ty) * tx, ty * (1 - tx), ty * tx
            my = w00 * dy[iy, ix] + w01 * dy[iy, ix + 1] + w10 * dy[iy + 1, ix] + w11 * dy[iy + 1, ix + 1]
            mx = w00 * dx[iy, ix] + w01 * dx[iy, ix + 1] + w10 * dx[iy + 1, ix] + w11 * dx[iy + 1, ix + 1]
            r = min(max(int(round(y + my)), 0), n - 1)
            c = min(max(int(round(x + mx)), 0), n - 1)
            out[y, x] = labels[r, c]
    return out
