"""Random fields: fractal noise on a grid, and hashes that give every parcel its own numbers."""

from __future__ import annotations

import numba
import numpy as np


def fractal(size: int, exponent: float, rng: np.random.Generator, longest: float = 1.0) -> np.ndarray:
    """Noise float32 `[size, size]` with mean 0 and deviation 1, its power falling as frequency^-exponent.

    `longest` is the longest wave, as a share of the size. Made on twice the size and cut, so that
    opposite edges differ.
    """
    n = 2 * size
    fy, fx = np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None, :]
    f = np.hypot(fy, fx)
    amplitude = np.maximum(f, 1 / (longest * size)) ** (-exponent / 2)
    amplitude[0, 0] = 0
    phase = np.exp(2j * np.pi * rng.random(f.shape))
    field = np.fft.irfft2(amplitude * phase, s=(n, n))[:size, :size]
    return ((field - field.mean()) / field.std()).astype(np.float32)


def ranks(field: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Rank of each value among those `inside`, from 0 to 1, float32; 0 outside."""
    out = np.zeros(field.shape, np.float32)
    values = field[inside]
    order = np.empty(len(values), np.float32)
    order[np.argsort(values, kind="stable")] = (np.arange(len(values)) + 0.5) / max(len(values), 1)
    out[inside] = order
    return out


@numba.njit(cache=True)
def mix(a, b, c):  # pragma: no cover - compiled
    """A 32-bit hash of three integers."""
    h = (a * 0x9E3779B1 + b * 0x85EBCA77 + c * 0xC2B2AE3D) & 0xFFFFFFFF
    h ^= h >> 15
    h = (h * 0x2C1B3C6D) & 0xFFFFFFFF
    h ^= h >> 12
    h = (h * 0x297A2D39) & 0xFFFFFFFF
    h ^= h >> 15
    return h


@numba.njit(cache=True)
def unit(h, k):  # pragma: no cover - compiled
    """The k-th number in 0..1 that belongs to a hash."""
    return mix(h, k, 77) / 4294967296.0


@numba.njit(cache=True)
def normal(h, k):  # pragma: no cover - compiled
    """The k-th nearly normal number of a hash: a sum of four uniform ones, with deviation 1."""
    s = unit(h, 4 * k) + unit(h, 4 * k + 1) + unit(h, 4 * k + 2) + unit(h, 4 * k + 3)
    return (s - 2.0) * 1.7320508
