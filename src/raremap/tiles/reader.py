"""`TileReader`: the pixels and labels of tiles, decoded once where they fit in memory."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.labels import IGNORE
from raremap.scene.window import Window

if TYPE_CHECKING:
    from raremap.tiles.catalog import Catalog

# Tiles kept decoded, as stored (uint8 stays uint8); more are read by window each time.
_MEMORY = 2 << 30
_OPEN_SCENES = 64


class TileReader:
    """Tiles of a catalog as `(image, valid, index mask)`, decoded once where all of them fit in memory."""

    def __init__(self, catalog: Catalog, rows: np.ndarray, memory: int = _MEMORY) -> None:
        self._catalog = catalog
        self._open: OrderedDict[str, tuple[Any, Any, Any]] = OrderedDict()
        self._process = os.getpid()
        self._kept: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._weights: dict[int, np.ndarray] = {}
        windows = [catalog.windows[r] for r in rows]
        with catalog.open_image(str(catalog.scene_names[rows[0]])) as image:
            per_pixel = len(image.bands) * image.dtype.itemsize + 2
        if any(scene.weights for scene in catalog.scenes.values()):
            per_pixel += 4
        self._keep = sum(w.height * w.width for w in windows) * per_pixel <= memory

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def load(self, rows: np.ndarray) -> None:
        """Decode these tiles now, before workers are started: they share the memory."""
        if self._keep:
            for row in np.unique(rows):
                self.whole(int(row))
                self.weight(int(row))

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

    def weight(self, row: int, window: Window | None = None) -> np.ndarray | None:
        """How much each label counts, float32 `[h, w]`, in a tile or a window inside it; None where nothing says.

        Pixels of weight 0 are `IGNORE` in the mask already.
        """
        name, tile = str(self._catalog.scene_names[row]), self._catalog.windows[row]
        if self._catalog.scenes[name].weights is None:
            return None
        if not self._keep:
            return self._scene(name)[2].read(window or tile)
        if row not in self._weights:
            self._weights[row] = self._scene(name)[2].read(tile)
        return self._weights[row] if window is None else self._weights[row][window.slices(within=tile)]

    def _window(self, row: int, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, mask, _ = self._scene(str(self._catalog.scene_names[row]))
        pixels, valid = image.read(window)
        index = mask.read(window)
        index[~valid] = IGNORE
        if row in self._catalog.hidden:
            index[np.isin(index, self._catalog.hidden[row])] = IGNORE
        return pixels, valid, index

    def _scene(self, name: str) -> tuple[Any, Any, Any]:
        if self._process != os.getpid():
            # A forked worker must not read through its parent's handles: they share one position in the file.
            self._open, self._process = OrderedDict(), os.getpid()
        if name in self._open:
            self._open.move_to_end(name)
        else:
            record = self._catalog.scenes[name]
            self._open[name] = (record.open_image(), self._catalog.open_mask(name), record.open_weights())
            if len(self._open) > _OPEN_SCENES:
                for reader in self._open.popitem(last=False)[1]:
                    if reader is not None:
                        reader.close()
        return self._open[name]
