"""Three tiles of 16² with a few houses in the grass, whose sources can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.rasters import write

from raremap.balance.plan import SamplingPlan
from raremap.labels import LabelScheme
from raremap.scene.sources import ScenesOptions
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare

SCHEME = LabelScheme({1: "grass", 2: "house"}, ignore=(0,))
RARE = np.array([False, True])


def masks() -> list[np.ndarray]:
    """Houses of 4 and 2 pixels; of 8 and of 2 that touch by a corner; none, and a row without labels."""
    first, second, third = np.ones((3, 16, 16), np.uint8)
    first[2:4, 2:4] = first[10, 10:12] = 2
    second[4:6, 4:8] = second[12, 12] = second[13, 13] = 2
    third[0] = 0
    return [first, second, third]


def catalog_of(folder: Path, scenes: list[np.ndarray]) -> Catalog:
    for i, mask in enumerate(scenes):
        origin = (4e5 + 5000 * i, 4.6e6)
        write(folder / f"img/s{i}.tif", np.stack([mask * 40, 200 - mask * 30]).astype(np.uint8), origin)
        write(folder / f"mask/s{i}.tif", mask, origin)
    return prepare(
        ScenesOptions(images="img/*.tif", masks="mask/*.tif", root=str(folder)),
        SCHEME,
        TileOptions(size=16, min_valid=0),
        SplitOptions(block_px=16, folds=2),
        quiet=True,
    )


def plan_of(catalog: Catalog, repeats: list[float], **more) -> SamplingPlan:
    counts, drawn = catalog.counts, np.array(repeats)
    return SamplingPlan(
        tile_ids=catalog.table["tile_id"].to_numpy(),
        weights=drawn / drawn.sum(),
        repeats=drawn,
        counts=counts,
        natural=counts.sum(0) / counts.sum(),
        target=np.array([0.5, 0.5]),
        rare=RARE,
        **more,
    )
