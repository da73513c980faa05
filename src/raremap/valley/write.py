"""Simulated rasters and slope units as files: the same content, the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import OutputError
from raremap.files import written
from raremap.labels import LabelScheme
from raremap.scene.gdal import bounded_cache
from raremap.valley.terrain import CELL

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Raster:
    """An array `[h, w]` or `[bands, h, w]` for a folder, with what its file should say."""

    folder: str
    array: np.ndarray
    pixel: float = CELL
    nodata: float | None = None
    names: tuple[str, ...] = ()
    scheme: LabelScheme | None = None
    scale: float | None = None


def write_raster(path: Path, raster: Raster, origin: tuple[float, float], crs: str) -> None:
    """Write a tiled, compressed GeoTIFF whose upper left corner is `origin`; raises `OutputError`."""
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.transform import from_origin

    array = raster.array if raster.array.ndim == 3 else raster.array[None]
    block = 512 if array.shape[1] >= 512 else 256
    profile: dict[str, Any] = dict(
        driver="GTiff", height=array.shape[1], width=array.shape[2], count=len(array), dtype=array.dtype,
        nodata=raster.nodata, crs=crs, transform=from_origin(*origin, raster.pixel, raster.pixel),
        tiled=True, blockxsize=block, blockysize=block, compress="deflate", zlevel=4, interleave="band",
        predictor=1 if array.dtype == np.uint8 else (3 if array.dtype == np.float32 else 2),
    )  # fmt: skip
    with written(path) as fresh:
        try:
            with bounded_cache(), rasterio.open(fresh, "w", **profile) as file:
                file.write(array)
                for i, name in enumerate(raster.names, start=1):
                    file.set_band_description(i, name)
                if raster.scale:
                    file.scales = [raster.scale] * len(array)
                if raster.scheme:
                    colors = zip(raster.scheme.values, raster.scheme.rgb.tolist(), strict=True)
                    file.write_colormap(1, {v: (*rgb, 255) for v, rgb in colors})
                    named = zip(raster.scheme.values, raster.scheme.names, strict=True)
                    file.update_tags(1, **{f"class_{v}": n for v, n in named})
        except RasterioError as error:
            raise OutputError(f"{path} cannot be written ({error}); is the disk full?") from None


def write_units(
    folder: Path, name: str, unit: np.ndarray, table: pd.DataFrame, origin: tuple[float, float], crs: str
) -> None:
    """Slope units of a valley: their numbers as a raster, their rows with the valley's name as CSV."""
    write_raster(
        folder / "slope_units" / f"{name}.tif",
        Raster("slope_units", unit, nodata=-1, names=("unit",)),
        origin,
        crs,
    )
    table = table.copy()
    table.insert(0, "valley", name)
    with written(folder / "slope_units" / f"{name}.csv") as path:
        table.round(6).to_csv(path, index=False)
