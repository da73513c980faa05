"""Class probabilities read back from the file that `raremap predict --probabilities` wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raremap.classtree import Level
from raremap.errors import SceneError
from raremap.maps.classmap import ClassMap
from raremap.maps.levelmap import LevelMap
from raremap.scene.gdal import bounded_cache, opened
from raremap.scene.raster import ImageReader, open_image
from raremap.scene.window import Window

UNIT = 62500
"""What a probability of 1 is read as: a step of 1/250, as uint8 files have them, is a whole number."""


class Probabilities:
    """The bands of a file in the order of a map's classes, as whole numbers, 0 where there is no data."""

    def __init__(
        self, reader: ImageReader, scale: float, nodata: float | None, level: Level | None = None
    ) -> None:
        self._reader, self._scale, self._nodata, self._level = reader, scale, nodata, level

    def read(self, window: Window) -> np.ndarray:
        """Probabilities uint16 `[K, h, w]` of a window, in units of 1/62500."""
        with bounded_cache():
            probs = self._reader.read(window)[0]
        empty = np.isnan(probs) if probs.dtype.kind == "f" else probs == self._nodata
        whole = np.rint(np.clip(np.nan_to_num(probs).astype(np.float32) * self._scale, 0, 1) * UNIT)
        whole[empty] = 0
        return (whole if self._level is None else self._level.summed(whole)).astype(np.uint16)


def open_probabilities(path: str | Path, source: ClassMap) -> Probabilities:
    """The probabilities that belong to a map; raises `SceneError` where the file has another grid or lacks a class."""
    merged = source.level if isinstance(source, LevelMap) else None
    reader = open_image(path, bands=source.source.names if isinstance(source, LevelMap) else source.names)
    if differs := reader.grid.difference(source.grid):
        raise SceneError(
            f"{path} has {differs} as of {source.path}; give the probabilities that were written with the map"
        )
    with opened(path) as file:
        scale = float(file.scales[0])
    whole = np.issubdtype(reader.dtype, np.integer)
    if whole and (scale == 1 or reader.dtype != np.uint8):
        raise SceneError(
            f"{path} holds {reader.dtype} numbers without a scale, expected float32, or uint8 in steps of 0.004, "
            "as `raremap predict --probabilities` writes them"
        )
    return Probabilities(reader, scale if whole else 1.0, reader.nodata, merged)
