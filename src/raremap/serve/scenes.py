"""An uploaded scene, looked at before it is taken, and copied into a file of our own making."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # what rasterio.shutil.copy raises; it has no public name
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.shutil import copy as rio_copy
from rasterio.warp import transform, transform_bounds

from raremap.errors import RaremapError, SceneError
from raremap.scene.gdal import bounded_cache, only, short
from raremap.serve.tiff import Header, read_header
from raremap.workflows.scenes import scene_file

ALONE: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none",
    "GDAL_HTTP_MAX_RETRY": "0",
    "GDAL_HTTP_TIMEOUT": "1",
    "PROJ_NETWORK": "OFF",
}
"""GDAL's settings for files of strangers: nothing beside the file is looked for, nothing is fetched."""

# What rasterio raises of a damaged header, beside its own: names that are no UTF-8, numbers that are none.
_FAULTS = (RasterioError, CPLE_BaseError, ValueError, OverflowError)
_NUMBERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
# What makes PROJ open files: the text of a CRS that is no number of the EPSG may hold it.
_FILES = re.compile(r"grids|PARAMETERFILE|\+init|\+proj=pipeline|[/\\]\w+[/\\]", re.IGNORECASE)


@dataclass(frozen=True)
class Scene:
    """A scene that can be mapped: its header, and west, south, east and north in degrees."""

    header: Header
    bounds: tuple[float, float, float, float]


@contextmanager
def opened_alone(path: Path) -> Iterator[rasterio.DatasetReader]:
    """An open GeoTIFF: no other driver, no file beside it, no network."""
    with rasterio.Env(**ALONE), bounded_cache(), rasterio.open(path, driver="GTiff") as file:
        yield file


def looked_at(
    path: Path, name: str, bands: tuple[str, ...], max_pixels: int, max_decoded_bytes: int
) -> Scene:
    """A scene that has the `bands`; nothing of its pixels is decoded.

    Raises `SceneError` or `BundleError`: no complete GeoTIFF, too large, without a CRS, without a place on the ground,
    of numbers that are none, or without a band. `name` is how messages call the file.
    """
    header = read_header(path, name, max_pixels, max_decoded_bytes)
    try:
        with opened_alone(path) as file:
            if (file.height, file.width, file.count) != (header.height, header.width, header.bands):
                raise SceneError(f"{name} says two things of its size; write it again with gdal_translate")
            odd = next((d for d in file.dtypes if d not in _NUMBERS), None)
            if odd is not None:
                raise SceneError(f"{name} holds {odd}, expected one of {', '.join(_NUMBERS)}")
            bounds = _bounds(file, name)
    except _FAULTS as error:
        raise SceneError(f"{name} cannot be opened as a GeoTIFF ({_told(error, path, name)})") from None
    try:
        with rasterio.Env(**ALONE), only("GTiff"):
            scene_file(path, bands)
    except RaremapError as error:
        raise type(error)(str(error).replace(str(path), name)) from None
    except _FAULTS as error:
        raise SceneError(f"{name} has bands that cannot be understood ({_told(error, path, name)})") from None
    return Scene(header, bounds)


def _bounds(file: rasterio.DatasetReader, name: str) -> tuple[float, float, float, float]:
    crs, affine = file.crs, file.transform
    if crs is None or not (crs.is_projected or crs.is_geographic):
        raise SceneError(
            f"{name} has no coordinate system that is understood; give it one, such as "
            "gdal_edit.py -a_srs EPSG:32631 FILE"
        )
    _harmless(crs, name)
    numbers = (*affine[:6], affine.determinant)
    if affine.is_identity or not all(map(math.isfinite, numbers)) or not affine.determinant:
        raise SceneError(f"{name} has no place on the ground (its transform is {_sixes(affine)})")
    try:
        west, south, east, north = transform_bounds(crs, "EPSG:4326", *_box(file), densify_pts=21)
    except _FAULTS as error:
        raise SceneError(f"{name} has no place on the globe ({_told(error, Path(name), name)})") from None
    inside = all(map(math.isfinite, (west, south, east, north))) and -90.001 <= south <= north <= 90.001
    if not inside or max(abs(west), abs(east)) > 360.001 or south > 85.06 or north < -85.06:
        raise SceneError(
            f"{name} lies at {west:g} {south:g} {east:g} {north:g} degrees, which a web map cannot show; "
            "check its coordinate system"
        )
    if not _returns(file):
        raise SceneError(
            f"{name} lies outside of where its coordinate system ({crs.to_string()[:40]}) holds; check both"
        )
    return west, south, east, north


def _returns(file: rasterio.DatasetReader) -> bool:
    """Whether the corners come back from degrees to where they were, to a hundredth of the scene."""
    left, bottom, right, top = _box(file)
    xs, ys = [left, left, right, right], [bottom, top, bottom, top]
    try:
        back = transform("EPSG:4326", file.crs, *transform(file.crs, "EPSG:4326", xs, ys)[:2])
    except _FAULTS:
        return False
    width, height = max(right - left, 1e-12), max(top - bottom, 1e-12)
    off = [abs(b - a) / size for old, new, size in ((xs, back[0], width), (ys, back[1], height))
           for a, b in zip(old, new, strict=True)]  # fmt: skip
    return all(o < 0.01 for o in off)


def _box(file: rasterio.DatasetReader) -> tuple[float, float, float, float]:
    corners = [file.transform @ (c, r) for c in (0, file.width) for r in (0, file.height)]
    xs, ys = [c[0] for c in corners], [c[1] for c in corners]
    return min(xs), min(ys), max(xs), max(ys)


def _harmless(crs: CRS, name: str) -> None:
    """Refuse a CRS that would have PROJ open files; what is in the EPSG's register is known."""
    try:
        if crs.to_epsg(confidence_threshold=100) is None and _FILES.search(crs.to_wkt()):
            raise SceneError(f"{name} has a coordinate system that names files; use one of the EPSG's")
    except _FAULTS:
        raise SceneError(
            f"{name} has a coordinate system that is not understood; use one of the EPSG's"
        ) from None


def _sixes(affine: Any) -> str:
    return " ".join(f"{v:g}" for v in affine[:6])


def _told(error: BaseException, path: Path, name: str) -> str:
    """What GDAL said, without our paths."""
    return short(error).replace(str(path), name).replace(path.name, name)


def bounds_of(path: Path) -> tuple[float, float, float, float]:
    """West, south, east and north of a scene of ours, in degrees."""
    with opened_alone(path) as file:
        return _bounds(file, path.name)


def ingest(path: Path, out: Path, name: str) -> None:
    """Copy a scene that was looked at into a COG with overviews: its pixels, its mask, its bands' names, nothing else.

    Raises `SceneError` where its pixels cannot be decoded. Only this copy is read later on.
    """
    fresh = out.with_suffix(".part")
    try:
        with opened_alone(path) as file:
            rio_copy(
                file,
                fresh,
                driver="COG",
                BLOCKSIZE=256,
                COMPRESS="DEFLATE",
                LEVEL=1,
                PREDICTOR="YES",
                OVERVIEWS="IGNORE_EXISTING",
                OVERVIEW_RESAMPLING="AVERAGE",
                BIGTIFF="IF_SAFER",
            )
        fresh.replace(out)
    except _FAULTS as error:
        raise SceneError(
            f"{name} cannot be read ({_told(error, path, name)}); it is damaged, upload it again"
        ) from None
    finally:
        fresh.unlink(missing_ok=True)


def shown_bands(bands: tuple[str, ...]) -> list[int]:
    """Numbers of the bands that make a picture: red, green and blue where they are named, else the first."""
    lower = [b.lower() for b in bands]
    for triple in (("red", "green", "blue"), ("b04", "b03", "b02"), ("b4", "b3", "b2"), ("r", "g", "b")):
        if all(name in lower for name in triple):
            return [lower.index(name) + 1 for name in triple]
    return [1, 2, 3] if len(bands) >= 3 else [1]


def stretch(path: Path, numbers: list[int]) -> list[tuple[float, float]]:
    """Darkest and brightest value of each of the bands to show, the 2nd and 98th percentile of a small view."""
    with rasterio.open(path, driver="GTiff") as file:
        step = max(1, max(file.height, file.width) // 1024)
        shape = (len(numbers), -(-file.height // step), -(-file.width // step))
        image = file.read(numbers, out_shape=shape, masked=True)
    out = []
    for band in image:
        values = np.asarray(band.compressed(), np.float64)
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, (2, 98)) if len(values) else (0.0, 1.0)
        out.append((float(low), float(high) if high > low else float(low) + 1.0))
    return out
