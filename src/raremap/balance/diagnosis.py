"""What a plan changes: shares, divergences, and how much ground and how many objects stand behind each class.

These are diagnostics. A low divergence can be had by showing a few tiles over and over, which the effective
sizes tell; whether a plan helps is told by scores on places that nothing has seen, and by nothing here.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.balance.census import entropy, kl
from raremap.balance.sources import ObjectPass, Sources, place_sources
from raremap.plain import plain

if TYPE_CHECKING:
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
        return plain(
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
    pass_ = ObjectPass(plan, catalog, rows, np.flatnonzero(classes))
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
        places=place_sources(plan, catalog, rows, pass_.given),
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


def counted(number: int, word: str) -> str:
    """A number with its noun."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _number(value: float, digits: int = 1) -> str:
    if math.isnan(value):
        return "–"
    return "inf" if math.isinf(value) else f"{value:.{digits}f}"
