"""A fine class raster as it is read for rescaling: what its values mean, and its pixels piece by piece."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp

from raremap.errors import LabelError, SceneError
from raremap.labels import LabelScheme
from raremap.scene.counting import by_bits
from raremap.scene.gdal import grid_of, open_file, opened, read_window
from raremap.scene.grid import Grid
from raremap.scene.window import Window

_PIECE_BYTES = 4 << 20
# What stands for the unlabelled pixels of numbers of 32 bits and more, whose own values may not fit 16.
_BLANK = 65535
_TAG = re.compile(r"class_(\d+)")


@dataclass(frozen=True)
class LabelFile:
    """A class raster of one band: where it lies, which values are unlabelled, which are classes where that is known.

    `names` and `colors` are by source value, from the scheme or from the file's tags and colour table;
    `known` says whether `names` holds every class.
    """

    path: str
    grid: Grid
    dtype: np.dtype
    block: tuple[int, int]
    unlabelled: tuple[int, ...]
    names: dict[int, str]
    colors: dict[int, tuple[int, int, int]]
    known: bool
    _local: threading.local = field(default_factory=threading.local, repr=False, compare=False)
    _open: list[rasterio.DatasetReader] = field(default_factory=list, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[LabelFile], tuple[object, ...]]:
        """What it is made of, without the files that are open here: another process opens its own."""
        told = [f.name for f in fields(self) if not f.name.startswith("_")]
        return LabelFile, tuple(getattr(self, name) for name in told)

    @property
    def striped(self) -> bool:
        """Whether its blocks are whole rows."""
        return self.block[1] >= self.grid.width

    def name(self, value: int) -> str:
        """The name of a class: its own, or its value."""
        return self.names.get(value, str(value))

    @property
    def blanks(self) -> tuple[int, ...]:
        """The unlabelled values as `pieces` gives them."""
        return (_BLANK,) if self.dtype.itemsize > 2 else tuple(v & 0xFFFF for v in self._held)

    @property
    def _held(self) -> list[int]:
        """The unlabelled values that the file's type holds."""
        kind = np.iinfo(self.dtype)
        return [v for v in self.unlabelled if kind.min <= v <= kind.max]

    def pieces(self, window: Window) -> Iterator[tuple[Window, np.ndarray]]:
        """The pixels of a window in pieces of whole block rows, as unsigned numbers of 8 or 16 bits."""
        for piece in self._pieces(window):
            yield piece, self._read(piece)

    def bands(self, window: Window, ends: np.ndarray) -> Iterator[tuple[Window, np.ndarray]]:
        """As `pieces`, but each ends at one of the rows `ends` (ascending): what is left over begins the next.

        The array is overwritten by the next one.
        """
        direct = self.dtype in (np.uint8, np.uint16)
        buffer = np.empty((0, window.width), self.dtype if direct else np.uint16)
        row = window.row_off
        for piece in self._pieces(window):
            held = piece.row_off - row
            if held + piece.height > len(buffer):
                buffer = np.concatenate(
                    [buffer[:held], np.empty((2 * piece.height, window.width), buffer.dtype)]
                )
            fresh = buffer[held : held + piece.height]
            if direct:
                self._read(piece, fresh)
            else:
                fresh[:] = self._read(piece)
            upto = int(ends[: np.searchsorted(ends, piece.row_end, side="right")].max(initial=row))
            if upto > row:
                yield Window(row, window.col_off, upto - row, window.width), buffer[: upto - row]
                rest = buffer[upto - row : held + piece.height]
                buffer[: len(rest)] = rest.copy()
                row = upto

    def _pieces(self, window: Window) -> Iterator[Window]:
        rows = self.block[0]
        rows *= max(1, _PIECE_BYTES // max(1, rows * window.width * self.dtype.itemsize))
        row = window.row_off
        while row < window.row_end and not window.empty:
            end = min(window.row_end, (row // rows + 1) * rows)
            yield Window(row, window.col_off, end - row, window.width)
            row = end

    def _read(self, piece: Window, out: np.ndarray | None = None) -> np.ndarray:
        file = getattr(self._local, "file", None)
        if file is None:  # a file of GDAL's belongs to one thread
            file = self._local.file = open_file(self.path)
            self._open.append(file)
        raw = read_window(file, 1, piece, out=out)
        return by_bits(raw) if self.dtype.itemsize <= 2 else self._narrowed(raw)

    def _narrowed(self, raw: np.ndarray) -> np.ndarray:
        """Numbers of 32 bits and more in 16; raises `LabelError` for one that is neither a class nor unlabelled."""
        blank = np.isin(raw, self._held)
        odd = ~blank & ((raw < 0) | (raw >= _BLANK))
        if odd.any():
            raise LabelError(
                f"{self.path} has value {raw[odd][0]}; classes are whole numbers in 0..{_BLANK - 1}, "
                "name it with --ignore where it means no data"
            )
        return np.where(blank, _BLANK, raw).astype(np.uint16)

    def values(self, found: np.ndarray) -> np.ndarray:
        """Source values of the unsigned ones that were met; raises `LabelError` for one that is no class."""
        signed = np.where(
            (found > 32767) & (self.dtype.kind == "i") & (self.dtype.itemsize <= 2), found - 65536, found
        )
        for value in signed.tolist():
            if value < 0:
                raise LabelError(
                    f"{self.path} has value {value}; classes are 0..65535, name it with --ignore where it means no data"
                )
            if self.known and value not in self.names:
                listed = ",".join(map(str, sorted(self.names)))
                raise LabelError(
                    f"{self.path} has value {value}, not among its classes {{{listed}}}; "
                    "list it under ignore, or give the classes with labels"
                )
        return signed

    def close(self) -> None:
        """Close the files of all threads; none may be reading."""
        while self._open:
            self._open.pop().close()


def open_labels(
    path: str | Path, scheme: LabelScheme | None = None, ignore: tuple[int, ...] = ()
) -> LabelFile:
    """A class raster of whole numbers; raises `SceneError` or `LabelError`.

    Values of `ignore`, those the scheme ignores and the file's nodata value are unlabelled; a nodata value
    that the scheme or a tag of the file names as a class stays a class.
    """
    path = str(path)
    if scheme is not None and scheme.is_colored:
        raise LabelError(f"{path} cannot be read by classes that are colours; give classes as values")
    with opened(path) as file:
        if file.count != 1:
            raise SceneError(f"{path} has {file.count} bands, expected one of class values")
        dtype = np.dtype(file.dtypes[0])
        if dtype.kind not in "iu":
            raise LabelError(
                f"{path} holds {dtype.name} numbers; labels are whole numbers, convert it to uint8"
            )
        tags = {**file.tags(), **file.tags(1)}
        nodata = file.nodata
        colors: dict[int, tuple[int, int, int]] = {}
        if file.colorinterp[0] == ColorInterp.palette:
            colors = {v: (c[0], c[1], c[2]) for v, c in file.colormap(1).items()}
        grid, block = grid_of(file), file.block_shapes[0]
    if scheme is not None:
        names = dict(zip(scheme.values, scheme.names, strict=True))
        colors = {v: (int(r), int(g), int(b)) for v, (r, g, b) in zip(scheme.values, scheme.rgb, strict=True)}
        ignore = (*ignore, *(int(v) for v in scheme.ignore))
    else:
        names = {int(m[1]): text for tag, text in tags.items() if (m := _TAG.fullmatch(tag))}
    names = {value: name for value, name in sorted(names.items()) if value not in ignore}
    if nodata is not None and np.isfinite(nodata) and int(nodata) not in names:
        ignore = (*ignore, int(nodata))
    if names:
        colors = {v: rgb for v, rgb in colors.items() if v in names}
    return LabelFile(path, grid, dtype, block, tuple(dict.fromkeys(ignore)), names, colors, bool(names))
