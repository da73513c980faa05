"""What the satellite sees: mixed pixels, light and shade, haze, noise, clouds."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from raremap.valley.cover import COARSE as SUB
from raremap.valley.layout import FINE
from raremap.valley.noise import fractal
from raremap.valley.spectra import BANDS, COARSE
from raremap.valley.terrain import Terrain, slope_aspect

SUN = ((35.0, 152.0), (31.0, 148.0))
"""Zenith and azimuth in degrees on the two dates, mid-April and mid-August."""

_FWHM = 20.0, 35.0  # metres: bands of 10 m and of 20 m
_SHIFT = 0.3  # pixels between dates
_NOISE = 0.003
_MISSED = 0.07  # share of the cloud that the given mask misses
CLEAR, CLOUD, SHADOW = 0, 1, 2


@dataclass(frozen=True)
class Picture:
    """One date: reflectance × 10000 as uint16 `[bands, size, size]`, and cloud masks, given and true."""

    image: np.ndarray
    clouds: np.ndarray
    true_clouds: np.ndarray


def observe(reflectance: np.ndarray, terrain: Terrain, date: int, rng: np.random.Generator) -> Picture:
    """One date of a covered valley (`reflectance [bands, 2·size, 2·size]`) through the sensor."""
    import cv2

    size = len(terrain.height)
    turn = rng.random() * 2 * np.pi
    cells = FINE / SUB  # cells of the reflectance grid along a pixel
    moved = np.array([[1, 0, np.cos(turn) * _SHIFT * cells], [0, 1, np.sin(turn) * _SHIFT * cells]])
    light = _light(terrain, *SUN[date])
    texture = 1 + 0.05 * fractal(size, 1.6, rng) + 0.04 * fractal(size, 2.4, rng, longest=0.1)
    haze = 0.010 + 0.006 * fractal(size, 3.0, rng)
    cloud, shadow = _clouds(size, rng)
    out = np.empty((len(BANDS), size, size), np.uint16)
    for b in range(len(BANDS)):
        sigma = _FWHM[COARSE[b]] / 2.3548 / SUB
        seen = cv2.GaussianBlur(reflectance[b], (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        seen = cv2.warpAffine(
            seen, moved, seen.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        seen = cv2.resize(seen, (size, size), interpolation=cv2.INTER_AREA)
        depth = b / (len(BANDS) - 1)
        ease = 0.5 - 0.25 * depth  # light that comes from the whole sky
        flat = np.cos(np.radians(SUN[date][0]))
        seen = seen * texture * (light + ease) / (flat + ease) + haze * (1 - depth) ** 1.5
        seen = seen * (1 - 0.55 * shadow)
        seen = seen * (1 - cloud) + cloud * (0.62 - 0.22 * depth)
        seen += rng.normal(0, _NOISE, seen.shape)
        out[b] = np.clip(np.rint(seen * 10000), 1, 15000)
    truth = np.where(cloud > 0.15, CLOUD, np.where(shadow > 0.3, SHADOW, CLEAR)).astype(np.uint8)
    return Picture(out, _given_clouds(truth, rng), truth)


def _light(terrain: Terrain, zenith: float, azimuth: float) -> np.ndarray:
    """Cosine of the angle between sun and ground, 0 in cast shadow."""
    slope, aspect = slope_aspect(terrain.height)
    z, s = np.radians(zenith), np.radians(slope)
    cosine = np.cos(z) * np.cos(s) + np.sin(z) * np.sin(s) * np.cos(np.radians(azimuth) - aspect)
    lit = _lit(terrain.height, np.sin(np.radians(azimuth)), -np.cos(np.radians(azimuth)), 1 / np.tan(z))
    return np.maximum(cosine, 0) * lit


@numba.njit(cache=True)
def _lit(height, dx, dy, rise):  # pragma: no cover - compiled
    """1 where the sun, in the direction (dx, dy) and `rise` metres up a metre away, is not hidden."""
    rows, cols = height.shape
    out = np.ones((rows, cols), np.float32)
    top = height.max()
    for r in range(rows):
        for c in range(cols):
            for k in range(1, 80):
                z = height[r, c] + k * 10.0 * rise
                y, x = int(round(r + k * dy)), int(round(c + k * dx))
                if z > top or y < 0 or x < 0 or y >= rows or x >= cols:
                    break
                if height[y, x] > z:
                    out[r, c] = 0.0
                    break
    return out


def _clouds(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Opacity of clouds and of their shadows, 0 to 1; half of the scenes have none."""
    share = 0.0 if rng.random() < 0.5 else 0.01 + 0.09 * rng.random()
    field = fractal(size, 2.8, rng, longest=0.4)
    if share == 0:
        return np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    cloud = np.clip((field - np.quantile(field, 1 - share)) / 0.35, 0, 1).astype(np.float32)
    height = 60 + 40 * rng.random()  # metres above ground, over ten: the offset of the shadow in pixels
    dy, dx = int(height * 0.35), -int(height * 0.2)
    shadow = np.zeros_like(cloud)
    shadow[: size - dy, -dx:] = 0  # what would cast it lies outside
    shadow[: size - dy, : size + dx] = cloud[dy:, -dx:]
    return cloud, np.where(cloud > 0.15, 0, shadow)


def _given_clouds(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The cloud mask as it is delivered: the thinnest patches of cloud are missed."""
    given = truth.copy()
    cloudy = truth == CLOUD
    if cloudy.any():
        patches = fractal(len(truth), 2.4, rng, longest=0.06)
        given[cloudy & (patches > np.quantile(patches[cloudy], 1 - _MISSED))] = CLEAR
    return given
