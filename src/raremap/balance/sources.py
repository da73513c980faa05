"""What the pixels of each class come from: how many places and objects stand behind them, before and after.

An effective size says how many equal sources the pixels are worth: a few tiles shown over and over have many
pixels and few sources.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from raremap.balance.coverage import delivered
from raremap.balance.crops import pixel_chances
from raremap.balance.paste import paste_mask
from raremap.jobs import tracked
from raremap.labels import IGNORE
from raremap.tiles.reader import TileReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raremap.balance.bank import ObjectBank
    from raremap.balance.paste import Pasted
    from raremap.balance.plan import SamplingPlan
    from raremap.tiles.catalog import Catalog


@dataclass(frozen=True)
class Sources:
    """What the pixels of each class `[K]` come from: how many sources hold it, and how many they are worth.

    Worth is the effective size (Σu)²/Σu², u the pixels that a source contributes: `natural` with every tile
    alike, `stream` with the plan's weights. NaN where a class was not looked at or has no pixel.
    """

    number: np.ndarray
    natural: np.ndarray
    stream: np.ndarray

    @classmethod
    def of(cls, natural: list[np.ndarray], stream: list[np.ndarray]) -> Sources:
        """Of the contributions of each class's sources, class by class."""
        return cls(
            np.array([float((n > 0).sum()) if len(n) else math.nan for n in natural]),
            np.array([effective_size(n) for n in natural]),
            np.array([effective_size(s) for s in stream]),
        )


def effective_size(contributions: np.ndarray) -> float:
    """How many equal contributions these are worth, (Σu)²/Σu²; NaN where there is none.

    >>> effective_size(np.array([2.0, 2.0, 0.0])), effective_size(np.array([3.0, 1.0]))
    (2.0, 1.6)
    """
    total = float(contributions.sum())
    return total**2 / float(np.square(contributions).sum()) if total > 0 else math.nan


def owners(mask: np.ndarray, pasted: Sequence[Pasted], bank: ObjectBank) -> np.ndarray:
    """Which of the pasted objects each pixel uint8 `[h, w]` of a composite is of: from 1 on; 0 is the tile's own."""
    # Numbers take the place of labels, so that what covers what is as it is rendered.
    owner = np.where(mask == IGNORE, IGNORE, 0).astype(np.uint8)
    for number, p in enumerate(pasted, start=1):
        owner = paste_mask(owner, bank.patch(p.object)[2], number, *p[1:])
    return owner


class ObjectPass:
    """One pass over the masks: what each object contributes, and what composites take from elsewhere."""

    def __init__(self, plan: SamplingPlan, catalog: Catalog, rows: np.ndarray, classes: np.ndarray) -> None:
        self._plan, self._catalog, self._rows, self._classes = plan, catalog, rows, classes
        # Contributions of the objects of each class, tile by tile: with every tile alike, and in the stream.
        k = len(plan.natural)
        self._natural: list[list[np.ndarray]] = [[] for _ in range(k)]
        self._stream: list[list[np.ndarray]] = [[] for _ in range(k)]
        self._found = np.zeros(k, np.int64)
        self._drawn = None if plan.grid is None else plan.grid.drawn()
        # Bank index → the number of the same object among those found.
        self._number: dict[int, int] = {}
        # (row of the plan, bank index) → contribution.
        self.given: dict[tuple[int, int], float] = defaultdict(float)

    def run(self, quiet: bool) -> None:
        """Go through the tiles that hold such a class, or are the background of a composite."""
        plan, catalog = self._plan, self._catalog
        entries: dict[int, list[int]] = defaultdict(list)
        holds = plan.counts[:, self._classes].sum(1) > 0
        for i in np.flatnonzero(holds | (plan.composite & (plan.weights > 0))):
            entries[int(self._rows[i])].append(int(i))
        homes = self._homes()
        order = sorted(entries, key=lambda r: (str(catalog.scene_names[r]), catalog.windows[r]))
        if not order:
            return
        reader = TileReader(catalog, np.array(order), memory=0)
        for row in tracked(order, "count objects", len(order), quiet):
            mask = reader.labels(row)
            seen = np.zeros(mask.shape)
            for i in entries[row]:
                if plan.weights[i] > 0:
                    seen += self._seen(i, mask)
            for c in self._classes:
                self._count(int(c), mask, seen, row, homes.get((row, int(c)), []))

    def objects(self) -> Sources:
        """Objects of the classes that were looked at."""
        stream = [np.concatenate([*s, np.empty(0)]) for s in self._stream]
        for (_, index), u in self.given.items():
            klass = self._plan.bank.klass(index) if self._plan.bank is not None else 0
            if index in self._number:
                stream[klass][self._number[index]] += u
            else:
                stream[klass] = np.append(stream[klass], u)
        return Sources.of([np.concatenate([*n, np.empty(0)]) for n in self._natural], stream)

    def _homes(self) -> dict[tuple[int, int], list[tuple[int, int, int]]]:
        """(catalog row, class) → bank index and a pixel, in the tile, of each object at home there."""
        bank, homes = self._plan.bank, defaultdict(list)
        if bank is None:
            return homes
        row_of = {t: int(r) for t, r in zip(self._plan.tile_ids, self._rows, strict=True)}
        columns = ("tile_id", "row_off", "col_off")
        for i, (tile_id, top, left) in enumerate(zip(*(bank.table[c] for c in columns), strict=True)):
            if tile_id in row_of:
                window = self._catalog.windows[row_of[tile_id]]
                r, c = np.argwhere(bank.patch(i)[2])[0]
                at = (i, int(top + r) - window.row_off, int(left + c) - window.col_off)
                homes[row_of[tile_id], bank.klass(i)].append(at)
        return homes

    def _seen(self, entry: int, mask: np.ndarray) -> np.ndarray:
        """What each pixel of the tile itself contributes in a row of the plan; pasted ones are put in `given`."""
        plan = self._plan
        seen = np.ones(mask.shape)
        if plan.grid is not None and self._drawn is not None:
            seen = pixel_chances(plan.grid, entry, mask.shape, plan.grid.chance) * self._drawn[entry]
        elif plan.crop is not None:
            seen = delivered(mask, plan.crop)
        seen = seen * plan.weights[entry]
        if not plan.composite[entry] or plan.composites is None or plan.bank is None:
            return seen
        pasted = plan.composites.pasted(entry - int((~plan.composite).sum()))
        owner = owners(mask, pasted, plan.bank)
        by_owner = np.bincount(owner.ravel(), seen.ravel(), minlength=256)
        for number, p in enumerate(pasted, start=1):
            self.given[entry, p.object] += float(by_owner[number])
        return np.where(owner == 0, seen, 0.0)

    def _count(
        self, klass: int, mask: np.ndarray, seen: np.ndarray, row: int, homes: list[tuple[int, int, int]]
    ) -> None:
        here = (mask == klass).astype(np.uint8)
        if not here.any():
            return
        number, parts, stats, _ = cv2.connectedComponentsWithStats(here, connectivity=8)
        self._natural[klass].append(stats[1:, cv2.CC_STAT_AREA].astype(float))
        self._stream[klass].append(np.bincount(parts.ravel(), seen.ravel(), minlength=number)[1:])
        for index, r, c in homes:
            if parts[r, c] > 0:
                self._number[index] = int(self._found[klass]) + int(parts[r, c]) - 1
        self._found[klass] += number - 1


def place_sources(
    plan: SamplingPlan, catalog: Catalog, rows: np.ndarray, given: dict[tuple[int, int], float]
) -> Sources:
    """Places that the pixels of a plan come from; `given` is what objects contribute elsewhere (`ObjectPass`)."""
    names, inverse = np.unique(catalog.table["place"].to_numpy().astype(str)[rows], return_inverse=True)
    k = len(plan.natural)
    natural, stream = np.zeros((len(names), k)), np.zeros((len(names), k))
    tiles = ~plan.composite
    np.add.at(natural, inverse[tiles], plan.counts[tiles])
    np.add.at(stream, inverse, plan.weights[:, None] * plan.delivered)
    whole = stream.copy()
    if plan.bank is not None:
        position = {n: i for i, n in enumerate(names.tolist())}
        home = plan.bank.table["place"].tolist()
        for (entry, index), u in given.items():
            klass = plan.bank.klass(index)
            stream[inverse[entry], klass] -= u
            stream[position[home[index]], klass] += u
    # What was taken away comes out as rounding, not as less than nothing.
    stream = np.where(stream < 1e-9 * whole, 0.0, stream)
    return Sources.of(list(natural.T), list(stream.T))
