"""`raremap compare`: variants × seeds × folds under equal conditions, to a table with intervals."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import ConfigError, TrainingError
from raremap.jobs import progress
from raremap.workflows.runs import WAYS, Design, Run, RunTable

if TYPE_CHECKING:
    from raremap.config import Experiment
    from raremap.tiles.catalog import Catalog
    from raremap.workflows.comparison import Comparison

# What a variant may not change: every method gets the same data, steps, crops and decision fitting.
_SAME = ("scenes", "labels", "tiles", "split", "thin", "train", "decision", "predict")
# What makes a run faster or slower and not different.
_MANNER = ("device", "workers", "threads", "seed")


def compare(
    experiment: Experiment,
    presets: Sequence[str] = (),
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: int | Sequence[int] = 3,
    folds: Sequence[int] | None = None,
    keep: Sequence[float] = (1.0,),
    imbalance: Sequence[float] = (),
    baseline: str | None = None,
    final: bool = False,
    out: str | Path | None = None,
    keep_bundles: bool = False,
    quiet: bool = False,
) -> Comparison:
    """Train every variant on every seed and fold, with the same steps, crops and decision fitting, and compare.

    Variants are `presets` by name, and `variants`: nested keys on top of the experiment, by a name of the
    caller's. `seeds` is a number or the seeds themselves; `folds` None means all. `keep` and `imbalance`
    thin the training labels (see `ThinOptions`): one curve each. Differences are to `baseline` (default: the
    first variant) with the plain argmax. Under `out` (default: `OUT/compare`) the runs are kept as
    runs.parquet; what is there already is not trained again. Also writes comparison.json, comparison.md
    and comparison.html.

    With `final` everything but the held-out places is for training, and those are the test; how often that
    was done is written beside the file that names them. Raises `ConfigError` where a variant changes what
    must be the same, or where the folder holds other runs under the same names.
    """
    from raremap.workflows.comparison import Comparison
    from raremap.workflows.prepare import catalog_of

    folder = Path(out) if out is not None else Path(experiment.out) / "compare"
    design = _design(experiment, presets, variants, seeds, folds, keep, imbalance, baseline, final)
    for name, keys in design.variants.items():
        _check_fair(experiment, name, keys)
    table = RunTable(folder / "runs.parquet")
    catalog = catalog_of(experiment, quiet=quiet)
    planned = [(run, _of_run(experiment, design, run, folder)) for run in design.runs()]
    checksums = {run: _checksum(e, catalog) for run, e in planned}
    done = table.done()
    for run, checksum in checksums.items():
        if done.get(run, checksum) != checksum:
            raise ConfigError(
                f"{table.path} holds a run '{run}' of another definition or other data; "
                "give the variant another name, or choose another -o"
            )
    left = [(run, e) for run, e in planned if run not in done]
    if final and not any(run.fold == "holdout" for run in done):
        _record_final(experiment, design)
    failed: dict[Run, str] = {}
    seconds: list[float] = []
    with progress("compare", len(planned), quiet) as bar:
        bar.advance(len(planned) - len(left))
        for i, (run, changed) in enumerate(left):
            started = time.perf_counter()
            try:
                figures = _run(run, changed, catalog, table, checksums[run], keep_bundles)
            except TrainingError as error:
                failed[run], figures = str(error), "failed"
            seconds.append(time.perf_counter() - started)
            remaining = sum(seconds) / len(seconds) * (len(left) - i - 1)
            bar.advance()
            bar.note(
                f"{len(planned) - len(left) + i + 1}/{len(planned)} {run}: {figures}, {_time(remaining)} left"
            )
    result = Comparison.of(table, design, catalog, experiment, failed)
    return result.write(folder)


def read_variant(text: str) -> tuple[str, dict[str, Any]]:
    """Name and keys of `NAME: a.b=c d.e=f`; raises `ConfigError` where it is none."""
    from raremap.config import keys_of

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
    keep: Sequence[float],
    imbalance: Sequence[float],
    baseline: str | None,
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
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not seeds:
        raise ConfigError("no seed to train with; give at least one")
    conditions = [(float(k), 0.0) for k in keep] + [(1.0, float(r)) for r in imbalance]
    return Design(
        variants=chosen,
        seeds=seeds,
        folds=tuple(map(str, folds_)),
        conditions=tuple(dict.fromkeys(conditions)),
        baseline=baseline,
    )


def _check_fair(experiment: Experiment, name: str, keys: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a variant changes what has to be the same for all."""
    changed = experiment.changed(dict(keys), source=f"variant {name}")
    for section in _SAME:
        if getattr(changed, section) != getattr(experiment, section):
            raise ConfigError(
                f"variant '{name}' changes '{section}', which a fair comparison keeps the same for all; "
                "set it in the experiment, or leave it out of the variant"
            )


def _of_run(experiment: Experiment, design: Design, run: Run, folder: Path) -> Experiment:
    """The experiment of one run."""
    name = str(run).replace(" ", "-")
    return experiment.changed(
        {
            **design.variants[run.variant],
            "out": str(folder / "runs" / name),
            "train": {"seed": run.seed},
            "split": {"fold": run.fold if run.fold == "holdout" else int(run.fold)},
            "thin": {"keep": run.keep, "imbalance": run.imbalance or None},
        },
        source=f"variant {run.variant}",
    )


def _checksum(experiment: Experiment, catalog: Catalog) -> str:
    """What a run is made of: its experiment, but for where and how fast, and the tiles."""
    data = experiment.model_dump(mode="json")
    del data["out"], data["scenes"]
    data["train"] = {k: v for k, v in data["train"].items() if k not in _MANNER}
    text = json.dumps(data, sort_keys=True) + catalog.fingerprint
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _run(
    run: Run, experiment: Experiment, catalog: Catalog, table: RunTable, checksum: str, keep_bundles: bool
) -> str:
    """Train (or go on with) one run, score it on its test places, and put it into the table."""
    from raremap.tiles.splits import uses as uses_of
    from raremap.workflows.comparison import rare_in
    from raremap.workflows.scoring import rows_of, tally
    from raremap.workflows.train import run as train

    folder = Path(experiment.out)
    older = folder / "experiment.yaml"
    if older.exists() and older.read_text(encoding="utf-8") != experiment.to_yaml():
        shutil.rmtree(folder)  # an interrupted run of another definition
    resume = (folder / "checkpoints" / "last.pt").exists()
    training = train(catalog, None, experiment, resume=resume, quiet=True)
    rows = rows_of(uses_of(catalog, experiment.split, warn=False), "test")
    names = catalog.scheme.names
    rare = [names.index(n) for n in rare_in(catalog, experiment)]
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
    }
    table.add(run, checksum, places, dict(zip(WAYS, (plain_by_place, decided_by_place), strict=True)), facts)
    shutil.rmtree(folder / "checkpoints")
    if not keep_bundles:
        shutil.rmtree(folder / "bundle")
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    before, after = (t.scores(names, ()).macro_f1 for t in (plain, decided))
    return f"macro-F1 {before:.3f}, with the decision {after:.3f}"


def _record_final(experiment: Experiment, design: Design) -> None:
    import warnings

    from raremap.errors import RaremapWarning
    from raremap.tiles.holdout import record_use

    times = record_use(experiment.split, {"variants": list(design.variants), "seeds": list(design.seeds)})
    warnings.warn(
        f"final figures are taken from the held-out places for the {_th(times)} time",
        RaremapWarning,
        stacklevel=3,
    )


def _th(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
