"""Fraction rasters as labels: a band a class, the part of each cell that the class covers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import rasterio

from raremap.errors import LabelError, nearest
from raremap.scene.gdal import Path_, grid_of, opened, read_window
from raremap.scene.grid import Grid
from raremap.scene.maskfile import OneFile, check_grid
from raremap.scene.window import Window

if TYPE_CHECKING:
    from raremap.labels import LabelScheme

_PERCENT = 100.0


class FractionFile(OneFile):
    """Parts of each cell that each class covers, read by window; opened on first use, and picklable.

    `band` is the band number of each class, 0 where the file has none; `others` are bands of ground that the
    scheme ignores. `whole` is the value of a cell that is all of one class.
    """

    def __init__(
        self,
        path: Path_,
        grid: Grid,
        nodata: float | None,
        band: tuple[int, ...],
        others: tuple[int, ...],
        whole: float,
    ) -> None:
        super().__init__(path, grid, nodata)
        self._band, self._others, self._whole = band, others, whole

    @property
    def remark(self) -> None:
        """Nothing to tell."""

    def fractions(self, window: Window) -> np.ndarray:
        """Parts of each cell, float32 `[K, h, w]`; 0 where it has no data. Raises `LabelError`, `SceneError`."""
        numbers = [*(n for n in self._band if n), *self._others]
        raw = read_window(self._opened(), numbers, window)
        known = ~np.isnan(raw).any(0) if raw.dtype.kind == "f" else np.ones(raw.shape[1:], bool)
        if self._nodata is not None and not np.isnan(self._nodata):
            # A part of a cell may be called so, too: most are 0. Then a cell is unknown where all its bands are.
            unknown = np.all if 0 <= self._nodata <= self._whole else np.any
            known &= ~unknown(raw == self._nodata, axis=0)
        parts = np.where(known, raw, 0).astype(np.float32) / np.float32(self._whole)
        self._check(parts, window)
        out = np.zeros((len(self._band), window.height, window.width), np.float32)
        out[[c for c, n in enumerate(self._band) if n]] = parts[: len(numbers) - len(self._others)]
        return out

    def _check(self, parts: np.ndarray, window: Window) -> None:
        """Raise `LabelError` naming a cell that holds less than nothing or more than itself."""
        total = parts.sum(0)
        # Half a step for each band that was rounded.
        most = 1 + (0.5 * len(parts) / self._whole if self._whole > 1 else 0) + 1e-3
        wrong = (total > most) | (parts < 0).any(0)
        if wrong.any():
            r, c = np.argwhere(wrong)[0]
            raise LabelError(
                f"fractions {self.path}: the bands of the cell in row {window.row_off + r}, column {window.col_off + c} "
                f"are {parts[:, r, c].min():g} to {parts[:, r, c].max():g} and sum to {total[r, c]:g}, expected "
                f"parts of 1 ({self._whole:g} in the file); set the bands' scale, or make it with "
                "`raremap rescale --method fractions`"
            )


def holds_fractions(path: Path_, scheme: LabelScheme) -> bool:
    """Whether a raster is of fractions: its tag says so, or it has bands that are called as classes are, scaled, or
    of floats."""
    if scheme.is_colored:
        return False
    with opened(path) as file:
        known = _names(file, scheme)
        several = file.count > 1 and (
            any(file.descriptions[n - 1] in known for n in file.indexes)
            or set(file.scales) != {1.0}
            or np.dtype(file.dtypes[0]).kind == "f"
        )
        return several or file.tags().get("rescaled") == "fractions"


def open_fractions(path: Path_, scheme: LabelScheme, grid: Grid | None = None) -> FractionFile:
    """The fraction raster of a scene; `grid` is the image's, which it must share.

    Bands are those of the classes that they are called after, by name or by source value; without names they are all
    classes in the order of the scheme. A cell that is all of one class has the value 1 / `scale` of the
    bands; without a scale it is 1 in floats, and 100 (percent) in whole numbers. Raises `LabelError`, `SceneError`.
    """
    with opened(path) as file:
        here = grid_of(file)
        check_grid("fractions", path, here, grid)
        scales, whole_numbers = set(file.scales), np.dtype(file.dtypes[0]).kind in "iu"
        if len(scales) > 1 or set(file.offsets) != {0.0}:
            raise LabelError(
                f"fractions {path} have scales {', '.join(f'{s:g}' for s in sorted(scales))} and offsets "
                f"{', '.join(f'{o:g}' for o in sorted(set(file.offsets)))}; give all bands one scale and no offset"
            )
        (scale,) = scales
        whole = 1 / scale if scale != 1 else _PERCENT if whole_numbers else 1.0
        band, others = _bands(file, scheme, str(path))
        return FractionFile(path, here, file.nodata, band, others, whole)


def _bands(
    file: rasterio.DatasetReader, scheme: LabelScheme, path: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The band number of each class (0: none), and the bands of ignored ground."""
    names = [file.descriptions[n - 1] for n in file.indexes]
    if not any(names):
        if file.count != scheme.num_classes:
            raise LabelError(
                f"fractions {path} have {file.count} bands without names, the labels have {scheme.num_classes} "
                f"classes ({', '.join(scheme.names)}); call each band by its class"
            )
        return tuple(file.indexes), ()
    known, band, others = _names(file, scheme), [0] * scheme.num_classes, list[int]()
    for number, name in zip(file.indexes, names, strict=True):
        if name not in known:
            called = f"is called '{name}', which is not a class" if name else "has no name"
            mend = (
                nearest(name, scheme.names) if name else f"call it by its class ({', '.join(scheme.names)})"
            )
            raise LabelError(f"fractions {path}: band {number} {called}; {mend}")
        index = known[name]
        if index is None:
            others.append(number)
        elif band[index]:
            raise LabelError(
                f"fractions {path}: bands {band[index]} and {number} are both of '{scheme.names[index]}'; "
                "give each class one band"
            )
        else:
            band[index] = number
    return tuple(band), tuple(others)


def _names(file: rasterio.DatasetReader, scheme: LabelScheme) -> dict[str | None, int | None]:
    """What a band may be called → class index, None for ground that the scheme ignores.

    A class's name or source value, or what the file's tag `class_VALUE` calls that value.
    """
    values: dict[str, int | None] = {str(v): None for v in scheme.ignore}
    values |= {str(v): i for i, v in enumerate(scheme.values)}
    tags = {text: values[v] for v in values if (text := file.tags().get(f"class_{v}"))}
    return {**values, **tags, **{name: i for i, name in enumerate(scheme.names)}}
