"""`TileReader`: the pixels and labels of tiles, decoded once where they fit in memory."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.labels import IGNORE
from raremap.scene.features.channels import Channels, Known
from raremap.scene.features.reader import ranges_of
from raremap.scene.shares import largest, without
from raremap.scene.window import Window

if TYPE_CHECKING:
    from raremap.scene.features.options import Feature
    from raremap.scene.features.pixels import Pixels, Ranges
    from raremap.scene.grid import Grid
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.store import Store

# Tiles kept decoded, as stored (uint8 stays uint8); more are read by window each time.
_MEMORY = 2 << 30
_OPEN_SCENES = 64

Tile = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Cut:
    """A part of a tile, whose features are made when they are asked for; `mask` is its class index `[h, w]`.

    Those that are `known` are read instead, where they are the same to the last bit.
    """

    channels: Channels
    pixels: Pixels
    inner: tuple[slice, slice]
    mask: np.ndarray
    known: Known = field(default_factory=dict)

    @property
    def valid(self) -> np.ndarray:
        """Validity `[h, w]`."""
        return self.pixels.valid[self.inner]

    def image(self, turn: int = 0) -> np.ndarray:
        """Bands as stored `[C, h, w]`; with features after them, as float32.

        Those are the features that the scene would have if it lay turned, before the turn (`Channels.compute`).
        """
        rows, cols = self.inner
        if not self.channels.features:
            return self.pixels.image[:, rows, cols]
        return self.channels.compute(self.pixels, turn, self.inner, self.known)

    def shown(self, pixels: Pixels, lasting: Collection[int]) -> Cut:
        """The same with other values of the pixels, which leave the features at the places `lasting` as they are."""
        return replace(self, pixels=pixels, known={i: read for i, read in self.known.items() if i in lasting})


class TileReader:
    """Tiles of a catalog as `(image, valid, index mask)`, decoded once where all of them fit in memory.

    `whole` and `crop` give the bands as they are stored. `sample` and `cut` give what a network sees: with
    `features`, these after the bands, as they are in the whole scene. Tiles are kept with as much around them as the features
    need, as stored; features are made anew for each sample, which may show the ground `least_scale` times as large.
    """

    def __init__(
        self,
        catalog: Catalog,
        rows: np.ndarray,
        memory: int = _MEMORY,
        features: Sequence[Feature] = (),
        least_scale: float = 1.0,
    ) -> None:
        self._catalog = catalog
        grids = [s.grid for s in catalog.scenes.values()]
        self.channels = Channels.of(catalog.bands, features, grids)
        self._margin = math.ceil(self.channels.margin / least_scale)
        self._readers: dict[str, tuple[Any, Any, Any]] = {}
        self._open: OrderedDict[str, tuple[Any, Any, Any]] = OrderedDict()
        self._process = os.getpid()
        self._kept: dict[int, Tile] = {}
        self._weights: dict[int, np.ndarray] = {}
        self._shares: dict[int, np.ndarray] = {}
        # Share of usable pixels, which rounds to 1 for no tile of less than 2²⁴ pixels that lacks one.
        self._valid = catalog.table["valid"].to_numpy(float)
        windows = [self._around(r) for r in rows]
        self._store: Store | None = None
        self._features: dict[int, Store] = {}
        scenes = dict.fromkeys(str(catalog.scene_names[r]) for r in rows)
        with catalog.open_image(next(iter(scenes))) as image:
            per_pixel = len(image.bands) * image.dtype.itemsize + 2
        if any(scene.weights for scene in catalog.scenes.values()):
            per_pixel += 4
        if catalog.soft:
            per_pixel += catalog.scheme.num_classes
        self._keep = sum(w.height * w.width for w in windows) * per_pixel <= memory
        self._rows = rows
        self._ranges: dict[str, Ranges] = {}
        if ranged := self.channels.ranged:
            for scene in scenes:
                with catalog.open_image(scene) as image:
                    self._ranges[scene] = ranges_of(image, ranged)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_readers": {}}

    @property
    def in_memory(self) -> bool:
        """Whether the tiles are decoded once and kept."""
        return self._keep

    @property
    def windows(self) -> dict[str, list[Window]]:
        """What may be read of each scene: the tiles with what their features need around them."""
        return self._by_scene(self._rows, self._around)

    def tiles(self, rows: np.ndarray | None = None) -> dict[str, list[Window]]:
        """The tiles of some rows, or all, by scene."""
        return self._by_scene(self._rows if rows is None else rows, self._catalog.windows.__getitem__)

    def _by_scene(self, rows: np.ndarray, window: Callable[[int], Window]) -> dict[str, list[Window]]:
        found: dict[str, list[Window]] = {}
        for row in np.unique(rows):
            found.setdefault(str(self._catalog.scene_names[row]), []).append(window(int(row)))
        return found

    @property
    def store(self) -> Store | None:
        """The store that it reads from, if there is one."""
        return self._store

    def use(self, store: Store) -> None:
        """Read from now on from a store that holds `windows`."""
        self._store, self._keep, self._kept = store, False, {}
        self._readers, self._open = {}, OrderedDict()

    def use_features(self, stores: Mapping[Feature, Store]) -> None:
        """Read features, where they are as the scene has them, from stores that hold some of their windows."""
        features = self.channels.features
        self._features = {i: stores[f] for i, f in enumerate(features) if f in stores}

    def load(self, rows: np.ndarray) -> None:
        """Decode these tiles now, before workers are started: they share the memory."""
        if self._keep:
            for row in np.unique(rows):
                self.whole(int(row))
                self.weight(int(row))
                self.shares(int(row))

    def fit_features(self, rows: np.ndarray) -> tuple[Feature, ...]:
        """The features with all their numbers, those that were still open taken from these tiles; used from now on."""
        # Of the tiles alone: what lies around them may be another use's.
        windows = ((int(row), self._catalog.windows[row]) for row in rows)
        tiles = (self._pixels(row, window, *self.crop(row, window)[:2]) for row, window in windows)
        self.channels = self.channels.fitted(tiles)
        return self.channels.features

    def whole(self, row: int) -> Tile:
        """Image `[C, h, w]` as stored, validity and class index `[h, w]` (`IGNORE` where invalid) of a tile."""
        return self.crop(row, self._catalog.windows[row])

    def labels(self, row: int) -> np.ndarray:
        """Class index `[h, w]` of a tile, as `whole` has it; without its imagery where all of that is valid."""
        if row in self._kept or not self._valid[row] >= 1:
            return self.whole(row)[2]
        return self._index(row, self._catalog.windows[row])

    def crop(self, row: int, window: Window) -> Tile:
        """The same of a window in a tile or its surroundings, in scene coordinates."""
        if not self._keep:
            return self._window(row, window)
        around = self._around(row)
        if row not in self._kept:
            self._kept[row] = self._window(row, around)
        image, valid, mask = self._kept[row]
        if window == around:
            return image, valid, mask
        rows, cols = window.slices(within=around)
        return image[:, rows, cols], valid[rows, cols], mask[rows, cols]

    def sample(self, row: int) -> Tile:
        """A tile as a network sees it: bands and, where there are any, features, as float32 `[C, h, w]`."""
        cut = self.cut(row, self._catalog.windows[row])
        return cut.image(), cut.valid, cut.mask

    def cut(self, row: int, window: Window, over: Tile | None = None, margin: int | None = None) -> Cut:
        """A window inside a tile, with what its features need around it; `over`, a composite, is in the tile's place.

        `margin`: so much instead, at most what they need at the least scale.
        """
        grown = self.channels.grown(window, self._grid(row), margin)
        image, valid, mask = self._pasted(row, grown, over)
        inner, known = window.slices(within=grown), {}
        if over is None and margin is None:
            known = {i: partial(self._known, store, row, window) for i, store in self._features.items()}
        return Cut(self.channels, self._pixels(row, grown, image, valid), inner, mask[inner], known)

    def _known(self, store: Store, row: int, window: Window) -> np.ndarray | None:
        """A feature `[n, h, w]` of a window as a store has it, or None."""
        name = str(self._catalog.scene_names[row])
        return store.read(name, window, (0,))[0] if store.holds(name, window) else None

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

    def shares(self, row: int, window: Window | None = None) -> np.ndarray | None:
        """Shares of the classes uint8 `[K, h, w]` (`raremap.scene.shares`) in a tile or a window inside it.

        They count where the class index of `labels` or `cut` has a class. None where no label of the catalog is shared.
        """
        if not self._catalog.soft:
            return None
        tile = self._catalog.windows[row]
        if not self._keep:
            return self._shared(row, window or tile)
        if row not in self._shares:
            self._shares[row] = self._shared(row, tile)
        return self._shares[row] if window is None else self._shares[row][:, *window.slices(within=tile)]

    def _shared(self, row: int, window: Window) -> np.ndarray:
        shares = self._scene(str(self._catalog.scene_names[row]))[1].shares(window)
        return without(shares, self._catalog.hidden[row]) if row in self._catalog.hidden else shares

    def _pasted(self, row: int, window: Window, over: Tile | None) -> Tile:
        """A window of a tile and its surroundings with `over` in the tile's place."""
        tile = self._catalog.windows[row]
        if over is not None and window.intersect(tile) == window:
            rows, cols = window.slices(within=tile)
            return over[0][:, rows, cols], over[1][rows, cols], over[2][rows, cols]
        image, valid, mask = self.crop(row, window)
        if over is not None:
            image, valid, mask = image.copy(), valid.copy(), mask.copy()
            inside = tile.intersect(window)
            here, there = inside.slices(within=window), inside.slices(within=tile)
            image[:, *here], valid[here], mask[here] = over[0][:, *there], over[1][there], over[2][there]
        return image, valid, mask

    def _pixels(self, row: int, window: Window, image: np.ndarray, valid: np.ndarray) -> Pixels:
        ranges = self._ranges.get(str(self._catalog.scene_names[row]))
        return self.channels.pixels(image, valid, self._grid(row), window, ranges)

    def _grid(self, row: int) -> Grid:
        return self._catalog.scenes[str(self._catalog.scene_names[row])].grid

    def _around(self, row: int) -> Window:
        """A tile with the margin of its features."""
        return self.channels.grown(self._catalog.windows[row], self._grid(row), self._margin)

    def _window(self, row: int, window: Window) -> Tile:
        pixels, valid = self._scene(str(self._catalog.scene_names[row]))[0].read(window)
        index = self._index(row, window)
        index[~valid] = IGNORE
        return pixels, valid, index

    def _index(self, row: int, window: Window) -> np.ndarray:
        mask = self._scene(str(self._catalog.scene_names[row]))[1]
        index = mask.read(window)
        if row in self._catalog.hidden and mask.soft:
            index = np.where(index == IGNORE, index, largest(self._shared(row, window), self._catalog.scheme))
        elif row in self._catalog.hidden:
            index[np.isin(index, self._catalog.hidden[row])] = IGNORE
        if row in self._catalog.points:
            index[~self._points_in(row, window)] = IGNORE
        return index

    def _points_in(self, row: int, window: Window) -> np.ndarray:
        """Which pixels of a window are points of the tile; around it there are none."""
        tile = self._catalog.windows[row]
        points = np.zeros((tile.height, tile.width), bool)
        points.ravel()[self._catalog.points[row]] = True
        out = np.zeros((window.height, window.width), bool)
        inside = tile.intersect(window)
        out[inside.slices(within=window)] = points[inside.slices(within=tile)]
        return out

    def _scene(self, name: str) -> tuple[Any, Any, Any]:
        if self._process != os.getpid():
            # A forked worker must not read through its parent's handles: they share one position in the file.
            self._open, self._readers, self._process = OrderedDict(), {}, os.getpid()
        if name in self._open:
            self._open.move_to_end(name)
        else:
            # Kept for good, since to look into a file what it holds costs as much again as to open it.
            if name not in self._readers:
                self._readers[name] = self._readers_of(name)
            self._open[name] = self._readers[name]
            if len(self._open) > _OPEN_SCENES:
                for reader in self._open.popitem(last=False)[1]:
                    if reader is not None:
                        reader.close()
        return self._open[name]

    def _readers_of(self, name: str) -> tuple[Any, Any, Any]:
        """Image, mask and label weights of a scene; none is open yet."""
        if self._store is not None:
            return self._store.open(name)
        record = self._catalog.scenes[name]
        return record.open_image(), self._catalog.open_mask(name), record.open_weights()
