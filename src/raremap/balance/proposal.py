"""The running state of proposing composites: which class, which object, which background, which place."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from raremap.balance.ground import day_of_year, same_resolution, same_season
from raremap.balance.locations import (
    COVER,
    RESOLUTION,
    SEASON,
    Backgrounds,
    Filter,
    Ground,
    Place,
    Shape,
    shape_of,
)
from raremap.balance.paste import Pasted, pasted_labels
from raremap.scene.shares import areas

if TYPE_CHECKING:
    from raremap.balance.bank import ObjectBank
    from raremap.balance.options import CopyPasteOptions
    from raremap.tiles.catalog import Catalog

log = logging.getLogger(__name__)

# Backgrounds that an object may choose from, and places tried in each while tries are left.
_BACKGROUNDS = 16
_TRIES_EACH = 4
# Objects in a row for which no place is found before proposing ends.
_PATIENCE = 200
# A smaller object is not scaled: its shape is a matter of single pixels.
_SCALABLE = 8
# A class of which less ground than this lies in whole objects is a network, or larger than tiles.
_OBJECTS = 0.15


@dataclass
class Draft:
    """A composite in the making; `position` `[1]` is that of its background in `rows`."""

    position: np.ndarray
    row: int
    ground: Ground
    counts: np.ndarray
    area: int = 0
    pasted: list[Pasted] = field(default_factory=list)

    def add(self, shape: Shape, place: Place, bank: ObjectBank) -> None:
        """Paste an object into the mask, and count it."""
        p = Pasted(shape.index, shape.code, shape.scale, place.row - shape.top, place.col - shape.left)
        mask, shares = pasted_labels(self.ground.mask, self.ground.shares, [p], bank)
        taken = np.zeros(mask.shape, bool) if self.ground.taken is None else self.ground.taken
        taken[shape.box(place.row, place.col)] |= shape.foot
        self.ground = Ground(mask, self.ground.slope, taken, shares)
        self.counts = areas(mask, shares, len(self.counts))
        self.area += shape.area
        self.pasted.append(p)


def pastable(bank: ObjectBank, options: CopyPasteOptions, names: Sequence[str]) -> dict[int, np.ndarray]:
    """Bank indices of the objects that may be pasted, by class; empty where there is none.

    With "filtered" placement objects are left out that lie at home where the filter would not have them,
    and, unless `options.classes` names them, classes of which less than 15 % of the ground lies in whole
    objects: roads, rivers and large lakes, whose whole pieces are fragments that lie nowhere by themselves.
    Both are told in the log.
    """
    filtered = options.placement == "filtered"
    whole = bank.at_home if filtered else bank.pastable
    klass = bank.table["klass"].to_numpy()[whole]
    members = {int(c): whole[klass == c] for c in np.unique(klass)}
    if not filtered or options.classes is not None:
        return members
    for c in [c for c in members if bank.whole[c] < _OBJECTS]:
        log.warning(
            "'%s' is not pasted: %.1f %% of its ground, less than %.0f %%, lies in whole objects, the rest goes on beyond "
            "its tile; list it under copy_paste.classes to paste such pieces",
            *(names[c], 100 * bank.whole[c], 100 * _OBJECTS),
        )
        del members[c]
    return members


class Proposal:
    """The running state of proposing: pooled counts, uses of objects, refusals."""

    def __init__(
        self,
        catalog: Catalog,
        rows: np.ndarray,
        bank: ObjectBank,
        members: dict[int, np.ndarray],
        target: np.ndarray,
        options: CopyPasteOptions,
        seed: int,
    ) -> None:
        self._bank, self._options, self._q = bank, options, np.asarray(target, float)
        self._rng = np.random.default_rng((seed, 0xC09A))
        self._backgrounds = Backgrounds(catalog, rows)
        self._tile_counts = catalog.counts[rows]
        self._pooled = self._tile_counts.sum(0)
        self._members = members
        self._spent = np.zeros(len(bank))
        self._home_resolution = bank.table["resolution"].to_numpy(float)
        self._home_day = day_of_year(bank.table["date"])
        self._deck, self._next = np.array([], np.int64), 0
        # Of at most so many composites a tile is the background: the best ones must not fill them all.
        self._left = np.full(len(rows), math.ceil(2 * options.share))
        self._filter = Filter(bank, options.placement == "filtered", self._rng)
        self.refused = self._filter.refused
        self._below = True

    def drafts(self, wanted: int) -> Iterator[Draft]:
        """Composites one after the other, at most `wanted`."""
        failed = done = 0
        while done < wanted and failed < _PATIENCE:
            klass = self._class(self._pooled)
            if klass is None:
                self._below = False
                return
            draft = self._begin(klass)
            if draft is None:
                failed += 1
                continue
            self._extend(draft)
            self._pooled = self._pooled + draft.counts
            failed, done = 0, done + 1
            yield draft

    def why_none(self) -> str:
        """Why not one was made, in words."""
        if not self._below:
            return "no class that has objects is below its target share"
        reasons = ", ".join(f"{n} times: {reason}" for reason, n in (+self.refused).most_common(3))
        return f"no place was found for any object ({reasons})"

    def _class(self, counts: np.ndarray) -> int | None:
        excess = np.maximum(self._ratio(counts) - 1, 0)
        classes = list(self._members)
        weight = excess[classes]
        if weight.sum() <= 0:
            return None
        return classes[int(self._rng.choice(len(classes), p=weight / weight.sum()))]

    def _ratio(self, counts: np.ndarray) -> np.ndarray:
        """q/P by class; 0 for classes that are not there."""
        return np.divide(self._q * counts.sum(), counts, out=np.zeros(len(counts)), where=counts > 0)

    def _score(self, counts: np.ndarray) -> float:
        """−KL(q ‖ P) but for a constant."""
        here = (self._q > 0) & (counts > 0)
        return float(self._q[here] @ np.log(counts[here] / counts.sum()))

    def _shape(self, klass: int) -> Shape:
        members = self._members[klass]
        weight = 1 / (1 + self._spent[members])
        index = int(self._rng.choice(members, p=weight / weight.sum()))
        code, draw = int(self._rng.integers(8)), float(self._rng.uniform(-1, 1))
        height, width = self._bank.extent(index)
        scale = self._options.scale**draw if min(height, width) >= _SCALABLE else 1.0
        self._spent[index] += 1
        return shape_of(self._bank, index, code, float(np.float32(scale)), self._options)

    def _deal(self) -> np.ndarray:
        """The next backgrounds to choose from, positions in `rows`: each comes once before any comes again."""
        hand, shuffled = np.array([], np.int64), False
        while len(hand) < _BACKGROUNDS:
            if self._next == len(self._deck):
                if shuffled:
                    break
                self._deck, self._next, shuffled = self._rng.permutation(np.flatnonzero(self._left)), 0, True
            more = self._deck[self._next :][: _BACKGROUNDS - len(hand)]
            self._next += len(more)
            hand = np.concatenate([hand, more[self._left[more] > 0]])
        return np.unique(hand)

    def _begin(self, klass: int) -> Draft | None:
        """The first object in the best of some backgrounds."""
        shape = self._shape(klass)
        hand = self._suitable(shape, self._deal())
        protected = self._ratio(self._pooled) > 1
        bounds = np.array([self._bound(shape, self._tile_counts[i], protected) for i in hand])
        best: tuple[float, int, Place] | None = None  # gain, position in `rows`, place
        tries = self._options.tries
        for i in np.argsort(-bounds, kind="stable"):
            if tries == 0 or (best is not None and bounds[i] <= best[0]):
                break
            row = int(self._backgrounds.rows[hand[i]])
            ground = self._backgrounds.tile(row)
            for place in self._filter.places(shape, ground, protected, min(tries, _TRIES_EACH)):
                tries -= 1
                if place is None:
                    continue
                gain = self._score(self._pooled + self._with(shape, place, self._tile_counts[hand[i]]))
                if best is None or gain > best[0]:
                    best = (gain, int(hand[i]), place)
        if best is None:
            return None
        self._left[best[1]] -= 1
        row = int(self._backgrounds.rows[best[1]])
        draft = Draft(np.array([best[1]]), row, self._backgrounds.tile(row), np.zeros(len(self._q)))
        draft.add(shape, best[2], self._bank)
        return draft

    def _suitable(self, shape: Shape, hand: np.ndarray) -> np.ndarray:
        """Of some backgrounds those of the object's resolution and season that are large enough."""
        b = self._backgrounds
        alike = same_resolution(self._home_resolution[shape.index], b.resolution[hand])
        season = same_season(self._home_day[shape.index], b.day[hand], self._options.season_days)
        large = shape.area <= self._options.cover * b.area[hand]
        self.refused[RESOLUTION] += int((~alike).sum())
        self.refused[SEASON] += int((alike & ~season).sum())
        self.refused[COVER] += int((alike & season & ~large).sum())
        return hand[alike & season & large]

    def _bound(self, shape: Shape, counts: np.ndarray, protected: np.ndarray) -> float:
        """At most this score can come of the background: Σ q log N is concave, its tangent lies above it."""
        pooled = self._pooled + counts
        slope = np.divide(self._q, pooled, out=np.zeros(len(pooled)), where=pooled > 0)
        open_ = slope[~protected & (counts > 0)]
        if len(open_) == 0:
            return -np.inf
        return self._score(pooled) + shape.area * (slope[shape.klass] - float(open_.min()))

    def _with(self, shape: Shape, place: Place, counts: np.ndarray) -> np.ndarray:
        after = counts - place.covered
        after[shape.klass] += shape.area
        return after

    def _extend(self, draft: Draft) -> None:
        """Further objects in the same tile, while they add to the gain."""
        for _ in range(self._options.objects - 1):
            pooled = self._pooled + draft.counts
            klass = self._class(pooled)
            if klass is None:
                return
            shape = self._shape(klass)
            if len(self._suitable(shape, draft.position)) == 0:
                continue
            if draft.area + shape.area > self._options.cover * draft.ground.mask.size:
                self.refused[COVER] += 1
                continue
            protected = self._ratio(pooled) > 1
            for place in self._filter.places(shape, draft.ground, protected, self._options.tries):
                if place is None:
                    continue
                if self._score(self._pooled + self._with(shape, place, draft.counts)) > self._score(pooled):
                    draft.add(shape, place, self._bank)
                break
