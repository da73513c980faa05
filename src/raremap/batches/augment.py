"""Augmentation of one sample, from its own random numbers."""

from __future__ import annotations

import numpy as np

from raremap.balance.paste import dihedral
from raremap.batches.options import AugmentOptions


def augment(
    image: np.ndarray, mask: np.ndarray, valid: np.ndarray, options: AugmentOptions, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """An image `[C, h, w]` (normalised float32) and its mask `[h, w]`, changed; invalid pixels stay 0.

    The same random numbers are drawn whatever the options, so that switching one part off leaves the
    others as they were.
    """
    code = int(rng.integers(8))
    gain = np.exp(rng.normal(0, 1, len(image)) * options.gain).astype(np.float32)
    offset = (rng.normal(0, 1, len(image)) * options.offset).astype(np.float32)
    if options.gain or options.offset:
        image = image * gain[:, None, None]
        image += offset[:, None, None] * valid
    if options.dihedral:
        image, mask = dihedral(image, code), dihedral(mask, code)
    return image, mask
