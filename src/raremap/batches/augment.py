"""Augmentation of one sample, from its own random numbers."""

from __future__ import annotations

import numpy as np

from raremap.batches.options import AugmentOptions
from raremap.scene.turn import dihedral


def augment(
    image: np.ndarray,
    mask: np.ndarray,
    valid: np.ndarray,
    options: AugmentOptions,
    rng: np.random.Generator,
    turn: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """An image `[C, h, w]` (normalised float32) and its mask `[h, w]`, changed; invalid pixels stay 0.

    The same random numbers are drawn whatever the options, so that switching one part off leaves the
    others as they were. `turn` is what `drawn_turn` gave, where it was asked before.
    """
    turn = drawn_turn(options, rng) if turn is None else turn
    gain = np.exp(rng.normal(0, 1, len(image)) * options.gain).astype(np.float32)
    offset = (rng.normal(0, 1, len(image)) * options.offset).astype(np.float32)
    if options.gain or options.offset:
        image = image * gain[:, None, None]
        image += offset[:, None, None] * valid
    return dihedral(image, turn), dihedral(mask, turn)


def drawn_turn(options: AugmentOptions, rng: np.random.Generator) -> int:
    """Which of the eight flips and quarter turns (`scene.turn`); 0 where they are switched off."""
    code = int(rng.integers(8))
    return code if options.dihedral else 0
