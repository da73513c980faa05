"""`Views`: the channels that several networks want of a scene, and of the scene turned, each made once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raremap.scene.features.channels import Channels
from raremap.scene.features.reader import FeatureReader
from raremap.scene.turn import dihedral, undone

if TYPE_CHECKING:
    from raremap.scene.features.options import Feature
    from raremap.scene.features.pixels import Pixels, Ranges
    from raremap.scene.grid import Grid
    from raremap.scene.raster import Image, ImageReader
    from raremap.scene.window import Window

log = logging.getLogger("raremap")


@dataclass(frozen=True, eq=False)
class Views:
    """The `bands`, then each feature of `made` as it is after a turn of the scene, laid out as if it had not been turned.

    A feature that survives a turn is made once for it and for the scene as it lies. The rows of a network and a
    turn, once turned, are what that network would be given of the turned scene.
    """

    channels: Channels
    made: tuple[tuple[Feature, int], ...]
    wanted: tuple[dict[int, tuple[int, ...]], ...]

    @classmethod
    def of(cls, bands: Sequence[str], sets: Sequence[Sequence[Feature]], turns: Sequence[int]) -> Views:
        """The views of `turns` for networks that want the `sets` of features."""
        made: list[tuple[Feature, int]] = []
        wanted: list[dict[int, tuple[int, ...]]] = []
        for features in sets:
            by_turn: dict[int, tuple[int, ...]] = {}
            for code in turns:
                asked = [(f, 0 if code in f.survives else code) for f in features]
                for one in asked:
                    if one not in made:
                        made.append(one)
                by_turn[code] = tuple(made.index(one) for one in asked)
            wanted.append(by_turn)
        return cls(Channels(tuple(bands), tuple(f for f, _ in made)), tuple(made), tuple(wanted))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all channels; those of one feature after several turns are alike."""
        return self.channels.names

    @property
    def ranged(self) -> tuple[str, ...]:
        """The bands whose range in the scene must be known."""
        return self.channels.ranged

    @property
    def anew(self) -> tuple[str, ...]:
        """What is made anew after a turn, by name."""
        return tuple(dict.fromkeys(f.called for f, code in self.made if code))

    def rows(self, network: int, code: int) -> np.ndarray | None:
        """The channels of a network for a turn; None where they are all, in order."""
        widths = [len(f.channels) for f, _ in self.made]
        starts = np.cumsum([len(self.channels.bands), *widths])
        parts = [np.arange(starts[i], starts[i] + widths[i]) for i in self.wanted[network][code]]
        rows = np.concatenate([np.arange(len(self.channels.bands)), *parts])
        return None if np.array_equal(rows, np.arange(starts[-1])) else rows

    def grown(self, window: Window, grid: Grid) -> Window:
        """The window with the margin of all features, as far as the scene reaches."""
        return self.channels.grown(window, grid)

    def pixels(
        self, image: np.ndarray, valid: np.ndarray, grid: Grid, window: Window, ranges: Ranges | None = None
    ) -> Pixels:
        """The pixels of a window of a scene as features need them."""
        return self.channels.pixels(image, valid, grid, window, ranges)

    def compute(self, pixels: Pixels) -> np.ndarray:
        """All channels float32 `[C, h, w]` of pixels; features are 0 where those are invalid."""
        out = np.empty((len(self.names), *pixels.valid.shape), np.float32)
        at = len(self.channels.bands)
        out[:at] = pixels.image
        turned = {code: pixels.turned(code) for code in {code for _, code in self.made}}
        for feature, code in self.made:
            n = len(feature.channels)
            out[at : at + n] = dihedral(feature(turned[code]), undone(code))
            at += n
        if not pixels.valid.all():
            out[len(self.channels.bands) :, ~pixels.valid] = 0
        return out


def viewed(image: ImageReader, sets: Sequence[Sequence[Feature]], turns: Sequence[int] = (0,)) -> Image:
    """The image with the features of several networks after its bands, for each of the turns; itself without any.

    Raises `SceneError` where a feature cannot be made of this scene.
    """
    if not any(sets):
        return image
    for features in sets:
        Channels.of(image.bands, features, [image.grid])
    views = Views.of(image.bands, sets, turns)
    if views.anew:
        log.info("made anew after each turn: %s", ", ".join(views.anew))
    return FeatureReader(image, views)
