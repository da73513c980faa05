"""Scenes in which every pixel tells where it lies, so that a sample can be traced back to the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from tests.rasters import write

from raremap.balance.plan import SamplingPlan
from raremap.balance.sampler import Stream
from raremap.batches.dataset import TrainSamples
from raremap.batches.options import AugmentOptions
from raremap.labels import IGNORE, LabelScheme
from raremap.scene.normalize import Normalization
from raremap.scene.sources import ScenesOptions
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare
from raremap.tiles.reader import TileReader

NODATA = 65535
SCHEME = LabelScheme({3: "rock", 4: "scree", 9: "water"}, ignore=(0,))
SIZES = ((51, 77), (40, 33))
STILL = AugmentOptions(dihedral=False, gain=0, offset=0)
TURNED = AugmentOptions(dihedral=True, gain=0, offset=0)


def make(
    folder: Path, size: int = 32, overlap: float = 0.0, sizes=SIZES, weights: str | None = None
) -> Catalog:
    """A catalog of scenes whose first band numbers all pixels of all scenes from 1 on; part of each scene
    is unlabelled, part without data. `weights/s*.tif` have the number, too: from 1 to 250, over and over."""
    rng, first = np.random.default_rng(5), 1
    for i, (height, width) in enumerate(sizes):
        number = np.arange(first, first + height * width).reshape(height, width)
        first += height * width
        image = np.stack([number, rng.integers(1, 60000, number.shape)]).astype(np.uint16)
        image[:, 4:9, 10:] = NODATA
        mask = rng.choice(np.array([3, 4, 9], np.uint8), number.shape)
        mask[7:15, 5:20] = 0
        origin = (4e5 + 5000 * i, 4.6e6)
        write(folder / f"img/s{i}.tif", image, origin, nodata=NODATA, names=("number", "other"))
        write(folder / f"mask/s{i}.tif", mask, origin)
        write(folder / f"weights/s{i}.tif", (1 + number % 250).astype(np.uint8), origin)
    return prepare(
        ScenesOptions(images="img/*.tif", masks="mask/*.tif", root=str(folder), weights=weights),
        SCHEME,
        TileOptions(size=size, overlap=overlap, min_valid=0),
        SplitOptions(block_px=64, folds=2),
        quiet=True,
    )


def classes_by_number(folder: Path) -> np.ndarray:
    """The class index of every numbered pixel, read with rasterio alone; `IGNORE` at 0, which numbers none."""
    found = [IGNORE]
    for path in sorted((folder / "mask").glob("*.tif")):
        with rasterio.open(path) as file:
            source = file.read(1).ravel()
        found += [{0: IGNORE, 3: 0, 4: 1, 9: 2}[v] for v in source.tolist()]
    return np.array(found)


def samples(
    catalog: Catalog,
    crop: int,
    augmentation: AugmentOptions = STILL,
    memory: int | None = None,
    seed: int = 0,
) -> TrainSamples:
    """Samples of all tiles alike, as they are stored."""
    rows = np.arange(len(catalog))
    reader = TileReader(catalog, rows) if memory is None else TileReader(catalog, rows, memory)
    stream = Stream(SamplingPlan.uniform(catalog, np.ones(len(catalog), bool)), seed)
    return TrainSamples(reader, catalog, stream, Normalization.identity(2), crop, augmentation, seed)
