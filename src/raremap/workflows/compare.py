"""`raremap compare`: variants × seeds × folds under equal conditions, to a table with intervals."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import ConfigError, RaremapWarning, SplitError, TrainingError
from raremap.files import locked
from raremap.jobs import progress
from raremap.tiles.options import points_text
from raremap.workflows.resuming import checksum_of, goes_on, once
from raremap.workflows.runs import WAYS, Condition, Design, Run, RunTable

if TYPE_CHECKING:
    from raremap.config import Experiment
    from raremap.tiles.catalog import Catalog
    from raremap.tiles.options import PointOptions
    from raremap.workflows.comparison import Comparison

# What a variant may not change: every method gets the same data, steps, crops and decision fitting.
_SAME = ("scenes", "labels", "tiles", "split", "thin", "points", "train", "decision", "predict")


def compare(
    experiment: Experiment,
    presets: Sequence[str] = (),
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: int | Sequence[int] = 3,
    folds: Sequence[int] | None = None,
    keep: Sequence[float] | None = None,
    imbalance: Sequence[float] | None = None,
    points: Sequence[PointOptions | str | None] | None = None,
    baseline: str | None = None,
    fitted_baseline: bool = False,
    final: bool = False,
    out: str | Path | None = None,
    keep_bundles: bool = False,
    quiet: bool = False,
) -> Comparison:
    """Train every variant on every seed and fold, with the same steps, crops and decision fitting, and compare.

    Variants are `presets` by name, and `variants`: nested keys on top of the experiment, by a name of the
    caller's. `seeds` is a number or the seeds themselves; `folds` None means all. `keep` and `imbalance`
    thin the training labels (see `ThinOptions`; default: as the experiment's `thin`): one curve each. All of
    that is done with each of `points` (options, their text such as "per_object count=5", "dense" or None;
    default: as the experiment's). A decision is fitted even where the experiment says argmax: both are judged. Differences are to `baseline` (default: the
    first variant) with the plain argmax, or with its own decision where `fitted_baseline`. Under `out` (default: `OUT/compare`) the runs are kept as
    runs.parquet; what is there already is not trained again. Also writes comparison.json, comparison.md
    and comparison.html.

    With `final` everything but the held-out places is for training, and those are the test; how often that
    was done is written beside the file that names them (a list: in `out`). Raises `ConfigError` where a
    variant changes what must be the same, or where the folder holds other runs under the same names,
    `SplitError` where a fold cannot be made, `OutputError` where another process works in the folder.
    """
    from raremap.workflows.prepare import catalog_of

    folder = Path(out) if out is not None else Path(experiment.out) / "compare"
    fitted = experiment.decision.model_copy(update={"kind": "bias"})
    experiment = experiment.model_copy(update={"decision": fitted})
    conditions = conditions_of(experiment, keep, imbalance, points)
    design = _design(
        experiment, presets, variants, seeds, folds, conditions, baseline, fitted_baseline, final
    )
    for name, keys in design.variants.items():
        _check_fair(experiment, name, keys)
    catalog = catalog_of(experiment, quiet=quiet)
    planned = [(run, of_run(experiment, design, run, folder)) for run in design.runs()]
    check_folds({run.fold: e for run, e in planned}, catalog)
    with locked(folder):
        return _go(experiment, design, planned, catalog, folder, keep_bundles, quiet)


def _go(
    experiment: Experiment,
    design: Design,
    planned: list[tuple[Run, Experiment]],
    catalog: Catalog,
    folder: Path,
    keep_bundles: bool,
    quiet: bool,
) -> Comparison:
    """Make the runs that are not there yet, and say what all of them say."""
    from raremap.workflows.comparison import Comparison

    table, failed = make_runs(experiment, planned, catalog, folder, keep_bundles, quiet)
    return Comparison.of(table, design, catalog, experiment, failed).write(folder)


def make_runs(
    experiment: Experiment,
    planned: list[tuple[Run, Experiment]],
    catalog: Catalog,
    folder: Path,
    keep_bundles: bool,
    quiet: bool,
    title: str = "compare",
) -> tuple[RunTable, dict[Run, str]]:
    """The table of the planned runs, of which those that are not there yet are made; and which failed, with the reason.

    Raises `ConfigError` where the folder holds other runs under the same names.
    """
    table = RunTable(folder / "runs.parquet")
    checksums = {run: checksum_of(e, catalog) for run, e in planned}
    done = table.done()
    for run, checksum in checksums.items():
        if done.get(run, checksum) != checksum:
            raise ConfigError(
                f"{table.path} holds a run '{run}' of another definition or other data; "
                "give the variant another name, or choose another -o"
            )
    left = [(run, e) for run, e in planned if run not in done]
    _record_final(experiment, folder, {str(r): checksums[r] for r, _ in left if r.fold == "holdout"})
    failed: dict[Run, str] = {}
    seconds: list[float] = []
    told: set[str] = set()
    with progress(title, len(planned), quiet) as bar:
        bar.advance(len(planned) - len(left))
        for i, (run, changed) in enumerate(left):
            started = time.perf_counter()
            try:
                with once(told):
                    figures = _run(run, changed, catalog, table, checksums[run], keep_bundles)
            except TrainingError as error:
                failed[run], figures = str(error), "failed"
            seconds.append(time.perf_counter() - started)
            remaining = sum(seconds) / len(seconds) * (len(left) - i - 1)
            bar.advance()
            bar.note(
                f"{len(planned) - len(left) + i + 1}/{len(planned)} {run}: {figures}, {_time(remaining)} left"
            )
    return table, failed


def read_variant(text: str) -> tuple[str, dict[str, Any]]:
    """Name and keys of `NAME: a.b=c d.e=f`; raises `ConfigError` where it is none."""
    from raremap.keys import keys_of

    name, sep, rest = text.partition(":")
    if not sep or not name.strip():
        raise ConfigError(f"variant '{text}' is not of the form 'NAME: section.key=value ...'")
    return name.strip(), keys_of(rest)


def _design(
    experiment: Experiment,
    presets: Sequence[str],
    variants: Mapping[str, Mapping[str, Any]] | None,
    seeds: int | Sequence[int],
    folds: Sequence[int] | None,
    conditions: tuple[Condition, ...],
    baseline: str | None,
    fitted_baseline: bool,
    final: bool,
) -> Design:
    from raremap.config import preset
    from raremap.errors import nearest

    chosen: dict[str, dict[str, Any]] = {}
    for name in presets:
        # Every variant is judged with the decision and without it, whatever its recipe says.
        chosen[name] = {k: v for k, v in preset(name).items() if k != "decision"}
    for name, keys in (variants or {}).items():
        if name in chosen:
            raise ConfigError(f"two variants are called '{name}'; give each a name of its own")
        if "preset" in keys:
            raise ConfigError(f"variant '{name}' names a preset; give presets by themselves, or the keys")
        chosen[name] = dict(keys)
    if not chosen:
        raise ConfigError("nothing to compare; name presets, or variants with their keys")
    if any("/" in name or name.startswith(".") or not name for name in chosen):
        raise ConfigError("names of variants are names of folders too; leave out slashes and leading dots")
    baseline = baseline or next(iter(chosen))
    if baseline not in chosen:
        raise ConfigError(f"the baseline '{baseline}' is not a variant; {nearest(baseline, chosen)}")
    all_folds = range(experiment.split.folds) if experiment.split.test is None else [experiment.split.fold]
    if final:
        if experiment.split.holdout is None:
            raise ConfigError("final figures need places that were held out; name them in split.holdout")
        folds_ = ["holdout"]
    elif experiment.split.fold == "holdout":
        raise ConfigError("split.fold is 'holdout'; a comparison touches held-out places with --final only")
    else:
        folds_ = list(all_folds if folds is None else folds)
        wrong = [f for f in folds_ if f not in all_folds]
        if wrong:
            raise ConfigError(f"fold {wrong[0]} does not exist; there are {', '.join(map(str, all_folds))}")
        if not folds_:
            raise ConfigError("no fold to test on; give at least one, or all")
    seeds = tuple(dict.fromkeys(range(seeds) if isinstance(seeds, int) else seeds))
    if not seeds:
        raise ConfigError("no seed to train with; give at least one")
    design = Design(
        variants=chosen,
        seeds=seeds,
        folds=tuple(dict.fromkeys(map(str, folds_))),
        conditions=conditions,
        baseline=baseline,
        fitted_baseline=fitted_baseline,
    )
    runs = {run.folder: run for run in design.runs()}
    for run in design.runs():
        if runs[run.folder] != run:
            raise ConfigError(
                f"the runs '{run}' and '{runs[run.folder]}' would share a folder; rename a variant"
            )
    return design


def conditions_of(
    experiment: Experiment,
    keep: Sequence[float] | None,
    imbalance: Sequence[float] | None,
    points: Sequence[PointOptions | str | None] | None,
) -> tuple[Condition, ...]:
    """What training sees of the labels, each way once; what is not given is the experiment's."""
    own = experiment.thin
    pairs = [(k, own.imbalance) for k in ([own.keep] if keep is None else keep)]
    pairs += [(own.keep, r) for r in imbalance or ()]
    if not pairs:
        raise ConfigError("no share of training tiles to keep; give at least one, 1 keeps all")
    for k, r in pairs:
        experiment.changed({"thin": {"keep": k, "imbalance": r}}, source="comparison")
    if points is not None and not points:
        raise ConfigError("no points to compare; give at least one kind, or 'dense'")
    chosen = [experiment.points] if points is None else points
    texts = [points_text(read_points(p) if isinstance(p, str) else p) for p in chosen]
    return tuple(dict.fromkeys((float(k), float(r or 0), p) for p in texts for k, r in pairs))


def read_points(text: str) -> PointOptions | None:
    """Points of a text such as `per_object count=5 margin=2`; None of `dense`. Raises `ConfigError`."""
    from pydantic import TypeAdapter, ValidationError

    from raremap.keys import keys_of
    from raremap.tiles.options import PointOptions

    kind, _, rest = text.strip().partition(" ")
    if kind == "dense" and not rest.strip():
        return None
    try:
        return TypeAdapter(PointOptions).validate_python({"kind": kind, **keys_of(rest)})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:]))
        raise ConfigError(
            f"points '{text}': {where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}; "
            "give dense, or uniform, per_class or per_object and keys such as count=5"
        ) from None


def check_folds(by_fold: Mapping[str, Experiment], catalog: Catalog) -> None:
    """Raise `SplitError` where a fold cannot be made: now, and not after hours of training on the others."""
    from raremap.tiles.splits import uses

    for fold, experiment in by_fold.items():
        try:
            uses(catalog, experiment.split, warn=False)
        except SplitError as error:
            raise SplitError(f"fold {fold}: {error}") from None


def _check_fair(experiment: Experiment, name: str, keys: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a variant changes what has to be the same for all."""
    changed = experiment.changed(dict(keys), source=f"variant {name}")
    for section in _SAME:
        if getattr(changed, section) != getattr(experiment, section):
            raise ConfigError(
                f"variant '{name}' changes '{section}', which a fair comparison keeps the same for all; "
                "set it in the experiment, or leave it out of the variant"
            )


def of_run(experiment: Experiment, design: Design, run: Run, folder: Path) -> Experiment:
    """The experiment of one run."""
    points = read_points(run.points or "dense")
    return experiment.changed(
        {
            **design.variants[run.variant],
            "out": str(folder / "runs" / run.folder),
            "train": {
                "seed": run.seed,
                "cache_folder": experiment.train.cache_folder or str(folder / "cache"),  # one for all runs
            },
            "split": {"fold": run.fold if run.fold == "holdout" else int(run.fold)},
            "thin": {"keep": run.keep, "imbalance": run.imbalance or None},
            "points": points and points.model_dump(mode="json"),
        },
        source=f"variant {run.variant}",
    )


def _run(
    run: Run, experiment: Experiment, catalog: Catalog, table: RunTable, checksum: str, keep_bundles: bool
) -> str:
    """Train (or go on with) one run, score it on its test places, and put it into the table."""
    from raremap.tiles.splits import uses as uses_of
    from raremap.workflows.rare import rare_indices
    from raremap.workflows.scoring import rows_of, tally
    from raremap.workflows.train import run as train

    folder = Path(experiment.out)
    resume = goes_on(folder, experiment, catalog)
    training = train(catalog, None, experiment, resume=resume, quiet=True)
    uses = uses_of(catalog, experiment.split, warn=False)
    rows, names, rare = rows_of(uses, "test"), catalog.scheme.names, rare_indices(catalog)
    network = training.bundle.network(device=experiment.train.device)
    decided, plain = tally(training.bundle, network, catalog, rows, rare)
    places, plain_by_place = plain.summed_by(catalog.table["place"].to_numpy().astype(str)[rows])
    _, decided_by_place = decided.summed_by(catalog.table["place"].to_numpy().astype(str)[rows])
    decision = training.bundle.decision
    assert decision is not None
    facts = {
        "steps": training.steps,
        "crops": training.steps * experiment.train.batch_size,
        "best_step": training.best_step,
        "monitor_macro_f1": training.monitor_macro_f1,
        "seconds": training.seconds,
        "temperature": decision.temperature,
        "bias": list(decision.bias),
        "gain": decision.gain,
        "note": decision.note,
        "imbalance_realised": _imbalance(catalog, experiment, rare),
    }
    table.add(run, checksum, places, dict(zip(WAYS, (plain_by_place, decided_by_place), strict=True)), facts)
    shutil.rmtree(folder / "checkpoints")
    if not keep_bundles:
        shutil.rmtree(folder / "bundle")
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    before, after = (t.scores(names, ()) for t in (plain, decided))
    return (
        f"macro-F1 {before.macro_f1:.3f} mIoU {before.miou:.3f}, "
        f"with the decision {after.macro_f1:.3f} {after.miou:.3f}"
    )


def _imbalance(catalog: Catalog, experiment: Experiment, rare: Sequence[int]) -> float:
    """The imbalance ratio that training really had."""
    from raremap.tiles.thin import imbalance_of
    from raremap.workflows.plan import seen_by_training

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RaremapWarning)  # the training has told
        seen = seen_by_training(catalog, experiment)
    return imbalance_of(*seen, rare)


def _record_final(experiment: Experiment, folder: Path, coming: Mapping[str, str]) -> None:
    """Count a use of the held-out places, if it is one."""
    from raremap.tiles.holdout import record_use, times_used

    if coming and record_use(experiment.split, folder, coming):
        times = times_used(experiment.split, folder)
        warnings.warn(
            f"final figures are taken from the held-out places for the {_th(times)} time",
            RaremapWarning,
            stacklevel=5,
        )


def _th(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
