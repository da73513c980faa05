"""Small class maps with a legend, and samples labelled by a true map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
from tests.rasters import write

NAMES = {1: "forest", 2: "water", 7: "slide"}


def write_map(path: Path, array: np.ndarray, names: dict[int, str] | None = None, **more: Any) -> Path:
    """A class map as `predict` writes it: class values, nodata 255, names in the tags."""
    write(path, array.astype(more.pop("dtype", np.uint8)), nodata=more.pop("nodata", 255), **more)
    with rasterio.open(path, "r+") as file:
        file.update_tags(**{f"class_{v}": n for v, n in (NAMES if names is None else names).items()})
    return path


def dated_map(
    path: Path, array: np.ndarray, names: dict[int, str], day: str = "2000-01-01", **tags: str
) -> Path:
    """A map that says of which day it is."""
    write_map(path, array, names)
    with rasterio.open(path, "r+") as file:
        file.update_tags(raremap_date=day, **tags)
    return path


def ground(seed: int = 0, size: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """True classes and a map of them with errors: slides are rare, some are missed at their edges."""
    rng = np.random.default_rng(seed)
    true = np.ones((size, size), np.uint8)
    true[:, : size // 4] = 2
    for _ in range(14):
        r, c = rng.integers(size // 3, size - 12, 2)
        true[r : r + 9, c : c + 8] = 7
    mapped = true.copy()
    flip = rng.random(true.shape) < 0.06
    mapped[flip] = rng.choice([1, 2], flip.sum())
    mapped[np.roll(true == 7, (2, 1), (0, 1)) != (true == 7)] = 1
    return true, mapped


def label(
    points: Path, true: np.ndarray, origin: tuple[float, float] = (4e5, 4.6e6), pixel: float = 10.0
) -> None:
    """Fill in the reference of each point by the true classes."""
    frame = pyogrio.read_dataframe(points, layer="points")
    col = ((frame.geometry.x - origin[0]) / pixel).astype(int)
    row = ((origin[1] - frame.geometry.y) / pixel).astype(int)
    frame["reference"] = true[row, col].astype(int)
    pyogrio.write_dataframe(frame, points, layer="points")
