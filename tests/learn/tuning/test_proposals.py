"""Values that trials have: of the right distribution, the same again, and better where optuna has learned."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import chisquare, kstest

from raremap.errors import ConfigError, MissingExtra
from raremap.learn.tuning import proposals
from raremap.learn.tuning.options import TuneOptions, read_dimension
from raremap.learn.tuning.proposals import Told, propose, sampler_of

SPACE = {
    "lr": {"kind": "log", "low": 1e-5, "high": 1e-1},
    "share": {"kind": "linear", "low": -1, "high": 3},
    "depth": {"kind": "int", "low": 2, "high": 5},
    "loss": {"kind": "choice", "of": [{"kind": "ce"}, {"kind": "ce_dice"}, None]},
}


def options(**keys: Any) -> TuneOptions:
    return TuneOptions(**{"space": SPACE, "sampler": "random", **keys})


def test_values_drawn_at_random_have_their_distributions() -> None:
    drawn = [propose(options(), n) for n in range(600)]
    assert kstest(np.log10([d["lr"] for d in drawn]), "uniform", (-5, 4)).pvalue > 0.01
    assert kstest([d["share"] for d in drawn], "uniform", (-1, 4)).pvalue > 0.01
    assert chisquare([sum(d["depth"] == k for d in drawn) for k in (2, 3, 4, 5)]).pvalue > 0.01
    assert chisquare([sum(d["loss"] == v for d in drawn) for v in SPACE["loss"]["of"]]).pvalue > 0.01
    assert all(isinstance(d["depth"], int) for d in drawn)


def test_values_can_be_read() -> None:
    assert all(len(f"{propose(options(), n)['lr']:.3e}") == 9 for n in range(20))
    assert all(float(f"{v:.4g}") == v for v in (propose(options(), n)["lr"] for n in range(50)))


def test_a_proposal_follows_from_seed_number_and_what_was_told() -> None:
    assert propose(options(), 7) == propose(options(), 7)
    assert propose(options(), 7) != propose(options(seed=1), 7)


def test_a_grid_has_every_combination_once() -> None:
    space = {"a": {"kind": "choice", "of": [1, 2]}, "b": {"kind": "choice", "of": ["x", "y", "z"]}}
    grid = options(space=space, sampler="grid")
    made = [tuple(propose(grid, n).values()) for n in range(grid.count)]
    assert made == list(itertools.product([1, 2], "xyz"))


def test_optuna_comes_near_to_the_best_and_random_does_not_look() -> None:
    pytest.importorskip("optuna", reason="optuna is not installed")

    def mean_of_the_last(sampler: str) -> float:
        told: list[Told] = []
        for n in range(40):
            values = propose(options(sampler=sampler), n, told)
            score = -((np.log10(values["lr"]) + 3) ** 2) - (values["loss"] != {"kind": "ce_dice"})
            told.append(Told(n, values, 10, float(score)))
        return float(np.mean([t.score for t in told[-15:]]))

    assert mean_of_the_last("optuna") > mean_of_the_last("random") + 0.5


def test_optuna_proposes_the_same_when_it_is_told_the_same_in_any_order() -> None:
    pytest.importorskip("optuna", reason="optuna is not installed")
    told = [Told(n, propose(options(), n), 10, n / 20, whole=n % 3 > 0, failed=n % 5 == 4) for n in range(15)]
    first = propose(options(sampler="optuna"), 15, told)
    assert propose(options(sampler="optuna"), 15, told[::-1]) == first
    assert propose(options(sampler="optuna"), 15, told[:11]) != first


def test_without_optuna_values_are_drawn_at_random_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(proposals, "find_spec", lambda n: None if n == "optuna" else found(n))
    assert sampler_of(options(sampler=None)) == "random"
    with pytest.raises(MissingExtra, match="optuna is not installed; it comes with the extra 'tune'"):
        sampler_of(options(sampler="optuna"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"space": {"a": {"kind": "log", "low": 0, "high": 1}}}, "greater than 0"),
        ({"space": {"a": {"kind": "linear", "low": 2, "high": 1}}}, "low 2 and high 1 are no range"),
        ({"space": {"a": {"kind": "choice", "of": []}}}, "at least 1 item"),
        ({"space": {"a": {"kind": "choice", "of": [1, 1]}}}, "has a value twice"),
        ({"space": {"a": SPACE["loss"], "a.b": SPACE["lr"]}}, "'a.b', which is part of it"),
        ({"sampler": "grid"}, "'lr' is a range; make it a choice"),
        ({"space": {"a": SPACE["loss"]}, "sampler": "grid", "trials": 2}, "3 combinations, and trials is 2"),
    ],
)
def test_what_is_no_space_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        options(**keys)


def test_dimensions_are_read_from_words() -> None:
    assert read_dimension("optimizer.lr=log(1e-4,1e-2)") == (
        "optimizer.lr",
        {"kind": "log", "low": "1e-4", "high": "1e-2"},
    )
    name, keys = read_dimension("loss=choice({kind: ce}, {focal: 0.5, iou: 0.5}, 1e-3, null)")
    read = TuneOptions.model_validate({"space": {name: keys}}).space["loss"].ends
    assert read == ({"kind": "ce"}, {"focal": 0.5, "iou": 0.5}, 1e-3, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.lr", "not of the form OPTION=KIND"),
        ("optimizer.lr=0.1", "not of the form OPTION=KIND"),
        ("optimizer.lr=lgo(1,2)", "no range is called 'lgo'; did you mean 'log'"),
        ("optimizer.lr=log(1,2,3)", "log takes two numbers"),
        ("loss=choice({kind: ce)", "is no list of values"),
    ],
)
def test_words_that_are_no_dimension_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_dimension(text)
