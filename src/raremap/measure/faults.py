"""Suspected label errors: neighbouring pixels of one label in which a model that never saw them is sure of another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from raremap.labels import IGNORE

STEPS = 250
"""Probabilities are kept in so many steps while tiles are put together."""


@dataclass(frozen=True)
class Suspect:
    """A connected patch of a tile with the class given and the class suspected (indices).

    `confidence` is the mean probability of the class suspected, `margin` the mean log-odds of it over the class
    given, `thickness` the greatest distance (pixels) from the patch's outside, `score` what suspects are ranked by.
    `rows`, `cols` are its pixels.
    """

    given: int
    suspected: int
    confidence: float
    margin: float
    thickness: float
    rows: np.ndarray
    cols: np.ndarray

    @property
    def pixels(self) -> int:
        """How many pixels it has."""
        return len(self.rows)

    @property
    def score(self) -> float:
        """Margin times pixels: all that the model has to say against the label.

        On simulated valleys 73 of the first 100 are faults so, 64 by margin times thickness, 60 by margin alone.
        """
        return self.margin * self.pixels


def stored(probs: np.ndarray, truth: np.ndarray) -> list[np.ndarray]:
    """Layers uint8 `[h, w]` of a part of a tile: class given, class suspected, and the probability of both in steps."""
    suspected = probs.argmax(0).astype(np.uint8)
    given = np.where(truth == IGNORE, 0, truth)

    def of(index: np.ndarray) -> np.ndarray:
        chosen = np.take_along_axis(probs, index[None].astype(np.intp), 0)[0]
        return np.rint(chosen * STEPS).astype(np.uint8)

    return [truth, suspected, of(suspected), of(given)]


def suspects(
    truth: np.ndarray,
    suspected: np.ndarray,
    confidence: np.ndarray,
    doubt: np.ndarray,
    least_confidence: float = 0.5,
    min_pixels: int = 4,
) -> Iterator[Suspect]:
    """The suspects of a tile, from its layers `stored` `[h, w]`; pixels that touch by a side belong together.

    A pixel is one where another class than the label's has at least `least_confidence`.
    """
    odd = (truth != IGNORE) & (suspected != truth) & (confidence >= least_confidence * STEPS)
    pairs = np.where(odd, truth.astype(np.int32) * 256 + suspected + 1, 0)
    margins = np.log(np.maximum(confidence, 0.5) / np.maximum(doubt, 0.5))
    for pair in np.unique(pairs[odd]).tolist():
        labels = np.empty(pairs.shape, np.int32)
        ndimage.label(pairs == pair, output=labels)
        # What lies outside of the tile is not outside of the patch.
        depth = np.asarray(ndimage.distance_transform_edt(np.pad(labels > 0, 1, mode="edge")))[1:-1, 1:-1]
        for number, box in enumerate(ndimage.find_objects(labels), start=1):
            here = labels[box] == number
            if here.sum() < min_pixels:
                continue
            rows, cols = here.nonzero()
            yield Suspect(
                given=(pair - 1) // 256,
                suspected=(pair - 1) % 256,
                confidence=float(confidence[box][here].mean()) / STEPS,
                margin=float(margins[box][here].mean()),
                thickness=float(depth[box][here].max()),
                rows=rows + box[0].start,
                cols=cols + box[1].start,
            )
