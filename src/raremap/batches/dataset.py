"""Samples from a plan: a crop of a tile or a composite, normalised and augmented, the same in any worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raremap.balance.coverage import TRIES
from raremap.balance.sampler import Stream, draw_rng
from raremap.batches.augment import augment, drawn_turn
from raremap.batches.options import AugmentOptions
from raremap.labels import IGNORE
from raremap.scene.shares import STEPS
from raremap.scene.turn import dihedral
from raremap.scene.window import Window
from raremap.tiles.reader import TileReader

if TYPE_CHECKING:
    from raremap.balance.plan import SamplingPlan
    from raremap.batches.distance import BoundaryMaps
    from raremap.scene.normalize import Normalization
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.reader import Tile


class TrainSamples:
    """Sample i of a training: `{"image": float32 [C, crop, crop], "mask": int64 [crop, crop], "prior": float32 [K]}`.

    Where labels are shares of classes, `fractions`, float32 [K, crop, crop], are among it, 0 where `mask` is `IGNORE`; the
    mask is of the largest ones. With `maps` those are among it, made of the mask as it is after augmentation; `worth`, float32 [crop, crop], where
    the catalog's labels have weights. Everything random about it
    follows from (seed, i). Tiles smaller than the crop are filled up with 0 and `IGNORE`. A crop without a
    labelled pixel is drawn again, up to `TRIES` crops in all. `prior` are the class shares of the stream that
    the draw is of.

    Features are made of what the sample shows: of a composite after the paste, of a turned crop as if the
    scene had lain so.
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
        maps: BoundaryMaps | None = None,
    ) -> None:
        self._reader, self._stream, self._normalization = reader, stream, normalization
        self._rows, self._windows = stream.plan.rows(catalog), catalog.windows
        self._tiles = int((~stream.plan.composite).sum())
        self._crop, self._augmentation, self._seed, self._maps = crop, augmentation, seed, maps
        self._weighted = any(scene.weights for scene in catalog.scenes.values())

    def __getitem__(self, draw: int) -> dict[str, np.ndarray]:
        rng = draw_rng(self._seed, draw)
        plan, entry = self._stream[draw]
        row, over, shares = self._tile(plan, entry)
        window = self._place(plan, entry, rng)
        cut = self._reader.cut(row, window, over)
        for _ in range(TRIES - 1):
            if (cut.mask != IGNORE).any():
                break
            window = self._place(plan, entry, rng)
            cut = self._reader.cut(row, window, over)
        turn, valid = drawn_turn(self._augmentation, rng), cut.valid
        worth = self._worth(row, window, cut.mask, over is not None) if self._weighted else None
        image = self._normalization.apply(cut.image(turn), valid)
        fractions = self._fractions(row, window, cut.mask, shares)
        mask = cut.mask.astype(np.int64)
        short = (self._crop - mask.shape[0], self._crop - mask.shape[1])
        if any(short):
            image = np.pad(image, ((0, 0), (0, short[0]), (0, short[1])))
            mask = np.pad(mask, ((0, short[0]), (0, short[1])), constant_values=IGNORE)
            valid = np.pad(valid, ((0, short[0]), (0, short[1])))
            worth = None if worth is None else np.pad(worth, ((0, short[0]), (0, short[1])))
            if fractions is not None:
                fractions = np.pad(fractions, ((0, 0), (0, short[0]), (0, short[1])))
        image, mask = augment(image, mask, valid, self._augmentation, rng, turn)
        sample = {
            "image": np.ascontiguousarray(image),
            "mask": np.ascontiguousarray(mask),
            "prior": plan.shares.astype(np.float32),
        }
        for name, values in (("worth", worth), ("fractions", fractions)):
            if values is not None:
                sample[name] = np.ascontiguousarray(dihedral(values, turn))
        return sample if self._maps is None else sample | self._maps(sample["mask"])

    def _worth(self, row: int, window: Window, mask: np.ndarray, composite: bool) -> np.ndarray:
        """How much each label of a window counts, float32 `[h, w]`; 1 where nothing says."""
        worth = self._reader.weight(row, window)
        if worth is None:
            return np.ones(mask.shape, np.float32)
        # An object that was pasted on ground without a label counts as it would anywhere.
        return np.where((worth == 0) & (mask != IGNORE), np.float32(1), worth) if composite else worth

    def _fractions(
        self, row: int, window: Window, mask: np.ndarray, over: np.ndarray | None
    ) -> np.ndarray | None:
        """Shares of the classes in a window, float32 `[K, h, w]`; `over` are those of the tile with what was pasted."""
        if over is None:
            shares = self._reader.shares(row, window)
        else:
            shares = over[:, *window.slices(within=self._windows[row])]
        return None if shares is None else shares * np.float32(1 / STEPS) * (mask != IGNORE)

    def _tile(self, plan: SamplingPlan, entry: int) -> tuple[int, Tile | None, np.ndarray | None]:
        """The catalog row of a row of the plan, the composite that takes its place, and any shares of that."""
        row = int(self._rows[entry])
        if entry < self._tiles or plan.composites is None or plan.bank is None:
            return row, None, None
        from raremap.balance.paste import pasted_labels, render

        pasted = plan.composites.pasted(entry - self._tiles)
        shares = self._reader.shares(row)
        if shares is not None:
            shares = pasted_labels(self._reader.labels(row), shares, pasted, plan.bank)[1]
        return row, render(self._reader, row, pasted, plan.bank, plan.copy_paste), shares

    def _place(self, plan: SamplingPlan, entry: int, rng: np.random.Generator) -> Window:
        tile = self._windows[int(self._rows[entry])]
        height, width = min(self._crop, tile.height), min(self._crop, tile.width)
        if plan.grid is not None:
            top, left = plan.grid.draw(entry, tile, rng)
        else:
            top = int(rng.integers(tile.height - height + 1))
            left = int(rng.integers(tile.width - width + 1))
        return Window(tile.row_off + top, tile.col_off + left, height, width)
