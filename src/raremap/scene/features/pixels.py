"""`Pixels`: a window of a scene as features see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from raremap.scene.features.names import require_band
from raremap.scene.turn import dihedral

if TYPE_CHECKING:
    from raremap.scene.steps import Steps

Ranges = Mapping[str, tuple[float, float]]
"""The least and greatest valid value of bands in a scene."""

GREY = "grey"


@dataclass(frozen=True)
class Pixels:
    """Image `[C, h, w]` as stored and validity `[h, w]`, with the names of the bands.

    `steps` are those of its pixels on the ground, None where unknown; `ranges` those of the whole scene.
    What lies outside of the arrays is as if it were invalid.
    """

    image: np.ndarray
    valid: np.ndarray
    bands: tuple[str, ...]
    steps: Steps | None = None
    ranges: Ranges = field(default_factory=dict)
    _made: dict[str, np.ndarray] = field(default_factory=dict)

    def band(self, name: str, of: str) -> np.ndarray:
        """A band `[h, w]` as stored; `of` is the feature that asks."""
        return self.image[self.bands.index(require_band(name, self.bands, of))]

    def layer(self, name: str, of: str) -> np.ndarray:
        """A band, or "grey", the mean of red, green and blue: float32 `[h, w]`, 0 where it is invalid."""
        if name not in self._made:
            if name == GREY:
                red, green, blue = (self.band(n, of) for n in ("red", "green", "blue"))
                grey = (red.astype(np.float32) + green.astype(np.float32) + blue.astype(np.float32)) / 3
            else:
                grey = self.band(name, of).astype(np.float32)
            self._made[name] = np.where(self.valid, grey, np.float32(0))
        return self._made[name]

    def turned(self, code: int) -> Pixels:
        """The same, turned: as if the scene lay so on the ground."""
        if code == 0:
            return self
        steps = self.steps.turned(code) if self.steps is not None else None
        image, valid = dihedral(self.image, code), dihedral(self.valid, code)
        return Pixels(image, valid, self.bands, steps, self.ranges)
