"""Options of tuning: which values of which options are tried, and by what they are judged. No heavy import."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raremap.errors import ConfigError, nearest
from raremap.options import Options

METRICS = ("macro_f1", "miou", "rare_f1", "common_f1", "overall_accuracy", "balanced_accuracy")
"""Scores over classes that trials can be judged by; `f1/CLASS` is that of one class."""


class _Range(Options):
    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> _Range:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"low {self.low:g} and high {self.high:g} are no range; give a low below the high"
            )
        return self

    def at(self, share: float) -> Any:
        """The value at a share (0 to 1) of the way from low to high."""
        return self.rounded(self.low + share * (self.high - self.low))

    def rounded(self, value: float) -> Any:
        """The value in four digits, more than a training can tell apart, and few enough to read."""
        return min(self.high, max(self.low, float(f"{value:.4g}")))

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that show whether all of them are possible."""
        return self.at(0.0), self.at(1.0)


class Linear(_Range):
    """Numbers from `low` to `high`, all alike."""

    kind: Literal["linear"]


class Log(_Range):
    """Numbers from `low` to `high` whose logarithms are alike: for rates, decays and factors."""

    kind: Literal["log"]
    low: float = Field(gt=0)

    def at(self, share: float) -> float:
        """The value at a share (0 to 1) of the way, by its logarithm."""
        return self.rounded(self.low * (self.high / self.low) ** share)


class Whole(_Range):
    """Whole numbers from `low` to `high`, both among them."""

    kind: Literal["int"]
    low: int  # pyright: ignore[reportIncompatibleVariableOverride]
    high: int  # pyright: ignore[reportIncompatibleVariableOverride]

    def at(self, share: float) -> int:
        """The value at a share (0 to 1) of the way."""
        return min(self.high, self.low + int(share * (self.high - self.low + 1)))


class Choice(Options):
    """One of some values, which may be whole sections: `of: [{kind: ce}, {kind: ce_dice}]`."""

    kind: Literal["choice"]
    of: tuple[Any, ...] = Field(min_length=1)

    @field_validator("of")
    @classmethod
    def _each_once(cls, of: tuple[Any, ...]) -> tuple[Any, ...]:
        values = tuple(_number(v) for v in of)
        if any(v in values[:i] for i, v in enumerate(values)):
            raise ValueError(f"{list(values)} has a value twice; give each once")
        return values

    def at(self, share: float) -> Any:
        """The value at a share (0 to 1) of the list."""
        return self.of[min(len(self.of) - 1, int(share * len(self.of)))]

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values."""
        return self.of


Dimension = Annotated[Linear | Log | Whole | Choice, Field(discriminator="kind")]


class TuneOptions(Options):
    """Trials of other values of some options, judged by the scores of the monitor places.

    `space` names options by their dots, and what they may be. `trials` of them are made (default 32; with
    `sampler: grid` every combination of choices). `sampler` "optuna" proposes by what earlier trials scored (its
    tree of Parzen estimators), "random" does not look; by default it is optuna where that is installed. The
    `scheduler` "asha" ends trials early: at `grace` steps (default: a ninth of them), and at each `reduction`
    times as many, one goes on only if its score is among the best 1/`reduction` of those that came as far.
    `metric` is a score over classes, or `f1/CLASS`. All trials have the experiment's seed; `seed` is that of the
    proposals.
    """

    space: dict[str, Dimension] = Field(default_factory=dict)
    trials: int | None = Field(default=None, ge=1)
    metric: str = "macro_f1"
    sampler: Literal["optuna", "random", "grid"] | None = None
    scheduler: Literal["asha", "none"] = "asha"
    reduction: float = Field(default=3.0, gt=1)
    grace: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _apart(self) -> TuneOptions:
        for key in self.space:
            for other in self.space:
                if other.startswith(f"{key}."):
                    raise ValueError(f"space has '{key}' and '{other}', which is part of it; leave one out")
        return self

    @model_validator(mode="after")
    def _countable(self) -> TuneOptions:
        if self.sampler != "grid":
            return self
        for key, dimension in self.space.items():
            if not isinstance(dimension, Choice):
                raise ValueError(
                    f"a grid has every value of an option, and '{key}' is a range; make it a choice"
                )
        if self.trials is not None and self.trials != self.count:
            raise ValueError(
                f"the grid has {self.count} combinations, and trials is {self.trials}; leave trials out"
            )
        return self

    @property
    def count(self) -> int:
        """How many trials are made."""
        if self.sampler == "grid":
            return math.prod(len(d.ends) for d in self.space.values())
        return self.trials or 32

    def check_metric(self, names: Sequence[str]) -> None:
        """Raise `ConfigError` where no score has the metric's name, `names` being the classes."""
        known = [*METRICS, *(f"f1/{n}" for n in names)]
        if self.metric not in known:
            raise ConfigError(
                f"no score is called '{self.metric}'; {nearest(self.metric, known)}, or f1/CLASS for one class"
            )


_CALL = re.compile(r"\s*(?P<kind>\w+)\s*\((?P<of>.*)\)\s*", re.DOTALL)


def read_dimension(text: str) -> tuple[str, dict[str, Any]]:
    """Option and dimension of `optimizer.lr=log(1e-4,1e-2)`; raises `ConfigError` where it is none.

    >>> read_dimension("train.batch_size=choice(8,16)")
    ('train.batch_size', {'kind': 'choice', 'of': [8, 16]})
    """
    import yaml

    key, sep, rest = text.partition("=")
    call = _CALL.fullmatch(rest)
    form = "such as optimizer.lr=log(1e-4,1e-2) or train.batch_size=choice(8,16)"
    if not sep or not key.strip() or call is None:
        raise ConfigError(f"'{text}' is not of the form OPTION=KIND(...), {form}")
    try:
        values = yaml.safe_load(f"[{call['of']}]")
    except yaml.YAMLError:
        raise ConfigError(
            f"'{text}': '{call['of']}' is no list of values with commas between, {form}"
        ) from None
    kind = call["kind"]
    if kind == "choice":
        return key.strip(), {"kind": kind, "of": values}
    kinds = ("log", "linear", "int", "choice")
    if kind not in kinds:
        raise ConfigError(f"'{text}': no range is called '{kind}'; {nearest(kind, kinds)}")
    if len(values) != 2:
        raise ConfigError(f"'{text}': {kind} takes two numbers, the lowest and the highest, {form}")
    return key.strip(), {"kind": kind, "low": values[0], "high": values[1]}


def _number(value: Any) -> Any:
    """YAML reads 1e-3, which has no point, as text."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value
