"""`raremap kfold`: every fold trained and tested, one report over them, and an ensemble of their bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from raremap.errors import BundleError, ConfigError
from raremap.files import locked
from raremap.workflows.compare import check_folds, conditions_of, make_runs, of_run
from raremap.workflows.folds import KFold
from raremap.workflows.runs import Design, Run

if TYPE_CHECKING:
    from raremap.config import Experiment
    from raremap.ensembles import Ensemble
    from raremap.tiles.catalog import Catalog

_NAME = "fold"


def kfold(
    experiment: Experiment,
    out: str | Path | None = None,
    ensemble: bool = True,
    quiet: bool = False,
) -> KFold:
    """Train every fold with the experiment's seed, test each on its own places, and report over all.

    Under `out` (default: `OUT/kfold`) stand runs.parquet (all that was counted, by fold and place), a run folder with
    its bundle for each fold, kfold.json, kfold.html and `ensemble`: the bundles as one, with its decision. Stopped at
    any moment, it goes on from the last checkpoint when it is started again. Raises `ConfigError` where there are
    fewer than two folds, or the folder holds folds of another experiment; `SplitError` where a fold cannot be made.
    """
    from raremap.workflows.prepare import catalog_of

    design = _design(experiment)
    folder = Path(out) if out is not None else Path(experiment.out) / "kfold"
    catalog = catalog_of(experiment, quiet=quiet)
    planned = [(run, of_run(experiment, design, run, folder)) for run in design.runs()]
    check_folds({run.fold: e for run, e in planned}, catalog)
    with locked(folder):
        table, failed = make_runs(experiment, planned, catalog, folder, True, quiet, title="kfold")
        done = [run for run, _ in planned if run in table.done()]
        result = KFold.of(table, done, catalog, experiment, folder, failed)
        if ensemble and len(done) > 1:
            model = _ensemble(experiment, done, catalog, folder, quiet)
            result = result.with_ensemble(model, folder / "ensemble")
        return result.write(folder)


def _design(experiment: Experiment) -> Design:
    split = experiment.split
    if split.test is not None:
        raise ConfigError(
            "split.test names the test places, so that there is one fold only; leave it out for k folds"
        )
    if split.fold == "holdout":
        raise ConfigError("split.fold is 'holdout'; k folds leave held-out places alone, give it a number")
    if split.folds < 2:
        raise ConfigError(f"split.folds is {split.folds}; k folds need two at least, such as split.folds=5")
    return Design(
        variants={_NAME: {}},
        seeds=(experiment.train.seed,),
        folds=tuple(str(f) for f in range(split.folds)),
        conditions=conditions_of(experiment, None, None, None),
        baseline=_NAME,
    )


def bundle_of(folder: Path, run: Run) -> Path:
    """Where the bundle of a fold lies."""
    return folder / "runs" / run.folder / "bundle"


def _ensemble(
    experiment: Experiment, runs: list[Run], catalog: Catalog, folder: Path, quiet: bool
) -> Ensemble:
    """The ensemble of the folds' bundles, with its decision; the one that is there, where it is of these bundles."""
    from raremap.bundle import ENSEMBLE, ITEM, Bundle
    from raremap.ensembles import Ensemble, described
    from raremap.workflows.calibrate import calibrate

    paths, target = [bundle_of(folder, run) for run in runs], folder / "ensemble"
    for path in paths:
        if not (path / ITEM).is_file():
            raise BundleError(
                f"{path} is missing, though its fold is in {folder / 'runs.parquet'}; "
                f"put it back, or remove {folder} to train the folds again"
            )
    if (target / ENSEMBLE).is_file():
        items = [json.loads((path / ITEM).read_text(encoding="utf-8")) for path in paths]
        weights = [item["properties"]["raremap:weights_sha256"] for item in items]
        if [m["weights_sha256"] for m in described(target)["raremap:members"]] == weights:
            return Ensemble.load(target)
    model = Ensemble.of(
        [Bundle.load(p) for p in paths], name=f"{Path(experiment.out).name or 'raremap'}-folds"
    )
    device = experiment.train.device
    fitted = calibrate(model, catalog, options=experiment.decision, device=device, quiet=quiet).bundle
    fitted.save(target)
    assert isinstance(fitted, Ensemble)
    return fitted
