"""Which classes are called rare where tiles of all folds are looked at: census, thinning, evaluation, comparison.

The rule is `balance.census.rare_classes`, here of the shares over all places that are not held out, so that
scores of all folds speak of the same classes. A plan asks the same rule of its training places alone
(`balance.make`): nothing that training sees may come from labels of other places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raremap.tiles.catalog import Catalog


def rare_in(catalog: Catalog) -> tuple[str, ...]:
    """The rare classes, the same in every fold: by the label scheme, or the shares over places not held out."""
    from raremap.balance.census import rare_classes, shares

    fold = catalog.table["fold"].to_numpy()
    counts = catalog.counts[fold >= 0] if (fold >= 0).any() else catalog.counts
    return rare_classes(shares(counts.sum(0)), catalog.scheme.names, catalog.scheme.rare)


def rare_indices(catalog: Catalog) -> list[int]:
    """The same as class indices."""
    names = catalog.scheme.names
    return [names.index(n) for n in rare_in(catalog)]
