"""One day's imagery, window by window, to files that take their names when all of it is there."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raremap.jobs import Progress
from raremap.scene.acquire.journal import Day
from raremap.scene.acquire.names import SCL
from raremap.scene.acquire.options import TERRAIN, AcquireOptions
from raremap.scene.acquire.place import Place
from raremap.scene.acquire.source import Overpass, Source
from raremap.scene.acquire.windows import windows
from raremap.scene.clouds import SCL as VALUES
from raremap.scene.cog import CogWriter
from raremap.scene.gdal import bounded_cache
from raremap.scene.grid import Grid
from raremap.scene.raster import open_image

SIDE = 1024
"""Pixels a side of a window: what the public archives have as one block."""


@dataclass(frozen=True)
class Target:
    """Where the days of a place go, and what they hold; `terrain` are the files of dem and slope by name."""

    folder: Path
    place: Place
    grid: Grid
    options: AcquireOptions
    terrain: dict[str, Path]

    @property
    def optical(self) -> tuple[str, ...]:
        """The bands that the source has."""
        return tuple(b for b in self.options.bands if b.lower() not in TERRAIN)

    @property
    def written(self) -> tuple[str, ...]:
        """The bands of a file."""
        return (*self.options.bands, *([SCL] if self.options.clouds == "band" else []))

    def image(self, date: str) -> str:
        """The image of a day, relative to the folder."""
        return f"images/{date}.tif"

    def classes(self, date: str) -> str | None:
        """The scene classes of a day, relative to the folder, where they are kept in a file."""
        return f"scl/{date}.tif" if self.options.clouds == "file" else None

    def writer(self, path: Path, bands: tuple[str, ...], tags: dict[str, str]) -> CogWriter:
        """A writer of images as the options want them."""
        o = self.options
        return CogWriter(
            path, self.grid, o.dtype, bands, nodata=o.missing, overviews="average",
            tags={**tags, "reflectance": "x 10000" if o.scale == "dn" else "0 to 1"},
        )  # fmt: skip


def write_day(source: Source, overpass: Overpass, target: Target, progress: Progress) -> tuple[Day, float]:
    """Fetch and write a day; the day, and the share of its numbers that are 0 or below.

    Pixels that lack a band are nodata in all. Raises `AcquireError` and `OutputError`; nothing half-written stays.
    """
    try:
        seen = _write(source, overpass, target, progress)
    except _NoData:
        return Day(overpass.date, None, None, overpass.scenes, 0.0, 0.0), 0.0
    files = target.image(overpass.date), target.classes(overpass.date)
    return Day(overpass.date, *files, overpass.scenes, *seen.shares), seen.dark / (
        seen.covered * len(target.optical)
    )


class _NoData(Exception):
    """Ends the writing of a day without any pixel, so that nothing remains of it."""


def _write(source: Source, overpass: Overpass, target: Target, progress: Progress) -> _Seen:
    o, grid = target.options, target.grid
    image, classes = target.image(overpass.date), target.classes(overpass.date)
    tags = {
        "TIFFTAG_DATETIME": overpass.date.replace("-", ":") + " 00:00:00",
        "date": overpass.date,
        "source": f"{source.name} {source.collection}",
        "scenes": " ".join(overpass.scenes),
    }
    seen = _Seen()
    with ExitStack() as stack:
        stack.enter_context(bounded_cache())
        # Left in the opposite order: the image, which says that the day is there, takes its name last.
        out = stack.enter_context(target.writer(target.folder / image, target.written, tags))
        writers = [out]
        if classes is not None:
            scl_file = CogWriter(target.folder / classes, grid, "uint8", (SCL,), nodata=0, tags=tags)
            writers.append(stack.enter_context(scl_file))
        heights = {n: stack.enter_context(open_image(p)) for n, p in target.terrain.items()}
        read = stack.enter_context(source.day(overpass, target.optical, grid))
        outline = target.place.on(grid.crs) if o.clip and grid.crs is not None else None
        for window in windows(grid, SIDE, SIDE):
            pixels, scl = read(window)
            within = _within(outline, grid.shifted(window))
            there = ~np.isnan(pixels).any(0) & within
            scl[~there] = 0
            cloud = np.isin(scl, VALUES["cloud"])
            seen.count(pixels, within, there, cloud)
            layers = {}
            for name, reader in heights.items():
                z, valid = reader.read(window)
                layers[name] = np.where(valid, z[0], np.nan)
            usable = there & ~cloud if o.clouds == "mask" else there
            out.write(window, _numbers(pixels, scl, layers, usable, target))
            if classes is not None:
                writers[-1].write(window, scl)
            progress.advance(window.height * window.width / 1e6)
        if not seen.covered:
            raise _NoData
        for writer in reversed(writers):
            writer.complete()
    return seen


class _Seen:
    """Counts of pixels over a day's windows."""

    def __init__(self) -> None:
        self.inside = self.covered = self.cloudy = self.dark = 0

    def count(self, pixels: np.ndarray, within: np.ndarray, there: np.ndarray, cloud: np.ndarray) -> None:
        self.inside += int(within.sum())
        self.covered += int(there.sum())
        self.cloudy += int(cloud.sum())
        self.dark += int((pixels[:, there] <= 0).sum())

    @property
    def shares(self) -> tuple[float, float]:
        """Shares of the place with data, and of these of clouds."""
        return round(self.covered / self.inside, 6), round(self.cloudy / self.covered, 6)


def _numbers(
    pixels: np.ndarray, scl: np.ndarray, layers: dict[str, np.ndarray], valid: np.ndarray, target: Target
) -> np.ndarray:
    """The bands as they are stored: scaled, in order, nodata where any is missing."""
    o = target.options
    out = np.empty((len(target.written), *valid.shape), np.float32)
    row = {name: i for i, name in enumerate(target.optical)}
    for i, name in enumerate(o.bands):
        if name in row:
            band = pixels[row[name]]
            # 0 is nodata: what is darker than the offset is 1.
            out[i] = np.maximum(np.rint(band), 1) if o.scale == "dn" else band / 1e4
        else:
            out[i] = layers[name.lower()]
    if o.clouds == "band":
        out[-1] = scl
    valid = valid & ~np.isnan(out).any(0)
    out[:, ~valid] = o.missing
    return np.minimum(out, 65535).astype(np.uint16) if o.dtype == "uint16" else out


def _within(outline: Any, grid: Grid) -> np.ndarray:
    if outline is None:
        return np.ones((grid.height, grid.width), bool)
    from rasterio.features import geometry_mask

    return geometry_mask([outline], (grid.height, grid.width), grid.transform, invert=True, all_touched=True)
