"""What of all calibration pixels is kept to fit a decision on: a histogram for two classes, else a sample."""

from __future__ import annotations

from typing import Protocol

import numpy as np

Pixels = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Probabilities `[n, K]`, class index, place and weight `[n]`."""


class Kept(Protocol):
    """Pixels that come in by place, and what is kept of them."""

    def add(self, probs: np.ndarray, truth: np.ndarray, place: int) -> None:
        """Pixels with probabilities `[K, n]` and class index `[n]` of one place."""
        ...

    def arrays(self) -> Pixels:
        """The pixels kept, each with the weight that it stands for."""
        ...


def keep_pixels(num_classes: int, size: int, seed: int) -> Kept:
    """What keeps enough of any number of pixels: every one in a histogram for two classes, else `size` of them."""
    return LogOddsHistogram() if num_classes == 2 else PixelSample(num_classes, size, seed)


class LogOddsHistogram:
    """All pixels of two classes, counted by place, class and log-odds in 16,384 steps from -48 to 48.

    The argmax lies on a step's edge, so that no pixel changes its class; a threshold is found to within a
    step of .006. However sure a network is, its log-odds lie inside, or its temperature would be off.
    """

    _EDGES = np.linspace(-48, 48, 16_385)[1:-1]

    def __init__(self) -> None:
        self._counts: dict[int, np.ndarray] = {}

    def add(self, probs: np.ndarray, truth: np.ndarray, place: int) -> None:
        """Pixels with probabilities `[2, n]` and class index `[n]` of one place."""
        tiny = np.finfo(np.float32).tiny
        odds = np.log(np.maximum(probs[1], tiny)) - np.log(np.maximum(probs[0], tiny))
        steps = len(self._EDGES) + 1
        index = np.searchsorted(self._EDGES, odds, side="left") + steps * truth.astype(np.intp)
        counts = np.bincount(index, minlength=2 * steps).reshape(2, steps)
        self._counts[place] = self._counts.get(place, 0) + counts

    def arrays(self) -> Pixels:
        """A pixel for each step that holds any, with their number as its weight."""
        width = self._EDGES[1] - self._EDGES[0]
        centres = np.append(self._EDGES - width / 2, self._EDGES[-1] + width / 2)
        parts = []
        for place, counts in sorted(self._counts.items()):
            truth, step = np.nonzero(counts)
            probs = 1 / (1 + np.exp(np.column_stack([centres[step], -centres[step]])))
            weight = counts[truth, step].astype(np.float64)
            parts.append((probs, truth, np.full(len(truth), place), weight))
        if not parts:
            return np.empty((0, 2)), np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0)
        probs, truth, place, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
        return probs, truth, place, weight


class PixelSample:
    """A bounded sample of pixels, as many of each class as fit, with the weight that each stands for.

    Every pixel gets a random key, and the smallest keys of each class stay: a sample without
    replacement, whatever the order of what comes in.
    """

    def __init__(self, num_classes: int, size: int, seed: int) -> None:
        self._k, self._each = num_classes, max(1, size // num_classes)
        self._rng = np.random.default_rng((seed, 0xCA11))
        self._seen = np.zeros(num_classes, np.int64)
        self._filled = np.zeros(num_classes, np.int64)
        self._keys = np.empty((num_classes, self._each))
        self._probs = np.empty((num_classes, self._each, num_classes), np.float32)
        self._place = np.empty((num_classes, self._each), np.int64)

    def add(self, probs: np.ndarray, truth: np.ndarray, place: int) -> None:
        """Pixels with probabilities `[K, n]` and class index `[n]` of one place."""
        keys = self._rng.random(len(truth))
        for c in range(self._k):
            here = np.flatnonzero(truth == c)
            self._seen[c] += len(here)
            room = self._each - self._filled[c]
            self._put(
                c,
                np.arange(self._filled[c], self._filled[c] + len(here[:room])),
                here[:room],
                keys,
                probs,
                place,
            )
            here = here[room:]
            if len(here) == 0:
                continue
            here = here[keys[here] < self._keys[c].max()]
            if len(here) == 0:
                continue
            both = np.concatenate([self._keys[c], keys[here]])
            out = np.argpartition(both, self._each - 1)[self._each :]
            stay = np.ones(len(both), bool)
            stay[out] = False
            self._put(c, np.sort(out[out < self._each]), here[stay[self._each :]], keys, probs, place)

    def _put(
        self, c: int, at: np.ndarray, pixels: np.ndarray, keys: np.ndarray, probs: np.ndarray, place: int
    ) -> None:
        self._keys[c, at], self._probs[c, at], self._place[c, at] = keys[pixels], probs[:, pixels].T, place
        self._filled[c] = max(self._filled[c], at[-1] + 1 if len(at) else 0)

    def arrays(self) -> Pixels:
        """Probabilities `[n, K]`, class index, place and weight `[n]`."""
        truth = np.repeat(np.arange(self._k), self._filled)
        probs = np.concatenate([self._probs[c, :n] for c, n in enumerate(self._filled)])
        place = np.concatenate([self._place[c, :n] for c, n in enumerate(self._filled)])
        return probs, truth, place, np.repeat(self._seen / np.maximum(self._filled, 1), self._filled)
