"""Small rasters for tests, written with rasterio itself."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin

UTM = "EPSG:25831"


def write(
    path: Path,
    array: np.ndarray,
    origin: tuple[float, float] = (4e5, 4.6e6),
    pixel: float = 10.0,
    **more: Any,
) -> Path:
    """Write `[h, w]` or `[bands, h, w]`; georeferenced in UTM 31N unless `crs=None`. `names` describe the bands."""
    array = array if array.ndim == 3 else array[None]
    names = more.pop("names", None)
    profile: dict[str, Any] = dict(
        driver="GTiff",
        height=array.shape[1],
        width=array.shape[2],
        count=array.shape[0],
        dtype=array.dtype,
        crs=UTM,
    )
    if path.suffix == ".png":
        profile |= {"driver": "PNG", "crs": None}
    profile |= more
    if profile["crs"]:
        profile["transform"] = from_origin(*origin, pixel, pixel)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **profile) as file:
        file.write(array)
        for i, name in enumerate(names or (), start=1):
            file.set_band_description(i, name)
    for extra in path.parent.glob(path.name + ".aux.xml"):
        extra.unlink()
    return path


def zipped(path: Path) -> str:
    """A file as GDAL calls it in a ZIP of its own, from which alone it can be read; two slashes of that name are no slip."""
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, path.name)
    path.unlink()
    return f"/vsizip/{archive}/{path.name}"
