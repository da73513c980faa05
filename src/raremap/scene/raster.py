"""Windowed reading of images and masks, with one rule for which pixels are valid."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import rasterio
from rasterio._env import get_gdal_config, set_gdal_config  # the cache's size has no public name
from rasterio.enums import ColorInterp, Interleaving, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window as RioWindow

from raremap.errors import SceneError, nearest
from raremap.scene.grid import Grid
from raremap.scene.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raremap.labels import LabelScheme

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


@contextmanager
def _dataset(path: Path_, **options: Any) -> Iterator[rasterio.DatasetReader]:
    file = _open(path, **options)
    try:
        yield file
    finally:
        file.close()


def _open(path: Path_, **options: Any) -> rasterio.DatasetReader:
    """Open with rasterio; faults become one line that names the file."""
    text = str(path)
    local = "://" not in text and not text.startswith("/vsi")
    if local and not Path(text).exists():
        raise SceneError(f"{text} does not exist; check the path")
    if local and Path(text).is_dir():
        raise SceneError(f"{text} is a folder, expected a raster file")
    try:
        return rasterio.open(text, **options)
    except (RasterioError, RasterioIOError) as error:
        raise SceneError(f"{text} cannot be opened as a raster ({_short(error)}); is it complete?") from None


def _short(error: BaseException) -> str:
    cause = error.__cause__ or error
    return " ".join(str(cause).split())[:160]


def _read(file: rasterio.DatasetReader, indexes: Any, window: Window, **options: Any) -> np.ndarray:
    try:
        return file.read(indexes, window=_rio(window), **options)
    except (RasterioError, RasterioIOError) as error:
        raise SceneError(
            f"{file.name} cannot be read at rows {window.row_off}-{window.row_end}, columns "
            f"{window.col_off}-{window.col_end} ({_short(error)}); the file is damaged or cut short"
        ) from None


def _rio(window: Window) -> RioWindow:
    return RioWindow(window.col_off, window.row_off, window.width, window.height)  # type: ignore[call-arg]


def grid_of(file: rasterio.DatasetReader) -> Grid:
    """The grid of an open file."""
    return Grid(file.height, file.width, file.crs, file.transform)


class Image(Protocol):
    """A scene that is read by window: an `ImageReader`, or one with features."""

    paths: tuple[str, ...]
    grid: Grid
    bands: tuple[str, ...]
    dtype: np.dtype
    nodata: float | None

    def read(self, window: Window, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Image `[C, h, w]` and validity `[h, w]` of a window."""
        ...

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class ImageReader:
    """The bands of a scene as one image, read by window; opened on first use, and picklable.

    `bands` are names in order (`named`: the file itself or the user named them); `dtype` is that of the
    arrays; `nodata` the value that marks no data.
    """

    def __init__(
        self,
        paths: Sequence[Path_],
        grid: Grid,
        bands: tuple[str, ...],
        where: tuple[tuple[int, int], ...],
        dtype: np.dtype,
        nodata: float | None,
        masks: tuple[tuple[int, int], ...],
        named: bool = True,
    ) -> None:
        self.paths = tuple(str(p) for p in paths)
        self.grid, self.bands, self.dtype, self.nodata = grid, bands, dtype, nodata
        self.named = named
        self._where = where  # (file, band number) of each band
        self._masks = masks  # (file, band number) of alpha bands; band number 0 is the file's own mask
        self._files: dict[int, rasterio.DatasetReader] = {}

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        for file in self._files.values():
            with suppress(RasterioError):
                file.close()
        self._files = {}

    def _file(self, i: int) -> rasterio.DatasetReader:
        if i not in self._files:
            self._files[i] = _open(self.paths[i])
        return self._files[i]

    def read(self, window: Window, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Image `[C, h, w]` in the file's own numbers and validity `[h, w]` (True: usable) of a window.

        `out` is an array of that shape and dtype to read into.

        A pixel is invalid where a band is NaN, where any band has the nodata value (for nodata 0: where
        all bands are 0, since single zeros are ordinary dark pixels), or where an alpha band or mask says so.
        """
        shape = (len(self.bands), window.height, window.width)
        image = np.empty(shape, self.dtype) if out is None else out
        if image.shape != shape or image.dtype != self.dtype:
            raise ValueError(f"out is {image.dtype} {image.shape}, expected {self.dtype} {shape}")
        for i in dict.fromkeys(f for f, _ in self._where):
            rows = [r for r, (f, _) in enumerate(self._where) if f == i]
            numbers = [self._where[r][1] for r in rows]
            if rows == list(range(rows[0], rows[0] + len(rows))) and self._file(i).dtypes[0] == self.dtype:
                part = image[rows[0] : rows[0] + len(rows)]
                _read(self._file(i), numbers, window, out=part)
            else:
                image[rows] = _read(self._file(i), numbers, window)
        return image, self._unmasked(self._valid(image), window)

    def read_valid(self, window: Window) -> np.ndarray:
        """The validity `[h, w]` alone, from no more bands than it takes; the same that `read` gives."""
        if not self._marks_gaps:
            return self._unmasked(np.ones((window.height, window.width), bool), window)
        apart = all(self._file(i).interleaving != Interleaving.pixel for i, _ in self._where)
        if self.nodata != 0 or np.issubdtype(self.dtype, np.floating) or not apart:
            return self.read(window)[1]
        some = np.zeros((window.height, window.width), bool)
        for i, number in self._where:
            some |= _read(self._file(i), number, window) != 0
            if some.all():
                break
        return self._unmasked(some, window)

    @property
    def block(self) -> tuple[int, int]:
        """Height and width of the blocks that the file is stored in."""
        return self._file(0).block_shapes[0]

    @property
    def sequential(self) -> bool:
        """Whether the file can only be read from the top down (PNG, JPEG and the like)."""
        return self._file(0).driver in ("PNG", "JPEG", "GIF", "WEBP", "BMP")

    @property
    def _marks_gaps(self) -> bool:
        """Whether some value of a band can mean that there is no data."""
        if np.issubdtype(self.dtype, np.floating):
            return True
        if self.nodata is None or not float(self.nodata).is_integer():
            return False
        return np.iinfo(self.dtype).min <= self.nodata <= np.iinfo(self.dtype).max

    def _unmasked(self, valid: np.ndarray, window: Window) -> np.ndarray:
        """`valid` without what an alpha band or a mask hides; in place."""
        for i, number in self._masks:
            file = self._file(i)
            alpha = _read(file, number, window) if number else self._mask(file, window)
            valid &= alpha > 0
        return valid

    def _mask(self, file: rasterio.DatasetReader, window: Window) -> np.ndarray:
        try:
            return file.read_masks(1, window=_rio(window))
        except (RasterioError, RasterioIOError) as error:
            raise SceneError(
                f"the mask of {file.name} cannot be read ({_short(error)}); the file is damaged"
            ) from None

    def _valid(self, image: np.ndarray) -> np.ndarray:
        valid = np.ones(image.shape[1:], bool)
        if np.issubdtype(self.dtype, np.floating):
            for band in image:
                valid &= ~np.isnan(band)
        if self.nodata is None or np.isnan(self.nodata):
            return valid
        if self.nodata == 0:
            some = image[0] != 0
            for band in image[1:]:
                some |= band != 0
            return valid & some
        for band in image:
            valid &= band != self.nodata
        return valid


def open_image(
    paths: Path_ | Sequence[Path_],
    names: Sequence[str] | None = None,
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
) -> ImageReader:
    """The image of one multi-band file, or of several files on one grid.

    Bands are called as `names` says (one for each stored band, alpha bands not counted), else as the
    file describes them, else red, green and blue where the file says so, else band1, band2 … `bands`
    picks some by name, in that order. Raises `SceneError`.

    Many files with a fourth band of near infrared call it alpha (GDAL's default for four bands): where
    `names` or the file's own description names it, it is an image band.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    alpha_too = names is not None and len(names) == _count(paths)
    found: list[str] = []
    where: list[tuple[int, int]] = []
    masks: list[tuple[int, int]] = []
    dtypes: list[np.dtype] = []
    grid: Grid | None = None
    named = True
    for i, path in enumerate(paths):
        with _dataset(path) as file:
            here = grid_of(file)
            if grid is None:
                grid = here
            elif differs := here.difference(grid):
                raise SceneError(f"{path} has {differs} like {paths[0]}; the files of a scene share one grid")
            if nodata is None:
                nodata = file.nodata
            numbers = []
            for number, interpretation in zip(file.indexes, file.colorinterp, strict=True):
                text = (file.descriptions[number - 1] or "alpha").lower()
                if interpretation == ColorInterp.alpha and text == "alpha" and not alpha_too:
                    masks.append((i, number))
                else:
                    numbers.append(number)
            if not numbers:
                raise SceneError(f"{path} has no image band")
            flags = file.mask_flag_enums[0]
            if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
                masks.append((i, 0))
            described = _described(file, numbers)
            named &= described is not None
            found += described or _band_names(file, numbers, len(paths), path)
            where += [(i, number) for number in numbers]
            dtypes += [np.dtype(file.dtypes[number - 1]) for number in numbers]
    assert grid is not None
    shown = ", ".join(str(p) for p in paths[:2]) + (" …" if len(paths) > 2 else "")
    if names is not None:
        if len(names) != len(where):
            raise SceneError(
                f"{shown} has {len(where)} bands, but {len(names)} names are given ({', '.join(names)})"
            )
        found, named = list(names), True
    picks = list(range(len(found)))
    if bands is not None:
        for band in bands:
            if band not in found:
                raise SceneError(
                    f"{shown} has no band '{band}', it has {', '.join(found)}; {nearest(band, found)}"
                )
        picks = [found.index(band) for band in bands]
    return ImageReader(
        paths,
        grid,
        tuple(found[p] for p in picks),
        tuple(where[p] for p in picks),
        np.result_type(*(dtypes[p] for p in picks)),
        nodata,
        tuple(masks),
        named,
    )


def _count(paths: Sequence[Path_]) -> int:
    total = 0
    for path in paths:
        with _dataset(path) as file:
            total += file.count
    return total


_COLOURS = {ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue"}


def _described(file: rasterio.DatasetReader, numbers: list[int]) -> list[str] | None:
    """The names that the file gives its bands, if it names each one differently."""
    described = [file.descriptions[n - 1] for n in numbers]
    return [str(d) for d in described] if all(described) and len(set(described)) == len(described) else None


def _band_names(file: rasterio.DatasetReader, numbers: list[int], files: int, path: Path_) -> list[str]:
    if files > 1 and len(numbers) == 1:
        return [Path(str(path)).stem]
    colours = [_COLOURS.get(file.colorinterp[n - 1]) for n in numbers]
    if len(numbers) == 3 and all(colours):
        return [str(c) for c in colours]
    return [f"band{n}" for n in numbers]


class MaskReader:
    """Class indices of a mask, read by window; opened on first use, and picklable."""

    def __init__(
        self, path: Path_, scheme: LabelScheme, grid: Grid, bands: int, nodata: float | None
    ) -> None:
        self.path, self.scheme, self.grid = str(path), scheme, grid
        self._bands, self._nodata = bands, nodata
        self._file: rasterio.DatasetReader | None = None

    @property
    def remark(self) -> str | None:
        """What a user should know of this mask: a nodata tag that is one of the classes."""
        if self._nodata is None or self.scheme.is_colored or self._nodata not in self.scheme.values:
            return None
        return (
            f"mask {self.path} is tagged nodata {self._nodata:g}, which is the class "
            f"'{self.scheme.classes[int(self._nodata)]}'; the class is kept "
            "(list the value under labels.ignore if it means no data)"
        )

    def __enter__(self) -> MaskReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, window: Window) -> np.ndarray:
        """Class index uint8 `[h, w]` of a window; `IGNORE` where unlabelled. Raises `LabelError`, `SceneError`."""
        if self._file is None:
            self._file = _open(self.path)
        numbers = [1, 2, 3] if self.scheme.is_colored else [1]
        raw = _read(self._file, numbers if self._bands >= len(numbers) else [1], window)
        if self.scheme.is_colored and len(raw) == 1 and self._file.colorinterp[0] == ColorInterp.palette:
            raw = _palette(self._file)[:, raw[0]]
        return self.scheme.encode(raw, self.path, self._nodata)


def _palette(file: rasterio.DatasetReader) -> np.ndarray:
    """Colours of a palette picture, uint8 `[3, 256]`."""
    table = np.zeros((3, 256), np.uint8)
    for value, color in file.colormap(1).items():
        if 0 <= value < 256:
            table[:, value] = color[:3]
    return table


def open_mask(path: Path_, scheme: LabelScheme, grid: Grid | None = None) -> MaskReader:
    """The mask of a scene; `grid` is the image's, which the mask must share.

    A mask without georeferencing is matched by its size. Where the mask's nodata tag is one of the
    scheme's classes the class is kept, and the reader's `remark` says so. Raises `SceneError`.
    """
    with _dataset(path) as file:
        here = grid_of(file)
        if grid is not None and (differs := here.difference(grid)):
            raise SceneError(
                f"mask {path} has {differs} as its image has; bring it there with `raremap rescale`, "
                "or on the way with scenes.rescale: {kind: area}"
            )
        nodata = file.nodata
        return MaskReader(path, scheme, here, file.count, nodata)


class WeightReader:
    """How much each label counts, read by window; opened on first use, and picklable."""

    def __init__(self, path: Path_, grid: Grid, nodata: float | None) -> None:
        self.path, self.grid = str(path), grid
        self._nodata = nodata
        self._file: rasterio.DatasetReader | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, window: Window) -> np.ndarray:
        """Weights float32 `[h, w]` of a window as they are stored; 0 where there are none. Raises `SceneError`."""
        if self._file is None:
            self._file = _open(self.path)
        raw = _read(self._file, 1, window)
        weight = np.nan_to_num(raw.astype(np.float32), copy=False, nan=0.0, posinf=-1.0)
        if self._nodata is not None:
            weight[raw == self._nodata] = 0
        if (weight < 0).any():
            raise SceneError(
                f"weights {self.path} hold {raw[weight < 0][0]:g}; a weight is a number from 0 (ignored)"
            )
        return weight


def open_weights(path: Path_, grid: Grid) -> WeightReader:
    """The label weights of a scene, a band on its image's grid; raises `SceneError`."""
    with _dataset(path) as file:
        if differs := grid_of(file).difference(grid):
            raise SceneError(f"weights {path} have {differs} as their image has; put them on its grid")
        if file.count != 1:
            raise SceneError(f"weights {path} have {file.count} bands, expected one")
        return WeightReader(path, grid, file.nodata)


def fingerprint(path: Path_) -> str:
    """A short checksum of a file: its size and its first and last MiB; raises `SceneError`."""
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
