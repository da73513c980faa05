"""Samples from tiles: a crop at a random place, normalised and augmented, the same in any worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raremap.balance.sampler import TileSampler, draw_rng
from raremap.batches.augment import augment
from raremap.batches.options import AugmentOptions
from raremap.labels import IGNORE
from raremap.scene.window import Window
from raremap.tiles.reader import TileReader

if TYPE_CHECKING:
    from raremap.scene.normalize import Normalization
    from raremap.tiles.catalog import Catalog


class TrainSamples:
    """Sample i of a training, `{"image": float32 [C, crop, crop], "mask": int64 [crop, crop]}`.

    Everything random about it follows from (seed, i). Tiles smaller than the crop are filled up with 0
    and `IGNORE`. A crop without a labelled pixel is drawn again, up to `tries` times.
    """

    def __init__(
        self,
        reader: TileReader,
        catalog: Catalog,
        sampler: TileSampler,
        normalization: Normalization,
        crop: int,
        augmentation: AugmentOptions,
        seed: int,
        tries: int = 5,
    ) -> None:
        self._reader, self._sampler, self._normalization = reader, sampler, normalization
        self._windows = catalog.windows
        self._crop, self._augmentation, self._seed, self._tries = crop, augmentation, seed, tries

    def __getitem__(self, draw: int) -> dict[str, np.ndarray]:
        rng = draw_rng(self._seed, draw)
        row = self._sampler[draw]
        image, valid, mask = self._reader.crop(row, self._place(self._windows[row], rng))
        for _ in range(self._tries - 1):
            if (mask != IGNORE).any():
                break
            image, valid, mask = self._reader.crop(row, self._place(self._windows[row], rng))
        image = self._normalization.apply(image, valid)
        mask = mask.astype(np.int64)
        short = (self._crop - mask.shape[0], self._crop - mask.shape[1])
        if any(short):
            image = np.pad(image, ((0, 0), (0, short[0]), (0, short[1])))
            mask = np.pad(mask, ((0, short[0]), (0, short[1])), constant_values=IGNORE)
            valid = np.pad(valid, ((0, short[0]), (0, short[1])))
        image, mask = augment(image, mask, valid, self._augmentation, rng)
        return {"image": np.ascontiguousarray(image), "mask": np.ascontiguousarray(mask)}

    def _place(self, tile: Window, rng: np.random.Generator) -> Window:
        height, width = min(self._crop, tile.height), min(self._crop, tile.width)
        row = tile.row_off + int(rng.integers(tile.height - height + 1))
        col = tile.col_off + int(rng.integers(tile.width - width + 1))
        return Window(row, col, height, width)
