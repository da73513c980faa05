"""`Store`: what is read of scenes again and again, decoded, in one file of blocks that is mapped into memory."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raremap.errors import OutputError

if TYPE_CHECKING:
    from raremap.scene.window import Window

BLOCK = 256
# Where arrays begin: at multiples of a cache line, so that every type is aligned.
_ALIGN = 64


class Layer(NamedTuple):
    """One array of a block; `bands` 0 stands for `[h, w]`."""

    dtype: str
    bands: int

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Its shape at a size."""
        return (self.bands, height, width) if self.bands else (height, width)


_WEIGHTS = Layer("float32", 0)


@dataclass(frozen=True)
class Form:
    """What the blocks of a scene hold: the arrays of a block, in their order."""

    layers: tuple[Layer, ...]

    @classmethod
    def of_scene(cls, dtype: str, bands: int, weighted: bool, shares: int) -> Form:
        """The image, its validity, class indices, and where there are any label weights.

        Where labels are shared, `shares` is the number of the classes whose shares are held too.
        """
        found = [Layer(dtype, bands), Layer("bool", 0), Layer("uint8", 0)]
        if weighted:
            found.append(_WEIGHTS)
        if shares:
            found.append(Layer("uint8", shares))
        return cls(tuple(found))

    @property
    def pixel(self) -> int:
        """Bytes of a pixel."""
        return sum(np.dtype(layer.dtype).itemsize * max(1, layer.bands) for layer in self.layers)

    def size(self, height: int, width: int) -> int:
        """Bytes of a block."""
        return _places(self, height, width)[-1]

    def pack(self, arrays: Sequence[np.ndarray]) -> bytes:
        """A block's arrays as they stand in the file."""
        parts = []
        for array, layer in zip(arrays, self.layers, strict=True):
            data = np.ascontiguousarray(array, layer.dtype).tobytes()
            parts.append(data + bytes(-len(data) % _ALIGN))
        return b"".join(parts)


def touched(window: Window) -> tuple[slice, slice]:
    """The rows and columns of blocks that a window touches."""
    return (
        slice(window.row_off // BLOCK, -(-window.row_end // BLOCK)),
        slice(window.col_off // BLOCK, -(-window.col_end // BLOCK)),
    )


@lru_cache(4096)
def _places(form: Form, height: int, width: int) -> tuple[int, ...]:
    """Where each layer of a block begins, and where the last one ends."""
    ends = [0]
    for layer in form.layers:
        size = np.dtype(layer.dtype).itemsize * max(1, layer.bands) * height * width
        ends.append(ends[-1] + size + -size % _ALIGN)
    return tuple(ends)


@dataclass(frozen=True)
class StoredScene:
    """Where the blocks of a scene begin in the file: `offsets` `[rows, cols]`, -1 where one is not held."""

    height: int
    width: int
    form: Form
    offsets: np.ndarray


class Store:
    """Windows of scenes as they were read once; `open` gives the readers of one. Picklable, and safe to fork."""

    def __init__(self, path: Path, scenes: dict[str, StoredScene]) -> None:
        self.path, self._scenes = path, scenes
        self._map: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def open(self, name: str) -> tuple[StoredImage, StoredLabels, StoredLayer | None]:
        """The image, the labels and the label weights of a scene, to be read by window."""
        layers = self._scenes[name].form.layers
        weights = StoredLayer(self, name, 3) if _WEIGHTS in layers else None
        return StoredImage(self, name), StoredLabels(self, name, layers), weights

    def holds(self, name: str, window: Window) -> bool:
        """Whether it has all blocks of a window."""
        scene = self._scenes.get(name)
        return scene is not None and bool((scene.offsets[touched(window)] >= 0).all())

    def read(self, name: str, window: Window, layers: Sequence[int]) -> list[np.ndarray]:
        """Some layers of a window, whose blocks must be held."""
        scene, data = self._scenes[name], self._data()
        what = scene.form.layers
        out = [np.empty(what[n].shape(window.height, window.width), what[n].dtype) for n in layers]
        row_end, col_end = window.row_end, window.col_end
        for i in range(window.row_off // BLOCK, (row_end - 1) // BLOCK + 1):
            top, bottom = i * BLOCK, min((i + 1) * BLOCK, scene.height)
            r0, r1 = max(top, window.row_off), min(bottom, row_end)
            for j in range(window.col_off // BLOCK, (col_end - 1) // BLOCK + 1):
                left, right = j * BLOCK, min((j + 1) * BLOCK, scene.width)
                c0, c1 = max(left, window.col_off), min(right, col_end)
                start = int(scene.offsets[i, j])
                assert start >= 0, f"block {i}, {j} of {name} is not in {self.path}"
                places = _places(scene.form, bottom - top, right - left)
                here = (..., slice(r0 - window.row_off, r1 - window.row_off))
                here += (slice(c0 - window.col_off, c1 - window.col_off),)
                there = (..., slice(r0 - top, r1 - top), slice(c0 - left, c1 - left))
                for array, n in zip(out, layers, strict=True):
                    shape = what[n].shape(bottom - top, right - left)
                    block: np.ndarray = np.ndarray(shape, what[n].dtype, data, start + places[n])
                    array[here] = block[there]
        return out

    def mapped(self) -> Store:
        """The same, its file mapped now: deleted later, it can be read on."""
        if self._scenes:
            self._data()
        return self

    def _data(self) -> mmap.mmap:
        if self._map is None:
            try:
                with self.path.open("rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise OutputError(
                    f"the cache {self.path} cannot be read ({error.strerror}); start again, or set train.cache: false"
                ) from None
        return self._map


class StoredImage:
    """The image of a scene in a store."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Image `[C, h, w]` in the file's own numbers and validity `[h, w]` of a window."""
        image, valid = self._store.read(self._name, window, (0, 1))
        return image, valid

    def close(self) -> None:
        """Nothing is open."""


class StoredLayer:
    """One layer of a scene in a store."""

    def __init__(self, store: Store, name: str, layer: int) -> None:
        self._store, self._name, self._layer = store, name, layer

    def read(self, window: Window) -> np.ndarray:
        """The layer `[h, w]` of a window, free to be changed."""
        return self._store.read(self._name, window, (self._layer,))[0]

    def close(self) -> None:
        """Nothing is open."""


class StoredLabels(StoredLayer):
    """The class indices of a scene in a store, and the shares of classes where labels are shared."""

    def __init__(self, store: Store, name: str, layers: Sequence[Layer]) -> None:
        super().__init__(store, name, 2)
        self.soft = layers[-1].bands > 0
        self._shares = len(layers) - 1

    def shares(self, window: Window) -> np.ndarray:
        """Shares of the classes uint8 `[K, h, w]` of a window, free to be changed."""
        return self._store.read(self._name, window, (self._shares,))[0]
