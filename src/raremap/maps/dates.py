"""The days that a map rests upon: one for all of it as a tag, one for each pixel in a file beside it."""

from __future__ import annotations

from datetime import date as Date
from datetime import timedelta
from pathlib import Path

import numpy as np

from raremap.errors import SceneError
from raremap.maps.classmap import NONE, ClassMap
from raremap.scene.gdal import opened, read_window
from raremap.scene.window import Window

DATE_BANDS = ("seen", "changed")
"""Bands of the dates beside a map: the last day that showed a pixel, and the last that changed its class."""
TAG = "raremap_date"
"""The latest day that any pixel of a map rests upon; the map and its dates say the same."""
_EPOCH = Date(1970, 1, 1)
_LAST = 65535  # of uint16, in the year 2149; 0 is an unknown day


def iso(day: int) -> str:
    """A day since 1970-01-01 as 2024-08-12."""
    return (_EPOCH + timedelta(days=day)).isoformat()


def number(date: Date) -> int | None:
    """Days since 1970-01-01, or None where a file of dates cannot hold them."""
    day = (date - _EPOCH).days
    return day if 0 < day <= _LAST else None


SPAN = f"{iso(1)} to {iso(_LAST)}"
"""What a file of dates can hold, in words."""


def dates_path(path: Path) -> Path:
    """Where the dates of a map lie."""
    return path.with_name(f"{path.stem}.dates.tif")


class Dates:
    """The dates of a map, uint16 `[2, h, w]` by window.

    `latest` is the day of its tag, or None. Without a file of dates its pixels of a class were seen on that day; 0 is an
    unknown day. Raises `SceneError` where a file of that name is not of this map.
    """

    def __init__(self, of: ClassMap) -> None:
        path = dates_path(Path(of.path))
        self._map, self._path = of, path if path.exists() else None
        self.latest = _tagged(of)
        if self._path is None:
            return
        with opened(path) as file:
            size = (of.grid.height, of.grid.width)
            fits = file.descriptions == DATE_BANDS and (file.height, file.width) == size
            # A map that was predicted anew beside the dates of the former one.
            fits &= file.tags().get(TAG) == of.tags.get(TAG)
        if not fits:
            raise SceneError(f"{path} does not hold the dates of its map; move it away to begin anew")

    def read(self, window: Window) -> np.ndarray:
        """Days of a window."""
        if self._path is not None:
            with opened(self._path) as file:
                return read_window(file, [1, 2], window)
        out = np.zeros((2, window.height, window.width), np.uint16)
        if self.latest is not None:
            out[0][self._map.read(window) != NONE] = self.latest
        return out


def undated(of: ClassMap) -> str | None:
    """What to say of a map that does not say of which day it is; None where it does."""
    path = dates_path(Path(of.path))
    if TAG in of.tags or path.exists():
        return None
    return (
        f"map {of.path} does not say of which day it is (no tag {TAG}, no {path.name}): it is taken for older than any "
        f"scene; if it is not, stop and tell its day with gdal_edit.py -mo {TAG}=2024-08-12 {of.path}"
    )


def _tagged(of: ClassMap) -> int | None:
    """The day of a map's tag, or None where it has none."""
    text = of.tags.get(TAG)
    if text is None:
        return None
    try:
        day = number(Date.fromisoformat(text))
    except ValueError:
        day = None
    if day is None:
        raise SceneError(f"map {of.path} has the tag {TAG}={text}, expected a day from {SPAN}")
    return day
