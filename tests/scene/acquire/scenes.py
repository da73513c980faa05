"""Scenes of a simulated valley as a catalogue has them: a file a band at its own resolution, and its STAC items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.warp import transform_bounds
from tests.rasters import write
from tests.scene.acquire.stac import Api

CRS = "EPSG:32631"
ORIGIN = 300_000.0, 4_640_000.0
SIZE = 96
BANDS = {"B02": "blue", "B04": "red", "B08": "nir", "B11": "swir16"}
COARSE = ("B11",)


@dataclass
class Scene:
    """One scene: its truth, reflectance × 10000 uint16 `[bands, h, w]` and scene classes, and its item."""

    image: np.ndarray
    classes: np.ndarray
    item: dict[str, Any]


def valley(folder: Path) -> np.ndarray:
    """The four bands of a simulated valley `[4, 96, 96]`, once a session."""
    from raremap.valley.options import ValleyOptions
    from raremap.valley.simulate import simulate

    simulate(folder, ValleyOptions(size=SIZE, valleys=1, seed=3))
    with rasterio.open(folder / "april" / "valley_00.tif") as file:
        number = {name: i + 1 for i, name in enumerate(file.descriptions)}
        return file.read([number[b] for b in ("B2", "B4", "B8", "B11")])


def add_scene(
    api: Api,
    folder: Path,
    name: str,
    moment: str,
    image: np.ndarray,
    classes: np.ndarray,
    cloud: float = 5.0,
    origin: tuple[float, float] = ORIGIN,
    offset: int = 0,
    collection: str = "sentinel-2-l2a",
    properties: dict[str, Any] | None = None,
    asset: dict[str, Any] | None = None,
    crs: str = CRS,
) -> Scene:
    """Write a scene's files, stored with `offset` added, and let the API have its item.

    Bands of 20 m are the mean of four pixels. 0 is nodata, in the image and in its files.
    """
    assets = {}
    size = image.shape[1:]
    for i, (band, key) in enumerate(BANDS.items()):
        stored, pixel = image[i].astype(np.int64), 10.0
        if band in COARSE:
            stored, pixel = (
                stored.reshape(size[0] // 2, 2, size[1] // 2, 2).mean((1, 3)).astype(np.int64),
                20.0,
            )
        stored = np.where(stored == 0, 0, stored + offset).astype(np.uint16)
        path = write(
            folder / name / f"{band}.tif", stored, origin, pixel, crs=crs, nodata=0, tiled=True, blockxsize=16,
            blockysize=16, compress="deflate",
        )  # fmt: skip
        assets[key] = _asset(api, name, path, stored.shape, origin, pixel, crs)
        assets[key]["eo:bands"] = [{"name": band, "common_name": key}]
        assets[key] |= asset or {}
    path = write(folder / name / "SCL.tif", classes[::2, ::2].copy(), origin, 20.0, crs=crs, nodata=0)
    assets["scl"] = _asset(api, name, path, (size[0] // 2, size[1] // 2), origin, 20.0, crs)
    item = _item(api, name, moment, assets, origin, size, crs, collection)
    item["properties"] |= {"eo:cloud_cover": cloud, **(properties or {})}
    return Scene(image, classes, item)


def add_heights(
    api: Api, folder: Path, heights: np.ndarray, origin: tuple[float, float], pixel: float
) -> None:
    """A tile of heights in degrees, as Copernicus GLO-30 has them."""
    path = write(folder / "heights.tif", heights.astype(np.float32), origin, pixel, crs="EPSG:4326")
    asset = _asset(api, "heights", path, heights.shape, origin, pixel, "EPSG:4326")
    item = _item(
        api, "heights", "2021-04-22T00:00:00Z", {"data": asset}, origin, heights.shape, "EPSG:4326",
        "cop-dem-glo-30", pixel,
    )  # fmt: skip
    assert item["assets"]


def _asset(
    api: Api,
    name: str,
    path: Path,
    shape: tuple[int, ...],
    origin: tuple[float, float],
    pixel: float,
    crs: str,
) -> dict[str, Any]:
    served = f"{name}/{path.name}"
    api.files[served] = path
    return {
        "href": f"{api.url}/files/{served}",
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "roles": ["data"],
        "proj:shape": list(shape),
        "proj:transform": [pixel, 0, origin[0], 0, -pixel, origin[1]],
    }


def _item(
    api: Api,
    name: str,
    moment: str,
    assets: dict[str, Any],
    origin: tuple[float, float],
    size: tuple[int, ...],
    crs: str,
    collection: str,
    pixel: float = 10.0,
) -> dict[str, Any]:
    left, top = origin
    box = transform_bounds(crs, "EPSG:4326", left, top - size[0] * pixel, left + size[1] * pixel, top)
    w, s, e, n = box
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v1.1.0/schema.json"],
        "id": name,
        "collection": collection,
        "bbox": list(box),
        "geometry": {"type": "Polygon", "coordinates": [[[w, s], [e, s], [e, n], [w, n], [w, s]]]},
        "properties": {"datetime": moment, "proj:epsg": int(crs.removeprefix("EPSG:"))},
        "assets": assets,
        "links": [],
    }
    api.items.append(item)
    return item
