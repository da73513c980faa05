"""Samples from a plan: a crop of a tile or a composite, normalised and augmented, the same in any worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raremap.balance.coverage import TRIES
from raremap.balance.sampler import Stream, draw_rng
from raremap.batches.augment import Jitter, drawn_scale, drawn_turn, lasting
from raremap.batches.mix import cutmix
from raremap.batches.options import AugmentOptions
from raremap.batches.zoom import Zoom
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

# Parts of a draw with random numbers of their own: whatever they draw, the others stay as they were.
_MIX, _PARTNER, _SCALE = 1, 2, 3


class TrainSamples:
    """Sample i of a training: `{"image": float32 [C, crop, crop], "mask": int64 [crop, crop], "prior": float32 [K]}`.

    Where labels are shares of classes, `fractions`, float32 [K, crop, crop], are among it, 0 where `mask` is `IGNORE`; the
    mask is of the largest ones. With `maps` those are among it, made of the mask as it is after augmentation; `worth`, float32 [crop, crop], where
    the catalog's labels have weights. Everything random about it
    follows from (seed, i). Tiles smaller than the crop are filled up with 0 and `IGNORE`. A crop without a
    labelled pixel is drawn again, up to `TRIES` crops in all. `prior` are the class shares of the stream that
    the draw is of.

    Features are made of what the sample shows: of a composite after the paste, of bands after their jitter, of a
    scaled crop by its new pixels, of a turned one as if the scene had lain so; then CutMix takes a rectangle of another
    sample, which the same plan draws, so that the shares of classes are expected to stay `prior`.
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
        self._jitter = Jitter(augmentation, reader.channels, normalization)
        self._lasting = lasting(augmentation, reader.channels)
        self._weighted = any(scene.weights for scene in catalog.scenes.values())

    def __getitem__(self, draw: int) -> dict[str, np.ndarray]:
        plan, entry = self._stream[draw]
        sample = self._sample(plan, entry, draw)
        if self._augmentation.cutmix:
            rng = draw_rng(self._seed, draw, _MIX)
            if rng.random() < self._augmentation.cutmix:
                other = self._sample(plan, self._stream.partner(draw), draw, _PARTNER)
                sample = cutmix(sample, other, rng)
        sample["prior"] = plan.shares.astype(np.float32)
        return sample if self._maps is None else sample | self._maps(sample["mask"])

    def _sample(self, plan: SamplingPlan, entry: int, draw: int, *part: int) -> dict[str, np.ndarray]:
        """A crop of the plan's row `entry` with all that happens to it alone."""
        rng = draw_rng(self._seed, draw, *part)
        scale = drawn_scale(self._augmentation, draw_rng(self._seed, draw, *part, _SCALE))
        row, over, shares = self._tile(plan, entry)
        tile = self._windows[row]
        zoom, size = Zoom.of(self._crop, scale, (tile.height, tile.width))
        margin = None if scale == 1 else zoom.margin(size, self._reader.channels.margin)
        window = self._place(plan, entry, size, rng)
        cut = self._reader.cut(row, window, over, margin)
        for _ in range(TRIES - 1):
            if (cut.mask != IGNORE).any():
                break
            window = self._place(plan, entry, size, rng)
            cut = self._reader.cut(row, window, over, margin)
        worth = self._worth(row, window, cut.mask, over is not None) if self._weighted else None
        fractions = self._fractions(row, window, cut.mask, shares)
        if scale != 1:
            cut = zoom(cut)
            worth = None if worth is None else zoom.nearest(worth)
            fractions = None if fractions is None else zoom.nearest(fractions)
        turn = drawn_turn(self._augmentation, rng)
        cut = cut.shown(self._jitter(cut.pixels, rng), self._lasting)
        arrays = {
            "image": self._normalization.apply(cut.image(turn), cut.valid),
            "mask": cut.mask.astype(np.int64),
        }
        arrays |= {n: a for n, a in (("worth", worth), ("fractions", fractions)) if a is not None}
        below, right = self._crop - cut.mask.shape[0], self._crop - cut.mask.shape[1]
        for name, values in arrays.items():
            if below or right:
                around = (*((0, 0),) * (values.ndim - 2), (0, below), (0, right))
                values = np.pad(values, around, constant_values=IGNORE if name == "mask" else 0)
            arrays[name] = np.ascontiguousarray(dihedral(values, turn))
        return arrays

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

    def _place(
        self, plan: SamplingPlan, entry: int, size: tuple[int, int], rng: np.random.Generator
    ) -> Window:
        """Where a crop of `size` lies: anywhere, or with its middle where the plan's own would have it."""
        tile, (height, width) = self._windows[int(self._rows[entry])], size
        if plan.grid is not None:
            corner = plan.grid.draw(entry, tile, rng)
            last = (tile.height - height, tile.width - width)
            own = (min(self._crop, tile.height), min(self._crop, tile.width))
            top, left = (
                min(max(at + (a - b) // 2, 0), most)
                for at, a, b, most in zip(corner, own, size, last, strict=True)
            )
        else:
            top = int(rng.integers(tile.height - height + 1))
            left = int(rng.integers(tile.width - width + 1))
        return Window(tile.row_off + top, tile.col_off + left, height, width)
