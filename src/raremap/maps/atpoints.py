"""What a map says at reference points, and which of them can be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rasterio.crs import CRS

from raremap.maps.classmap import NONE, ClassMap
from raremap.maps.reference import Reference
from raremap.scene.groundarea import pixel_areas
from raremap.scene.window import Window


@dataclass(frozen=True)
class Answers:
    """Usable points: id, map class and reference class (indices), ground of the pixel `[n]`.

    `left_out` counts the others by reason; `unknown` are references that are no class of the map.
    """

    ids: np.ndarray
    mapped: np.ndarray
    reference: np.ndarray
    ground: np.ndarray
    left_out: dict[str, int] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def answers_of(source: ClassMap, sample: Reference) -> Answers:
    """The points of a sample that lie on the map and have a class for a reference."""
    named = {**{str(v): i for i, v in enumerate(source.values)}, **{n: i for i, n in enumerate(source.names)}}
    grid = source.grid
    rows, cols = _pixels(source, sample)
    reasons = {
        "without a reference": 0,
        "with a reference that is no class of the map": 0,
        "outside the map": 0,
        "where the map has no data": 0,
    }
    no_answer, odd, outside, no_data = reasons
    kept: list[tuple[Any, int, int, float]] = []
    unknown: dict[str, None] = {}
    for i in np.lexsort((cols, rows)):  # neighbours after each other: a file is read block by block
        answer = sample.answers[i]
        if answer is None:
            reasons[no_answer] += 1
            continue
        reference = named.get(_text(answer))
        if reference is None:
            unknown[_text(answer)] = None
            reasons[odd] += 1
            continue
        if not (0 <= rows[i] < grid.height and 0 <= cols[i] < grid.width):
            reasons[outside] += 1
            continue
        pixel = Window(int(rows[i]), int(cols[i]), 1, 1)
        mapped = int(source.read(pixel)[0, 0])
        if mapped == NONE:
            reasons[no_data] += 1
            continue
        ground = pixel_areas(grid, pixel)
        kept.append((sample.ids[i], mapped, reference, 1.0 if ground is None else float(ground[0, 0])))
    columns = list(zip(*kept, strict=True)) or [()] * 4
    return Answers(
        np.array(columns[0]),
        np.array(columns[1], np.int64),
        np.array(columns[2], np.int64),
        np.array(columns[3], np.float64),
        {k: n for k, n in reasons.items() if n},
        tuple(unknown),
    )


def _text(answer: Any) -> str:
    """A reference as the legend writes it: 7.0 is 7."""
    if isinstance(answer, (float, np.floating)) and float(answer).is_integer():
        return str(int(answer))
    return str(answer).strip()


def _pixels(source: ClassMap, sample: Reference) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each point; -1 where a point has no place in the map's CRS."""
    x, y = sample.xy.T
    crs = source.grid.crs
    if crs is not None and sample.crs is not None and not _same(crs, sample.crs):
        from rasterio.warp import transform

        x, y = (np.asarray(a) for a in transform(sample.crs, crs, x, y)[:2])
    back = ~source.grid.transform
    col = back.a * x + back.b * y + back.c
    row = back.d * x + back.e * y + back.f
    there = np.isfinite(col) & np.isfinite(row)
    big = 2**40
    whole = [np.where(there, np.floor(np.clip(a, -big, big)), -1).astype(np.int64) for a in (row, col)]
    return whole[0], whole[1]


def _same(one: CRS, other: CRS) -> bool:
    """Whether two CRS are one; files may write the same one in different words."""
    code = one.to_epsg()
    return one == other or (code is not None and code == other.to_epsg())
