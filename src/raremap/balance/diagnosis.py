"""What a plan changes: shares, divergences, and how much ground and how many objects stand behind each class.

These are diagnostics. A low divergence can be had by showing a few tiles over and over, which the effective
sizes tell; whether a plan helps is told by scores on places that nothing has seen, and by nothing here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from raremap.balance.census import entropy, kl
from raremap.balance.crops import CropGrid, coverage
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
class Evenness:
    """How shares p `[K]` lie to a target q and to uniform u over all classes, in nats.

    `variation` is the standard deviation of the shares over their mean and `imbalance_ratio` the largest
    over the smallest, both over the classes that have a training pixel.
    """

    entropy: float
    kl_target_from: float
    kl_from_target: float
    kl_uniform_from: float
    kl_from_uniform: float
    variation: float
    imbalance_ratio: float

    @classmethod
    def of(cls, p: np.ndarray, q: np.ndarray, present: np.ndarray) -> Evenness:
        """Of shares, a target, and which classes have a training pixel."""
        u, there = np.full(len(p), 1 / len(p)), p[present]
        return cls(
            entropy=entropy(p),
            kl_target_from=kl(q, p),
            kl_from_target=kl(p, q),
            kl_uniform_from=kl(u, p),
            kl_from_uniform=kl(p, u),
            variation=float(there.std() / there.mean()),
            imbalance_ratio=float(there.max() / there.min()) if there.min() > 0 else math.inf,
        )


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


@dataclass(frozen=True)
class Diagnosis:
    """Figures of a plan; see `diagnose`."""

    solver: str
    note: str
    names: tuple[str, ...]
    rare: tuple[str, ...]
    natural: np.ndarray
    target: np.ndarray
    stream: np.ndarray
    before: Evenness
    after: Evenness
    places: Sources
    objects: Sources
    tiles: int
    effective_tiles: float
    repeated: int
    unused: int
    largest_repeats: float
    composites: int
    composites_drawn: int
    composite_share: float
    refused: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready figures; what is infinite or was not counted is null."""
        by_class = {
            name: {
                "natural": self.natural[i],
                "target": self.target[i],
                "stream": self.stream[i],
                "places": self.places.number[i],
                "effective_places": {"before": self.places.natural[i], "after": self.places.stream[i]},
                "objects": self.objects.number[i],
                "effective_objects": {"before": self.objects.natural[i], "after": self.objects.stream[i]},
            }
            for i, name in enumerate(self.names)
        }
        return _plain(
            {
                "solver": self.solver,
                "note": self.note,
                "classes": list(self.names),
                "rare": list(self.rare),
                "by_class": by_class,
                "before": asdict(self.before),
                "after": asdict(self.after),
                "tiles": self.tiles,
                "effective_tiles": self.effective_tiles,
                "tiles_repeated": self.repeated,
                "tiles_unused": self.unused,
                "largest_repeats": self.largest_repeats,
                "composites": self.composites,
                "composites_drawn": self.composites_drawn,
                "composite_share": self.composite_share,
                "refused": self.refused,
            }
        )

    def __str__(self) -> str:
        width = max(22, *(len(n) + 2 for n in self.names))
        lines = [
            f"{'class':<{width}}{'natural':>10}{'target':>10}{'stream':>10}"
            f"{'places':>9}{'effective':>18}{'objects':>9}{'effective':>18}"
        ]
        for i in np.argsort(-self.natural, kind="stable"):
            name = self.names[i] + (" *" if self.names[i] in self.rare else "")
            row = f"{name:<{width}}{self.natural[i]:>10.3%}{self.target[i]:>10.3%}{self.stream[i]:>10.3%}"
            for source in (self.places, self.objects):
                number, natural, stream = (
                    float(v[i]) for v in (source.number, source.natural, source.stream)
                )
                worth = "–" if math.isnan(number) else f"{_number(natural)} → {_number(stream)}"
                row += f"{_number(number, 0):>9}{worth:>18}"
            lines.append(row)
        lines.append(f"{'':<{width}}{'natural':>10}{'':>10}{'stream':>10}")
        before, after = asdict(self.before), asdict(self.after)
        for key, label in LABELS.items():
            lines.append(f"{label:<{width}}{_number(before[key], 3):>10}{'':>10}{_number(after[key], 3):>10}")
        lines.append(f"{'effective tiles':<{width}}{self.tiles:>10}{'':>10}{self.effective_tiles:>10.1f}")
        lines.append(f"{self.solver}: {self.note}" if self.note else self.solver)
        lines.append(
            f"{counted(self.tiles, 'tile')}: {self.repeated} drawn more than once a pass, {self.unused} never, "
            f"{self.largest_repeats:.3g} times at most"
        )
        if self.composites:
            lines.append(
                f"{counted(self.composites, 'composite')}: {self.composites_drawn} drawn, "
                f"{self.composite_share:.1%} of the stream"
            )
        if self.refused:
            lines.append(f"refused: {', '.join(f'{reason} ({n})' for reason, n in self.refused.items())}")
        return "\n".join([*lines, "* rare"] if self.rare else lines)


LABELS = {
    "entropy": "entropy (nats)",
    "kl_target_from": "KL(target‖p)",
    "kl_from_target": "KL(p‖target)",
    "kl_uniform_from": "KL(uniform‖p)",
    "kl_from_uniform": "KL(p‖uniform)",
    "variation": "variation of shares",
    "imbalance_ratio": "max/min",
}


def diagnose(plan: SamplingPlan, catalog: Catalog, quiet: bool = True) -> Diagnosis:
    """Shares, divergences, effective sizes and counts of a plan, before and after.

    Before: every training tile alike. `catalog` is what the plan was made of. For each class u is the
    plan's weight × the pixels that a place, or an object, contributes to what is drawn; where crops are
    aimed a pixel counts by its chance to lie in the crop. Pixels of a pasted object belong to the place and
    the object that it was cut from. Objects are 8-connected components of rare and pasted classes inside a
    tile: one that goes on across the border of two tiles counts as two. They are counted in one pass over
    the masks, none kept; without such a class there is no pass.
    """
    rows = plan.rows(catalog)
    tiles, tile = ~plan.composite, rows[~plan.composite]
    classes = plan.rare.copy()
    if plan.bank is not None:
        classes[list(plan.bank.classes)] = True
    pass_ = _Pass(plan, catalog, rows, np.flatnonzero(classes))
    pass_.run(quiet)
    present = plan.natural > 0
    refused = {} if plan.composites is None else plan.composites.refused
    return Diagnosis(
        solver=plan.options.kind,
        note=plan.note,
        names=catalog.scheme.names,
        rare=tuple(n for n, r in zip(catalog.scheme.names, plan.rare, strict=True) if r),
        natural=plan.natural,
        target=plan.target,
        stream=plan.shares,
        before=Evenness.of(plan.natural, plan.target, present),
        after=Evenness.of(plan.shares, plan.target, present),
        places=_places(plan, catalog, rows, pass_.given),
        objects=pass_.objects(),
        tiles=len(tile),
        effective_tiles=plan.effective_size,
        repeated=int((plan.repeats[tiles] > 1).sum()),
        unused=int((plan.repeats[tiles] == 0).sum()),
        largest_repeats=float(plan.repeats.max()),
        composites=int(plan.composite.sum()),
        composites_drawn=int((plan.weights[plan.composite] > 0).sum()),
        composite_share=float(plan.weights[plan.composite].sum()),
        refused=dict(refused),
    )


def pixel_chances(grid: CropGrid, entry: int, shape: tuple[int, int], chance: np.ndarray) -> np.ndarray:
    """How likely each pixel `[h, w]` of the plan's row `entry` is to lie in a crop, by chances `[M]` of positions."""
    here = slice(int(grid.first[entry]), int(grid.first[entry + 1]))
    (tops, row), (lefts, col) = (np.unique(v[here], return_inverse=True) for v in (grid.top, grid.left))
    p = np.zeros((len(tops), len(lefts)))
    np.add.at(p, (row, col), chance[here])
    down, across = (
        coverage(starts, length, grid.size, grid.step)
        for starts, length in zip((tops, lefts), shape, strict=True)
    )
    return down.T @ p @ across


def owners(mask: np.ndarray, pasted: Sequence[Pasted], bank: ObjectBank) -> np.ndarray:
    """Which of the pasted objects each pixel uint8 `[h, w]` of a composite is of: from 1 on; 0 is the tile's own."""
    # Numbers take the place of labels, so that what covers what is as it is rendered.
    owner = np.where(mask == IGNORE, IGNORE, 0).astype(np.uint8)
    for number, p in enumerate(pasted, start=1):
        owner = paste_mask(owner, bank.patch(p.object)[2], number, *p[1:])
    return owner


class _Pass:
    """One pass over the masks: what each object contributes, and what composites take from elsewhere."""

    def __init__(self, plan: SamplingPlan, catalog: Catalog, rows: np.ndarray, classes: np.ndarray) -> None:
        self._plan, self._catalog, self._rows, self._classes = plan, catalog, rows, classes
        # Contributions of the objects of each class, tile by tile: with every tile alike, and in the stream.
        k = len(plan.natural)
        self._natural: list[list[np.ndarray]] = [[] for _ in range(k)]
        self._stream: list[list[np.ndarray]] = [[] for _ in range(k)]
        self._found = np.zeros(k, np.int64)
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
            mask = reader.whole(row)[2]
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
        if plan.grid is not None:
            seen = pixel_chances(plan.grid, entry, mask.shape, plan.grid.chance)
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


def _places(
    plan: SamplingPlan, catalog: Catalog, rows: np.ndarray, given: dict[tuple[int, int], float]
) -> Sources:
    names, inverse = np.unique(catalog.table["place"].to_numpy().astype(str)[rows], return_inverse=True)
    k = len(plan.natural)
    natural, stream = np.zeros((len(names), k)), np.zeros((len(names), k))
    tiles = ~plan.composite
    np.add.at(natural, inverse[tiles], plan.counts[tiles])
    seen = plan.counts if plan.grid is None else plan.grid.seen()
    np.add.at(stream, inverse, plan.weights[:, None] * seen)
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


def counted(number: int, word: str) -> str:
    """A number with its noun."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _number(value: float, digits: int = 1) -> str:
    if math.isnan(value):
        return "–"
    return "inf" if math.isinf(value) else f"{value:.{digits}f}"


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    if isinstance(data, (float, np.floating)):
        return float(data) if math.isfinite(data) else None
    return data.item() if isinstance(data, np.generic) else data
