"""Where an object may lie: backgrounds, what the filter asks of a place, and drawing places to try."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from raremap.balance.coverage import box_sums
from raremap.balance.cut import plausibility
from raremap.balance.ground import day_of_year, pixel_size, resolution, slope_of
from raremap.balance.paste import edge, halo, placed
from raremap.labels import IGNORE
from raremap.scene.shares import areas
from raremap.tiles.reader import TileReader

if TYPE_CHECKING:
    from raremap.balance.bank import ObjectBank
    from raremap.balance.options import CopyPasteOptions
    from raremap.tiles.catalog import Catalog

# Masks (and slopes) kept, in pixels: about 64 MB of masks.
_KEPT_PIXELS = 1 << 26
# Why a place was refused.
UNLABELLED = "an ignored or invalid pixel lies under it"
PROTECTED = "a class that is to gain lies under it"
TAKEN = "another pasted object lies there"
IMPLAUSIBLE = "its surroundings would be unusual"
SLOPE = "the slope is not that of its home"
NO_ROOM = "the tile has no room for it"
COVER = "the tile would be covered too far"
RESOLUTION = "another resolution"
SEASON = "another season"


@dataclass(frozen=True)
class Ground:
    """A background as it stands: class index `[h, w]` with what was pasted, slope in degrees, and pasted pixels;
    with its `shares` `[K, h, w]` where its cells hold several classes."""

    mask: np.ndarray
    slope: np.ndarray | None
    taken: np.ndarray | None = None
    shares: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Bytes of labels."""
        return self.mask.size + (0 if self.shares is None else self.shares.size)


class Backgrounds:
    """Tiles to paste into: their mask and slope, read as needed, the latest ones kept."""

    def __init__(self, catalog: Catalog, rows: np.ndarray) -> None:
        self._catalog, self.rows = catalog, np.asarray(rows)
        self._reader = TileReader(catalog, self.rows, memory=0)
        self._kept: OrderedDict[int, Ground] = OrderedDict()
        self._pixels = 0
        self._sizes = {s: pixel_size(r.grid) for s, r in catalog.scenes.items()}
        self.resolution = np.array([resolution(self._sizes[s]) for s in catalog.scene_names[self.rows]])
        self.day = day_of_year(catalog.table["date"].iloc[self.rows])
        self.area = np.array([catalog.windows[r].height * catalog.windows[r].width for r in self.rows])

    def tile(self, row: int) -> Ground:
        """Class index uint8 `[h, w]` and slope in degrees (None without a terrain band) of a catalog row."""
        if row in self._kept:
            self._kept.move_to_end(row)
            return self._kept[row]
        image, valid, mask = self._reader.whole(row)
        slope = slope_of(image, valid, self._catalog.bands, self._sizes[str(self._catalog.scene_names[row])])
        self._kept[row] = Ground(mask, slope, shares=self._reader.shares(row))
        self._pixels += self._kept[row].size
        while self._pixels > _KEPT_PIXELS and len(self._kept) > 1:
            self._pixels -= self._kept.popitem(last=False)[1].size
        return self._kept[row]


@dataclass(frozen=True)
class Shape:
    """An object as it would lie: in its transformed patch, cut to `box`, the object and its feather.

    `hard` are its own pixels, `foot` those that it or its feather changes, both of the box; `top`, `left`
    is the box in the patch. `ring` pixels around it are looked at. `slopes`: degrees at its home.
    """

    index: int
    klass: int
    code: int
    scale: float
    hard: np.ndarray
    foot: np.ndarray
    top: int
    left: int
    ring: int
    slopes: tuple[float, float]

    @cached_property
    def area(self) -> int:
        """Pixels that take its class."""
        return int(self.hard.sum())

    def box(self, row: int, col: int) -> tuple[slice, slice]:
        """The box with its first pixel there."""
        return slice(row, row + self.foot.shape[0]), slice(col, col + self.foot.shape[1])


def shape_of(bank: ObjectBank, index: int, code: int, scale: float, options: CopyPasteOptions) -> Shape:
    """The shape of a bank's object, turned and scaled."""
    hard = placed(bank.patch(index)[2], code, scale)
    foot = edge(hard, options.feather) > 0
    rows, cols = np.flatnonzero(foot.any(1)), np.flatnonzero(foot.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
    home = bank.slopes[index]
    return Shape(
        index,
        bank.klass(index),
        code,
        scale,
        hard[box],
        foot[box],
        int(rows[0]),
        int(cols[0]),
        options.ring,
        (float(home[0]), float(home[1])),
    )


@dataclass(frozen=True)
class Place:
    """An admitted place: row and column of the shape's box in the tile, and the pixels, or areas, covered by class `[K]`."""

    row: int
    col: int
    covered: np.ndarray


@dataclass(frozen=True)
class Filter:
    """Finds places and admits them; `refused` counts those it did not, by reason.

    `filtered`: surroundings and slope are looked at, too.
    """

    bank: ObjectBank
    filtered: bool
    rng: np.random.Generator
    refused: Counter[str] = field(default_factory=Counter)

    def places(
        self, shape: Shape, ground: Ground, protected: np.ndarray, tries: int
    ) -> Iterator[Place | None]:
        """Up to `tries` places in a tile, one after the other: admitted ones, None for each that is refused.

        `protected` bool `[K]`: classes that must not be covered. A tile without room counts as one refusal.

        Places are drawn where the shape's box has room (as few forbidden pixels as the box has to spare)
        and, where `filtered`, lies on classes that this one is often in contact with: the draw guides, the
        filter decides.
        """
        forbidden = _forbidden(ground, protected)
        weight = _room(forbidden, shape)
        if self.filtered and weight is not None:
            # To the 16th and 4th power: less than full room and unusual ground are a last resort.
            usual = _usual(ground.mask, shape, self.bank.contacts[shape.klass])
            weight = _squared(weight, 4) * _squared(usual, 2)
            enough = weight * (usual >= self.bank.plausible[shape.klass])
            weight = enough if enough.any() else weight
        elif weight is not None:
            weight = (weight > 0).astype(np.float64)
        if weight is None or not weight.any():
            self.refused[NO_ROOM] += 1
            return
        steps = np.cumsum(weight.ravel())
        for _ in range(tries):
            at = int(np.searchsorted(steps, self.rng.random() * steps[-1], side="right"))
            row, col = divmod(min(at, steps.size - 1), weight.shape[1])
            reason = self._objection(shape, row, col, ground, forbidden)
            if reason:
                self.refused[reason] += 1
                yield None
            else:
                box = shape.box(row, col)
                shares = None if ground.shares is None else ground.shares[:, *box]
                yield Place(row, col, areas(ground.mask[box], shares, len(protected), shape.hard))

    def _objection(
        self, shape: Shape, row: int, col: int, ground: Ground, forbidden: np.ndarray
    ) -> str | None:
        """Why the shape must not lie there; None: it may."""
        box = shape.box(row, col)
        if forbidden[box][shape.foot].any():
            if ground.taken is not None and ground.taken[box][shape.foot].any():
                return TAKEN
            return UNLABELLED if (ground.mask[box][shape.foot] == IGNORE).any() else PROTECTED
        if not self.filtered:
            return None
        k = len(self.bank.contacts)
        for look in (_covered, _around):
            # Without a labelled pixel of another class it is NaN, which speaks neither for nor against.
            usual = plausibility(look(shape, row, col, ground.mask, k), self.bank.contacts, shape.klass)
            if (
                usual < self.bank.plausible[shape.klass] - 1e-9
            ):  # the same surroundings, summed in another order
                return IMPLAUSIBLE
        if ground.slope is not None and np.isfinite(shape.slopes[0]):
            there = ground.slope[box][shape.hard]
            there = there[np.isfinite(there)]
            if len(there) and not shape.slopes[0] <= np.median(there) <= shape.slopes[1]:
                return SLOPE
        return None


def _forbidden(ground: Ground, protected: np.ndarray) -> np.ndarray:
    table = np.zeros(256, bool)
    table[: len(protected)] = protected
    table[IGNORE] = True
    forbidden = table[ground.mask]
    return forbidden if ground.taken is None else forbidden | ground.taken


def _room(forbidden: np.ndarray, shape: Shape) -> np.ndarray | None:
    """For each place of the box: 1 where nothing is forbidden in it, 0 where more is than the box can spare."""
    height, width = shape.foot.shape
    if height > forbidden.shape[0] or width > forbidden.shape[1]:
        return None
    spare = height * width - int(shape.foot.sum())
    return np.clip(1 - box_sums(forbidden.astype(np.float32), height, width) / (spare + 1), 0, 1)


def _usual(mask: np.ndarray, shape: Shape, contacts: np.ndarray) -> np.ndarray:
    """For each place of the box: the mean share of contacts with what lies there, 0 to 1."""
    table = np.zeros(256, np.float32)
    table[: len(contacts)] = contacts
    height, width = shape.foot.shape
    return np.clip(box_sums(table[mask], height, width) / (height * width), 0, 1)


def _squared(values: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        values = np.square(values)
    return values


def _covered(shape: Shape, row: int, col: int, mask: np.ndarray, k: int) -> np.ndarray:
    """Labelled pixels by class `[K]` that the shape would cover there."""
    return np.bincount(mask[shape.box(row, col)][shape.hard], minlength=256)[:k]


def _around(shape: Shape, row: int, col: int, mask: np.ndarray, k: int) -> np.ndarray:
    """Labelled pixels by class `[K]` within `ring` pixels of the shape there, itself not counted."""
    r = shape.ring
    hard = np.pad(shape.hard, r)
    near = halo(hard, r) & ~hard
    top, left = row - r, col - r
    r0, c0 = max(0, -top), max(0, -left)
    view = mask[max(0, top) : top + near.shape[0], max(0, left) : left + near.shape[1]]
    part = near[r0 : r0 + view.shape[0], c0 : c0 + view.shape[1]]
    return np.bincount(view[part], minlength=256)[:k]
