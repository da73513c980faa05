"""Differences of two maps: the table from class to class, and the raster of it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raremap.errors import SceneError
from raremap.files import written
from raremap.jobs import Progress, Silent
from raremap.maps.classmap import NONE, ClassMap, blocks
from raremap.maps.style import paletted
from raremap.scene.cog import CogWriter
from raremap.scene.groundarea import pixel_areas
from raremap.scene.window import Window

NODATA = 65535
_TAG = "raremap_change_of"
_SAME = "#E6E6E6"
_MOST = 32  # classes of which every change is named


@dataclass(frozen=True)
class Differences:
    """Pixels and ground `[K, K]` by class before (rows) and after (columns); ground in square metres, or None without a CRS.

    `missing` counts the pixels that only one of the maps, or none, has a class for.
    """

    names: tuple[str, ...]
    pixels: np.ndarray
    ground: np.ndarray | None
    missing: int


def check_alike(before: ClassMap, after: ClassMap) -> None:
    """Raise `SceneError` where two maps have other grids or other classes, or one alone has a CRS."""
    if (before.grid.crs is None) != (after.grid.crs is None):
        bare, other = (before, after) if before.grid.crs is None else (after, before)
        raise SceneError(
            f"map {bare.path} has no CRS, {other.path} has one; tell where it lies first (gdal_edit.py -a_srs)"
        )
    if differs := after.grid.difference(before.grid):
        raise SceneError(
            f"map {after.path} has {differs} as {before.path} has; bring one to the other's grid first "
            "(nearest neighbour, such as gdalwarp -r near)"
        )
    legends = [dict(zip(m.values, m.names, strict=True)) for m in (before, after)]
    for value in legends[0].keys() | legends[1].keys():
        one, other = (legend.get(value, "no class") for legend in legends)
        if one != other:
            raise SceneError(
                f"value {value} is '{one}' in {before.path} and '{other}' in {after.path}; maps that are compared share one legend"
            )


def codes(before: ClassMap, after: ClassMap, window: Window) -> np.ndarray:
    """K · class before + class after, int32 `[h, w]`, `NODATA` where either map has no class."""
    one, other = before.read(window), after.read(window)
    if after.values != before.values:
        order = np.array([before.values.index(v) for v in after.values] + [NONE])  # the last is NONE's own
        other = order[other]
    out = one * len(before.names) + other
    out[(one == NONE) | (other == NONE)] = NODATA
    return out


def differences(before: ClassMap, after: ClassMap) -> Differences:
    """Count from class to class; the maps are alike (`check_alike`) and of one order of classes."""
    k, grid = len(before.names), before.grid
    pixels, ground, missing = np.zeros(k * k, np.int64), np.zeros(k * k), 0
    for window in blocks(grid):
        code = codes(before, after, window)
        there = code != NODATA
        pixels += np.bincount(code[there], minlength=k * k)
        missing += int((~there).sum())
        areas = pixel_areas(grid, window)
        if areas is not None:
            ground += np.bincount(code[there], np.broadcast_to(areas, code.shape)[there], minlength=k * k)
    return Differences(
        before.names, pixels.reshape(k, k), None if grid.crs is None else ground.reshape(k, k), missing
    )


def write_change(
    path: str | Path,
    before: ClassMap,
    after: ClassMap,
    found: Differences,
    tags: dict[str, str],
    progress: Progress | None = None,
) -> None:
    """Write the raster of codes, uint16, with a legend (of many classes, of those that occur), and a QGIS style beside it.

    Ground that stays as it was is grey, the rest has the colour of the class after. Raises `OutputError`.
    """
    report = progress or Silent()
    k, grid = len(before.names), before.grid
    occur = np.flatnonzero(found.pixels.ravel()).tolist()
    # A reference may show a change that the maps have nowhere; tags of thousands would be a burden, though.
    told = range(k * k) if k <= _MOST else occur
    names = {c: f"{before.names[c // k]} → {before.names[c % k]}" for c in told}
    colors = {c: _SAME if c // k == c % k else before.colors[c % k] for c in told}
    rgb = {c: (int(h[1:3], 16), int(h[3:5], 16), int(h[5:7], 16)) for c, h in colors.items()}
    legend = {f"class_{c}": name for c, name in names.items()}
    path = Path(path)
    with ExitStack() as files:
        out = files.enter_context(
            CogWriter(
                path, grid, "uint16", bands=("from_to",), nodata=NODATA, colors=rgb,
                tags={**tags, **legend, _TAG: str(k)},
            )
        )  # fmt: skip
        for window in blocks(grid):
            out.write(window, codes(before, after, window).astype(np.uint16))
            report.advance(window.height * window.width)
        out.complete()
        style = files.enter_context(written(path.with_suffix(".qml")))
        text = paletted(occur, [names[c] for c in occur], [colors[c] for c in occur])
        style.write_text(text, encoding="utf-8")


def stable_codes(source: ClassMap) -> set[int] | None:
    """Class indices of a map of changes that are no change; None for any other map."""
    k = source.tags.get(_TAG, "")
    if not k.isdigit():
        return None
    return {i for i, code in enumerate(source.values) if code // int(k) == code % int(k)}
