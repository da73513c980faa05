"""Catalogs of small scenes whose every pixel is given, for objects and composites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tests.rasters import write

from raremap.balance.options import CopyPasteOptions
from raremap.labels import LabelScheme
from raremap.scene.sources import ScenesOptions
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare

SCHEME = LabelScheme({1: "grass", 2: "wood", 3: "house", 4: "pond"}, ignore=(0,))
GRASS, WOOD, HOUSE, POND = range(4)
LOOK = np.array([[0, 0, 0], [90, 120, 60], [40, 60, 30], [190, 170, 160], [20, 40, 80]])


def catalog_of(
    folder: Path,
    masks: Sequence[np.ndarray],
    size: int = 64,
    overlap: float = 0.0,
    dates: Sequence[str | None] | None = None,
    pixels: Sequence[float] | None = None,
    extra: Sequence[tuple[str, np.ndarray]] = (),
    dtype: str = "uint8",
    nodata: Sequence[np.ndarray] | None = None,
) -> Catalog:
    """Scenes with masks in source values (0 unlabelled, 1 grass, 2 wood, 3 house, 4 pond), coloured by `LOOK`.

    `extra`: further bands by name, the same in every scene. `nodata`: bool `[h, w]` a scene, pixels without data.
    """
    rng = np.random.default_rng(7)
    for i, mask in enumerate(masks):
        image = LOOK[mask].transpose(2, 0, 1) + rng.normal(0, 3, (3, *mask.shape))
        image = image.clip(1, 255).round()
        if nodata is not None:
            image[:, nodata[i]] = 0
        image = np.concatenate([image, *(band[None] for _, band in extra)]).astype(dtype)
        names = ("red", "green", "blue", *(name for name, _ in extra))
        origin = (4e5 + 20000.0 * i, 4.6e6)
        pixel = 10.0 if pixels is None else pixels[i]
        write(folder / f"img/s{i:02}.tif", image, origin, pixel, names=names, nodata=0)
        write(folder / f"mask/s{i:02}.tif", mask.astype(np.uint8), origin, pixel)
    catalog = prepare(
        ScenesOptions(images="img/*.tif", masks="mask/*.tif", root=str(folder)),
        SCHEME,
        TileOptions(size=size, overlap=overlap, min_valid=0),
        SplitOptions(block_px=size, folds=2),
        quiet=True,
    )
    if dates is not None:
        scene = [int(s.rsplit("s", 1)[1]) for s in catalog.scene_names]
        catalog.table["date"] = [dates[i] for i in scene]
    return catalog


def village(
    seed: int, size: int = 64, houses: int = 3, pond: bool = True, unlabelled: bool = True
) -> np.ndarray:
    """A mask in source values: grass, wood in the south, houses (one cut by the border) and a pond on grass, and
    a strip without label."""
    rng = np.random.default_rng(seed)
    mask = np.ones((size, size), np.uint8)
    mask[size * 3 // 4 :] = 2
    for _ in range(houses):
        r, c = rng.integers(6, size // 2, 2)
        mask[r : r + rng.integers(2, 6), c : c + rng.integers(2, 6)] = 3
    mask[10:14, size - 3 :] = 3
    if pond:
        y, x = np.ogrid[:size, :size]
        r, c = rng.integers(12, size // 2), rng.integers(size // 2 + 8, size - 8)
        mask[(y - r) ** 2 + (x - c) ** 2 <= 16] = 4
    if unlabelled:
        mask[:3] = 0
    return mask


def options(**given: object) -> CopyPasteOptions:
    """Options for small tiles."""
    return CopyPasteOptions.model_validate({"max_area": 200, "cover": 0.3, **given})
