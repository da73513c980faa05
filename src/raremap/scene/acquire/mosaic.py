"""One image of many days: of each pixel the median of its clear days, or the clearest day that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Literal

import numpy as np

from raremap.errors import AcquireError
from raremap.jobs import Progress
from raremap.scene.acquire.days import Target
from raremap.scene.acquire.journal import Day
from raremap.scene.acquire.names import SCL
from raremap.scene.acquire.windows import windows
from raremap.scene.clouds import SCL as VALUES
from raremap.scene.gdal import opened
from raremap.scene.raster import ImageReader, open_image
from raremap.scene.window import Window

NAME = "mosaic.tif"

_BYTES = 96 << 20  # of all days of a window
_SIDE = 512


def write_mosaic(
    days: Sequence[Day], target: Target, how: Literal["median", "least-cloud"], progress: Progress
) -> float:
    """Write the mosaic of finished days; the share of the grid that is clear on any of them.

    `median` is of each band, over the days on which the pixel is clear; of an even number the mean of the middle
    two. `least-cloud` takes all bands from the day with the least clouds over the place, of those on which the pixel
    is clear. A pixel that is clear on no day is nodata.
    """
    days = [d for d in days if d.image is not None]
    if not days:
        raise AcquireError("no day to make a mosaic of; widen --dates or raise --max-cloud")
    o = target.options
    ordered = sorted(days, key=lambda d: (d.cloud, -d.covered, d.date))
    each = len(ordered) * (len(target.written) + 1) * 4
    height = max(16, min(_SIDE, _BYTES // (each * _SIDE)))
    clear = 0
    with ExitStack() as stack:
        readers = [_Reader(day, target, stack) for day in ordered]
        tags = _tags(days, how)
        out = stack.enter_context(target.writer(target.folder / NAME, o.bands, tags))
        for window in windows(target.grid, height, _SIDE):
            image = np.full((len(o.bands), window.height, window.width), np.nan, np.float32)
            if how == "least-cloud":
                for reader in readers:
                    pixels, seen = reader.read(window)
                    fresh = seen & np.isnan(image[0])
                    image[:, fresh] = pixels[:, fresh]
                    if not np.isnan(image[0]).any():
                        break
            else:
                stacked = [reader.read(window) for reader in readers]
                seen = np.stack([s for _, s in stacked])
                for i in range(len(o.bands)):
                    image[i] = _median(np.stack([p[i] for p, _ in stacked]), seen)
            there = ~np.isnan(image[0])
            clear += int(there.sum())
            if o.dtype == "uint16":
                image = np.rint(image)
            image[:, ~there] = o.missing
            out.write(window, image.astype(o.dtype))
            progress.advance(window.height * window.width / 1e6)
        out.complete()
    return clear / (target.grid.height * target.grid.width)


def mosaic_is_of(days: Sequence[Day], target: Target, how: str) -> bool:
    """Whether the mosaic is there, and is of these days."""
    path = target.folder / NAME
    if not path.is_file():
        return False
    with opened(path) as file:
        found = file.tags()
    wanted = _tags([d for d in days if d.image is not None], how)
    return {key: found.get(key) for key in wanted} == wanted


def _tags(days: Sequence[Day], how: str) -> dict[str, str]:
    return {"mosaic": how, "days": " ".join(sorted(d.date for d in days))}


class _Reader:
    """The bands of a day, and where it is clear, by window."""

    def __init__(self, day: Day, target: Target, stack: ExitStack) -> None:
        bands = target.written
        assert day.image is not None
        self._image: ImageReader = stack.enter_context(open_image(target.folder / day.image, bands=bands))
        self._classes: ImageReader | None = None
        if day.classes is not None:
            self._classes = stack.enter_context(open_image(target.folder / day.classes))
        self._last = bands[-1] == SCL and SCL not in target.options.bands

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        pixels, clear = self._image.read(window)
        if self._classes is not None:
            clear &= ~np.isin(self._classes.read(window)[0][0], VALUES["cloud"])
        elif self._last:
            clear &= ~np.isin(pixels[-1], VALUES["cloud"])
            pixels = pixels[:-1]
        return pixels, clear


def _median(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Median float32 `[h, w]` of `[days, h, w]` where seen; NaN where on no day."""
    values = np.where(seen, values, np.inf).astype(np.float32)
    values.sort(axis=0)
    count = seen.sum(0)
    low = np.take_along_axis(values, np.maximum(count - 1, 0)[None] // 2, 0)[0]
    high = np.take_along_axis(values, np.minimum(count // 2, len(values) - 1)[None], 0)[0]
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, (low + high) / 2, np.nan).astype(np.float32)
