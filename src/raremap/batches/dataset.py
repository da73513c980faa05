"""Samples from a plan: a crop of a tile or a composite, normalised and augmented, the same in any worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raremap.balance.coverage import TRIES
from raremap.balance.sampler import Stream, draw_rng
from raremap.batches.augment import augment
from raremap.batches.options import AugmentOptions
from raremap.labels import IGNORE
from raremap.scene.window import Window
from raremap.tiles.reader import TileReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from raremap.balance.plan import SamplingPlan
    from raremap.scene.normalize import Normalization
    from raremap.tiles.catalog import Catalog

    Cut = Callable[[Window], tuple[np.ndarray, np.ndarray, np.ndarray]]


class TrainSamples:
    """Sample i of a training: `{"image": float32 [C, crop, crop], "mask": int64 [crop, crop], "prior": float32 [K]}`.

    Everything random about it follows from (seed, i). Tiles smaller than the crop are filled up with 0
    and `IGNORE`. A crop without a labelled pixel is drawn again, up to `TRIES` crops in all. `prior` are the class
    shares of the stream that the draw is of.
    """

    def __init__(
        self,
        reader: TileReader,
        catalog: Catalog,
        stream: Stream,
        normalization: Normalization,
        crop: int,
        augmentation: AugmentOptions,
        seed: int,
    ) -> None:
        self._reader, self._stream, self._normalization = reader, stream, normalization
        self._rows, self._windows = stream.plan.rows(catalog), catalog.windows
        self._tiles = int((~stream.plan.composite).sum())
        self._crop, self._augmentation, self._seed = crop, augmentation, seed

    def __getitem__(self, draw: int) -> dict[str, np.ndarray]:
        rng = draw_rng(self._seed, draw)
        plan, entry = self._stream[draw]
        cut = self._cut(plan, entry)
        image, valid, mask = cut(self._place(plan, entry, rng))
        for _ in range(TRIES - 1):
            if (mask != IGNORE).any():
                break
            image, valid, mask = cut(self._place(plan, entry, rng))
        image = self._normalization.apply(image, valid)
        mask = mask.astype(np.int64)
        short = (self._crop - mask.shape[0], self._crop - mask.shape[1])
        if any(short):
            image = np.pad(image, ((0, 0), (0, short[0]), (0, short[1])))
            mask = np.pad(mask, ((0, short[0]), (0, short[1])), constant_values=IGNORE)
            valid = np.pad(valid, ((0, short[0]), (0, short[1])))
        image, mask = augment(image, mask, valid, self._augmentation, rng)
        return {
            "image": np.ascontiguousarray(image),
            "mask": np.ascontiguousarray(mask),
            "prior": plan.shares.astype(np.float32),
        }

    def _cut(self, plan: SamplingPlan, entry: int) -> Cut:
        """What gives the pixels of a window, in scene coordinates, of a row of the plan."""
        row = int(self._rows[entry])
        if entry < self._tiles or plan.composites is None or plan.bank is None:
            return lambda window: self._reader.crop(row, window)
        from raremap.balance.paste import render

        image, valid, mask = render(
            self._reader, row, plan.composites.pasted(entry - self._tiles), plan.bank, plan.copy_paste
        )

        def cut(window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            rows, cols = window.slices(within=self._windows[row])
            return image[:, rows, cols], valid[rows, cols], mask[rows, cols]

        return cut

    def _place(self, plan: SamplingPlan, entry: int, rng: np.random.Generator) -> Window:
        tile = self._windows[int(self._rows[entry])]
        height, width = min(self._crop, tile.height), min(self._crop, tile.width)
        if plan.grid is not None:
            top, left = plan.grid.draw(entry, tile, rng)
        else:
            top = int(rng.integers(tile.height - height + 1))
            left = int(rng.integers(tile.width - width + 1))
        return Window(tile.row_off + top, tile.col_off + left, height, width)
