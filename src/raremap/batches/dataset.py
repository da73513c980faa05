"""Samples from tiles: a crop at a random place, normalised and augmented, the same in any worker."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.balance.sampler import TileSampler, draw_rng
from raremap.batches.augment import augment
from raremap.batches.options import AugmentOptions
from raremap.labels import IGNORE
from raremap.scene.window import Window

if TYPE_CHECKING:
    from raremap.scene.normalize import Normalization
    from raremap.tiles.catalog import Catalog

# Tiles kept decoded, as stored (uint8 stays uint8); more are read by window each time.
_MEMORY = 2 << 30
_OPEN_SCENES = 64


class TileReader:
    """Tiles of a catalog as `(image, valid, index mask)`, decoded once where all of them fit in memory."""

    def __init__(self, catalog: Catalog, rows: np.ndarray, memory: int = _MEMORY) -> None:
        self._catalog = catalog
        self._open: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
        self._process = os.getpid()
        self._kept: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        windows = [catalog.windows[r] for r in rows]
        with catalog.open_image(str(catalog.scene_names[rows[0]])) as image:
            per_pixel = len(image.bands) * image.dtype.itemsize + 2
        self._keep = sum(w.height * w.width for w in windows) * per_pixel <= memory

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def load(self, rows: np.ndarray) -> None:
        """Decode these tiles now, before workers are started: they share the memory."""
        if self._keep:
            for row in np.unique(rows):
                self.whole(int(row))

    def whole(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image `[C, h, w]` as stored, validity and class index `[h, w]` (`IGNORE` where invalid) of a tile."""
        if row not in self._kept:
            tile = self._window(row, self._catalog.windows[row])
            if not self._keep:
                return tile
            self._kept[row] = tile
        return self._kept[row]

    def crop(self, row: int, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of a window inside a tile, in scene coordinates."""
        if not self._keep:
            return self._window(row, window)
        rows, cols = window.slices(within=self._catalog.windows[row])
        image, valid, mask = self.whole(row)
        return image[:, rows, cols], valid[rows, cols], mask[rows, cols]

    def _window(self, row: int, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, mask = self._scene(str(self._catalog.scene_names[row]))
        pixels, valid = image.read(window)
        index = mask.read(window)
        index[~valid] = IGNORE
        if row in self._catalog.hidden:
            index[np.isin(index, self._catalog.hidden[row])] = IGNORE
        return pixels, valid, index

    def _scene(self, name: str) -> tuple[Any, Any]:
        if self._process != os.getpid():
            # A forked worker must not read through its parent's handles: they share one position in the file.
            self._open, self._process = OrderedDict(), os.getpid()
        if name in self._open:
            self._open.move_to_end(name)
        else:
            self._open[name] = (self._catalog.open_image(name), self._catalog.open_mask(name))
            if len(self._open) > _OPEN_SCENES:
                for reader in self._open.popitem(last=False)[1]:
                    reader.close()
        return self._open[name]


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
