"""Class shares of cells: the labels of cells that hold several classes, as `raremap rescale --method fractions` makes them.

Shares are uint8 `[K, h, w]` in steps of 1/200. A labelled cell's sum to 200, an unlabelled one's are 0. A cell of
which half the ground or more is labelled is labelled, and its shares are those of its labelled ground: it counts
as a whole cell, as one of a class raster does. A cell with less is unlabelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from raremap.labels import IGNORE

if TYPE_CHECKING:
    from raremap.labels import LabelScheme
    from raremap.scene.grid import Grid
    from raremap.scene.window import Window

STEPS = 200
"""Steps of a share: whole for 1, 4, 25 and 100 pixels a cell, which are most labels there are."""

LEAST = 0.5
"""Part of a cell that has to be labelled, as `min_cover` of the rescaling has it."""


class Fractions(Protocol):
    """Anything that gives, for a window, the part of each cell that each class covers."""

    @property
    def grid(self) -> Grid:
        """The grid that windows are of."""
        ...

    @property
    def remark(self) -> str | None:
        """What a user should know of these labels, in one line."""
        ...

    def fractions(self, window: Window) -> np.ndarray:
        """Parts of each cell, float32 `[K, h, w]`; they sum to its labelled part."""
        ...

    def close(self) -> None:
        """Give files and memory back; the next read opens them again."""
        ...


class SharedMask:
    """A `Mask` of cells that hold several classes; picklable."""

    soft = True

    def __init__(self, source: Fractions, scheme: LabelScheme) -> None:
        self._source, self._scheme = source, scheme
        # The index and the shares of a window are asked for one after the other, and come of one reading.
        self._last: tuple[Window, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": None}

    def __enter__(self) -> SharedMask:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def grid(self) -> Grid:
        """The grid of the cells."""
        return self._source.grid

    @property
    def remark(self) -> str | None:
        """What the source says."""
        return self._source.remark

    def close(self) -> None:
        """Close the source."""
        self._last = None
        self._source.close()

    def read(self, window: Window) -> np.ndarray:
        """The class of the largest share, uint8 `[h, w]` (see `largest`); `IGNORE` where unlabelled."""
        return largest(self.shares(window), self._scheme)

    def shares(self, window: Window) -> np.ndarray:
        """Shares of a window, uint8 `[K, h, w]`, read-only. Raises `LabelError`, `SceneError`."""
        if self._last is None or self._last[0] != window:
            found = in_steps(self._source.fractions(window))
            found.setflags(write=False)
            self._last = window, found
        return self._last[1]


def in_steps(fractions: np.ndarray) -> np.ndarray:
    """Shares uint8 `[K, h, w]` of the part of each cell that each class covers, `[K, h, w]`, by largest remainder.

    >>> in_steps(np.array([[[1, 0.3, 0.2]], [[0, 0.3, 0.2]]])).tolist()
    [[[200, 100, 0]], [[0, 100, 0]]]
    """
    covered = fractions.sum(0)
    # A little less, for sums of float32.
    labelled = covered >= LEAST * (1 - 1e-5)
    exact = fractions * np.where(labelled, STEPS / np.maximum(covered, LEAST / 2), 0)
    near = np.rint(exact).astype(np.int16)
    odd = labelled & (near.sum(0) != STEPS)
    if odd.any():
        near[:, odd] = _by_remainder(exact[:, odd])
    return near.astype(np.uint8)


def _by_remainder(exact: np.ndarray) -> np.ndarray:
    """Whole numbers `[K, n]` of columns that each sum to `STEPS`: rounded down, the largest remainders up."""
    whole = np.floor(exact).astype(np.int16)
    order = np.argsort(whole - exact, axis=0, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(len(exact))[:, None], axis=0)
    return whole + (rank < STEPS - whole.sum(0))


def largest(shares: np.ndarray, scheme: LabelScheme) -> np.ndarray:
    """The class of the largest share, uint8 `[h, w]`; `IGNORE` where all are 0.

    Of equal shares that of a class that the scheme calls rare, then that of the class that it lists last: what is
    rare stands after the background as a rule, and which is rarer in truth is not known while a window is read.
    """
    rare = [scheme.names.index(name) for name in scheme.rare or ()]
    order = np.array([*rare, *(c for c in reversed(range(len(shares))) if c not in rare)], np.uint8)
    index = order[shares[order].argmax(0)]
    index[~shares.any(0)] = IGNORE
    return index


def one_hot(index: np.ndarray, num_classes: int) -> np.ndarray:
    """Shares uint8 `[K, h, w]` of cells of one class each, by class index `[h, w]`."""
    return np.uint8(STEPS) * (index == np.arange(num_classes, dtype=np.uint8)[:, None, None])


def without(shares: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """The shares where the ground of some classes is unlabelled."""
    parts = shares / np.float32(STEPS)
    parts[list(classes)] = 0
    return in_steps(parts)


def planes(index: np.ndarray, shares: np.ndarray | None) -> Iterator[tuple[int, np.ndarray]]:
    """Each class that is there with the part of each cell that it has, float32 `[h, w]`; 0 in ignored cells."""
    if shares is None:
        for c in np.unique(index[index != IGNORE]).tolist():
            yield c, (index == c).astype(np.float32)
        return
    labelled = index != IGNORE
    for c, share in enumerate(shares):
        if (share[labelled] > 0).any():
            yield c, share * (labelled / np.float32(STEPS))


def areas(
    index: np.ndarray, shares: np.ndarray | None, num_classes: int, weight: np.ndarray | None = None
) -> np.ndarray:
    """Cells of each class, float64 `[K]`: of class index `[h, w]`, or of shares where it has a class; times a weight.

    >>> areas(np.array([[0, 1, 255]], np.uint8), None, 2).tolist()
    [1.0, 1.0]
    """
    if shares is None:
        flat = None if weight is None else weight.ravel()
        return np.bincount(index.ravel(), flat, minlength=256)[:num_classes].astype(np.float64)
    each = (index != IGNORE).astype(np.float64) if weight is None else np.where(index != IGNORE, weight, 0.0)
    return np.tensordot(shares, each, 2) / STEPS
