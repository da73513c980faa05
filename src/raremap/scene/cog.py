"""Rasters written by window, that become cloud-optimised GeoTIFFs when they are complete."""

from __future__ import annotations

import os
import queue
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # what rasterio.shutil.copy raises; it has no public name
from rasterio.errors import RasterioError
from rasterio.shutil import copy as rio_copy
from rasterio.windows import Window as RioWindow

from raremap.errors import OutputError
from raremap.files import scratch
from raremap.scene.gdal import bounded_cache
from raremap.scene.grid import Grid
from raremap.scene.rawfile import RawRaster, raw_room
from raremap.scene.window import Window

_BLOCK = 512
_HELD_BYTES = 48 << 20
_BESIDE = (
    ".aux.xml",
    ".ovr",
    ".msk",
)  # what GDAL keeps beside a raster: statistics and the like, of older pixels
_FAULTS = (RasterioError, CPLE_BaseError, OSError)


def check_name(path: str | Path) -> None:
    """Raise `OutputError` where a file is not called as a GeoTIFF."""
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"{path} is no name for a map; give one that ends in .tif")


class CogWriter:
    """A COG written window by window, in any order: tiles of 512², DEFLATE, overviews, BigTIFF when needed.

        with CogWriter("map.tif", grid, "uint8", nodata=255) as out:
            out.write(Window(0, 0, 64, 64), array)

    The file takes its name when the block ends without a fault, and what GDAL kept beside an older one goes; otherwise
    nothing remains. Pixels that
    were never written are nodata. A thread does the writing; meanwhile the raw raster needs disk space
    beside the result, in a hidden folder; that of a writer of the same file that was killed is removed at the start. Raises `OutputError` with one line where the folder is not writable (at the start)
    or the disk is full.

    Overviews of classes are by nearest pixel, which keeps the share of a rare class as it is; a majority
    would wipe it out; they are written as the windows come. Those of quantities are averages. DEFLATE's level 5 is nearly as small as 6 and twice
    as fast on class maps.
    """

    def __init__(
        self,
        path: str | Path,
        grid: Grid,
        dtype: str,
        bands: Sequence[str] = ("map",),
        nodata: float | None = None,
        colors: Mapping[int, tuple[int, int, int]] | None = None,
        tags: Mapping[str, str] | None = None,
        scale: float | None = None,
        overviews: Literal["nearest", "average"] = "nearest",
        level: int = 5,
    ) -> None:
        self.path, self.grid, self.dtype, self.bands = Path(path), grid, dtype, tuple(bands)
        self._nodata = nodata
        self._colors, self._tags, self._scale = colors, dict(tags or {}), scale
        self._overviews, self._level = overviews, level
        self._sizes = _halved(grid) if overviews == "nearest" else [grid]
        self._has_room = False
        self._scratch: Path | None = None
        self._in_use: IO[bytes] | None = None
        self._levels: list[RawRaster] = []
        self._queue: queue.Queue[tuple[Window, np.ndarray] | None] = queue.Queue(maxsize=2)
        self._failed: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._complete = False

    def __enter__(self) -> CogWriter:
        self._scratch, self._in_use = _scratch(self.path)
        try:
            if not self._has_room:
                check_room([self])
            self._told(self._open)
        except BaseException:
            self._abandon()
            raise
        self._thread = threading.Thread(target=self._work, name="raremap-writer", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.complete()
                self._told(self._name)
        finally:
            self._abandon()

    def write(self, window: Window, array: np.ndarray) -> None:
        """Hand over `[h, w]` (one band) or `[bands, h, w]`; the array must not change afterwards.

        Where the disk fails `OutputError` is raised, here or when the file is completed.
        """
        array = array if array.ndim == 3 else array[None]
        expected = (len(self.bands), window.height, window.width)
        if array.shape != expected:
            raise ValueError(f"array of shape {array.shape} for a window of shape {expected}")
        if self._failed is not None:
            self._told(self._check)
        self._queue.put((window, array))

    def room(self, rows: Sequence[tuple[int, int]] | None = None) -> int:
        """Bytes of disk that the raw raster takes; no rows but `rows` (first, end) are written to (None: all)."""
        rows = [(0, self.grid.height)] if rows is None else rows
        bands = len(self.bands)
        return sum(raw_room(s, self.dtype, bands, rows, 1 << i) for i, s in enumerate(self._sizes))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Add tags that are known before the end only."""
        self._tags.update(tags)

    def complete(self) -> None:
        """Make the finished COG, still under a hidden name; leaving the block names it.

        Where several files belong together, complete all before leaving the first.
        """
        if self._complete:
            return
        # One after the other: the thread has written everything before it is copied.
        self._told(self._finish)
        self._told(self._build)
        self._complete = True

    def _path(self, name: str) -> Path:
        assert self._scratch is not None, "used outside of its with block"
        return self._scratch / name

    def _open(self) -> None:
        for i, size in enumerate(self._sizes):
            raw = RawRaster(self._path(f"raw{i}.bin"), size, self.dtype, len(self.bands), self._nodata)
            self._levels.append(raw)

    def _work(self) -> None:
        held: list[tuple[Window, np.ndarray]] = []  # windows side by side, for one write instead of one a row
        while True:
            item = self._queue.get()
            if (
                self._failed is None
            ):  # else the queue goes on being emptied, so that `write` never waits for good
                try:
                    if held and (item is None or not _adjoins(held, item)):
                        self._put(held)
                        held = []
                    if item is not None:
                        held.append(item)
                except BaseException as error:  # raised by the next `write` or by `complete`
                    self._failed = error
            if item is None:
                return

    def _put(self, held: list[tuple[Window, np.ndarray]]) -> None:
        array = np.concatenate([array for _, array in held], axis=2) if len(held) > 1 else held[0][1]
        window = Window(*held[0][0][:2], *array.shape[1:])
        self._levels[0].write(window, array)
        for raw in self._levels[1:]:  # the first pixel of each two by two, of the level before
            row, col = window.row_off % 2, window.col_off % 2
            array = array[:, row::2, col::2]
            window = Window((window.row_off + 1) // 2, (window.col_off + 1) // 2, *array.shape[1:])
            raw.write(window, array)

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _finish(self) -> None:
        """Wait until everything handed over is written, and close the raw raster."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        for raw in self._levels:
            raw.close()

    def _build(self) -> None:
        self._check()
        fresh = self._path("cog.tif")
        overviews = [raw.describe() for raw in self._levels[1:]]
        raw = self._levels[0].describe(self.bands, self._tags, self._colors, self._scale, overviews)
        quantity = self._overviews == "average"
        rio_copy(
            raw,
            fresh,
            driver="COG",
            BLOCKSIZE=_BLOCK,
            COMPRESS="DEFLATE",
            LEVEL=self._level,
            PREDICTOR="YES" if quantity else "NO",
            OVERVIEW_RESAMPLING=self._overviews,
            BIGTIFF="IF_SAFER",
            SPARSE_OK="YES" if self._nodata is not None else "NO",
            NUM_THREADS="ALL_CPUS",
        )
        _last_blocks(fresh)
        for level in self._levels:
            level.path.unlink()

    def _name(self) -> None:
        os.replace(self._path("cog.tif"), self.path)
        for suffix in _BESIDE:
            self.path.with_name(f"{self.path.name}{suffix}").unlink(missing_ok=True)

    def _abandon(self) -> None:
        """Remove whatever has no name yet."""
        try:
            with bounded_cache(), suppress(*_FAULTS):  # the raw raster is thrown away, whatever ails it
                self._finish()
        finally:
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)
            if self._in_use is not None:
                self._in_use.close()

    def _told(self, step: Callable[[], object]) -> None:
        """Do a step of the writing; its faults become one line that names the file."""
        try:
            with bounded_cache():
                step()
        except _FAULTS as error:
            cause = " ".join(str(error.__cause__ or error).split())[:160]
            raise OutputError(
                f"{self.path} cannot be written ({cause}); check the space left on its disk, nothing was changed"
            ) from None


def check_room(writers: Sequence[CogWriter], rows: Sequence[tuple[int, int]] | None = None) -> None:
    """Raise `OutputError` where a disk has less room than writers of one grid take on it together; `rows` as in `room`.

    They do not look for themselves any more when they begin.
    """
    disks: dict[int, list[CogWriter]] = {}
    for writer in writers:
        writer._has_room = True
        disks.setdefault(_folder_of(writer.path).stat().st_dev, []).append(writer)
    for own in disks.values():
        path, others = own[0].path, len(own) - 1
        need, free = sum(w.room(rows) for w in own), shutil.disk_usage(_folder_of(path)).free
        if free < need:
            told = f" and {others} more files beside it need" if others else " needs"
            raise OutputError(
                f"{path}{told} {need / 1e9:.1f} GB while {'they are' if others else 'it is'} made, "
                f"{'their' if others else 'its'} disk has {free / 1e9:.1f} GB left; choose another disk"
            )


def _folder_of(path: Path) -> Path:
    """The folder of a file, or the nearest above it that is there."""
    return next(p for p in path.absolute().parents if p.is_dir())


def _scratch(path: Path) -> tuple[Path, IO[bytes] | None]:
    """A hidden folder beside `path`, on the same disk, so that the result can be renamed into place; see `scratch`."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder, expected a file name to write to")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return scratch(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose a writable folder") from None


def _adjoins(held: list[tuple[Window, np.ndarray]], item: tuple[Window, np.ndarray]) -> bool:
    """Whether a window goes on to the right of those held, and all are not too much to hold."""
    last, new = held[-1][0], item[0]
    beside = (new.row_off, new.height, new.col_off) == (last.row_off, last.height, last.col_end)
    return beside and sum(array.nbytes for _, array in [*held, item]) <= _HELD_BYTES


def _halved(grid: Grid) -> list[Grid]:
    """The grid and its overviews, down to one block."""
    out = [grid]
    while max(out[-1].height, out[-1].width) > _BLOCK:
        out.append(Grid(-(-out[-1].height // 2), -(-out[-1].width // 2)))
    return out


def _last_blocks(path: Path) -> None:
    """Read the last block of every level: GDAL does not report every write that fails."""
    with rasterio.open(path) as file:
        levels = len(file.overviews(1))
    for level in range(-1, levels):
        with rasterio.open(path) if level < 0 else rasterio.open(path, overview_level=level) as file:
            file.read(window=RioWindow(file.width - 1, file.height - 1, 1, 1))  # type: ignore[call-arg]
