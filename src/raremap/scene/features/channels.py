"""`Channels`: what a network sees of a scene, its bands and the features made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raremap.errors import SceneError
from raremap.scene.features.names import require_band
from raremap.scene.features.options import Feature, FeatureOptions, unknown_ground
from raremap.scene.features.pixels import Pixels, Ranges
from raremap.scene.grid import Grid
from raremap.scene.steps import Steps
from raremap.scene.turn import dihedral, undone
from raremap.scene.window import Window

Read = Callable[[Window], tuple[np.ndarray, np.ndarray]]
"""Image `[C, h, w]` as stored and validity `[h, w]` of a window of a scene."""

Known = Mapping[int, Callable[[], np.ndarray | None]]
"""By the place of a feature its values `[n, h, w]` as the scene has them, or None where they are not at hand."""

_WHOLE = (slice(None), slice(None))


@dataclass(frozen=True)
class Channels:
    """Stored `bands`, then the channels of `features`, in order. Made by `of`, which looks whether they fit."""

    bands: tuple[str, ...]
    features: tuple[Feature, ...] = ()

    @classmethod
    def of(cls, bands: Sequence[str], features: Sequence[Feature], grids: Iterable[Grid] = ()) -> Channels:
        """The channels of scenes with these bands and grids.

        Raises `SceneError` where a feature's band is missing, two channels have one name, or a feature needs the
        size of a pixel that a grid does not tell.
        """
        found = cls(tuple(bands), tuple(features))
        for feature in features:
            for name in feature.inputs:
                require_band(name, found.bands, feature.called)
        twice = [n for n in found.names if found.names.count(n) > 1]
        if twice:
            raise SceneError(
                f"two channels are called '{twice[0]}'; give the feature a name of its own: "
                f"{{kind: {next((f.kind for f in features if twice[0] in f.channels), '...')}, name: ...}}"
            )
        needy = [f for f in features if f.grounded and getattr(f, "pixel_m", None) is None]
        if needy and any(grid.crs is None for grid in grids):
            raise SceneError(unknown_ground(needy[0]))
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all channels."""
        return self.bands + tuple(name for f in self.features for name in f.channels)

    @property
    def margin(self) -> int:
        """Pixels beyond a window that must be read with it."""
        return max((f.margin for f in self.features), default=0)

    @property
    def ranged(self) -> tuple[str, ...]:
        """The bands whose range in the scene must be known."""
        return tuple(
            dict.fromkeys(require_band(n, self.bands, f.called) for f in self.features for n in f.ranged)
        )

    def grown(self, window: Window, grid: Grid, margin: int | None = None) -> Window:
        """The window with its margin, or another one, as far as the scene reaches."""
        m = self.margin if margin is None else margin
        return Window(
            window.row_off - m, window.col_off - m, window.height + 2 * m, window.width + 2 * m
        ).intersect(grid.window)

    def compute(
        self, pixels: Pixels, turn: int = 0, inner: tuple[slice, slice] = _WHOLE, known: Known | None = None
    ) -> np.ndarray:
        """All channels float32 `[C, h, w]` of pixels, or of their part `inner`; features are 0 where those are invalid.

        `turn`: the features are those of the turned scene, laid out as if it had not been turned: turn the
        result, and it is as if the scene had lain so. What is `known` of `inner` is not made.
        """
        rows, cols = inner
        valid = pixels.valid[inner]
        out = np.empty((len(self.names), *valid.shape), np.float32)
        out[: len(self.bands)] = pixels.image[:, rows, cols]
        turned = pixels.turned(turn)
        at = len(self.bands)
        for i, feature in enumerate(self.features):
            n = len(feature.channels)
            found = known[i]() if known and i in known and turn in feature.exact else None
            if found is None:
                found = dihedral(feature(turned), undone(turn))[:, rows, cols]
            out[at : at + n] = found
            at += n
        if not valid.all():
            out[len(self.bands) :, ~valid] = 0
        return out

    def pixels(
        self, image: np.ndarray, valid: np.ndarray, grid: Grid, window: Window, ranges: Ranges | None = None
    ) -> Pixels:
        """The pixels of a window of a scene as features need them."""
        steps = Steps.of(grid, window) if any(f.grounded for f in self.features) else None
        return Pixels(image, valid, self.bands, steps, ranges or {})

    def fitted(self, tiles: Iterable[Pixels]) -> Channels:
        """The same with all numbers taken from the valid pixels of training tiles, read once; raises `SceneError`."""
        needy = [f for f in self.features if f.unfitted]
        if not needy:
            return self
        measured: list[list[np.ndarray]] = [[] for _ in needy]
        for tile in tiles:
            if tile.valid.any():
                for feature, found in zip(needy, measured, strict=True):
                    found.append(feature.measure(tile))
        if not measured[0]:
            raise SceneError("no valid pixel in the training tiles; check scenes.nodata")
        done = {id(f): f.fitted(m) for f, m in zip(needy, measured, strict=True)}
        return Channels(self.bands, tuple(done.get(id(f), f) for f in self.features))


def with_features(bands: Sequence[str], features: Sequence[FeatureOptions]) -> tuple[str, ...]:
    """The names of bands with those of the channels of features after them."""
    return (*bands, *(name for f in features for name in f.channels))
