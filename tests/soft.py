"""Scenes of 10 m whose labels are known at 2 m: what a cell holds can be counted with numpy alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tests.rasters import write

from raremap.labels import LabelScheme
from raremap.scene.sources import ScenesOptions
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare

SCHEME = LabelScheme({1: "land", 2: "water", 5: "slide"}, ignore=(0,))
RATIO = 5


def fine(seed: int, size: int = 32) -> np.ndarray:
    """Labels at 2 m of `size`² cells: land, water in the west, small slides at odd places, a strip without label."""
    rng = np.random.default_rng(seed)
    out = np.ones((size * RATIO, size * RATIO), np.uint8)
    out[:, : size * 2 + 3] = 2
    for r, c in rng.integers(10, size * RATIO - 20, (8, 2)):
        out[r : r + rng.integers(2, 14), c : c + rng.integers(2, 14)] = 5
    out[: 2 * RATIO] = 0
    return out


def make(folder: Path, scenes: int = 3, size: int = 32, coarsened: bool = False) -> list[np.ndarray]:
    """`img/s*.tif` and `mask/s*.tif`; the fine labels. `coarsened`: every cell of one class, that of its first pixel."""
    rng, out = np.random.default_rng(1), []
    for i in range(scenes):
        labels = fine(i, size)
        if coarsened:
            labels = np.kron(labels[::RATIO, ::RATIO], np.ones((RATIO, RATIO), np.uint8))
        told = labels[::RATIO, ::RATIO].astype(float)
        image = np.stack([told * 30, told * 20 + 10, 250 - told * 25]) + rng.normal(0, 6, (3, size, size))
        origin = (4e5 + 5000.0 * i, 4.6e6)
        image = image.clip(1, 255).astype(np.uint8)
        write(folder / f"img/s{i}.tif", image, origin, names=("red", "green", "blue"))
        write(folder / f"mask/s{i}.tif", labels, origin, pixel=10.0 / RATIO)
        out.append(labels)
    return out


def catalog_of(folder: Path, tile: int = 16, overlap: float = 0.0, **scenes: Any) -> Catalog:
    """A catalog of it, with fractions made on the way."""
    return prepare(
        ScenesOptions.model_validate(
            {
                "images": "img/*.tif",
                "masks": "mask/*.tif",
                "root": str(folder),
                "rescale": {"kind": "fractions"},
                **scenes,
            }
        ),
        SCHEME,
        TileOptions(size=tile, overlap=overlap, min_valid=0),
        SplitOptions(block_px=tile, folds=2),
        quiet=True,
        folder=folder / "labels",
    )


def cells(labels: np.ndarray) -> np.ndarray:
    """Share of each class in each cell, float64 `[K, h, w]`, of the labelled ground; 0 where less than half is labelled."""
    n, m = (s // RATIO for s in labels.shape)
    parts = np.stack([(labels == v).reshape(n, RATIO, m, RATIO).mean((1, 3)) for v in (1, 2, 5)])
    known = parts.sum(0)
    return parts / np.where(known > 0, known, 1) * (known >= 0.5)
