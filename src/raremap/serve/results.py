"""What a prediction leaves in its folder: names of files, areas by class, and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raremap.serve.models import Model

UPLOAD, SCENE, MAP = "upload.tif", "scene.tif", "map.tif"
PROBABILITIES, CONFIDENCE = "map.probs.tif", "map.confidence.tif"
POLYGONS, PREVIEW = "polygons.gpkg", "preview.png"

FILES = {
    "map": ("map.tif", MAP, "image/tiff"),
    "confidence": ("confidence.tif", CONFIDENCE, "image/tiff"),
    "probabilities": ("probabilities.tif", PROBABILITIES, "image/tiff"),
    "polygons": ("polygons.gpkg", POLYGONS, "application/geopackage+sqlite3"),
    "preview": ("preview.png", PREVIEW, "image/png"),
}
"""By kind: the last part of its address, the file in the folder, its type."""

ALARMS, UNITS = "alarms.gpkg", "units.csv"
UNITS_IN = "units.parquet"
FUSED_FILES = {
    "map": FILES["map"],
    "alarms": ("alarms.gpkg", ALARMS, "application/geopackage+sqlite3"),
    "units": ("units.csv", UNITS, "text/csv"),
    "preview": FILES["preview"],
}
"""The same of a fused prediction; its map has the bands fused, image and table."""

STEPS, NONE = 250, 255
"""A probability of 1 in uint8, and what says that there is none."""

ALARM = np.array([0xFD, 0xF3, 0xE1]), np.array([0x9E, 0x1B, 0x32])
"""Colours of a fused probability of 0 and of 1."""

_PREVIEW_SIDE = 1024


def files_of(task: Mapping[str, Any]) -> dict[str, tuple[str, str, str]]:
    """The files of a prediction by what was asked for."""
    return FUSED_FILES if "image" in task else FILES


def areas(model: Model, area_m2: Mapping[str, float]) -> list[dict[str, Any]]:
    """Square metres and share of each class, rare ones first, then by area."""
    total = sum(area_m2.values())
    rows = [
        {
            "value": c.value, "name": c.name, "color": c.color, "rare": c.rare,
            "area_m2": area_m2.get(c.name, 0.0),
            "share": area_m2.get(c.name, 0.0) / total if total else 0.0,
        }
        for c in model.classes
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (not row["rare"], -row["area_m2"]))


def draw(folder: Path) -> None:
    """Draw the map as a picture of at most 1024 pixels a side, clear where there is no data."""
    import rasterio

    with rasterio.open(folder / MAP, driver="GTiff") as file:
        values = _small(file)
        colors, nodata = file.colormap(1), int(file.nodata)
    _draw(folder, values, np.array([colors[v][:3] for v in range(256)], np.uint8), nodata)


def draw_fused(folder: Path) -> None:
    """Draw the fused probabilities in the same way, the surer the darker."""
    import rasterio

    with rasterio.open(folder / MAP, driver="GTiff") as file:
        values = steps(_small(file))
    _draw(folder, values, ramp(*ALARM), NONE)


def steps(probs: np.ndarray) -> np.ndarray:
    """Probabilities in uint8, `NONE` where there is none (NaN)."""
    return np.where(np.isnan(probs), NONE, np.rint(np.nan_to_num(probs) * STEPS)).astype(np.uint8)


def ramp(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Colours uint8 `[256, 3]` of probabilities in steps, from that of 0 to that of 1."""
    share = np.minimum(np.arange(256) / STEPS, 1)[:, None]
    return (low + share * (high - low)).astype(np.uint8)


def _small(file: Any) -> np.ndarray:
    """The first band, of `_PREVIEW_SIDE` pixels a side at most."""
    scale = min(1.0, _PREVIEW_SIDE / max(file.height, file.width))
    return file.read(1, out_shape=(max(1, round(file.height * scale)), max(1, round(file.width * scale))))


def _draw(folder: Path, values: np.ndarray, palette: np.ndarray, clear: int) -> None:
    from PIL import Image

    from raremap.files import written

    picture = Image.fromarray(values, "P")
    picture.putpalette(palette.tobytes())
    with written(folder / PREVIEW) as fresh:
        picture.save(fresh, "PNG", transparency=clear)
