"""Trials of a tuning: one training each, judged by the monitor places, kept in one table."""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from raremap.errors import CatalogError, ConfigError, TrainingError, reason
from raremap.files import written
from raremap.learn.tuning.proposals import Told
from raremap.plain import plain

if TYPE_CHECKING:
    import pandas as pd

    from raremap.config import Experiment
    from raremap.measure.scores import Scores
    from raremap.tiles.catalog import Catalog

Judge = Callable[[int, float], bool]
"""Is told a trial's score so far, with the step; says whether it goes on."""


@dataclass(frozen=True)
class Trial:
    """A trial that has come to its end.

    `score` is that of the weights that were kept, at `best_step`; `curve` what it would have been, had the
    training ended at each step that was scored. `macro_f1` to `overall_accuracy` are further scores of those weights on
    the monitor places, `rare_f1` the mean F1 of the rare classes. `loss` is the training loss since the score before
    the last, `seconds_100` what a hundred steps took, scores included; None where they are not known. A trial that ASHA
    ended early is "stopped".
    """

    number: int
    values: dict[str, Any]
    state: Literal["done", "stopped", "failed"]
    score: float = float("nan")
    best_step: int = 0
    steps: int = 0
    seconds: float = 0.0
    curve: tuple[tuple[int, float], ...] = ()
    error: str = ""
    macro_f1: float | None = None
    miou: float | None = None
    rare_f1: float | None = None
    overall_accuracy: float | None = None
    loss: float | None = None
    seconds_100: float | None = None

    @property
    def told(self) -> Told:
        """What a sampler learns from it."""
        failed = self.state == "failed" or self.score != self.score
        score = None if failed else self.score
        return Told(self.number, self.values, self.steps, score, self.state == "done", failed)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; NaN is null."""
        return plain({**self.__dict__, "curve": [list(point) for point in self.curve]})


FURTHER = ("macro_f1", "miou", "rare_f1", "overall_accuracy")
"""What is kept of a trial beside the score that it is judged by."""


class TrialTable:
    """The table `trials.parquet`, which grows by one trial at a time and is whole at any moment.

    `of` says what the tuning is made of. Raises `ConfigError` where the table is of another.
    """

    def __init__(self, path: Path, of: str) -> None:
        import pandas as pd

        self.path, self.of = path, of
        self.trials: dict[int, Trial] = {}
        if not path.exists():
            return
        try:
            frame: pd.DataFrame = pd.read_parquet(path)
            known = set(frame["of"])
            self.trials = {t.number: t for t in map(_trial, frame.to_dict("records"))}
        except Exception as error:  # whatever damaged bytes make the readers raise
            raise CatalogError(
                f"{path} is not a table of trials ({reason(error)}); remove it, or choose another -o"
            ) from None
        if known - {of}:
            raise ConfigError(
                f"{path} holds trials of another experiment, space, sampler or data; choose another -o"
            )

    def add(self, trial: Trial) -> None:
        """Put a trial that has ended into the table."""
        import pandas as pd

        self.trials[trial.number] = trial
        rows = [
            {**t.__dict__, "of": self.of, "values": json.dumps(t.values), "curve": json.dumps(t.curve)}
            for _, t in sorted(self.trials.items())
        ]
        with written(self.path) as path:
            pd.DataFrame(rows).to_parquet(path, compression="zstd", index=False)


def _trial(row: dict[str, Any]) -> Trial:
    curve = tuple((int(step), float(score)) for step, score in json.loads(row["curve"]))
    data: dict[str, Any] = {**row, "values": json.loads(row["values"]), "curve": curve}
    del data["of"]
    # A column of numbers has no None.
    data = {k: None if v != v and k != "score" else v for k, v in data.items()}
    return Trial(**data)


class Watching:
    """Follows a trial's scores and keeps them in its folder, so that one that was killed goes on with them.

    A judge is asked about each score; `called_off` once it said no. `further` gives what else is kept, by the names of
    `Trial`.
    """

    def __init__(
        self,
        folder: Path,
        metric: Callable[[Scores], float],
        judge: Judge,
        further: Callable[[Scores], dict[str, float | None]] | None = None,
    ) -> None:
        self._path, self._metric, self._judge = folder / "scores.json", metric, judge
        self._further = further or (lambda _: {})
        kept = read_json(self._path)
        # By step: the macro-F1, which says what weights are kept, the score that the trial is judged by, and what else is kept.
        self._scores: dict[int, tuple[float, float, dict[str, float | None]]] = {
            int(step): (float(macro), float(value), further)
            for step, macro, value, further in kept.get("scores", ())
        }
        self.called_off = bool(kept.get("called_off", False))
        self._before, self._started = float(kept.get("seconds", 0.0)), time.perf_counter()
        for step, score in self.curve:  # they count for others, and the last may not have been judged
            self.called_off = not judge(step, score) or self.called_off

    def __call__(self, step: int, scores: Scores) -> bool:
        """Take in the scores at a step; whether the training goes on."""
        self._scores[step] = (float(scores.macro_f1), self._metric(scores), self._further(scores))
        here = dict(self.curve)[step]
        self._save()  # first: a judge elsewhere may end this process
        self.called_off = not self._judge(step, here)
        if self.called_off:
            self._save()
        return not self.called_off

    @property
    def seconds(self) -> float:
        """How long the trial took so far."""
        return self._before + time.perf_counter() - self._started

    @property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """The score by step, of the weights that were the best until then."""
        return tuple((step, self._scores[self._kept(step)][1]) for step in sorted(self._scores))

    def ended(self, number: int, values: dict[str, Any]) -> Trial:
        """The trial as it has ended."""
        last = max(self._scores)
        best = self._kept(last)
        state = "stopped" if self.called_off else "done"
        score = self._scores[best][1]
        more: dict[str, Any] = {
            **self._scores[best][2],
            **_trained(self._path.parent / "metrics.csv", last),
        }
        return Trial(
            number,
            values,
            state,
            score,
            best,
            last,
            round(self.seconds, 1),
            self.curve,
            **more,
        )

    def _kept(self, step: int) -> int:
        """The step whose weights are kept at a step: the first of those with the highest macro-F1."""
        return max((s for s in sorted(self._scores) if s <= step), key=lambda s: self._scores[s][0])

    def _save(self) -> None:
        data = {
            "scores": [[step, *pair] for step, pair in sorted(self._scores.items())],
            "called_off": self.called_off,
            "seconds": self.seconds,
        }
        with written(self._path) as path:
            path.write_text(json.dumps(data), encoding="utf-8")


def _trained(path: Path, step: int) -> dict[str, float]:
    """The training loss and the pace at a step, as metrics.csv has them."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["step"] == str(step):
                return {
                    "loss": float(row["loss"]),
                    "seconds_100": round(100 * float(row["seconds"]) / step, 2),
                }
    return {}


def curve_in(folder: Path) -> tuple[tuple[int, float], ...]:
    """What a trial that is under way, or was killed, has scored so far."""
    return Watching(folder, lambda _: 0.0, lambda *_: True).curve


def read_json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where there is none, or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def metric_of(name: str, names: tuple[str, ...], rare: list[int]) -> Callable[[Scores], float]:
    """A score of the monitor places by its name (see `TuneOptions.metric`)."""
    from raremap.measure.scores import headline

    chosen = np.isin(np.arange(len(names)), rare)

    def score(scores: Scores) -> float:
        if name.startswith("f1/"):
            return float(scores.f1[names.index(name.removeprefix("f1/"))])
        return float(headline(name, scores.matrix, chosen))

    return score


def further_of(rare: Sequence[int]) -> Callable[[Scores], dict[str, float | None]]:
    """The further scores of a trial; `rare` are class numbers."""
    from raremap.measure.scores import headline

    def scores_of(scores: Scores) -> dict[str, float | None]:
        chosen = np.isin(np.arange(len(scores.names)), rare)
        return {key: plain(headline(key, scores.matrix, chosen)) for key in FURTHER}

    return scores_of


def run_trial(
    number: int,
    values: dict[str, Any],
    experiment: Experiment,
    catalog: Catalog,
    metric: str,
    judge: Judge,
) -> Trial:
    """Train one trial in the folder `experiment.out`, or go on with it, and say what it scored."""
    from raremap.workflows.rare import rare_indices
    from raremap.workflows.resuming import goes_on
    from raremap.workflows.train import fitted

    folder = Path(experiment.out)
    try:
        resume = goes_on(folder, experiment, catalog)
        rare = rare_indices(catalog)
        watching = Watching(folder, metric_of(metric, catalog.scheme.names, rare), judge, further_of(rare))
        if not watching.called_off:
            fitted(catalog, None, experiment, resume, True, watching)
        return watching.ended(number, values)
    except (TrainingError, ConfigError) as error:
        return Trial(number, values, "failed", error=str(error))


def tidy(folder: Path, trial: Trial, metric: str) -> None:
    """Leave of a trial's folder what can be read: its values and score go to TensorBoard, checkpoints go."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    simple = {
        k: v if isinstance(v, bool | int | float | str) else json.dumps(v) for k, v in trial.values.items()
    }
    with SummaryWriter(str(folder / "tensorboard")) as board:
        for summary in hparams({**simple, "state": trial.state}, {f"tune/{metric}": trial.score}):
            board._get_file_writer().add_summary(summary)
        if trial.score == trial.score:
            board.add_scalar(f"tune/{metric}", trial.score, trial.steps)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
