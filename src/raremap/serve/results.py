"""What a prediction leaves in its folder: names of files, areas by class, and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

_PREVIEW_SIDE = 1024


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
    import numpy as np
    import rasterio
    from PIL import Image

    from raremap.files import written

    with rasterio.open(folder / MAP, driver="GTiff") as file:
        scale = min(1.0, _PREVIEW_SIDE / max(file.height, file.width))
        shape = (max(1, round(file.height * scale)), max(1, round(file.width * scale)))
        values = file.read(1, out_shape=shape)
        colors, nodata = file.colormap(1), int(file.nodata)
    palette = np.array([colors[v][:3] for v in range(256)], np.uint8)
    picture = Image.fromarray(values, "P")
    picture.putpalette(palette.tobytes())
    with written(folder / PREVIEW) as fresh:
        picture.save(fresh, "PNG", transparency=nodata)
