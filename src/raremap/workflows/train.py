"""`raremap train`: a catalog and a plan to a bundle, in a run folder that says how it came about."""

from __future__ import annotations

import json
import logging
import platform
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import ConfigError, RaremapWarning, TrainingError
from raremap.files import locked, written
from raremap.tiles.holdout import held_out

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from raremap.balance.plan import SamplingPlan
    from raremap.bundle import Bundle
    from raremap.config import Experiment
    from raremap.learn.run import Fit, Watch
    from raremap.tiles.catalog import Catalog

RECORD = "versions.json"
"""The file that a training writes first: where it is, a run folder has been trained in."""

log = logging.getLogger("raremap")

# Below this share of labelled pixels a tile shows outlines that the labels chose, hardly any of the ground's own.
_SPARSE = 0.1


@dataclass(frozen=True)
class Training:
    """What `raremap train` made: the bundle, where it lies, and how far it came."""

    bundle: Bundle
    path: Path
    steps: int
    best_step: int
    monitor_macro_f1: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary."""
        return {
            "bundle": str(self.path),
            "steps": self.steps,
            "best_step": self.best_step,
            "monitor_macro_f1": self.monitor_macro_f1,
            "seconds": round(self.seconds, 1),
            "decision": self.bundle.decision.to_dict() if self.bundle.decision else None,
        }

    def __str__(self) -> str:
        decision = self.bundle.decision
        scarce = decision.scarce(self.bundle.scheme.names) if decision else ""
        return (
            f"trained {self.steps} steps in {self.seconds:.0f} s; best at step {self.best_step}: "
            f"macro-F1 {self.monitor_macro_f1:.3f} on monitor places\n"
            f"decision: {decision.note if decision else 'argmax'}\n"
            f"{f'note: {scarce}' + chr(10) if scarce else ''}"
            f"bundle: {self.path}"
        )


def train(
    catalog: Catalog,
    plan: SamplingPlan | None,
    experiment: Experiment,
    resume: bool | None = None,
    quiet: bool = False,
    module: nn.Module | None = None,
) -> Bundle:
    """Train on a catalog with a sampling plan (None: made by `experiment.balance`) and give the bundle.

    `module` is anyone's network in the place of `experiment.model`: images `[B, C, H, W]`, normalised, of the bands and
    the channels of the features in order, to logits `[B, K, H, W]`; in training it may give
    `raremap.models.outputs.Outputs`. A copy is trained, from the weights that it has, in one process. Its bundle cannot
    be built again from options: `Bundle.load(folder, module=net)` fills a network of the same make.

    The run folder `experiment.out` gets the resolved experiment, versions, uses, plan, checkpoints,
    metrics.csv, TensorBoard logs and the bundle. A training that was stopped in it goes on from its last checkpoint, where
    all that its steps depend on is the same (what comes after them, such as the decision, may differ); a finished or
    another one is begun anew, and what it had left goes. `resume` True goes on, and raises `TrainingError` where there is
    nothing to go on with; False begins anew. Raises `ConfigError` where the plan was made for other crops, draws a
    tile that is not for training here, or counted other labels, and where `module` does not take the images or gives
    something else than logits of the classes; `OutputError` where another process trains in the folder.
    """
    return run(catalog, plan, experiment, resume, quiet, module).bundle


def train_experiment(experiment: Experiment, resume: bool | None = None, quiet: bool = False) -> Training:
    """Prepare the catalog where the run folder has none that fits, then train; see `train`."""
    from raremap.workflows.prepare import catalog_of

    with locked(Path(experiment.out)):
        return _run(catalog_of(experiment, quiet=quiet), None, experiment, resume, quiet)


def fitted(
    catalog: Catalog,
    plan: SamplingPlan | None,
    experiment: Experiment,
    resume: bool | None,
    quiet: bool,
    watch: Watch | None = None,
    module: nn.Module | None = None,
) -> tuple[Fit, Catalog, np.ndarray]:
    """The trained network, the catalog as training saw it, and the uses; what `train` does before the bundle."""
    from raremap.balance.make import make_plan
    from raremap.learn.fit import fit
    from raremap.scene.features.channels import Channels
    from raremap.workflows.plan import seen_by_training
    from raremap.workflows.rare import rare_in
    from raremap.workflows.resuming import training_of

    out = Path(experiment.out)
    # Before anything takes time.
    channels = Channels.of(
        catalog.bands, experiment.scenes.features, (s.grid for s in catalog.scenes.values())
    )
    if module is not None:
        _check_module(module, channels.names, catalog, experiment)
    seen, uses = seen_by_training(catalog, experiment, quiet)
    crop, seed = experiment.train.crop, experiment.train.seed
    for told in (sparse_labels(seen, uses == "train", experiment), taken_back(experiment)):
        if told:
            warnings.warn(told, RaremapWarning, stacklevel=3)
    if plan is None:
        plan = make_plan(seen, uses == "train", experiment.balance, crop, seed, quiet)
    else:
        _check_plan(plan, seen, uses, crop)
    of = training_of(experiment, catalog, module)
    resume = _goes_on(seen, plan, out, of, resume)
    _start(out, experiment, catalog, uses, resume, module)
    plan.save(out / "plan.parquet")
    result = fit(
        seen,
        uses,
        plan,
        model=experiment.model,
        normalize=experiment.scenes.normalize,
        features=experiment.scenes.features,
        loss=experiment.loss,
        optimizer=experiment.optimizer,
        train=experiment.train,
        augment=experiment.augment,
        out=out,
        of=of,
        pseudo=experiment.pseudo,
        festa=experiment.festa,
        outer=experiment.outer,
        rare=[catalog.scheme.names.index(n) for n in rare_in(catalog)],
        resume=resume,
        quiet=quiet,
        watch=watch,
        module=module,
    )
    return result, seen, uses


def _check_module(
    module: nn.Module, channels: tuple[str, ...], catalog: Catalog, experiment: Experiment
) -> None:
    """Raise `ConfigError` where a network cannot be trained here: on crops, and on whole tiles for its scores."""
    from raremap.models.given import check_network

    if experiment.train.devices > 1:
        raise ConfigError(
            f"train.devices is {experiment.train.devices}, and a module of one's own trains in one process; set it to 1"
        )
    crop = experiment.train.crop
    tiles = sorted(zip(*(catalog.table[side].astype(int) for side in ("height", "width")), strict=True))
    check_network(module, channels, catalog.scheme.num_classes, {(crop, crop), tiles[0], tiles[-1]})


def sparse_labels(catalog: Catalog, train: np.ndarray, experiment: Experiment) -> str | None:
    """The line that says that terms of areas meet labels which show few of them; simulated points are refused before."""
    filled = experiment.pseudo is not None
    regional = experiment.loss.of_areas(filled)
    valid, height, width = (
        catalog.table[name].to_numpy(float)[train] for name in ("valid", "height", "width")
    )
    usable = float((valid * height * width).sum())
    if experiment.points is not None or not regional or not usable:
        return None
    share = float(catalog.counts[train].sum()) / usable
    if share >= _SPARSE:
        return None
    useless = filled or experiment.loss.of_areas(filled=True)
    mend = "" if useless else ", or fill the ground between the labels: pseudo: {}"
    return (
        f"{share:.2%} of the usable pixels of the training tiles are labelled, and the loss has {', '.join(regional)}, which "
        f"measure areas and do not see what is wrong beside the labels; take pixelwise terms such as ce and focal{mend}"
    )


def taken_back(experiment: Experiment) -> str | None:
    """The line that says that what the outer loop learns of the classes is taken out of the scores again."""
    outer, tau = experiment.outer, experiment.loss.tau
    if outer is None or outer.classes == "none" or tau != 0:
        return None
    alone = outer.terms and experiment.loss.learns_terms()
    mend = "set outer.classes: none to learn the weights of terms alone" if alone else "leave outer out"
    return (
        f"outer.classes '{outer.classes}' learns offsets by class, and loss.tau 0 takes them back out of the scores; "
        f"{mend}, or set loss.tau: 1"
    )


def _check_plan(plan: SamplingPlan, seen: Catalog, uses: np.ndarray, crop: int) -> None:
    """Raise `ConfigError` where a plan is of other crops, places or labels than this training's."""
    import numpy as np

    if plan.crop is not None and plan.crop != crop:
        raise ConfigError(
            f"the plan was made for crops of {plan.crop} pixels, train.crop is {crop}; make the plan again"
        )
    rows = plan.rows(seen)
    other = uses[rows] != "train"
    if other.any():
        first = int(other.argmax())
        raise ConfigError(
            f"the plan draws tile {plan.tile_ids[first]}, whose use is '{uses[rows[first]]}' in this experiment's split; "
            "make the plan again"
        )
    tiles = ~plan.composite
    if not np.array_equal(plan.counts[tiles], seen.counts[rows[tiles]]):
        raise ConfigError(
            "the plan counted other labels than this training sees (labels, thin, points or train.seed differ); "
            "make the plan again"
        )


def run(
    catalog: Catalog,
    plan: SamplingPlan | None,
    experiment: Experiment,
    resume: bool | None,
    quiet: bool,
    module: nn.Module | None = None,
) -> Training:
    """Train and say how it went; see `train`."""
    with locked(Path(experiment.out)):
        return _run(catalog, plan, experiment, resume, quiet, module)


def _run(
    catalog: Catalog,
    plan: SamplingPlan | None,
    experiment: Experiment,
    resume: bool | None,
    quiet: bool,
    module: nn.Module | None = None,
) -> Training:
    import time

    from raremap.bundle import Bundle
    from raremap.workflows.calibrate import fit_decision_for
    from raremap.workflows.precision import with_precision
    from raremap.workflows.shares import with_true_shares

    started = time.perf_counter()
    out, seed = Path(experiment.out), experiment.train.seed
    result, seen, uses = fitted(catalog, plan, experiment, resume, quiet, module=module)
    bundle = Bundle(
        module=result.module,
        scheme=catalog.scheme,
        bands=catalog.bands,
        features=result.features,
        normalization=result.normalization,
        options=experiment.model if module is None else None,
        prior=tuple(float(p) for p in result.prior),
        shares=tuple(map(float, result.natural)),
        predict=experiment.predict,
        nodata=experiment.scenes.nodata,
        info=_info(out, experiment, catalog, uses, result),
    )
    bundle = with_precision(bundle, catalog, uses, experiment.train.device)
    if experiment.points is not None and experiment.points.estimates:
        bundle = with_true_shares(
            bundle, seen, uses, experiment.loss.tau, experiment.train.device, seed, quiet
        )
    decision = fit_decision_for(
        bundle,
        catalog,
        uses,
        experiment.decision,
        device=experiment.train.device,
        seed=experiment.train.seed,
        quiet=quiet,
    )
    bundle = bundle.with_decision(decision)
    path = bundle.save(out / "bundle")
    record = _record(out)
    _write_record(out, {**record, "finished": True})
    seconds = record["seconds_before"] + time.perf_counter() - started
    return Training(bundle, path, result.steps, result.best_step, result.best_macro_f1, seconds)


def _record(out: Path) -> dict[str, Any]:
    """What the latest training in a run folder wrote of itself; nothing where there was none."""
    path = out / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write_record(out: Path, record: dict[str, Any]) -> None:
    with written(out / RECORD) as path:
        path.write_text(json.dumps(record, indent=1), encoding="utf-8")


def _goes_on(catalog: Catalog, plan: SamplingPlan, out: Path, of: str, resume: bool | None) -> bool:
    """Whether training goes on from the last checkpoint: as asked, else where one of the same was stopped."""
    from raremap.learn.fit import stopped_at

    if resume is False or (resume is None and _record(out).get("finished", False)):
        return False
    last = out / "checkpoints" / "last.pt"
    if not resume and not last.exists():
        return False
    try:
        step = stopped_at(catalog, plan, out, of)
    except TrainingError:
        if resume:
            raise
        log.warning("%s is of another training, or damaged: this one begins anew, and it goes", last)
        return False
    if resume is None:
        log.warning("%s was stopped; it goes on from step %d (--no-resume begins anew)", out, step)
    return True


def _seconds_before(out: Path) -> float:
    """How long the parts of a stopped training took, up to its last checkpoint."""
    started, last = out / RECORD, out / "checkpoints" / "last.pt"
    if not started.exists():
        return 0.0
    return _record(out).get("seconds_before", 0.0) + max(0.0, last.stat().st_mtime - started.stat().st_mtime)


def _start(
    out: Path,
    experiment: Experiment,
    catalog: Catalog,
    uses: np.ndarray,
    resume: bool,
    module: nn.Module | None = None,
) -> None:
    """Write down what is trained on what; what an older training left goes first, so that nothing is taken for another's."""
    from raremap.learn import checkpoint
    from raremap.workflows.resuming import make_of

    before = _seconds_before(out) if resume else 0.0
    if not resume:
        checkpoint.clear(out)
    with written(out / "experiment.yaml") as path:
        path.write_text(experiment.to_yaml(), encoding="utf-8")
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("raremap", "torch", "lightning", "segmentation-models-pytorch", "timm", "rasterio", "numpy"):
        versions[name] = metadata.version(name)
    provenance = {
        "versions": versions,
        "seconds_before": before,
        **({"module": make_of(module)} if module is not None else {}),
        "catalog": catalog.fingerprint,
        "sources": {name: scene.fingerprint for name, scene in catalog.scenes.items()},
    }
    _write_record(out, provenance)
    frame = catalog.table[["tile_id", "place", "fold"]].copy()
    frame["use"] = uses
    with written(out / "uses.csv") as path:
        frame.to_csv(path, index=False)


def _info(
    out: Path, experiment: Experiment, catalog: Catalog, uses: np.ndarray, result: Any
) -> dict[str, Any]:
    from raremap.workflows.likeness import pixels_of

    places: dict[str, list[str]] = {}
    for use in ("train", "monitor", "calibration", "test"):
        places[use] = sorted({str(p) for p in catalog.table["place"][uses == use]})
    return {
        "name": out.name or "raremap-model",
        "steps": result.steps,
        "best_step": result.best_step,
        "monitor_macro_f1": result.best_macro_f1,
        "catalog": catalog.fingerprint,
        "split": {**experiment.split.model_dump(mode="json"), "holdout": held_out(experiment.split) or None},
        "places": places,
        "loss": experiment.loss.model_dump(mode="json"),
        **({"points": experiment.points.model_dump(mode="json")} if experiment.points else {}),
        **({"resolution_m": size} if (size := pixels_of(catalog)) else {}),
        "seed": experiment.train.seed,
        "decision": experiment.decision.model_dump(mode="json"),
    }
