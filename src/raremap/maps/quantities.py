"""Rasters beside a map that say how sure it is: confidence and entropy, uint8 in steps of 1/250."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from raremap.maps.style import shaded
from raremap.scene.cog import CogWriter
from raremap.scene.grid import Grid

NODATA, STEPS = 255, 250


def confidence(probs: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Probability `[h, w]` of the class that the map gives, of probs `[K, h, w]` and class index `[h, w]`."""
    return np.take_along_axis(probs, index[None].astype(np.intp), 0)[0]


def entropy(probs: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Shannon entropy `[h, w]` of probs `[K, h, w]` over its largest possible value, log K: 0 sure, 1 all classes alike."""
    del index
    out = np.zeros(probs.shape[1:], np.float32)
    for p in probs:
        out -= p * np.log(np.maximum(p, np.finfo(np.float32).tiny))
    return out / np.float32(np.log(len(probs)))


QUANTITIES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "confidence": confidence,
    "entropy": entropy,
}
"""By name, of probabilities and class index."""

STYLES = {"confidence": shaded("#7B3294", "#F7F7F7"), "entropy": shaded("#F7F7F7", "#7B3294")}
"""QGIS styles: the less sure, the darker."""


def quantity_path(map_path: Path, name: str) -> Path:
    """Where a quantity of a map lies: `map.tif` → `map.confidence.tif`."""
    return map_path.with_name(f"{map_path.stem}.{name}.tif")


def beside(map_path: Path) -> list[Path]:
    """The rasters of probabilities, confidence and entropy that stand beside a map."""
    paths = (quantity_path(map_path, name) for name in ("probs", *QUANTITIES))
    return [path for path in paths if path.exists()]


def quantity_writer(path: Path, name: str, grid: Grid, tags: Mapping[str, str] | None) -> CogWriter:
    """A COG of one band."""
    return CogWriter(
        path, grid, "uint8", bands=(name,), nodata=NODATA, tags=tags, scale=1 / STEPS, overviews="average"
    )


def stored(name: str, probs: np.ndarray, index: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """A quantity as it is written, uint8 `[h, w]`."""
    value = QUANTITIES[name](probs, index)
    return np.where(valid, np.rint(np.clip(value, 0, 1) * STEPS), NODATA).astype(np.uint8)
