"""`SamplingPlan`: what the network sees, how often, and where its crops lie."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raremap.balance.crops import CropGrid, aim
from raremap.balance.options import BalanceOptions, CopyPasteOptions, Diao, InverseFrequency, Mixture, Uniform
from raremap.balance.solvers import Draws, solve
from raremap.errors import CatalogError, SplitError

if TYPE_CHECKING:
    from raremap.balance.composites import Composites
    from raremap.balance.objects import ObjectBank
    from raremap.tiles.catalog import Catalog


@dataclass(frozen=True)
class SamplingPlan:
    """A row for each tile that is drawn, and after them one for each composite.

    `tile_ids` (of a composite: its background), `weights` that sum to 1, `repeats` (1: once a pass over the
    training tiles), `counts` `[N, K]` labelled pixels; `natural` and `target` class shares `[K]`. `grid` says
    where crops of `crop` pixels lie, None where any position of a tile is as likely as another; `cropped` `[N, K]`
    are the labelled pixels that a sample then delivers on average, None where crops are whole tiles, or not
    known. `composites` is None where none
    were asked for. `note` is what the solver said,
    `path` KL(q ‖ P) after each repeat of a greedy solver.
    """

    tile_ids: np.ndarray
    weights: np.ndarray
    repeats: np.ndarray
    counts: np.ndarray
    natural: np.ndarray
    target: np.ndarray
    rare: np.ndarray
    options: BalanceOptions = field(default_factory=Uniform)
    composites: Composites | None = None
    bank: ObjectBank | None = None
    grid: CropGrid | None = None
    crop: int | None = None
    cropped: np.ndarray | None = None
    note: str = ""
    path: np.ndarray | None = None

    @classmethod
    def uniform(cls, catalog: Catalog, chosen: np.ndarray) -> SamplingPlan:
        """Every chosen tile with a labelled pixel alike, seen whole; `chosen` is bool `[N]`."""
        rows = drawable(catalog, chosen)
        counts = catalog.counts[rows]
        natural = natural_shares(catalog, counts)
        ones = np.ones(len(rows))
        ids = catalog.table["tile_id"].to_numpy()[rows]
        return cls(ids, ones / len(rows), ones, counts, natural, natural, np.zeros(len(natural), bool))

    @cached_property
    def composite(self) -> np.ndarray:
        """Which rows are composites, bool `[N]`."""
        number = 0 if self.composites is None else len(self.composites)
        return np.arange(len(self.weights)) >= len(self.weights) - number

    @cached_property
    def delivered(self) -> np.ndarray:
        """Labelled pixels by class that a sample of each row delivers on average, `[N, K]`."""
        if self.grid is not None:
            return self.grid.seen()
        return self.counts if self.cropped is None else self.cropped

    @cached_property
    def shares(self) -> np.ndarray:
        """Class shares `[K]` of the labelled pixels that the stream delivers: of crops, not of tiles."""
        # Pixels, not tiles, are what a loss averages over: a tile with few labels counts for little.
        pooled = self.weights @ self.delivered
        return pooled / pooled.sum()

    @property
    def effective_size(self) -> float:
        """Effective number of tiles and composites, 1 / Σ w²."""
        return float(1 / np.square(self.weights).sum())

    @property
    def copy_paste(self) -> CopyPasteOptions:
        """How composites are rendered."""
        return getattr(self.options, "copy_paste", None) or CopyPasteOptions()

    def toward(self, target: np.ndarray) -> SamplingPlan:
        """The same rows drawn for another target `[K]`: tiles first, then positions inside them."""
        draws = solve(self.options, self.counts, target, self.rare, self.composite)
        return self._drawn(draws, target)

    def _drawn(self, draws: Draws, target: np.ndarray) -> SamplingPlan:
        weights = draws.weights
        grid = self.grid
        if grid is not None:
            grid = aim(grid, weights, target, _cap(self.options), self.options.aim)
        return replace(
            self,
            weights=weights,
            repeats=draws.repeats,
            target=target,
            grid=grid,
            note=draws.note,
            path=draws.path if len(draws.path) else None,
        )

    def save(self, path: str | Path) -> Path:
        """Write the plan as Parquet, and the objects of its composites beside it (`plan.objects.parquet`)."""
        from raremap.balance.planfile import save

        return save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> SamplingPlan:
        """Read a plan; raises `CatalogError` where the file is missing or is none."""
        from raremap.balance.planfile import load

        return load(path)

    def rows(self, catalog: Catalog) -> np.ndarray:
        """Catalog rows of the plan's tiles; raises `CatalogError` where one is not there."""
        position = {t: i for i, t in enumerate(catalog.table["tile_id"])}
        missing = [t for t in self.tile_ids if t not in position]
        if missing:
            raise CatalogError(
                f"the plan names tile {missing[0]}, which is not in the catalog; make the plan again"
            )
        return np.array([position[t] for t in self.tile_ids], np.int64)


def natural_shares(catalog: Catalog, counts: np.ndarray) -> np.ndarray:
    """Class shares `[K]` of the ground: those of the labels `[N, K]`, or what the catalog knows better."""
    return counts.sum(0) / counts.sum() if catalog.natural is None else np.array(catalog.natural)


def drawable(catalog: Catalog, chosen: np.ndarray) -> np.ndarray:
    """Catalog rows of the chosen tiles with a labelled pixel; raises `SplitError` where there is none."""
    rows = np.flatnonzero(chosen & (catalog.counts.sum(1) > 0))
    if len(rows) == 0:
        raise SplitError("no training tile holds a labelled pixel; check the labels and the split")
    return rows


def _cap(options: BalanceOptions) -> float:
    """How often a position may be drawn, times the even chance."""
    return options.max_repeats if isinstance(options, Diao | Mixture | InverseFrequency) else 4.0
