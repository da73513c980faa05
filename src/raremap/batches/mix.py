"""CutMix: a rectangle of one sample in another."""

from __future__ import annotations

import numpy as np


def cutmix(
    sample: dict[str, np.ndarray], other: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """A sample with a rectangle of another at the same place, in every array `[..., h, w]` of both.

    After Yun et al. (2019): the rectangle's share of the image is even between 0 and 1, its sides are as the
    image's, and its middle lies anywhere, so that what hangs over the border is lost. Channels come with their
    pixels: features were made before, of either ground by itself, and the seam is no edge in them. What is ignored
    in either stays ignored.
    """
    box = rectangle(sample["mask"].shape, rng)
    out = dict(sample)
    for name, values in sample.items():
        out[name] = values.copy()
        out[name][..., *box] = other[name][..., *box]
    return out


def rectangle(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of the rectangle."""
    side = np.sqrt(rng.random())
    middle = rng.random(2)

    def along(length: int, at: float) -> slice:
        half = side * length / 2
        first, end = (round(min(max(at * length + by, 0), length)) for by in (-half, half))
        return slice(first, end)

    return along(shape[0], middle[0]), along(shape[1], middle[1])
