"""DIAO-CP's composites: tiles with objects of rare classes pasted where their surroundings are plausible.

A reconstruction: no code of the article is public (METHODS §a, §j). Objects and backgrounds are chosen by
the gain that chooses tiles to repeat, KL(q ‖ P) − KL(q ‖ P'), on the counts of the composited mask.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
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
from raremap.balance.paste import Pasted, paste_mask
from raremap.errors import CatalogError
from raremap.jobs import progress

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


@dataclass(frozen=True)
class Composites:
    """Proposed composites, a row each.

    `row` `[M]`: catalog row of the background. Of each composite's objects, in the order they are pasted:
    `objects` (bank indices), `code` (D4, 0 to 7), `scale`, `top` and `left` (corner of the transformed patch
    in the tile, pixels; may lie outside). `counts` `[M, K]`: labelled pixels of the composited mask, those
    of the rendered tile exactly. `refused`: places and backgrounds refused, by reason.
    """

    row: np.ndarray
    objects: list[np.ndarray]
    code: list[np.ndarray]
    scale: list[np.ndarray]
    top: list[np.ndarray]
    left: list[np.ndarray]
    counts: np.ndarray
    refused: dict[str, int]

    def __len__(self) -> int:
        return len(self.row)

    def pasted(self, m: int) -> list[Pasted]:
        """The objects of a composite, as `paste.render` takes them."""
        columns = (self.objects, self.code, self.scale, self.top, self.left)
        return [Pasted(*values) for values in zip(*(c[m].tolist() for c in columns), strict=True)]


@dataclass
class _Draft:
    """A composite in the making."""

    row: int
    ground: Ground
    counts: np.ndarray
    area: int = 0
    pasted: list[Pasted] = field(default_factory=list)

    def add(self, shape: Shape, place: Place, bank: ObjectBank) -> None:
        """Paste an object into the mask, and count it."""
        p = Pasted(shape.index, shape.code, shape.scale, place.row - shape.top, place.col - shape.left)
        mask = paste_mask(self.ground.mask, bank.patch(p.object)[2], shape.klass, *p[1:])
        taken = np.zeros(mask.shape, bool) if self.ground.taken is None else self.ground.taken
        taken[shape.box(place.row, place.col)] |= shape.foot
        self.ground = Ground(mask, self.ground.slope, taken)
        self.counts = np.bincount(mask.ravel(), minlength=256)[: len(self.counts)].astype(float)
        self.area += shape.area
        self.pasted.append(p)


def propose(
    catalog: Catalog,
    rows: np.ndarray,
    bank: ObjectBank,
    target: np.ndarray,
    options: CopyPasteOptions,
    seed: int,
    quiet: bool = True,
) -> Composites:
    """About `options.share` composites for each training tile of `rows`; target q `[K]`.

    P are the shares of the training tiles and of the composites so far. A class is drawn in proportion to
    max(0, q/P − 1) among those with whole objects: taking the largest alone would fill tile after tile with
    one class until it draws level with the next, and comes to the same end. An object of it is drawn in
    proportion to 1/(1 + times used or refused). Of 16 backgrounds of its resolution and season, dealt in
    turn so that each tile is offered equally often, the one with the largest gain among the admitted places
    is taken; backgrounds whose bound on the gain is below the best found are not read, and a tile is the
    background of at most 2 · `share` composites. Further objects join it, each drawn in the same way, while
    they add to the gain. "filtered" leaves out objects that lie at home where the filter would not have them:
    fragments, mostly.

    Where nothing can be pasted there are no composites, and a warning is logged that says why.
    Raises `CatalogError` where the bank is of other bands or classes.
    """
    if bank.bands != catalog.bands or len(bank.contacts) != catalog.scheme.num_classes:
        raise CatalogError(
            f"the object bank has bands {', '.join(bank.bands)} and {len(bank.contacts)} classes, the catalog "
            f"{', '.join(catalog.bands)} and {catalog.scheme.num_classes}; make the plan again"
        )
    wanted = round(options.share * len(rows))
    names = catalog.scheme.names
    if len(bank.pastable) == 0 or wanted == 0:
        sought = ", ".join(names[c] for c in bank.classes) or "any class"
        log.warning(
            "no composites: no object of %s lies whole in a training tile and has the areas asked for", sought
        )
        return _gathered([], [], len(names), Counter())
    run = _Proposal(catalog, np.asarray(rows), bank, target, options, seed)
    drafts: list[_Draft] = []
    with progress("composites", wanted, quiet) as bar:
        for draft in run.drafts(wanted):
            drafts.append(draft)
            bar.advance()
    if not drafts:
        log.warning("no composites: %s", run.why_none())
    return _gathered(drafts, [d.counts for d in drafts], len(names), run.refused)


class _Proposal:
    """The running state of proposing: pooled counts, uses of objects, refusals."""

    def __init__(
        self,
        catalog: Catalog,
        rows: np.ndarray,
        bank: ObjectBank,
        target: np.ndarray,
        options: CopyPasteOptions,
        seed: int,
    ) -> None:
        self._bank, self._options, self._q = bank, options, np.asarray(target, float)
        self._rng = np.random.default_rng((seed, 0xC09A))
        self._backgrounds = Backgrounds(catalog, rows)
        self._tile_counts = catalog.counts[rows]
        self._pooled = self._tile_counts.sum(0)
        whole = bank.pastable if options.placement == "random" else bank.at_home
        klass = bank.table["klass"].to_numpy()[whole]
        self._members = {int(c): whole[klass == c] for c in np.unique(klass)}
        self._spent = np.zeros(len(bank))
        self._home_resolution = bank.table["resolution"].to_numpy(float)
        self._home_day = day_of_year(bank.table["date"])
        self._dealt = np.array([], np.int64)
        # Of at most so many composites a tile is the background: the best ones must not fill them all.
        self._left = np.full(len(rows), math.ceil(2 * options.share))
        self._filter = Filter(bank, options.placement == "filtered", self._rng)
        self.refused = self._filter.refused
        self._below = True

    def drafts(self, wanted: int) -> Iterator[_Draft]:
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
        reasons = ", ".join(f"{n} times: {reason}" for reason, n in self.refused.most_common(3))
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
        """The next backgrounds to choose from: positions in `rows`."""
        self._dealt = self._dealt[self._left[self._dealt] > 0]
        if len(self._dealt) < _BACKGROUNDS:
            self._dealt = np.concatenate([self._dealt, self._rng.permutation(np.flatnonzero(self._left))])
        hand, self._dealt = np.split(self._dealt, [_BACKGROUNDS])
        return np.unique(hand)

    def _begin(self, klass: int) -> _Draft | None:
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
        draft = _Draft(row, self._backgrounds.tile(row), np.zeros(len(self._q)))
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

    def _extend(self, draft: _Draft) -> None:
        """Further objects in the same tile, while they add to the gain."""
        position = np.flatnonzero(self._backgrounds.rows == draft.row)[:1]
        for _ in range(self._options.objects - 1):
            pooled = self._pooled + draft.counts
            klass = self._class(pooled)
            if klass is None:
                return
            shape = self._shape(klass)
            if len(self._suitable(shape, position)) == 0:
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


def _gathered(drafts: list[_Draft], counts: list[np.ndarray], k: int, refused: Counter[str]) -> Composites:
    def column(i: int, kind: type) -> list[np.ndarray]:
        return [np.array([p[i] for p in d.pasted], kind) for d in drafts]

    return Composites(
        np.array([d.row for d in drafts], np.int64),
        column(0, np.int64),
        column(1, np.int64),
        column(2, np.float32),
        column(3, np.int32),
        column(4, np.int32),
        np.array(counts, np.float64).reshape(-1, k),
        {reason: n for reason, n in refused.most_common() if n},
    )
