"""Raster files through GDAL: opened, read by window, with one line for every fault and a bounded cache."""

from __future__ import annotations

import hashlib
import os
import shlex
import threading
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio._env import get_gdal_config, set_gdal_config  # the cache's size has no public name
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window as RioWindow

from raremap.errors import SceneError
from raremap.scene.grid import Grid
from raremap.scene.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

Path_ = str | Path

# Photos and masks without georeferencing are ordinary input. A filter for good, and not one around each
# opening: those are not safe where scenes are read by several threads.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


class _Cache:
    """The size of GDAL's cache, which is one for all threads: bounded while any of them wants that.

    It is set by the first and given back by the last. To set it for each thread is not safe: to make the cache
    smaller is to have one thread write out the blocks that another is just writing, which then are lost
    (GDAL's pull request 2015).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users, self._before = 0, 0

    @contextmanager
    def bounded(self, size: int) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._before = get_gdal_config("GDAL_CACHEMAX")
                set_gdal_config("GDAL_CACHEMAX", min(size, self._before))  # in bytes, unlike the variable
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    set_gdal_config("GDAL_CACHEMAX", self._before)


_cache = _Cache()


@contextmanager
def bounded_cache(megabytes: int = 32) -> Iterator[None]:
    """Within it GDAL keeps at most so many decoded blocks (its own default is 5 % of the machine's memory).

    What the environment variable GDAL_CACHEMAX says goes before. Any thread may enter; the first says how much.
    """
    with rasterio.Env():  # which also keeps GDAL's own lines off standard error
        if "GDAL_CACHEMAX" in os.environ:
            yield
            return
        with _cache.bounded(megabytes << 20):
            yield


_driver: ContextVar[str | None] = ContextVar("raremap-driver", default=None)


@contextmanager
def only(driver: str) -> Iterator[None]:
    """Within it, and within this thread, files are opened by one driver of GDAL alone, such as "GTiff"."""
    token = _driver.set(driver)
    try:
        yield
    finally:
        _driver.reset(token)


@contextmanager
def opened(path: Path_, **options: Any) -> Iterator[rasterio.DatasetReader]:
    """An open raster file, closed afterwards; raises `SceneError`."""
    file = open_file(path, **options)
    try:
        yield file
    finally:
        file.close()


_STORES = {
    "s3": ("/vsis3/", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_NO_SIGN_REQUEST=YES for public files"),
    "gs": (
        "/vsigs/",
        "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or GS_NO_SIGN_REQUEST=YES for public files",
    ),
}  # fmt: skip


def is_remote(path: Path_) -> bool:
    """Whether a path is of GDAL's own file systems, such as an object store, or a URL."""
    text = str(path)
    return "://" in text or text.startswith("/vsi")


def gdal_path(path: Path_) -> str:
    """A path as GDAL opens it: `s3://` and `gs://` are its file systems `/vsis3/` and `/vsigs/`.

    >>> gdal_path("s3://bucket/scene.tif"), gdal_path("scene.tif")
    ('/vsis3/bucket/scene.tif', 'scene.tif')
    """
    text = str(path)
    scheme, sep, rest = text.partition("://")
    return _STORES[scheme][0] + rest if sep and scheme in _STORES else text


def _credentials(path: str) -> str:
    """What to do where an object store does not open a file."""
    name = next((s for s, (prefix, _) in _STORES.items() if gdal_path(path).startswith(prefix)), None)
    return f"check the path, and {_STORES[name][1]}" if name else "is it complete?"


def open_file(path: Path_, **options: Any) -> rasterio.DatasetReader:
    """Open with rasterio; a fault is a `SceneError`, one line that names the file.

    Files of `s3://` and `gs://` are read through GDAL, with its own settings for credentials.
    """
    text = str(path)
    local = not is_remote(text)
    if local and not Path(text).exists():
        raise SceneError(f"{text} does not exist; check the path")
    if local and Path(text).is_dir():
        raise SceneError(f"{text} is a folder, expected a raster file")
    if (driver := _driver.get()) is not None:
        options = {"driver": driver, **options}
    try:
        if local:
            return rasterio.open(text, **options)
        # Neighbouring files are not looked for: a folder of an object store may hold millions.
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            return rasterio.open(gdal_path(text), **options)
    except (RasterioError, RasterioIOError) as error:
        raise SceneError(
            f"{text} cannot be opened as a raster ({short(error)}); {_credentials(text)}"
        ) from None


def short(error: BaseException) -> str:
    """What GDAL said, in one line."""
    cause = error.__cause__ or error
    return " ".join(str(cause).split())[:160]


def read_window(file: rasterio.DatasetReader, indexes: Any, window: Window, **options: Any) -> np.ndarray:
    """The pixels of a window as they are stored; a damaged file is a `SceneError` that says where."""
    try:
        return file.read(indexes, window=rio_window(window), **options)
    except (RasterioError, RasterioIOError) as error:
        raise SceneError(
            f"{file.name} cannot be read at rows {window.row_off}-{window.row_end}, columns "
            f"{window.col_off}-{window.col_end} ({short(error)}); the file is damaged or cut short"
        ) from None


def rio_window(window: Window) -> RioWindow:
    """A window as rasterio wants it."""
    return RioWindow(window.col_off, window.row_off, window.width, window.height)  # type: ignore[call-arg]


def grid_of(file: rasterio.DatasetReader) -> Grid:
    """The grid of an open file."""
    return Grid(file.height, file.width, file.crs, file.transform)


def placed_by_points(path: Path_) -> str | None:
    """That a file lies on the ground by control points or RPCs alone, and how it gets a grid there, in a line; else None."""
    with opened(path) as file:
        points, rpcs = file.gcps[0], file.rpcs
        if grid_of(file).georeferenced or not (points or rpcs):
            return None
        alpha = [] if file.nodata is not None else ["-dstalpha"]
    what, how, more = f"{len(points)} ground control points", ["-r", "bilinear"], ""
    if not points:
        zone = int((rpcs.long_off + 180) // 6) % 60 + 1
        what = "RPCs"
        how = ["-rpc", "-t_srs", f"EPSG:{(32600 if rpcs.lat_off >= 0 else 32700) + zone}", *how]
        more = ", with -to RPC_DEM=FILE where the ground is not flat"
    made = f"{Path(path).stem}.placed.tif"
    command = shlex.join(["gdalwarp", *how, *alpha, gdal_path(path), made])
    return f"{path} is placed by {what}, which a map does not keep; for a map with a place: {command}{more}"


def fingerprint(path: Path_) -> str:
    """A short checksum of a file: its size and its first and last MiB; raises `SceneError`.

    Of a file in an object store its header and its first and last block are taken.
    """
    if is_remote(path):
        return _remote_fingerprint(str(path))
    try:
        size = Path(path).stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with Path(path).open("rb") as file:
            digest.update(file.read(1 << 20))
            if size > 1 << 20:
                file.seek(max(1 << 20, size - (1 << 20)))
                digest.update(file.read())
    except OSError as error:
        raise SceneError(f"{path} cannot be read ({error.strerror}); check the path") from None
    return digest.hexdigest()[:16]


def _remote_fingerprint(path: str) -> str:
    with opened(path) as file:
        said = (dict(file.profile), file.tags(), file.descriptions, file.block_shapes)
        digest = hashlib.sha256(repr(said).encode())
        for row, col in ((0, 0), (file.height - 1, file.width - 1)):
            digest.update(read_window(file, None, Window(row, col, 1, 1)).tobytes())
    return digest.hexdigest()[:16]


def modified(path: Path_) -> int:
    """When a file was last changed, in nanoseconds; 0 in an object store, whose files GDAL gives no time for."""
    return 0 if is_remote(path) else Path(path).stat().st_mtime_ns
