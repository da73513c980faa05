"""A band of a file somewhere, on the grid that is wanted, by window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform

from raremap.scene.acquire.source import patiently
from raremap.scene.gdal import rio_window
from raremap.scene.grid import Grid
from raremap.scene.window import Window


class Warped:
    """The first band of a file on another grid; opened on first use, and again after a fault.

    Windows give what the whole would: GDAL otherwise works out the scale of its kernel for each window, and with it
    other numbers (up to 0.03 of reflectance between windows of 16 pixels and the whole). odc-stac does so too.
    `address` is asked for at each opening, since signed ones end.
    """

    def __init__(
        self,
        address: Callable[[], str],
        grid: Grid,
        method: Literal["bilinear", "nearest"],
        nodata: float | None,
        settings: Mapping[str, Any],
        name: str,
    ) -> None:
        assert grid.crs is not None
        # Text, since a CRS is no object for several threads at once.
        self._crs = grid.crs.to_wkt()
        self._address, self._grid, self._method = address, grid, Resampling[method]
        self._nodata, self._settings, self._name = nodata, settings, name
        self._file: rasterio.DatasetReader | None = None
        self._vrt: WarpedVRT | None = None

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Numbers as they are stored `[h, w]`, and where there are any. Raises `AcquireError`."""
        return patiently(
            lambda: self._read(window),
            (RasterioError, OSError),
            f"{self._name} cannot be read",
            "try again later: what is finished is kept",
        )

    def close(self) -> None:
        """Close the file."""
        for file in (self._vrt, self._file):
            if file is not None:
                with suppress(RasterioError):
                    file.close()
        self._file = self._vrt = None

    def _read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        with rasterio.Env(**self._settings):
            try:
                vrt = self._opened()
                out = vrt.read(1, window=rio_window(window))
                there = (
                    vrt.read(2, window=rio_window(window))
                    if vrt.count > 1
                    else vrt.read_masks(1, window=rio_window(window))
                )
                return out, there > 0
            except BaseException:
                self.close()
                raise

    def _opened(self) -> WarpedVRT:
        if self._vrt is None:
            address = self._address()
            # Opened as a picture and as nothing else: what a catalogue names may not name other files in turn.
            kind = "JP2OpenJPEG" if urlsplit(address).path.lower().endswith(".jp2") else "GTiff"
            self._file = file = rasterio.open(address, driver=kind)
            ratio = self._ratio(file)
            level = max((i for i, f in enumerate(file.overviews(1)) if f <= ratio * 1.01), default=None)
            if level is not None:
                ratio /= file.overviews(1)[level]
                file.close()
                self._file = file = rasterio.open(address, driver=kind, overview_level=level)
            nodata = file.nodata if file.nodata is not None else self._nodata
            scale = str(min(1.0, 1 / ratio))
            self._vrt = WarpedVRT(
                file,
                crs=self._crs,
                transform=self._grid.transform,
                width=self._grid.width,
                height=self._grid.height,
                resampling=self._method,
                src_nodata=nodata,
                nodata=nodata,
                add_alpha=nodata is None,
                XSCALE=scale,
                YSCALE=scale,
            )
        return self._vrt

    def _ratio(self, file: rasterio.DatasetReader) -> float:
        """Pixels of the file along a pixel of the grid; 1 where it is the finer one by less than a hundredth."""
        transform, _, _ = calculate_default_transform(
            file.crs, self._crs, file.width, file.height, *file.bounds
        )
        return max(1.0, abs(self._grid.transform.a / transform.a))
