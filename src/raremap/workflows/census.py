"""`raremap census`: how uneven the classes of a catalog are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raremap.balance.census import Census
    from raremap.config import Experiment
    from raremap.tiles.catalog import Catalog


def census(catalog: Catalog | str | Path, experiment: Experiment | None = None) -> Census:
    """Class shares, entropy, KL and imbalance of a catalog or its file, by use and by place.

    With an experiment the uses are its own, and training is counted as it sees its labels: thinned, or points.
    """
    from raremap.balance.census import census as run
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.splits import uses
    from raremap.workflows.plan import seen_by_training
    from raremap.workflows.rare import rare_in

    if not isinstance(catalog, Catalog):
        catalog = Catalog.load(catalog)
    if experiment is None:
        return replace(run(catalog, uses(catalog)), rare=rare_in(catalog))
    return replace(run(*seen_by_training(catalog, experiment)), rare=rare_in(catalog))
