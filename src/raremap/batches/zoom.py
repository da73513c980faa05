"""Windows of pixels shown larger or smaller: areas averaged where they shrink, interpolated where they grow."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from raremap.tiles.reader import Cut


@dataclass(frozen=True)
class Zoom:
    """A window whose sides were chosen so that it fills `size` pixels `(height, width)`, or what there is of it."""

    size: tuple[int, int]

    @classmethod
    def of(cls, crop: int, scale: float, tile: tuple[int, int]) -> tuple[Zoom, tuple[int, int]]:
        """The zoom of a crop that is enlarged by `scale`, and the window that it needs in a tile `(height, width)`.

        >>> Zoom.of(100, 0.5, (300, 120))
        (Zoom(size=(100, 60)), (200, 120))
        """
        # Rounded so that nothing is shown smaller than `scale` says: features would need more around it.
        wanted = max(1, math.floor(crop / scale))
        window = (min(wanted, tile[0]), min(wanted, tile[1]))
        size = (_shown(window[0], wanted, crop), _shown(window[1], wanted, crop))
        return cls(size), window

    def margin(self, window: tuple[int, int], margin: int) -> int:
        """Pixels around the window that become `margin` pixels around what is shown."""
        return max(math.ceil(margin * w / s) for w, s in zip(window, self.size, strict=True))

    def __call__(self, cut: Cut) -> Cut:
        """The cut as it is shown. A pixel is valid, and has the class, that the one at its middle has.

        Features are made anew of what is shown, with the pixel's size as it is then on the ground.
        """
        pixels, margin = cut.pixels, cut.channels.margin
        rows, cols = (
            _Axis(length, inner.start, inner.stop - inner.start, size, margin)
            for length, inner, size in zip(pixels.valid.shape, cut.inner, self.size, strict=True)
        )
        nearest = np.ix_(rows.nearest, cols.nearest)
        valid = pixels.valid[nearest]
        image = shown(pixels.image, pixels.valid, rows.weights, cols.weights)
        steps = pixels.steps
        if steps is not None:
            steps = steps.zoomed(rows.nearest, cols.nearest, rows.zoom, cols.zoom)
        return replace(
            cut,
            pixels=replace(pixels, image=image, valid=valid, steps=steps, _made={}),
            inner=(rows.inner, cols.inner),
            mask=self.nearest(cut.mask),
            known={},
        )

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """Values `[..., h, w]` of the window as they are shown: at each pixel that at its middle."""
        rows, cols = (_middles(n, size) for n, size in zip(values.shape[-2:], self.size, strict=True))
        return values[..., rows[:, None], cols]


def shown(image: np.ndarray, valid: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """An image `[C, h, w]` by weights `[H, h]` and `[W, w]` of rows and columns, float32; invalid pixels count nothing."""
    image = image.astype(np.float32)
    if valid.all():
        return rows @ image @ cols.T
    there = np.maximum(rows @ valid.astype(np.float32) @ cols.T, 1e-6)
    return (rows @ np.where(valid, image, 0) @ cols.T) / there


class _Axis:
    """One side: `weights` `[shown, there]`, the `nearest` pixel of each, and where the window itself lies (`inner`)."""

    def __init__(self, there: int, start: int, length: int, size: int, margin: int) -> None:
        self.zoom = size / length
        before = min(margin, math.floor(start * self.zoom + 1e-9))
        after = min(margin, math.floor((there - start - length) * self.zoom + 1e-9))
        self.inner = slice(before, before + size)
        self.weights = weights(there, start, length, size, before, after)
        middle = start + (np.arange(-before, size + after) * 2 + 1) * length / (2 * size)
        self.nearest = np.clip(np.floor(middle).astype(int), 0, there - 1)
        self.nearest[self.inner] = start + _middles(length, size)


def weights(there: int, start: int, length: int, size: int, before: int = 0, after: int = 0) -> np.ndarray:
    """How much each of `there` pixels counts in each shown one, float32 `[before + size + after, there]`, sums of 1.

    `length` pixels from `start` on are shown as `size`, with some more `before` and `after`. Fewer are shown: each
    is the mean of the ground that it covers. More: between the middles of two it is interpolated.

    >>> (3 * weights(3, 0, 3, 2)).round().tolist()
    [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]
    """
    step, pixel = length / size, np.arange(there)
    first = start + np.arange(-before, size + after) * step
    if step > 1:
        covered = np.minimum(first[:, None] + step, pixel + 1) - np.maximum(first[:, None], pixel)
        out = np.maximum(covered, 0)
    else:
        middle = np.clip(first + step / 2 - 0.5, 0, there - 1)
        out = np.maximum(1 - np.abs(middle[:, None] - pixel), 0)
    return (out / out.sum(1, keepdims=True)).astype(np.float32)


@lru_cache(1024)
def _middles(length: int, size: int) -> np.ndarray:
    """The pixel at the middle of each shown one, in whole numbers, so the same everywhere."""
    return (2 * np.arange(size) + 1) * length // (2 * size)


def _shown(there: int, wanted: int, crop: int) -> int:
    return crop if there == wanted else math.ceil(there * crop / wanted)
