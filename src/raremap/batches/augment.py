"""Augmentation of one sample, from its own random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from raremap.balance.paste import terrain_bands
from raremap.batches.options import AugmentOptions
from raremap.errors import ConfigError, nearest

if TYPE_CHECKING:
    from raremap.scene.features.channels import Channels
    from raremap.scene.features.pixels import Pixels
    from raremap.scene.normalize import Normalization


def drawn_turn(options: AugmentOptions, rng: np.random.Generator) -> int:
    """Which of the eight flips and quarter turns (`scene.turn`); 0 where they are switched off.

    The same random numbers are drawn whatever the options, here and in `Jitter`, so that switching one part off
    leaves the others as they were.
    """
    code = int(rng.integers(8))
    return code if options.dihedral else 0


def drawn_scale(options: AugmentOptions, rng: np.random.Generator) -> float:
    """What a crop is enlarged by."""
    if options.scale is None:
        return 1.0
    low, high = (math.log(s) for s in options.scale)
    return math.exp(low + rng.random() * (high - low))


class Jitter:
    """Another gain and offset for each band, as stored, so that features of it are made as of any other scene."""

    def __init__(self, options: AugmentOptions, channels: Channels, normalization: Normalization) -> None:
        bands = channels.bands
        for name in options.still:
            if name not in bands:
                raise ConfigError(
                    f"augment.still names '{name}', which is not a band; {nearest(name, bands)}"
                )
        self._moved, self._options = _moved(options, channels), options
        self._shift = np.array(normalization.shift[: len(bands)])
        self._scale = np.array(normalization.scale[: len(bands)])

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """The pixels with their bands changed."""
        o, count = self._options, len(self._moved)
        gain, offset = np.exp(rng.normal(0, 1, count) * o.gain), rng.normal(0, 1, count) * o.offset
        if not ((o.gain or o.offset) and self._moved.any()):
            return pixels
        # (x - shift)·scale becomes gain·(x - shift)·scale + offset.
        gain = np.where(self._moved, gain, 1.0)
        add = np.where(self._moved, self._shift * (1 - gain) + offset / self._scale, 0.0)
        image = pixels.image * gain[:, None, None].astype(np.float32)
        image += add[:, None, None].astype(np.float32)
        return replace(pixels, image=image, _made={})


def lasting(options: AugmentOptions, channels: Channels) -> tuple[int, ...]:
    """The places of the features that jitter and scale leave as the scene has them."""
    if options.scale is not None:
        return ()
    moved = _moved(options, channels)
    if not (options.gain or options.offset):
        moved[:] = False
    return tuple(
        i for i, f in enumerate(channels.features) if not moved[_indices(f.inputs, channels.bands)].any()
    )


def _moved(options: AugmentOptions, channels: Channels) -> np.ndarray:
    """Which bands jitter moves, bool."""
    bands = channels.bands
    still = {*terrain_bands(bands), *(bands.index(n) for n in options.still)}
    still |= {i for f in channels.features if f.grounded for i in _indices(f.inputs, bands)}
    return np.array([i not in still for i in range(len(bands))])


def _indices(names: Sequence[str], bands: tuple[str, ...]) -> list[int]:
    from raremap.scene.features.names import find_band

    return [bands.index(b) for n in names if (b := find_band(n, bands)) is not None]
