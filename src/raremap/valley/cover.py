"""Classes and surfaces at 1 m: one pass over the fine grid that nothing of full size is kept of but labels.

Classes are those of the built-in scheme `catalonia` (1 to 12, 0 no data). Parcels, stands, streets and lots
come from hashes of their position: they need no memory, and every part of the grid can be made by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from raremap.valley import layout as L
from raremap.valley import spectra as S
from raremap.valley.layout import FINE, Layout
from raremap.valley.noise import fractal, mix, normal, ranks, unit
from raremap.valley.terrain import Terrain

HERB, WOODY, FOREST, SCRUB, BARE, URBAN, ISOLATED, GREEN, INDUSTRIAL, MINING, TRANSPORT, WATER = range(1, 13)
COARSE = 5  # fine cells along a cell of the reflectance grid
_WRONG = 0.03  # parcels with a wrong label

# Farmed: of all land; the others: of the ground that is left to them.
_FARMED, _WOODY, _WOOD, _BARE = 0.325, 0.42, 0.66, 0.052


@dataclass(frozen=True)
class Cover:
    """`labels`: true classes, `drawn`: as a careful but mistaken hand would label them (before boundaries
    are moved), uint8 `[10·size, 10·size]`; `reflectance` float32 `[2 dates, bands, 2·size, 2·size]`."""

    labels: np.ndarray
    drawn: np.ndarray
    reflectance: np.ndarray


def make_cover(terrain: Terrain, layout: Layout, scars: np.ndarray, rng: np.random.Generator) -> Cover:
    """Cover a laid-out valley; `scars` (uint8 at 1 m, 0 none) lie bare on the second date."""
    size = len(terrain.height)
    land = ~(terrain.sea | terrain.lake)
    farmed = ranks(-terrain.slope / 5 - terrain.above_river / 45 + 0.55 * fractal(size, 2.4, rng), land)
    cold = terrain.height / max(float(terrain.height.max()), 1)
    wild, tilled = land & (farmed <= 1 - _FARMED), land & (farmed > 1 - _FARMED)
    wood = ranks(0.05 * terrain.slope + 0.3 * np.cos(terrain.aspect) + 0.9 * fractal(size, 2.9, rng), wild)
    bare = ranks(0.06 * terrain.slope + 0.8 * cold + 0.9 * fractal(size, 2.2, rng), wild)
    kind = ranks(0.9 * cold + fractal(size, 2.4, rng), land)
    orchard = ranks(0.12 * terrain.slope + fractal(size, 2.6, rng), tilled)
    fields = np.stack([farmed, wood, bare, kind, orchard]).astype(np.float32)
    n = size * FINE
    labels, drawn = np.empty((n, n), np.uint8), np.empty((n, n), np.uint8)
    reflectance = np.zeros((2, len(S.BANDS), n // COARSE, n // COARSE), np.float32)
    seed = int(rng.integers(1 << 31))
    bright = np.float32(0.9 + 0.25 * rng.random())
    dry = np.float32(0.25 * rng.random())
    _cover(layout.codes, scars, fields, S.SPECTRA, seed, bright, dry, labels, drawn, reflectance)
    return Cover(labels, drawn, reflectance)


@numba.njit(cache=True)
def _nearest(y, x, cell, seed):  # pragma: no cover - compiled
    """Hash of the nearest of one random seed in every square of `cell` metres."""
    r0, c0 = int(y // cell), int(x // cell)
    best, out = 1e18, 0
    for r in range(r0 - 1, r0 + 2):
        for c in range(c0 - 1, c0 + 2):
            h = mix(r + 7000, c + 7000, seed)
            dy = (r + unit(h, 1)) * cell - y
            dx = (c + unit(h, 2)) * cell - x
            d = dy * dy + dx * dx
            if d < best:
                best, out = d, h
    return out


@numba.njit(cache=True)
def _brick(y, x, h, width, height):  # pragma: no cover - compiled
    """Parcel of a rotated, uneven brick pattern: its hash, and the distance to its edge in metres."""
    angle = unit(h, 3) * np.pi
    u = x * np.cos(angle) + y * np.sin(angle)
    v = y * np.cos(angle) - x * np.sin(angle)
    u += 5.0 * np.sin(v / 90.0 + 6.28 * unit(h, 5))
    row = int(np.floor(v / height))
    u += unit(mix(h, row + 9000, 1), 1) * width
    col = int(np.floor(u / width))
    # Some walls are gone: neighbours in a row are one parcel.
    joined = col - 1 if unit(mix(h, row + 9000, col + 9000), 9) < 0.3 else col
    du, dv = u / width - col, v / height - row
    edge = min(min(du, 1 - du) * width, min(dv, 1 - dv) * height)
    return mix(h ^ 0x5BD1E995, row + 9000, joined + 9000), edge


@numba.njit(cache=True)
def _lot(y, x, side, seed):  # pragma: no cover - compiled
    return mix(int(y // side), int(x // side), seed)


# Apart from the loop over blocks, which is compiled for several threads: together they would take a minute to compile.
@numba.njit(cache=True)
def _block(
    block, codes, scars, fields, table, seed, bright, dry, labels, drawn, out
):  # pragma: no cover - compiled
    """Five rows of the fine grid, a row of the reflectance grid."""
    n, size = codes.shape[0], fields.shape[1]
    bands = table.shape[1]
    values = np.zeros((2, bands), np.float32)
    old_id, old_a, old_b = -1, -1, -1
    f = np.zeros(5, np.float32)
    for y in range(block * 5, block * 5 + 5):
        gy = min(max((y + 0.5) / 10 - 0.5, 0.0), size - 1.001)
        iy = int(gy)
        ty = gy - iy
        region, stand, farm, farm_edge = 0, 0, 0, 0.0
        farm_w, farm_h = 100.0, 60.0
        for x in range(n):
            gx = min(max((x + 0.5) / 10 - 0.5, 0.0), size - 1.001)
            ix = int(gx)
            tx = gx - ix
            if x % 5 == 0:
                region = _nearest(y, x, 700.0, seed)
                stand = _nearest(y, x, 130.0, seed + 1)
                farm_w, farm_h = 55 + 110 * unit(region, 6), 35 + 60 * unit(region, 7)
                for k in range(5):
                    f[k] = (1 - ty) * ((1 - tx) * fields[k, iy, ix] + tx * fields[k, iy, ix + 1]) + ty * (
                        (1 - tx) * fields[k, iy + 1, ix] + tx * fields[k, iy + 1, ix + 1]
                    )
            code = codes[y, x]
            wrong = False
            # What would be here if nobody had built or dug.
            lot = _lot(y, x, 9, seed + 2)
            q = unit(lot, 1)
            farm, farm_edge = _brick(y, x, region, farm_w, farm_h)
            if f[0] + 0.02 * normal(farm, 1) > 1 - _FARMED:
                ident = farm
                sigma = 0.2
                p, p2 = unit(farm, 11), unit(farm, 12)
                wrong = unit(farm, 13) < _WRONG
                if f[4] + 0.16 * normal(farm, 4) > 1 - _WOODY:
                    cls, other = WOODY, HERB
                    a = S.OLIVE if q > 0.22 else (S.GRASS_APRIL if p < 0.5 else S.PLOUGHED)
                    b = S.OLIVE if q > 0.22 else (S.GRASS_AUGUST if p < 0.5 else S.PLOUGHED)
                else:
                    cls, other = HERB, WOODY if p2 < 0.4 else SCRUB
                    a = S.CEREAL if p < 0.66 else (S.PLOUGHED if p < 0.82 else S.GRASS_APRIL)
                    b = (
                        S.STUBBLE
                        if p2 < 0.5 + dry
                        else (
                            S.PLOUGHED
                            if p2 < 0.75 + dry * 0.5
                            else (S.CEREAL if p2 < 0.88 else S.GRASS_AUGUST)
                        )
                    )
                if farm_edge < 1.5:
                    a, b = S.GRASS_APRIL, S.SCRUB
            elif f[2] > 1 - _BARE:
                cls, other, ident, sigma = BARE, SCRUB, stand, 0.25
                a = S.GRAVEL if q < 0.35 else (S.PLOUGHED if q < 0.6 else (S.QUARRY if q < 0.72 else S.SCRUB))
                b = a
            elif f[1] + 0.07 * normal(stand, 1) > 1 - _WOOD:
                cls, other, ident, sigma = FOREST, SCRUB, stand, 0.18
                wrong = unit(stand, 13) < _WRONG
                if f[3] + 0.12 * normal(stand, 2) > 0.45:
                    a, b = S.CONIFER, S.CONIFER
                else:
                    a, b = S.DECIDUOUS_APRIL, S.DECIDUOUS_AUGUST
                if q < 0.1:
                    a, b = S.SCRUB, S.SCRUB
                if unit(stand, 14) < 0.012:  # cut between the dates
                    b = S.PLOUGHED if q < 0.4 else (S.STUBBLE if q < 0.7 else S.SCRUB)
            else:
                cls, other, ident, sigma = SCRUB, FOREST if unit(stand, 15) < 0.6 else HERB, stand, 0.2
                wrong = unit(stand, 13) < _WRONG
                meadow = unit(stand, 16) < 0.42
                if meadow != (q < 0.25):
                    a, b = S.GRASS_APRIL, S.GRASS_AUGUST
                else:
                    a, b = S.SCRUB, S.SCRUB
                if unit(lot, 2) < 0.06:
                    a, b = S.CONIFER, S.CONIFER
            ground = other if wrong else cls
            known = ground
            # What stands on it.
            if code == L.TRACK:
                a = S.GRAVEL if unit(stand, 20) < 0.5 else S.PLOUGHED
                b = a
            elif code == L.GRAVEL:
                cls, known, ident = BARE, BARE, lot
                a = S.GRAVEL if q < 0.72 else S.SCRUB
                b = S.GRAVEL if q < 0.72 else S.GRASS_AUGUST
            elif code == L.RIVER or code == L.LAKE or code == L.SEA:
                cls = WATER if code != L.SEA else 0
                known, ident, sigma = cls, region, 0.1
                a = S.TURBID_WATER if code == L.RIVER and unit(region, 21) < 0.6 else S.CLEAR_WATER
                b = S.TURBID_WATER if code == L.RIVER and unit(region, 22) < 0.3 else S.CLEAR_WATER
            elif code == L.ROAD:
                cls, known, ident = TRANSPORT, TRANSPORT, region
                a, b = S.ASPHALT, S.ASPHALT
            elif code == L.TOWN:
                quarter, edge = _brick(y, x, mix(region, 3, 3), 78.0, 52.0)
                part = _lot(y, x, 10, seed + 5)
                g, t = unit(quarter, 1), unit(part, 1)
                ident, sigma = part, 0.2
                if edge < 3.5:
                    cls, a = URBAN, S.ASPHALT
                elif g < 0.085:
                    cls, a = (
                        GREEN,
                        S.PARK if t < 0.62 else (S.DECIDUOUS_APRIL if t < 0.85 else S.GRASS_APRIL),
                    )
                else:
                    cls = URBAN
                    a = (
                        S.TILE_ROOF
                        if t < 0.4
                        else (
                            S.TOWN
                            if t < 0.7
                            else (S.ASPHALT if t < 0.8 else (S.PARK if t < 0.95 else S.INDUSTRIAL_ROOF))
                        )
                    )
                b = a
                if a == S.DECIDUOUS_APRIL:
                    b = S.DECIDUOUS_AUGUST
                elif a == S.GRASS_APRIL:
                    b = S.GRASS_AUGUST
                known = cls
            elif code == L.ESTATE:
                quarter, edge = _brick(y, x, mix(region, 4, 4), 120.0, 80.0)
                hall, _ = _brick(y, x, mix(region, 4, 4), 60.0, 40.0)
                t = unit(hall, 1)
                cls, known, ident, sigma = INDUSTRIAL, INDUSTRIAL, hall, 0.4
                a = (
                    S.INDUSTRIAL_ROOF
                    if t < 0.4
                    else (
                        S.ASPHALT
                        if t < 0.6
                        else (
                            S.TOWN
                            if t < 0.75
                            else (S.TILE_ROOF if t < 0.84 else (S.PLOUGHED if t < 0.92 else S.PARK))
                        )
                    )
                )
                if edge < 5:
                    a = S.ASPHALT
                b = a
            elif code == L.QUARRY:
                part = _lot(y, x, 25, seed + 6)
                t = unit(part, 1)
                cls, known, ident, sigma = MINING, MINING, part, 0.25
                a = S.QUARRY if t < 0.55 else (S.GRAVEL if t < 0.75 else (S.PLOUGHED if t < 0.9 else S.SCRUB))
                b = a
            elif code == L.HOUSE or code == L.LOST_HOUSE:
                part = _lot(y, x, 30, seed + 7)
                t = unit(part, 1)
                cls, ident, sigma = ISOLATED, part, 0.25
                known = ISOLATED if code == L.HOUSE else ground
                a = S.TILE_ROOF if t < 0.62 else (S.TOWN if t < 0.88 else S.INDUSTRIAL_ROOF)
                b = a
            scar = scars[y, x]
            if scar and cls != 0 and cls != WATER:
                b = S.SCAR
            labels[y, x], drawn[y, x] = cls, known
            if ident != old_id or a != old_a or b != old_b:
                old_id, old_a, old_b = ident, a, b
                gain = bright * np.exp(sigma * normal(ident, 30) - 0.5 * sigma * sigma)
                moist = 0.75 if scar == 2 else 1.0
                for k in range(bands):
                    values[0, k] = table[a, k] * gain * (1 + 0.05 * normal(ident, 40 + k))
                    values[1, k] = table[b, k] * gain * (1 + 0.05 * normal(ident, 60 + k)) * moist
            for k in range(bands):
                out[0, k, block, x // 5] += values[0, k] * 0.04
                out[1, k, block, x // 5] += values[1, k] * 0.04


@numba.njit(cache=True, parallel=True)
def _cover(codes, scars, fields, table, seed, bright, dry, labels, drawn, out):  # pragma: no cover - compiled
    for block in numba.prange(codes.shape[0] // 5):
        _block(block, codes, scars, fields, table, seed, bright, dry, labels, drawn, out)
