"""From a catalog to a plan: census, target, objects and composites, crops, weights."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from raremap.balance.census import rare_classes
from raremap.balance.coverage import delivered
from raremap.balance.crops import CropCounter
from raremap.balance.options import BalanceOptions, Copies, CopyPasteOptions, Diao, Mixture, TargetOptions
from raremap.balance.plan import SamplingPlan, drawable, natural_shares
from raremap.balance.target import target_shares
from raremap.errors import ConfigError, RaremapWarning, nearest
from raremap.jobs import tracked
from raremap.scene.shares import areas
from raremap.tiles.reader import TileReader

# Of more mixed tiles, these tell how crops and tiles differ, class by class: a million would take hours.
_LOOKED_AT = 20_000

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raremap.balance.composites import Composites
    from raremap.balance.objects import ObjectBank
    from raremap.tiles.catalog import Catalog


def make_plan(
    catalog: Catalog, chosen: np.ndarray, options: BalanceOptions, crop: int, seed: int, quiet: bool = True
) -> SamplingPlan:
    """The plan of the chosen training tiles (bool `[N]`) for crops of `crop` pixels.

    Everything is counted on these tiles alone. Tiles are weighed by what they hold, and the shares stated are
    those of crops. Where tiles are larger than crops that takes a pass over the masks of those that are not of
    one class (of 20,000 drawn at random where there are more), about the time that training takes to fit the
    normalisation, or less, since imagery is left alone where it has no invalid pixel. Aimed crops and composites take
    a pass over all. Raises `SplitError` where no tile has a label, `ConfigError` where a class is not known.
    """
    rows = drawable(catalog, chosen)
    names = catalog.scheme.names
    counts = catalog.counts[rows]
    natural = natural_shares(catalog, counts)
    if (natural > 0).sum() == 1:
        _warn(f"all training labels are of class {names[int(natural.argmax())]}: there is nothing to balance")
    target = target_shares(natural, names, target_of(options))
    # Not `workflows.rare`, whose shares are of all folds: which classes are pasted must not follow from test places.
    rare = _indices(rare_classes(natural, names, catalog.scheme.rare), names, "rare")
    if isinstance(options, Copies) and options.classes:
        rare = _indices(options.classes, names, "balance.classes")
    bank, composites = None, None
    if isinstance(options, Diao | Mixture) and options.copy_paste is not None:
        pasted = options.copy_paste.classes
        wanted = rare if pasted is None else _indices(pasted, names, "balance.copy_paste.classes")
        bank, composites = _composites(catalog, rows, wanted, target, options.copy_paste, seed, quiet)
    if composites is not None:
        rows = np.concatenate([rows, composites.row])
        counts = np.concatenate([counts, composites.counts])
    shape = np.array([catalog.windows[r][2:] for r in rows])
    grid, cropped = None, None
    if (shape > crop).any() and options.aim:
        counter = CropCounter(crop, len(names))
        for _, mask, shares in _labels(catalog, rows, composites, bank, np.arange(len(rows)), quiet):
            counter.add(mask, shares)
        grid = counter.grid()
    elif (shape > crop).any():
        area, held = shape.prod(1), np.minimum(shape, crop).prod(1)
        # Of tiles no larger than a crop, or of one class all over, it is known without a look at them.
        cropped = counts * (held / area)[:, None]
        mixed = np.flatnonzero((held < area) & (counts.max(1) < area))
        looked = some_of(mixed, _LOOKED_AT, seed)
        evenly = cropped[looked].sum(0)
        for i, mask, shares in _labels(catalog, rows, composites, bank, looked, quiet):
            cropped[i] = areas(mask, shares, len(names), delivered(mask, crop))
        others = np.setdiff1d(mixed, looked, assume_unique=True)
        cropped[others] *= np.divide(
            cropped[looked].sum(0), evenly, out=np.ones(len(names)), where=evenly > 0
        )
    plan = SamplingPlan(
        tile_ids=catalog.table["tile_id"].to_numpy()[rows],
        weights=np.full(len(rows), 1 / len(rows)),
        repeats=np.ones(len(rows)),
        counts=counts,
        natural=natural,
        target=target,
        rare=np.isin(np.arange(len(names)), rare),
        options=options,
        composites=composites,
        bank=bank,
        grid=grid,
        crop=crop,
        cropped=cropped,
    )
    return plan.toward(target)


def some_of(entries: np.ndarray, number: int, seed: int) -> np.ndarray:
    """At most `number` of them, drawn alike, in their order."""
    if len(entries) <= number:
        return entries
    return np.sort(np.random.default_rng(seed).choice(entries, number, replace=False))


def _warn(text: str) -> None:
    warnings.warn(text, RaremapWarning, stacklevel=3)


def target_of(options: BalanceOptions) -> TargetOptions:
    """The target of a solver; uniform for those that have none, which use it for their crops alone."""
    return options.target if isinstance(options, Diao | Mixture) else TargetOptions()


def _indices(chosen: Sequence[str], names: Sequence[str], key: str) -> np.ndarray:
    for name in chosen:
        if name not in names:
            raise ConfigError(f"{key} names '{name}', which is not a class; {nearest(name, list(names))}")
    return np.array([names.index(n) for n in chosen], np.int64)


def _composites(
    catalog: Catalog,
    rows: np.ndarray,
    classes: np.ndarray,
    target: np.ndarray,
    options: CopyPasteOptions,
    seed: int,
    quiet: bool,
) -> tuple[ObjectBank | None, Composites | None]:
    from raremap.balance.composites import propose
    from raremap.balance.objects import build_bank

    if len(classes) == 0:
        _warn("no class is rare, so no object is pasted; name some under balance.copy_paste.classes")
        return None, None
    bank = build_bank(catalog, rows, classes.tolist(), options, seed, quiet)
    composites = propose(catalog, rows, bank, target, options, seed, quiet)
    # Without one, what was refused is still to be told; the objects serve nothing.
    return (bank if len(composites) else None), composites


def _labels(
    catalog: Catalog,
    rows: np.ndarray,
    composites: Composites | None,
    bank: ObjectBank | None,
    entries: np.ndarray,
    quiet: bool,
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Some entries of a plan with class index `[h, w]` and any shares, of composites with what is pasted; none is kept."""
    from raremap.balance.paste import pasted_labels

    reader = TileReader(catalog, rows, memory=0)
    tiles = len(rows) - (0 if composites is None else len(composites))
    for i in tracked(entries.tolist(), "count crops", len(entries), quiet):
        row = int(rows[i])
        labels = reader.labels(row), reader.shares(row)
        if i >= tiles and composites is not None and bank is not None:
            labels = pasted_labels(*labels, composites.pasted(i - tiles), bank)
        yield i, *labels
