"""Crops of the monitor places for the outer loop, the same for an update whenever it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from raremap.labels import IGNORE
from raremap.learn.outer import halves_of
from raremap.measure.objects import count_pieces
from raremap.scene.shares import planes
from raremap.scene.window import Window

if TYPE_CHECKING:
    from raremap.scene.normalize import Normalization
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.reader import TileReader


class MonitorCrops:
    """`crops` crops an update, of one half of the monitor tiles at even updates and of the other at odd ones.

    Every second crop holds a class that was drawn first, each class alike: of a rare one there would be none
    in most updates. Nothing of it is augmented. Batches are of `batch` crops.
    """

    def __init__(
        self,
        reader: TileReader,
        rows: np.ndarray,
        counts: np.ndarray,
        windows: list[Window],
        halves: tuple[np.ndarray, np.ndarray],
        normalization: Normalization,
        crop: int,
        crops: int,
        batch: int,
        seed: int,
    ) -> None:
        """`rows` of the catalog `[N]`, with their class counts `[N, K]` and windows; `halves` are of these N."""
        self._reader, self._rows, self._counts, self._windows = reader, rows, counts, windows
        self._halves, self._normalization = halves, normalization
        self._crop, self._crops, self._batch, self._seed = crop, crops, batch, seed

    @classmethod
    def of_tiles(
        cls,
        reader: TileReader,
        catalog: Catalog,
        rows: np.ndarray,
        normalization: Normalization,
        crop: int,
        crops: int,
        batch: int,
        seed: int,
    ) -> MonitorCrops:
        """Crops of the catalog's monitor `rows`, in halves that share no place where there are several."""
        counts = catalog.counts[rows]
        places = catalog.table["place"].to_numpy().astype(str)[rows]
        windows = [catalog.windows[r] for r in rows]
        halves = halves_of(places, counts)
        return cls(reader, rows, counts, windows, halves, normalization, crop, crops, batch, seed)

    def __call__(self, update: int) -> list[dict[str, Tensor]]:
        """Batches of `image` `[B, C, crop, crop]` and `mask` `[B, crop, crop]`."""
        rng = np.random.default_rng((self._seed, 0x07E5, update))
        here = self._halves[update % 2]
        samples = [self._sample(here, rng, aimed=i % 2 == 1) for i in range(self._crops)]
        batches = [samples[i : i + self._batch] for i in range(0, len(samples), self._batch)]
        return [
            {key: torch.from_numpy(np.stack([s[key] for s in batch])) for key in ("image", "mask")}
            for batch in batches
        ]

    def _sample(self, here: np.ndarray, rng: np.random.Generator, aimed: bool) -> dict[str, np.ndarray]:
        counts = self._counts[here]
        weights, klass = counts.sum(1), None
        if aimed:
            klass = int(rng.choice(np.flatnonzero(counts.sum(0) > 0)))
            weights = counts[:, klass]
        at = int(rng.choice(here, p=weights / weights.sum()))
        tile, row = self._windows[at], int(self._rows[at])
        height, width = min(self._crop, tile.height), min(self._crop, tile.width)
        top, left = (int(rng.integers(n + 1)) for n in (tile.height - height, tile.width - width))
        if klass is not None:
            pixels = np.argwhere(dict(planes(self._reader.labels(row), self._reader.shares(row)))[klass])
            r, c = pixels[rng.integers(len(pixels))]
            top = int(np.clip(r - rng.integers(height), 0, tile.height - height))
            left = int(np.clip(c - rng.integers(width), 0, tile.width - width))
        cut = self._reader.cut(row, Window(tile.row_off + top, tile.col_off + left, height, width))
        image = self._normalization.apply(cut.image(), cut.valid)
        below, right = self._crop - height, self._crop - width
        return {
            "image": np.pad(image, ((0, 0), (0, below), (0, right))),
            "mask": np.pad(cut.mask.astype(np.int64), ((0, below), (0, right)), constant_values=IGNORE),
        }


def objects_in(reader: TileReader, rows: np.ndarray, num_classes: int) -> np.ndarray:
    """Objects of each class `[K]` in the tiles."""
    objects = np.zeros(num_classes)
    for row in rows:
        objects += count_pieces(reader.labels(int(row)), num_classes)
    return objects
