"""Windowed reading of images, with one rule for which pixels are valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Interleaving, MaskFlags
from rasterio.errors import RasterioError, RasterioIOError

from raremap.errors import SceneError, nearest
from raremap.scene.gdal import Path_, grid_of, open_file, opened, read_window, rio_window, short
from raremap.scene.grid import Grid
from raremap.scene.window import Window


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

    def blank(self, window: Window) -> bool:
        """Whether it is known without reading that no pixel of a window is valid."""
        ...

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class ImageReader:
    """The bands of a scene as one image, read by window; opened on first use, and picklable.

    `bands` are names in order (`named`: the file itself or the user named them); `dtype` is that of the
    arrays; `nodata` the value that marks no data. `layers` are bands of other files, such as heights, each with a
    nodata value of its own.
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
        layers: Mapping[int, float | None] | None = None,
    ) -> None:
        self.paths = tuple(str(p) for p in paths)
        self.grid, self.bands, self.dtype, self.nodata = grid, bands, dtype, nodata
        self.named = named
        self._where = where  # (file, band number) of each band
        self._masks = masks  # (file, band number) of alpha bands; band number 0 is the file's own mask
        self._layers = dict(layers or {})  # nodata of each band that is a layer
        self._own = [i for i in range(len(bands)) if i not in self._layers]
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
            self._files[i] = open_file(self.paths[i])
        return self._files[i]

    def read(self, window: Window, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Image `[C, h, w]` in the file's own numbers and validity `[h, w]` (True: usable) of a window.

        `out` is an array of that shape and dtype to read into.

        A pixel is invalid where a band is NaN or infinite, where any band has the nodata value (for nodata 0: where
        all bands are 0, since single zeros are ordinary dark pixels), where a layer has its own, or where an
        alpha band or mask says so.
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
                read_window(self._file(i), numbers, window, out=part)
            else:
                image[rows] = read_window(self._file(i), numbers, window)
        return image, self._unmasked(self._valid(image), window)

    def read_valid(self, window: Window) -> np.ndarray:
        """The validity `[h, w]` alone, from no more bands than it takes; the same that `read` gives."""
        if self._layers:
            return self.read(window)[1]
        if not self._marks_gaps:
            return self._unmasked(np.ones((window.height, window.width), bool), window)
        apart = all(self._file(i).interleaving != Interleaving.pixel for i, _ in self._where)
        if self.nodata != 0 or np.issubdtype(self.dtype, np.floating) or not apart:
            return self.read(window)[1]
        some = np.zeros((window.height, window.width), bool)
        for i, number in self._where:
            some |= read_window(self._file(i), number, window) != 0
            if some.all():
                break
        return self._unmasked(some, window)

    def blank(self, window: Window) -> bool:
        """Whether it is known without reading that no pixel of a window is valid.

        So it is where a sparse GeoTIFF leaves out all blocks there of its image bands, or of an alpha band, and what
        stands for them is no data.
        """
        for i, number in self._masks:
            if number and self._stand_in(i, number) == 0 and self._left_out(i, [number], window):
                return True
        own = [self._where[r] for r in self._own]
        values = [self._stand_in(i, number) for i, number in own]
        if not own or not self._marks_gaps or None in values:
            return False
        pixel = np.zeros((len(self.bands), 1, 1), self.dtype)
        pixel[self._own, 0, 0] = values
        if self._own_valid(pixel).any():
            return False
        files = dict.fromkeys(i for i, _ in own)
        return all(self._left_out(i, [n for f, n in own if f == i], window) for i in files)

    def _stand_in(self, i: int, number: int) -> float | None:
        """What is read of a band where its file leaves blocks out; None where its nodata value does not fit its type."""
        file = self._file(i)
        value, dtype = file.nodatavals[number - 1], np.dtype(file.dtypes[number - 1])
        if value is None or np.issubdtype(dtype, np.floating):
            return value or 0.0
        kind = np.iinfo(dtype)
        return value if float(value).is_integer() and kind.min <= value <= kind.max else None

    def _left_out(self, i: int, numbers: Sequence[int], window: Window) -> bool:
        """Whether a file is a GeoTIFF that holds no block of these bands in a window."""
        file = self._file(i)
        if file.driver != "GTiff":
            return False
        if file.interleaving == Interleaving.pixel:
            numbers = numbers[:1]  # a block holds all bands
        height, width = file.block_shapes[0]
        return not any(
            file.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=number)
            for number in numbers
            for y in range(window.row_off // height, -(-window.row_end // height))
            for x in range(window.col_off // width, -(-window.col_end // width))
        )

    @property
    def block(self) -> tuple[int, int]:
        """Height and width of the blocks that the file is stored in."""
        return self._file(0).block_shapes[0]

    @property
    def nodatas(self) -> tuple[float | None, ...]:
        """The value that marks no data in each band: the image's, or a layer's own."""
        return tuple(self._layers.get(i, self.nodata) for i in range(len(self.bands)))

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
            alpha = read_window(file, number, window) if number else self._mask(file, window)
            valid &= alpha > 0
        return valid

    def _mask(self, file: rasterio.DatasetReader, window: Window) -> np.ndarray:
        try:
            return file.read_masks(1, window=rio_window(window))
        except (RasterioError, RasterioIOError) as error:
            raise SceneError(
                f"the mask of {file.name} cannot be read ({short(error)}); the file is damaged"
            ) from None

    def _valid(self, image: np.ndarray) -> np.ndarray:
        valid = self._own_valid(image)
        for i, nodata in self._layers.items():
            if np.issubdtype(self.dtype, np.floating):
                valid &= np.isfinite(image[i])
            if nodata is not None:
                valid &= image[i] != nodata
        return valid

    def _own_valid(self, image: np.ndarray) -> np.ndarray:
        """What the image's own bands say; layers can only take away from it."""
        valid = np.ones(image.shape[1:], bool)
        if np.issubdtype(self.dtype, np.floating):
            for i in self._own:
                valid &= np.isfinite(image[i])
        if self.nodata is None or np.isnan(self.nodata) or not self._own:
            return valid
        if self.nodata == 0:
            some = image[self._own[0]] != 0
            for i in self._own[1:]:
                some |= image[i] != 0
            return valid & some
        for i in self._own:
            valid &= image[i] != self.nodata
        return valid


def open_image(
    paths: Path_ | Sequence[Path_],
    names: Sequence[str] | None = None,
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
    layers: Mapping[str, Path_] | None = None,
) -> ImageReader:
    """The image of one multi-band file, or of several files on one grid.

    Bands are called as `names` says (one for each stored band, alpha bands not counted), else as the
    file describes them, else red, green and blue where the file says so, else band1, band2 … `bands`
    picks some by name, in that order. `layers` are files of one band each, called as their keys, that follow the
    image's bands. Raises `SceneError`, also where the files have several nodata values and `nodata` does not
    say which one counts.

    Many files with a fourth band of near infrared call it alpha (GDAL's default for four bands): where
    `names` or the file's own description names it, it is an image band.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    alpha_too = names is not None and len(names) == _count(paths)
    found: list[str] = []
    where: list[tuple[int, int]] = []
    masks: list[tuple[int, int]] = []
    dtypes: list[np.dtype] = []
    tagged: dict[float, Path_] = {}
    grid: Grid | None = None
    named = True
    for i, path in enumerate(paths):
        with opened(path) as file:
            here = grid_of(file)
            if grid is None:
                grid = here
            elif differs := here.difference(grid):
                raise SceneError(f"{path} has {differs} like {paths[0]}; the files of a scene share one grid")
            if file.nodata is not None:
                tagged.setdefault(file.nodata, path)
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
    known = [value for value in tagged if not np.isnan(value)]
    if nodata is None and len(known) > 1:
        one, other = known[:2]
        raise SceneError(
            f"{tagged[one]} has nodata {one:g}, {tagged[other]} has {other:g}; the files of a scene share one value: "
            "give it as scenes.nodata, or the second file as a layer (scenes.layers), which has its own"
        )
    if nodata is None:
        nodata = next(iter(known or tagged), None)
    shown = ", ".join(str(p) for p in paths[:2]) + (" …" if len(paths) > 2 else "")
    if names is not None:
        if len(names) != len(where):
            raise SceneError(
                f"{shown} has {len(where)} bands, but {len(names)} names are given ({', '.join(names)})"
            )
        found, named = list(names), True
    apart: dict[int, float | None] = {}
    for name, path in (layers or {}).items():
        if name in found:
            raise SceneError(f"layer '{name}' ({path}) is called like a band of {shown}; choose another name")
        with opened(path) as file:
            if differs := grid_of(file).difference(grid):
                raise SceneError(f"layer {path} has {differs} as {paths[0]} has; put it on the image's grid")
            if file.count != 1:
                raise SceneError(f"layer {path} has {file.count} bands, expected one")
            apart[len(found)] = file.nodata
            dtypes.append(np.dtype(file.dtypes[0]))
        found.append(name)
        where.append((len(paths) + len(apart) - 1, 1))
    picks = list(range(len(found)))
    if bands is not None:
        for band in bands:
            if band not in found:
                raise SceneError(
                    f"{shown} has no band '{band}', it has {', '.join(found)}; {nearest(band, found)}"
                )
        picks = [found.index(band) for band in bands]
    return ImageReader(
        [*paths, *(layers or {}).values()],
        grid,
        tuple(found[p] for p in picks),
        tuple(where[p] for p in picks),
        np.result_type(*(dtypes[p] for p in picks)),
        nodata,
        tuple(masks),
        named,
        {i: apart[p] for i, p in enumerate(picks) if p in apart},
    )


def nodata_tags(paths: Sequence[Path_]) -> dict[float, Path_]:
    """The values of no data that files are tagged with, and the first file of each; NaN, which is none anyway, is left out."""
    tags: dict[float, Path_] = {}
    for path in paths:
        with opened(path) as file:
            if file.nodata is not None and not np.isnan(file.nodata):
                tags.setdefault(file.nodata, path)
    return tags


def _count(paths: Sequence[Path_]) -> int:
    total = 0
    for path in paths:
        with opened(path) as file:
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
