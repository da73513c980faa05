"""Scenes whose truth a stub network can read: its only use is to know what must come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tests.rasters import write

from raremap.labels import IGNORE, LabelScheme
from raremap.maps.options import PredictOptions
from raremap.measure.decision import Decision
from raremap.scene.sources import ScenesOptions
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare

SCHEME = LabelScheme({1: "meadow", 2: "forest", 5: "water"}, ignore=(0,))
BANDS = ("told", "noise")
SIZE = 96


@dataclass
class Stub:
    """A bundle whose network gives the class that stands in its first band, with probability `sure`."""

    scheme: LabelScheme = SCHEME
    bands: tuple[str, ...] = BANDS
    decision: Decision | None = None
    predict: PredictOptions = field(default_factory=lambda: PredictOptions(window=40, overlap=0.25))
    sure: float = 0.8
    info: dict[str, Any] = field(default_factory=dict)
    name: str = "stub"
    options: Any = None
    module: Any = None
    prior: Any = None
    features: tuple[Any, ...] = ()

    def opened(self, image):
        return image

    def network(self, device: str = "auto", precision: str = "auto"):
        k = self.scheme.num_classes

        def network(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
            told = image[:, 0].astype(int)[:, None] == np.arange(k)[None, :, None, None]
            return np.where(told, self.sure, (1 - self.sure) / (k - 1)).astype(np.float32)

        return network


def make(
    folder: Path, scenes: int = 6, wrong: float = 0.2, overlap: float = 0.0, split: SplitOptions | None = None
) -> tuple[Catalog, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """A catalog of scenes, each a place, and by scene the true index (`IGNORE` where it does not count)
    and the index that the stub gives."""
    rng = np.random.default_rng(0)
    known = {}
    for i in range(scenes):
        truth = rng.choice(3, (SIZE, SIZE), p=(0.6, 0.35, 0.05)).astype(np.uint8)
        told = np.where(rng.random(truth.shape) < wrong, rng.integers(0, 3, truth.shape), truth)
        image = np.stack([told, rng.integers(0, 200, truth.shape)]).astype(np.uint16)
        image[:, :7, 50:] = 9999
        source = np.array([1, 2, 5], np.uint8)[truth]
        source[60:75, 10:40] = 0
        write(folder / f"img/s{i}.tif", image, nodata=9999, origin=(4e5 + 2000 * i, 4.6e6), names=BANDS)
        write(folder / f"mask/s{i}.tif", source, origin=(4e5 + 2000 * i, 4.6e6))
        truth[:7, 50:] = IGNORE
        truth[60:75, 10:40] = IGNORE
        known[f"s{i}"] = truth, told.astype(np.uint8)
    catalog = prepare(
        ScenesOptions(images="img/*.tif", masks="mask/*.tif", root=str(folder)),
        SCHEME,
        TileOptions(size=32, overlap=overlap, min_valid=0),
        split or SplitOptions(places=1, folds=3, monitor=0.2, calibration=0.4),
        quiet=True,
    )
    return catalog, known
