"""`Mask`: class indices by window, whatever the labels are stored as."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from raremap.labels import IGNORE, LabelScheme
from raremap.scene.fractions import holds_fractions, open_fractions
from raremap.scene.maskfile import WeightReader, open_mask, open_weights
from raremap.scene.shares import SharedMask
from raremap.scene.vectors import open_vector

if TYPE_CHECKING:
    from raremap.scene.grid import Grid
    from raremap.scene.vector_options import VectorOptions
    from raremap.scene.window import Window


class Mask(Protocol):
    """Labels on a scene's grid; opened on first use, and picklable."""

    @property
    def grid(self) -> Grid:
        """The grid that windows are of."""
        ...

    @property
    def remark(self) -> str | None:
        """What a user should know of these labels, in one line."""
        ...

    @property
    def soft(self) -> bool:
        """Whether a cell may hold several classes."""
        ...

    def read(self, window: Window) -> np.ndarray:
        """Class index uint8 `[h, w]` of a window, of the largest share where `soft`; `IGNORE` where unlabelled."""
        ...

    def shares(self, window: Window) -> np.ndarray:
        """Shares uint8 `[K, h, w]` (`raremap.scene.shares`); they count where `read` gives a class."""
        ...

    def close(self) -> None:
        """Give files and memory back; the next read opens them again."""
        ...

    def __enter__(self) -> Mask: ...

    def __exit__(self, *_: object) -> None: ...


class Weighted:
    """A mask that is unlabelled where its labels weigh nothing; `weights` are for the loss."""

    def __init__(self, mask: Mask, weights: WeightReader) -> None:
        self.mask, self.weights = mask, weights

    @property
    def grid(self) -> Grid:
        """The grid of both."""
        return self.mask.grid

    @property
    def remark(self) -> str | None:
        """What the mask says."""
        return self.mask.remark

    @property
    def soft(self) -> bool:
        """What the mask is."""
        return self.mask.soft

    def __enter__(self) -> Weighted:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close both."""
        self.mask.close()
        self.weights.close()

    def read(self, window: Window) -> np.ndarray:
        """Class index uint8 `[h, w]` of a window; `IGNORE` where unlabelled or of weight 0."""
        index = self.mask.read(window)
        index[self.weights.read(window) == 0] = IGNORE
        return index

    def shares(self, window: Window) -> np.ndarray:
        """The mask's own shares `[K, h, w]`."""
        return self.mask.shares(window)


def open_labels(
    path: str | Path,
    scheme: LabelScheme,
    grid: Grid,
    vector: VectorOptions | None = None,
    weights: str | Path | None = None,
) -> Mask:
    """The labels of a scene on its image's grid: a raster of classes or of fractions, or with `vector` a layer;
    unlabelled where `weights` are 0."""
    mask: Mask
    if vector is not None:
        layer = open_vector(path, vector, scheme, grid)
        mask = SharedMask(layer, scheme) if vector.fractions else layer
    elif holds_fractions(path, scheme):
        mask = SharedMask(open_fractions(path, scheme, grid), scheme)
    else:
        mask = open_mask(path, scheme, grid)
    return mask if weights is None else Weighted(mask, open_weights(weights, grid))
