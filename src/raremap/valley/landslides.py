"""Landslides between the two dates, and the table of slope units that an office would have of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raremap.valley.layout import FINE, NOTHING, TRACK, Layout
from raremap.valley.noise import fractal
from raremap.valley.terrain import CELL, Terrain

if TYPE_CHECKING:
    import pandas as pd

_SHARE = 0.012
_MODE, _EXPONENT, _LARGEST = 400.0, 2.4, 30_000.0


def make_scars(
    terrain: Terrain, layout: Layout, rng: np.random.Generator, coupling: float = 1.0
) -> np.ndarray:
    """Scars at 1 m, uint8: 0 none, 1 dry, 2 moist.

    Their areas have the mode 400 m² and a power-law tail with exponent -2.4; they start on slopes of 25 to
    45 degrees, run downhill two to four times as long as wide, and gather where the ground is wet and steep: `coupling` is the
    power of that preference (0: none).
    """
    import cv2

    scars = np.zeros_like(layout.codes)
    size = len(terrain.height)
    wet = np.exp(0.9 * fractal(size, 2.4, rng) + 0.25 * np.log(terrain.drained / CELL**2))
    able = (terrain.slope >= 25) & (terrain.slope <= 45) & ~terrain.sea & ~terrain.lake
    if not able.any():
        return scars
    weight = (
        np.where(able, (wet * np.exp((terrain.slope - 35) / 8)) ** coupling, 0).ravel().astype(np.float64)
    )
    goal = _SHARE * (~terrain.sea).sum() * CELL**2 * (0.5 + rng.random())
    area = 0.0
    for seat in rng.choice(len(weight), size=3000, p=weight / weight.sum()):
        if area >= goal:
            break
        row, col = divmod(int(seat), size)
        a = min(_MODE * (1 - rng.random()) ** (-1 / (_EXPONENT - 1)), _LARGEST) * np.exp(rng.normal(0, 0.35))
        ratio = 2 + 2 * rng.random()
        width = np.sqrt(a / ratio * 4 / np.pi)
        outline = _outline(
            terrain, (col + rng.random()) * FINE, (row + rng.random()) * FINE, width, ratio * width, rng
        )
        cv2.fillPoly(scars, [outline], 2 if rng.random() < 0.4 else 1)
        area += a
    scars[(layout.codes != NOTHING) & (layout.codes != TRACK)] = 0
    return scars


def _outline(
    terrain: Terrain, x: float, y: float, width: float, length: float, rng: np.random.Generator
) -> np.ndarray:
    """A drop with a rough edge whose head is at (x, y) and which runs downhill."""
    size = len(terrain.height)
    down = terrain.aspect[min(int(y / FINE), size - 1), min(int(x / FINE), size - 1)]
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    along = length * (0.5 - 0.5 * np.cos(t))
    across = 0.5 * width * np.sin(t) * (1.15 - 0.4 * along / length) * np.exp(rng.normal(0, 0.1, len(t)))
    px = x + along * np.sin(down) + across * np.cos(down)
    py = y - along * np.cos(down) + across * np.sin(down)
    return np.column_stack([px, py]).round().astype(np.int32)


def slope_units(
    terrain: Terrain, layout: Layout, scars: np.ndarray, forest: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, pd.DataFrame]:
    """Unit number int32 `[size, size]` (-1 outside) and a row for each unit, with its landslide label.

    A unit is one side of a stretch of a small stream: the cells that drain to the stretch, divided by where
    they face. A unit is a landslide unit where scars cover at least 1 % of it or two pixels.
    """
    import pandas as pd

    size = len(terrain.height)
    stretch = _first_channel(terrain, 0.06e6)
    side = (np.floor((terrain.aspect + np.pi / 4) / np.pi) % 2).astype(np.int64)
    key = (stretch // size // 14 * 4096 + stretch % size // 14) * 2 + side
    key[terrain.sea | terrain.lake] = -1
    numbers, unit = np.unique(key, return_inverse=True)
    unit = unit.reshape(size, size).astype(np.int32)
    if numbers[0] == -1:
        unit -= 1
    n = int(unit.max()) + 1
    inside = unit >= 0
    index = unit[inside]
    count = np.bincount(index, minlength=n)

    def mean(field: np.ndarray) -> np.ndarray:
        return np.bincount(index, field[inside].astype(np.float64), minlength=n) / count

    def extreme(field: np.ndarray, start: float, better: np.ufunc) -> np.ndarray:
        out = np.full(n, start)
        better.at(out, index, field[inside])
        return out

    scarred = (scars.reshape(size, FINE, size, FINE) > 0).mean((1, 3))
    share = mean(scarred)
    rain = 700 + 160 * fractal(size, 3.0, rng) + 0.25 * terrain.height
    rock = np.digitize(fractal(size, 2.6, rng), (-0.6, 0.2, 0.9))
    gy, gx = np.gradient(terrain.height.astype(np.float64), CELL)
    curvature = np.gradient(gy, CELL)[0] + np.gradient(gx, CELL)[1]
    top, foot = extreme(terrain.height, -np.inf, np.maximum), extreme(terrain.height, np.inf, np.minimum)
    rocks = np.stack([np.bincount(index[rock[inside] == k], minlength=n) for k in range(4)])
    table = pd.DataFrame(
        {
            "unit": np.arange(n),
            "area_m2": count * CELL**2,
            "slope_mean": mean(terrain.slope),
            "slope_max": extreme(terrain.slope, 0, np.maximum),
            "relief_m": top - foot,
            "height_m": mean(terrain.height),
            "aspect_sin": mean(np.sin(terrain.aspect)),
            "aspect_cos": mean(np.cos(terrain.aspect)),
            "curvature": mean(curvature),
            "wetness": mean(np.log(terrain.drained / np.maximum(np.tan(np.radians(terrain.slope)), 0.01))),
            "rain_mm": mean(rain),
            "rock": np.array(["marl", "limestone", "granite", "schist"])[rocks.argmax(0)],
            "forest_share": mean(forest),
            "to_road_m": mean(layout.to_road),
            "to_river_m": mean(layout.to_river),
            "landslide": ((share >= 0.01) | (share * count >= 2)).astype(int),
        }
    )
    return unit, table


def _first_channel(terrain: Terrain, least: float) -> np.ndarray:
    """Flat index of the first cell downstream of each cell that drains at least `least` m²."""
    to, drained = terrain.receiver.ravel(), terrain.drained.ravel()
    at = np.arange(to.size)
    for _ in range(10_000):
        go = (drained[at] < least) & (to[at] != at)
        if not go.any():
            break
        at[go] = to[at[go]]
    return at.reshape(terrain.receiver.shape)
