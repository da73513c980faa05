"""`raremap plan`: what training will see, as a table of tiles, and a page that shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from raremap.balance.diagnosis import Diagnosis
    from raremap.balance.plan import SamplingPlan
    from raremap.config import Experiment
    from raremap.tiles.catalog import Catalog


@dataclass(frozen=True)
class Planning:
    """A sampling plan, what it changes, its table and its page."""

    plan: SamplingPlan
    diagnosis: Diagnosis
    path: Path
    page: Path

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"plan": str(self.path), "page": str(self.page), **self.diagnosis.to_dict()}

    def __str__(self) -> str:
        return f"{self.diagnosis}\nplan: {self.path}\npage: {self.page}"


def plan(catalog: Catalog, experiment: Experiment, quiet: bool = False) -> SamplingPlan:
    """The plan that training with this experiment draws from, counted on its training tiles alone.

    Raises `SplitError` where no training tile has a label, `ConfigError` where a class is not known.
    """
    return _made(catalog, experiment, quiet)[0]


def plan_experiment(experiment: Experiment, quiet: bool = False) -> Planning:
    """Prepare the catalog where the run folder has none that fits; write `OUT/plan.parquet` and `OUT/plan.html`.

    To look at a plan alters no training: in the folder of one the files are `planned.parquet` and
    `planned.html`, plan.parquet stays what was trained on, and a catalog that fits no more stays, too.
    """
    from raremap.balance.diagnosis import diagnose
    from raremap.reports.plan import write_plan_page
    from raremap.workflows.planviews import views
    from raremap.workflows.prepare import catalog_of
    from raremap.workflows.train import RECORD

    out = Path(experiment.out)
    trained = (out / RECORD).exists()
    made, seen = _made(catalog_of(experiment, quiet=quiet, save=not trained), experiment, quiet)
    diagnosis = diagnose(made, seen, quiet)
    path = made.save(out / ("planned.parquet" if trained else "plan.parquet"))
    page = write_plan_page(
        path.with_suffix(".html"),
        made,
        diagnosis,
        views(made, seen),
        palette=dict(zip(seen.scheme.names, seen.scheme.palette, strict=True)),
        title=out.name,
        crop=experiment.train.crop,
    )
    return Planning(made, diagnosis, path, page)


def seen_by_training(
    catalog: Catalog, experiment: Experiment, quiet: bool = True
) -> tuple[Catalog, np.ndarray]:
    """The catalog and the uses of its tiles as training sees them: thinned, and of points, as the experiment says."""
    from raremap.tiles.options import ThinOptions
    from raremap.tiles.points import point
    from raremap.tiles.splits import uses as uses_of
    from raremap.tiles.thin import thin
    from raremap.workflows.rare import rare_indices

    if catalog.scheme != experiment.labels:
        raise ConfigError(
            "the catalog was prepared with other labels than the experiment's; run `raremap prepare` again"
        )
    if catalog.soft and (fault := experiment.fractions_fault()):
        raise ConfigError(fault)
    uses = uses_of(catalog, experiment.split)
    seed = experiment.train.seed
    if experiment.thin != ThinOptions():
        catalog, uses = thin(catalog, uses, experiment.thin, rare_indices(catalog), seed)
    if experiment.points is not None:
        catalog = point(catalog, uses, experiment.points, seed, quiet)
    return catalog, uses


def _made(catalog: Catalog, experiment: Experiment, quiet: bool) -> tuple[SamplingPlan, Catalog]:
    """The plan, and the catalog as training sees it."""
    from raremap.balance.make import make_plan

    seen, uses = seen_by_training(catalog, experiment, quiet)
    train = experiment.train
    return make_plan(seen, uses == "train", experiment.balance, train.crop, train.seed, quiet), seen
