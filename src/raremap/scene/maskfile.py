"""Masks and label weights in raster files, read by window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import rasterio
from rasterio.enums import ColorInterp

from raremap.errors import SceneError
from raremap.scene.gdal import Path_, grid_of, open_file, opened, read_window
from raremap.scene.grid import Grid
from raremap.scene.shares import one_hot
from raremap.scene.window import Window

if TYPE_CHECKING:
    from raremap.labels import LabelScheme


class OneFile:
    """A raster file on a scene's grid; opened on first use, and picklable."""

    def __init__(self, path: Path_, grid: Grid, nodata: float | None) -> None:
        self.path, self.grid = str(path), grid
        self._nodata = nodata
        self._file: rasterio.DatasetReader | None = None

    def __enter__(self) -> Self:
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

    def _opened(self) -> rasterio.DatasetReader:
        if self._file is None:
            self._file = open_file(self.path)
        return self._file


class MaskReader(OneFile):
    """Class indices of a mask, read by window; opened on first use, and picklable."""

    soft = False

    def __init__(
        self, path: Path_, scheme: LabelScheme, grid: Grid, bands: int, nodata: float | None
    ) -> None:
        super().__init__(path, grid, nodata)
        self.scheme, self._bands = scheme, bands

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

    def read(self, window: Window) -> np.ndarray:
        """Class index uint8 `[h, w]` of a window; `IGNORE` where unlabelled. Raises `LabelError`, `SceneError`."""
        file = self._opened()
        numbers = [1, 2, 3] if self.scheme.is_colored else [1]
        raw = read_window(file, numbers if self._bands >= len(numbers) else [1], window)
        if self.scheme.is_colored and len(raw) == 1 and file.colorinterp[0] == ColorInterp.palette:
            raw = _palette(file)[:, raw[0]]
        return self.scheme.encode(raw, self.path, self._nodata)

    def shares(self, window: Window) -> np.ndarray:
        """Shares uint8 `[K, h, w]`, of one class each."""
        return one_hot(self.read(window), self.scheme.num_classes)


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
    with opened(path) as file:
        here = grid_of(file)
        check_grid("mask", path, here, grid)
        nodata = file.nodata
        return MaskReader(path, scheme, here, file.count, nodata)


def check_grid(what: str, path: Path_, here: Grid, grid: Grid | None) -> None:
    """Raise `SceneError` where labels lie on another grid than their image."""
    if grid is not None and (differs := here.difference(grid)):
        raise SceneError(
            f"{what} {path} has {differs} as its image has; bring it there with `raremap rescale`, "
            "or on the way with scenes.rescale: {kind: area}"
        )


class WeightReader(OneFile):
    """How much each label counts, read by window; opened on first use, and picklable."""

    def read(self, window: Window) -> np.ndarray:
        """Weights float32 `[h, w]` of a window as they are stored; 0 where there are none. Raises `SceneError`."""
        raw = read_window(self._opened(), 1, window)
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
    with opened(path) as file:
        if differs := grid_of(file).difference(grid):
            raise SceneError(f"weights {path} have {differs} as their image has; put them on its grid")
        if file.count != 1:
            raise SceneError(f"weights {path} have {file.count} bands, expected one")
        return WeightReader(path, grid, file.nodata)
