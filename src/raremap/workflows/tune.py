"""`raremap tune`: other values of some options, tried on the monitor places; the best as an experiment of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import ConfigError
from raremap.files import locked, written
from raremap.jobs import Progress, progress
from raremap.learn.tuning.options import TuneOptions
from raremap.learn.tuning.proposals import propose, sampler_of
from raremap.learn.tuning.rungs import Rungs
from raremap.workflows.resuming import checksum_of, once
from raremap.workflows.trials import Trial, TrialTable, Watching, curve_in, read_json, run_trial, tidy

if TYPE_CHECKING:
    from raremap.config import Experiment
    from raremap.tiles.catalog import Catalog
    from raremap.workflows.tuning import Tuning

_GROUND = "it says what training and its judges know of the ground"
_AFTER = "it comes after the scores that trials are judged by"
_PACE = "trials are judged at the same steps, on the same machine"
_ALONE = "a trial trains in one process"
# What no trial may change, and why.
_FIXED = {
    "out": "it is where results are written",
    "preset": "it is the start of an experiment; name the keys that it sets",
    "tune": "it says how to tune",
    **dict.fromkeys(("labels", "tiles", "split", "thin", "points"), _GROUND),
    **dict.fromkeys(("decision", "predict"), _AFTER),
    **{
        f"train.{key}": _PACE
        for key in ("steps", "monitor_every", "checkpoint_every", "device", "workers", "threads")
    },
    **dict.fromkeys(("train.devices", "train.ray"), _ALONE),
}
# Of the scenes only what is made of their bands.
_OF_SCENES = ("features", "normalize")


def tune(
    experiment: Experiment,
    space: Mapping[str, Mapping[str, Any]] | None = None,
    trials: int | None = None,
    metric: str | None = None,
    sampler: str | None = None,
    scheduler: str | None = None,
    ray: str | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
) -> Tuning:
    """Train with other values of some options, and write down which scored best on the monitor places.

    What is given goes before the experiment's `tune` (see `TuneOptions`); `space` adds to its space, such as
    `{"optimizer.lr": {"kind": "log", "low": 1e-4, "high": 1e-2}}`. Calibration and test places are not looked at.
    `ray` is "local" or the address of a Ray cluster that sees the same files; without it one trial is made after
    the other. Under `out` (default: `OUT/tune`) are trials.parquet, a run folder for each trial, tune.md,
    tune.json, and best.yaml. Begun again it goes on: trials that have ended are kept, and those that were under
    way go on from their checkpoints. Raises `ConfigError` where an option or a score is not known, a value is not
    possible, or the folder holds trials of another space; `OutputError` where another process works in it.
    """
    from raremap.workflows.prepare import catalog_of

    given = {"trials": trials, "metric": metric, "sampler": sampler, "scheduler": scheduler}
    keys: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    over = {**keys, "space": {key: dict(dimension) for key, dimension in (space or {}).items()}}
    asked = experiment.changed({"tune": over}).tune
    assert asked is not None
    options = asked.model_copy(update={"sampler": sampler_of(asked)})
    experiment = experiment.model_copy(update={"tune": None})
    _check_space(experiment, options)
    options.check_metric(experiment.labels.names)
    folder = Path(out) if out is not None else Path(experiment.out) / "tune"
    catalog = catalog_of(experiment, quiet=quiet)
    _check_monitor(experiment, catalog, options.metric)
    with locked(folder):
        table = TrialTable(folder / "trials.parquet", _of(experiment, catalog, options))
        job = Job(experiment, options, catalog, folder, table)
        if ray is None:
            job.here(quiet)
        else:
            from raremap.workflows.tune_ray import on_ray

            on_ray(job, ray, quiet)
        from raremap.workflows.tuning import Tuning

        return Tuning.of(table, options, experiment, catalog).write(folder)


@dataclass
class Job:
    """A tuning under way: which trials are left, which values they have, and which go on."""

    experiment: Experiment
    options: TuneOptions
    catalog: Catalog
    folder: Path
    table: TrialTable
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        steps, options = self.experiment.train.steps, self.options
        grace = options.grace or max(1, -(-steps // 9))
        self.rungs = Rungs.of(
            steps if options.scheduler == "asha" else 0,
            grace,
            options.reduction,
            ((n, dict(t.curve)) for n, t in sorted(self.table.trials.items())),
        )
        kept = read_json(self._proposed)
        # Those of another space are of no use; the table refuses what was trained with them.
        self._values: dict[str, dict[str, Any]] = kept["values"] if kept.get("of") == self.table.of else {}
        self.left = [n for n in range(options.count) if n not in self.table.trials]
        for trial in self.table.trials.values():
            if (self.folder_of(trial.number) / "checkpoints").exists():  # stopped before it was tidied
                tidy(self.folder_of(trial.number), trial, options.metric)

    @property
    def _proposed(self) -> Path:
        return self.folder / "proposed.json"

    def values(self, number: int) -> dict[str, Any]:
        """What a trial tries: as it was when it was begun, or a new proposal, which is written down."""
        if str(number) not in self._values:
            told = [trial.told for trial in self.table.trials.values()]
            self._values[str(number)] = propose(self.options, number, told)
            with written(self._proposed) as path:
                path.write_text(json.dumps({"of": self.table.of, "values": self._values}), encoding="utf-8")
        return self._values[str(number)]

    def of_trial(self, number: int) -> Experiment:
        """The experiment of a trial."""
        changed = self.experiment.with_values(self.values(number), f"trial {number}")
        return changed.model_copy(update={"out": str(self.folder_of(number))})

    def folder_of(self, number: int) -> Path:
        """Where a trial is trained."""
        return self.folder / "trials" / f"{number:03d}"

    def ended(self, trial: Trial) -> None:
        """Keep what a trial has scored; its folder is tidied after that: a trial without checkpoints must be in the table."""
        self.table.add(trial)
        tidy(self.folder_of(trial.number), trial, self.options.metric)

    def begin(self, number: int) -> None:
        """Let the scores of a trial that was under way before count for others."""
        self.rungs.record(number, dict(curve_in(self.folder_of(number))))

    def stopped(self, number: int) -> Trial:
        """A trial that was told from here to stop, by the scores in its folder."""
        watching = Watching(self.folder_of(number), lambda _: 0.0, lambda *_: True)
        watching.called_off = True
        return watching.ended(number, self.values(number))

    @contextmanager
    def reported(self, quiet: bool) -> Iterator[Progress]:
        """A bar over all trials, those that have ended before included."""
        with progress("tune", self.options.count, quiet) as bar:
            bar.advance(len(self.table.trials))
            yield bar

    def line(self, trial: Trial) -> str:
        """A trial in a few words."""
        values = " ".join(f"{k}={v}" for k, v in trial.values.items())
        figures = trial.error if trial.state == "failed" else f"{self.options.metric} {trial.score:.3f}"
        early = f", stopped at step {trial.steps}" if trial.state == "stopped" else ""
        return f"trial {trial.number} of {self.options.count}: {values}: {figures}{early}"

    def here(self, quiet: bool) -> None:
        """Make the trials that are left, one after the other."""
        with self.reported(quiet) as bar:
            for number in self.left:
                try:
                    experiment = self.of_trial(number)
                except ConfigError as error:  # values that are possible each, and not together
                    trial = Trial(number, self.values(number), "failed", error=str(error))
                else:
                    with once(self.told):
                        trial = run_trial(
                            number,
                            self.values(number),
                            experiment,
                            self.catalog,
                            self.options.metric,
                            lambda step, score, n=number: self.rungs.goes_on(n, step, score),
                        )
                self.ended(trial)
                bar.advance()
                bar.note(self.line(trial))


def _check_space(experiment: Experiment, options: TuneOptions) -> None:
    """Raise `ConfigError` where an option is not known, not to be tuned, or cannot have a value of its range.

    So it does where the trials cannot be trained.
    """
    if experiment.train.devices > 1:
        more = "" if experiment.train.ray is None else " and leave train.ray out"
        raise ConfigError(
            f"train.devices is {experiment.train.devices}, and {_ALONE}; set it to 1{more} (--ray makes several at once)"
        )
    if not options.space:
        raise ConfigError(
            "no option to tune; name some in tune.space, or --space optimizer.lr=log(1e-4,1e-2)"
        )
    for key, dimension in options.space.items():
        for fixed, why in _FIXED.items():
            if f"{key}.".startswith(f"{fixed}.") or fixed.startswith(f"{key}."):
                raise ConfigError(f"tune.space names '{key}', and no trial may change '{fixed}': {why}")
        section, _, rest = key.partition(".")
        if section == "scenes" and rest.partition(".")[0] not in _OF_SCENES:
            raise ConfigError(
                f"tune.space names '{key}', and no trial may change the scenes but for "
                + " and ".join(_OF_SCENES)
            )
        for value in dimension.ends:
            experiment.with_values({key: value}, source=f"tune.space, {key} {json.dumps(value)}")


def _check_monitor(experiment: Experiment, catalog: Catalog, metric: str) -> None:
    """Raise `ConfigError` where the monitor places do not hold what the metric scores."""
    from raremap.tiles.splits import uses as uses_of
    from raremap.workflows.rare import rare_in

    names = catalog.scheme.names
    pixels = catalog.counts[uses_of(catalog, experiment.split, warn=False) == "monitor"].sum(0)
    held = {n for n, p in zip(names, np.asarray(pixels), strict=True) if p > 0}
    rare = set(rare_in(catalog))
    asked = {
        "rare_f1": rare,
        "common_f1": set(names) - rare,
        f"f1/{metric.removeprefix('f1/')}": {metric.removeprefix("f1/")},
    }.get(metric, set(names))
    if not asked & held:
        what = ", ".join(sorted(asked)) or "no class"
        raise ConfigError(
            f"{metric} is of {what}, and the monitor places hold only {', '.join(sorted(held)) or 'no label'}; "
            "choose another metric, or raise split.monitor"
        )


def _of(experiment: Experiment, catalog: Catalog, options: TuneOptions) -> str:
    """What a tuning is made of, but for the number of trials."""
    tuned = options.model_dump(mode="json", exclude={"trials"})
    text = json.dumps([checksum_of(experiment, catalog), experiment.train.seed, tuned])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
