"""Thinning: training with fewer labels, or with rarer classes, than there are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from raremap.errors import RaremapWarning
from raremap.scene.shares import areas
from raremap.tiles.options import ThinOptions

if TYPE_CHECKING:
    from raremap.tiles.catalog import Catalog


def thin(
    catalog: Catalog, uses: np.ndarray, options: ThinOptions, rare: Sequence[int], seed: int
) -> tuple[Catalog, np.ndarray]:
    """The catalog and the uses that training sees; `rare` are class indices.

    Tiles that go are "dropped". Labels that go are hidden (`Catalog.hidden`) and are in no count of the
    catalog given back. What stays at a small `keep` or a large `imbalance` stays at milder ones too. Warns
    where an `imbalance` is below the natural one.
    """
    train = np.flatnonzero((uses == "train") & (catalog.counts.sum(1) > 0))
    rng = np.random.default_rng((seed, 0x7415))
    order, hiding = rng.permutation(train), [rng.permutation(len(train)) for _ in rare]
    if options.keep < 1:
        uses = uses.copy()
        order, needed = _every_class_first(order, catalog.counts)
        uses[order[max(needed, round(options.keep * len(order))) :]] = "dropped"
    if options.imbalance is None:
        return catalog, uses
    counts = catalog.counts.copy()
    hidden: dict[int, tuple[int, ...]] = {}
    total = counts[train[uses[train] == "train"]].sum(0)
    goal = total.max() / options.imbalance
    rarer = [c for c in rare if 0 < total[c] <= goal]
    if rarer:
        said = ", ".join(f"{catalog.scheme.names[c]} ({total.max() / total[c]:.0f})" for c in rarer)
        warnings.warn(
            f"thin.imbalance {options.imbalance:g} changes nothing for classes that are as rare already: {said}",
            RaremapWarning,
            stacklevel=2,
        )
    for c, shuffled in zip(rare, hiding, strict=True):
        here = train[shuffled]
        here = here[(uses[here] == "train") & (counts[here, c] > 0)]
        for row in here[_enough(counts[here, c], goal) :]:
            counts[row, c] = 0
            hidden[int(row)] = (*hidden.get(int(row), ()), c)
    seen = replace(catalog, hidden=hidden)
    if catalog.soft and hidden:
        _recount(seen, counts)
    table = catalog.table.copy()
    table["counts"] = list(counts)
    return replace(seen, table=table), uses


def _recount(catalog: Catalog, counts: np.ndarray) -> None:
    """Count the tiles with hidden classes anew, in place: with a hidden class its cell's other classes change."""
    from raremap.tiles.reader import TileReader

    rows = np.array(sorted(catalog.hidden))
    reader = TileReader(catalog, rows, memory=0)
    for row in rows.tolist():
        counts[row] = areas(reader.labels(row), reader.shares(row), catalog.scheme.num_classes)


def imbalance_of(catalog: Catalog, uses: np.ndarray, rare: Sequence[int]) -> float:
    """How many times the pixels of a rare class the commonest has in training: the geometric mean over rare classes.

    NaN where training has no pixel of a rare class.
    """
    total = catalog.counts[uses == "train"].sum(0)
    there = [total[c] for c in rare if total[c] > 0]
    return float(np.exp(np.mean(np.log(total.max() / there)))) if there else float("nan")


def _every_class_first(order: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, int]:
    """The same tiles, but those that together hold every class come first, of the rarest before all; and how many."""
    held = counts[order] > 0
    front: list[int] = []
    for c in np.argsort(held.sum(0), kind="stable"):
        if held[:, c].any() and not held[front, c].any():
            front.append(int(np.argmax(held[:, c])))
    return np.concatenate([order[front], np.delete(order, front)]), len(front)


def _enough(pixels: np.ndarray, goal: float) -> int:
    """How many of these tiles, in order, come nearest to a number of pixels; one at least."""
    sums = np.cumsum(pixels)
    return int(np.argmin(np.abs(sums - goal))) + 1 if len(sums) else 0
