"""Which values a trial has: a grid, drawn alike, or as optuna proposes after what others scored."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from raremap.errors import MissingExtra
from raremap.learn.tuning.options import Choice, Dimension, Linear, Log, TuneOptions, Whole

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Told:
    """What is known of an earlier trial: its values, and its score at the step it came to.

    `whole` is false of one that was ended early. Without a score it is under way, or failed.
    """

    number: int
    values: dict[str, Any]
    step: int = 0
    score: float | None = None
    whole: bool = True
    failed: bool = False


def sampler_of(options: TuneOptions) -> Literal["optuna", "random", "grid"]:
    """The sampler by its name, optuna where none is named and it is installed. Raises `MissingExtra`."""
    installed = find_spec("optuna") is not None
    if options.sampler == "optuna" and not installed:
        raise MissingExtra("optuna", "tune")
    return options.sampler or ("optuna" if installed else "random")


def propose(options: TuneOptions, number: int, told: Sequence[Told] = ()) -> dict[str, Any]:
    """The values of trial `number`; the same whenever the same is known of earlier trials."""
    match sampler_of(options):
        case "grid":
            grid = itertools.product(*(d.ends for d in options.space.values()))
            return dict(zip(options.space, next(itertools.islice(grid, number, None)), strict=True))
        case "random":
            rng = np.random.default_rng([options.seed, number])
            return {key: d.at(float(rng.random())) for key, d in options.space.items()}
        case "optuna":
            return _by_optuna(options, number, told)


def _by_optuna(options: TuneOptions, number: int, told: Sequence[Told]) -> dict[str, Any]:
    import optuna

    spaces = {key: _distribution(d) for key, d in options.space.items()}
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        sampler = optuna.samplers.TPESampler(
            seed=int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0])
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for one in sorted(told, key=lambda t: t.number):
            study.add_trial(_frozen(one, options, spaces))
        asked = study.ask(spaces).params
    finally:
        optuna.logging.set_verbosity(level)
    return {key: _value(d, asked[key]) for key, d in options.space.items()}


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match dimension:
        case Choice():  # by number: optuna knows no choice of mappings
            return CategoricalDistribution(tuple(range(len(dimension.of))))
        case Whole():
            return IntDistribution(dimension.low, dimension.high)
        case Log() | Linear():
            return FloatDistribution(dimension.low, dimension.high, log=isinstance(dimension, Log))


def _value(dimension: Dimension, asked: Any) -> Any:
    match dimension:
        case Choice():
            return dimension.of[asked]
        case Whole():
            return int(asked)
        case Log() | Linear():
            return dimension.rounded(float(asked))


def _frozen(
    one: Told, options: TuneOptions, spaces: dict[str, optuna.distributions.BaseDistribution]
) -> optuna.trial.FrozenTrial:
    import optuna

    State = optuna.trial.TrialState
    params = {
        key: d.of.index(one.values[key]) if isinstance(d, Choice) else one.values[key]
        for key, d in options.space.items()
    }
    if one.failed or one.score is None:
        return optuna.trial.create_trial(state=State.FAIL, params=params, distributions=spaces)
    if one.whole:
        return optuna.trial.create_trial(value=one.score, params=params, distributions=spaces)
    return optuna.trial.create_trial(
        state=State.PRUNED,
        value=one.score,
        params=params,
        distributions=spaces,
        intermediate_values={one.step: one.score},
    )
