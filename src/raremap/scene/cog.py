"""Rasters written by window, that become cloud-optimised GeoTIFFs when they are complete."""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.shutil import copy as rio_copy
from rasterio.windows import Window as RioWindow

from raremap.errors import OutputError
from raremap.scene.grid import Grid
from raremap.scene.window import Window

_BLOCK = 512
# Blocks of the raw file are low, so that strips of any height leave few of them half written.
_RAW_ROWS = 16


class CogWriter:
    """Takes windows in any order, written by a thread of its own; `cog_writer` makes and finishes it."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
        self._queue: queue.Queue[tuple[Window, np.ndarray] | None] = queue.Queue(maxsize=2)
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="raremap-writer", daemon=True)
        self._thread.start()

    def write(self, window: Window, array: np.ndarray) -> None:
        """Hand over `[h, w]` (one band) or `[bands, h, w]`; the array must not change afterwards.

        A fault of the disk is raised as `OutputError`, here or when the file is finished.
        """
        if array.shape[-2:] != (window.height, window.width):
            raise ValueError(f"array {array.shape} does not fill a window of {window.height}x{window.width}")
        self._check()
        self._queue.put((window, array))

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failed is not None:
                continue  # drain, so that `write` never blocks
            window, array = item
            try:
                self._file.write(
                    array if array.ndim == 3 else array[None],
                    window=RioWindow(window.col_off, window.row_off, window.width, window.height),  # type: ignore[call-arg]
                )
            except BaseException as error:
                self._failed = error

    def _finish(self) -> None:
        """Wait until all is written."""
        self._queue.put(None)
        self._thread.join()

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed


@contextmanager
def cog_writer(
    path: str | Path,
    grid: Grid,
    dtype: str,
    bands: Sequence[str] = ("map",),
    nodata: float | None = None,
    colors: Mapping[int, tuple[int, int, int]] | None = None,
    tags: Mapping[str, str] | None = None,
    band_tags: Sequence[Mapping[str, str]] | None = None,
    overviews: Literal["nearest", "average"] = "nearest",
    level: int = 6,
) -> Iterator[CogWriter]:
    """Write a COG window by window: tiles of 512², DEFLATE, overviews, BigTIFF when needed.

    The file takes its name when the block ends without a fault; otherwise nothing remains. Pixels that
    were never written are nodata. While it works it needs disk for the raw raster beside the result.
    Raises `OutputError` with one line where the folder is missing or not writable, or the disk is full.

    Overviews of classes are by nearest pixel, which keeps the share of a rare class as it is; a majority
    would wipe it out. Those of quantities are averages.
    """
    path = Path(path)
    scratch = _scratch(path)
    try:
        raw, fresh = scratch / "raw.tif", scratch / "cog.tif"
        with _one_line(path), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            file = rasterio.open(raw, "w", **_profile(grid, dtype, len(bands), nodata))
            try:
                file.descriptions = tuple(bands)
                file.update_tags(**(tags or {}))
                for number, own in enumerate(band_tags or (), 1):
                    file.update_tags(number, **own)
                if colors is not None:
                    file.write_colormap(1, {value: (*rgb, 255) for value, rgb in colors.items()})
                writer = CogWriter(path, file)
                try:
                    yield writer
                finally:
                    writer._finish()
                writer._check()
            finally:
                file.close()
            _expect(raw)
            kind = "nearest" if overviews == "nearest" else "average"
            rio_copy(
                raw, fresh, driver="COG", BLOCKSIZE=_BLOCK, COMPRESS="DEFLATE", LEVEL=level,
                PREDICTOR="NO" if overviews == "nearest" else "YES", OVERVIEW_RESAMPLING=kind,
                RESAMPLING=kind, BIGTIFF="IF_SAFER", NUM_THREADS="ALL_CPUS",
            )  # fmt: skip
            _expect(fresh)
            os.replace(fresh, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scratch(path: Path) -> Path:
    """A hidden folder beside `path`, on the same disk, so that the result can be renamed into place."""
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder, expected a file name to write to")
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.stem}.", dir=path.parent))
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose a writable folder") from None


def _profile(grid: Grid, dtype: str, bands: int, nodata: float | None) -> dict[str, Any]:
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": bands,
        "dtype": dtype,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _RAW_ROWS,
        "interleave": "pixel",
        "bigtiff": "IF_SAFER",
        "sparse_ok": True,
    }
    if grid.georeferenced:
        profile |= {"crs": grid.crs, "transform": grid.transform}
    return profile


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except (RasterioError, OSError) as error:
        cause = " ".join(str(error.__cause__ or error).split())[:160]
        raise OutputError(
            f"{path} cannot be written ({cause}); check the space left on its disk, nothing was changed"
        ) from None


def _expect(path: Path) -> None:
    """Read the last block of every level: GDAL does not report every write that failed on a full disk."""
    with rasterio.open(path) as file:
        levels = len(file.overviews(1))
    for level in range(-1, levels):
        options = {"overview_level": level} if level >= 0 else {}
        with rasterio.open(path, **options) as file:
            file.read(window=RioWindow(file.width - 1, file.height - 1, 1, 1))  # type: ignore[call-arg]


