"""Map tiles and pixels of a prediction's rasters, in Web Mercator, by rio-tiler."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from rasterio.errors import RasterioError
from rio_tiler.errors import PointOutsideBounds, RioTilerError, TileOutsideBounds
from rio_tiler.io import Reader

from raremap.scene.gdal import bounded_cache
from raremap.serve import results
from raremap.serve.models import Model
from raremap.serve.scenes import ALONE

Layer = Literal["image", "classes", "confidence", "fused"]
LAYERS: dict[bool, tuple[Layer, ...]] = {False: ("image", "classes", "confidence"), True: ("image", "fused")}
"""Layers of a map of classes (False) and of a fused one (True)."""

SIDE = 256
MOST_ZOOM = 24

_UNSURE, _SURE = np.array([0x7B, 0x32, 0x94]), np.array([0xF7, 0xF7, 0xF7])
_ALL_BUT_NONE = np.where(np.arange(256) == results.NONE, 0, 255).astype(np.uint8)


@lru_cache(1)
def blank() -> bytes:
    """A tile with nothing on it."""
    return _palette_png(
        np.zeros((SIDE, SIDE), np.uint8), np.zeros((256, 3), np.uint8), np.zeros(256, np.uint8)
    )


def tile(folder: Path, layer: Layer, shown: dict[str, Any], model: Model, z: int, x: int, y: int) -> bytes:
    """A tile of 256² as PNG, clear where there is no data."""
    name, numbers = _SOURCES[layer]
    smooth = "nearest" if layer in ("classes", "fused") else "bilinear"
    try:
        with _reader(folder / name) as reader:
            got = reader.tile(
                x, y, z, tilesize=SIDE, indexes=shown["bands"] if numbers is None else numbers,
                resampling_method=smooth, reproject_method=smooth,
            )  # fmt: skip
    except TileOutsideBounds:
        return blank()
    data, seen = got.data, got.mask > 0
    if not seen.any():
        return blank()
    if layer == "image":
        if model.nodata is not None:
            seen = seen & (data != model.nodata).any(0)
        return _image_png(data, seen, shown["ranges"])
    if layer == "classes":
        values, (palette, alpha) = data[0], _class_colors(model)
    elif layer == "confidence":
        values, palette, alpha = data[0], results.ramp(_UNSURE, _SURE), _ALL_BUT_NONE
    else:
        values, palette, alpha = results.steps(data[0]), results.ramp(*results.ALARM), _ALL_BUT_NONE
    values = np.where(seen, values, model.map_nodata if layer == "classes" else results.NONE)
    return _palette_png(values.astype(np.uint8), palette, alpha)


_SOURCES: dict[Layer, tuple[str, list[int] | None]] = {
    "image": (results.SCENE, None),
    "classes": (results.MAP, [1]),
    "confidence": (results.CONFIDENCE, [1]),
    "fused": (results.MAP, [1]),
}


def pixel(folder: Path, model: Model, lon: float, lat: float) -> dict[str, Any] | None:
    """Class and probabilities at a place, nulls where there is no data there; None outside of the map."""
    try:
        with _reader(folder / results.MAP) as reader:
            value = reader.point(lon, lat)
        if not value.mask.all():
            return {"value": None, "name": None, "probabilities": []}
        with _reader(folder / results.PROBABILITIES) as reader:
            probs = reader.point(lon, lat).data.astype(float) / results.STEPS
    except PointOutsideBounds:
        return None
    names = {c.value: c.name for c in model.classes}
    found = int(value.data[0])
    told = [{"name": c.name, "p": round(float(p), 4)} for c, p in zip(model.classes, probs, strict=True)]
    return {"value": found, "name": names[found], "probabilities": sorted(told, key=lambda row: -row["p"])}


def fused_pixel(folder: Path, least: Sequence[float | None], lon: float, lat: float) -> dict[str, Any] | None:
    """Probabilities of fused, image and table at a place, and whether each of them reaches its `least`; as `pixel`."""
    try:
        with _reader(folder / results.MAP) as reader:
            probs = np.ma.getdata(reader.point(lon, lat).data).astype(np.float32)
    except PointOutsideBounds:
        return None
    if np.isnan(probs[0]):
        return {"value": None, "name": None, "probabilities": []}
    # NaN, of a side that does not know the place, reaches nothing.
    alarm = all(p >= np.float32(t) for p, t in zip(probs, least, strict=True) if t is not None)
    told = [
        {"name": name, "p": round(float(p), 4)}
        for name, p in zip(("fused", "image", "table"), probs, strict=True)
        if not np.isnan(p)
    ]
    return {"value": int(alarm), "name": "alarm" if alarm else "no alarm", "probabilities": told}


FAULTS = (RasterioError, RioTilerError)
"""What reading a tile may raise beside a fault of ours."""


@contextmanager
def _reader(path: Path) -> Iterator[Reader]:
    """A raster of ours, open for tiles."""
    import rasterio

    with rasterio.Env(**ALONE), bounded_cache(128), rasterio.open(path, driver="GTiff") as file:
        yield Reader(input=None, dataset=file)  # pyright: ignore[reportCallIssue]  # attrs' defaults


def _image_png(data: np.ndarray, seen: np.ndarray, ranges: Sequence[tuple[float, float]]) -> bytes:
    out = np.empty((SIDE, SIDE, 4), np.uint8)
    for i in range(3):
        band = i if len(data) == 3 else 0
        low, high = ranges[band]
        scaled = (np.nan_to_num(data[band].astype(np.float32)) - low) * (255 / (high - low))
        out[..., i] = np.clip(scaled, 0, 255)
    out[..., 3] = np.where(seen, 255, 0)
    return _png(Image.fromarray(out))


def _class_colors(model: Model) -> tuple[np.ndarray, np.ndarray]:
    palette, alpha = np.zeros((256, 3), np.uint8), np.zeros(256, np.uint8)
    for c in model.classes:
        palette[c.value] = [int(c.color[i : i + 2], 16) for i in (1, 3, 5)]
        alpha[c.value] = 255
    return palette, alpha


def _palette_png(values: np.ndarray, palette: np.ndarray, alpha: np.ndarray) -> bytes:
    picture = Image.fromarray(values, "P")
    picture.putpalette(palette.tobytes())
    return _png(picture, transparency=alpha.tobytes())


def _png(picture: Image.Image, **more: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1, **more)
    return out.getvalue()
