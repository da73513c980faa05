"""What a map says at reference points, and which of them can be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rasterio.crs import CRS

from raremap.maps.classmap import NONE, ClassMap
from raremap.maps.reference import Reference
from raremap.scene.groundarea import pixel_areas
from raremap.scene.window import Window

CANNOT_TELL = frozenset({"?", "unknown", "unclear", "cannot tell", "can't tell", "no data", "nodata"})
"""References that say that nobody could tell, whatever their case; an empty one says it too."""
_OUTSIDE = "outside the map"
_NO_DATA = "where the map has no data"


@dataclass(frozen=True)
class Answers:
    """Usable points: id, map class and reference class (indices), ground of the pixel `[n]`.

    `left_out` counts the others by reason. `foreign` counts the points by reference classes that the map does not
    have; their indices go on where those of the map end.
    """

    ids: np.ndarray
    mapped: np.ndarray
    reference: np.ndarray
    ground: np.ndarray
    left_out: dict[str, int] = field(default_factory=dict)
    foreign: dict[str, int] = field(default_factory=dict)

    @property
    def off(self) -> int:
        """Points with a reference where the map has no class."""
        return self.left_out.get(_OUTSIDE, 0) + self.left_out.get(_NO_DATA, 0)


def answers_of(source: ClassMap, sample: Reference) -> Answers:
    """The points of a sample that lie on the map and have a class for a reference.

    A number is a class of the map that the sample was drawn from, by the name that it has there, else of this map. What
    neither knows is a class of its own, which the map has nowhere; left out is only what says that nobody could tell: nothing,
    a word of `CANNOT_TELL`, a number below 0, or the map's own value of no data.
    """
    index_of, blank = _index_of(source, sample), {str(v) for v in source.file.unlabelled}
    grid = source.grid
    rows, cols = _pixels(source, sample)
    reasons = {"without a reference": 0, "that could not be told": 0, _OUTSIDE: 0, _NO_DATA: 0}
    no_answer, not_told, outside, no_data = reasons
    kept: list[tuple[Any, int, str | int, float]] = []
    for i in np.lexsort((cols, rows)):  # neighbours after each other: a file is read block by block
        answer = sample.answers[i]
        if answer is None:
            reasons[no_answer] += 1
            continue
        text = _text(answer)
        reference = index_of(text)
        if reference == text and (text in blank or text[0] == "-" or text.lower() in CANNOT_TELL):
            reasons[not_told] += 1
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
    foreign = Counter(sorted(r for r in columns[2] if isinstance(r, str)))
    after = {name: len(source.names) + i for i, name in enumerate(foreign)}
    return Answers(
        np.array(columns[0]),
        np.array(columns[1], np.int64),
        np.array([after.get(r, r) for r in columns[2]], np.int64),
        np.array(columns[3], np.float64),
        {k: n for k, n in reasons.items() if n},
        dict(foreign),
    )


def _index_of(source: ClassMap, sample: Reference) -> Callable[[str], int | str]:
    """From a reference's text to the index of its class, or to a name where the map has no such class."""
    by_value = {str(v): i for i, v in enumerate(source.values)}
    by_name = {n: i for i, n in enumerate(source.names)}
    classes = sample.design.facts.get("classes", {}) if sample.design else {}
    offered = {str(v): n for n, v in classes.items()}  # what QGIS wrote for a name

    def found(text: str) -> int | str:
        name = offered.get(text, text)
        index = by_name.get(name)
        if index is None and text not in offered:
            index = by_value.get(text)
        return name if index is None else index

    return found


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
