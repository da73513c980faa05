"""What the trials of a tuning say, and the files that show it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import TrainingError
from raremap.files import written
from raremap.plain import plain

if TYPE_CHECKING:
    from raremap.config import Experiment
    from raremap.learn.tuning.options import TuneOptions
    from raremap.tiles.catalog import Catalog
    from raremap.workflows.trials import Trial, TrialTable


@dataclass(frozen=True)
class Tuning:
    """The trials of a tuning, the best of those that were trained to the end, and its experiment."""

    trials: tuple[Trial, ...]
    best: Trial
    experiment: Experiment
    options: TuneOptions
    base: dict[str, Any]
    places: int
    path: Path | None = None

    @classmethod
    def of(cls, table: TrialTable, options: TuneOptions, experiment: Experiment, catalog: Catalog) -> Tuning:
        """What a table says; raises `TrainingError` where no trial came to its end."""
        from raremap.tiles.splits import uses as uses_of

        trials = tuple(table.trials[n] for n in sorted(table.trials) if n < options.count)
        whole = [t for t in trials if t.state == "done" and t.score == t.score]
        if not whole:
            why = next((t.error for t in trials if t.error), "none was trained to its end")
            raise TrainingError(f"no trial of {len(trials)} has a score: {why}")
        best = max(whole, key=lambda t: t.score)
        monitor = uses_of(catalog, experiment.split, warn=False) == "monitor"
        train = experiment.train
        return cls(
            trials,
            best,
            experiment.with_values(best.values),
            options,
            {"steps": train.steps, "batch_size": train.batch_size, "crop": train.crop, "seed": train.seed},
            len(set(catalog.table["place"][monitor])),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "best": self.best.to_dict(),
            "best_yaml": str(self.path / "best.yaml") if self.path else None,
            "metric": self.options.metric,
            "tune": plain(self.options.model_dump(mode="json")),
            "planned": self.options.count,
            "base": self.base,
            "monitor_places": self.places,
            "trials": [t.to_dict() for t in self.trials],
        }

    def __str__(self) -> str:
        values = "\n".join(f"  {key}: {_yaml(value)}" for key, value in self.best.values.items())
        states = [t.state for t in self.trials]
        files = (
            f"\nbest experiment: {self.path / 'best.yaml'}\ntable: {self.path / 'tune.md'}"
            if self.path
            else ""
        )
        return (
            f"{len(states)} of {self.options.count} trials, {states.count('stopped')} stopped early, "
            f"{states.count('failed')} failed; best is trial {self.best.number}: {self.options.metric} "
            f"{self.best.score:.3f} on {self.places} monitor place{'s' * (self.places != 1)}\n{values}{files}"
        )

    def write(self, folder: Path) -> Tuning:
        """Write best.yaml, tune.json, tune.md and tune.svg."""
        from dataclasses import replace

        from raremap.reports.tuning import write_figure, write_markdown

        result = replace(self, path=folder)
        with written(folder / "best.yaml") as path:
            path.write_text(result.yaml, encoding="utf-8")
        data = result.to_dict()
        with written(folder / "tune.json") as path:
            path.write_text(json.dumps(data, indent=1, allow_nan=False), encoding="utf-8")
        figure = write_figure(folder / "tune.svg", data)
        write_markdown(folder / "tune.md", data, figure)
        return result

    @property
    def yaml(self) -> str:
        """The best experiment, as `Experiment.load` reads it."""
        head = (
            f"# Trial {self.best.number} of {len(self.trials)}: {self.options.metric} {self.best.score:.4f} "
            f"on the monitor places, at step {self.best.best_step}.\n"
        )
        values = "".join(f"#   {key}: {_yaml(value)}\n" for key, value in self.best.values.items())
        return head + values + self.experiment.to_yaml()


def _yaml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
