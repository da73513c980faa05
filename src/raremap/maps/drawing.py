"""From blended probabilities to what a map's files hold, rectangle by rectangle."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np

from raremap.labels import LabelScheme
from raremap.maps import blend
from raremap.maps.quantities import stored
from raremap.maps.stream import Strip
from raremap.scene.window import Window

Decide = Callable[[np.ndarray], np.ndarray]
"""Probs float32 `[K, h, w]` → class index uint8 `[h, w]`, pixel by pixel; called from several threads."""
Soften = Callable[[np.ndarray], np.ndarray]
"""Probabilities of the network to those that are written."""

CLASS, PROBS = "class", "probs"
_THREADS = 2
_PIECE = 1 << 18  # pixels that are decided at once, so that a rule's own arrays stay small


@dataclass(frozen=True)
class Drawn:
    """A rectangle of a map: what is written there by file (`CLASS`, `PROBS`, "confidence" …), and pixels by class `[K]`."""

    window: Window
    layers: dict[str, np.ndarray]
    counts: np.ndarray


@dataclass(frozen=True)
class Drawing:
    """How probabilities become a map: the classes, how they are decided, and what is written beside them.

    `decide` None takes the most probable class; `soften` turns probabilities into those that are written.
    `quantities` are "confidence" and "entropy".
    """

    scheme: LabelScheme
    decide: Decide | None = None
    soften: Soften | None = None
    probabilities: Literal["float32", "uint8"] | None = None
    quantities: tuple[str, ...] = ()

    def __call__(self, strips: Generator[Strip]) -> Iterator[Drawn]:
        """Each strip as it is written; not those without a valid pixel, since what is never written is nodata."""
        with closing(strips), ThreadPoolExecutor(_THREADS, "raremap-decide") as pool:
            for strip in strips:
                if strip.blank:
                    continue
                drawn = self._drawn(strip, pool)
                del strip  # the swath's buffers go before those of the next are filled
                yield drawn

    def _drawn(self, strip: Strip, pool: ThreadPoolExecutor) -> Drawn:
        index = self._decided(strip, pool)
        layers = {CLASS: index}
        if self.probabilities or self.quantities:
            probs = strip.probs if self.soften is None else self.soften(strip.probs)
            for name in self.quantities:
                layers[name] = stored(name, probs, index, strip.valid)
            if self.probabilities:
                layers[PROBS] = _kept(probs, strip.valid, self.probabilities)
        counts = np.zeros(self.scheme.num_classes, np.int64)
        values, nodata = np.array(self.scheme.values, np.uint8), np.uint8(self.scheme.map_nodata)
        blend.to_values(index, strip.valid, values, nodata, counts)
        return Drawn(strip.window, layers, counts)

    def _decided(self, strip: Strip, pool: ThreadPoolExecutor) -> np.ndarray:
        """Class index uint8 `[h, w]` of a strip, in pieces of rows and in several threads."""
        height, width = strip.valid.shape
        index = np.empty((height, width), np.uint8)
        rows = max(1, _PIECE // width)

        def part(top: int) -> None:
            piece = slice(top, top + rows)
            if self.decide is None:
                blend.argmax(strip.probs[:, piece], index[piece])
            else:
                index[piece] = self.decide(strip.probs[:, piece])

        for _ in pool.map(part, range(0, height, rows)):  # which raises what a part raised
            pass
        return index


def _kept(probs: np.ndarray, valid: np.ndarray, kind: str) -> np.ndarray:
    """Probabilities as they are written, nodata where not valid; a copy."""
    if kind == "uint8":
        scaled = np.rint(probs * 250).astype(np.uint8)
        scaled[:, ~valid] = 255
        return scaled
    return np.where(valid, probs, np.float32(np.nan))
