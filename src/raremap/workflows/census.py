"""`raremap census`: how uneven the classes of a catalog are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raremap.balance.census import Census
    from raremap.tiles.catalog import Catalog


def census(catalog: Catalog | str | Path) -> Census:
    """Class shares, entropy, KL and imbalance of a catalog or its file, by use and by place."""
    from raremap.balance.census import census as run
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.splits import dropped_at_borders, uses
    from raremap.workflows.rare import rare_in

    if not isinstance(catalog, Catalog):
        catalog = Catalog.load(catalog)
    return replace(run(catalog, uses(catalog), dropped_at_borders(catalog)), rare=rare_in(catalog))
