"""Successive halving: by hand, and beside Ray's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raremap.learn.tuning.rungs import Rungs


def test_a_trial_goes_on_where_it_is_among_the_best_third_of_those_before() -> None:
    rungs = Rungs(steps=90, grace=10, reduction=3)
    assert rungs.at == (10, 30)
    said = [rungs.goes_on(trial, 10, score) for trial, score in enumerate((0.5, 0.6, 0.1, 0.55, 0.58))]
    # Two thirds of the way through (.5), (.5 .6), (.1 .5 .6), (.1 .5 .55 .6): .5, .567, .533, .55.
    assert said == [True, True, False, True, True]
    assert rungs.goes_on(1, 20, 0.0)  # between rungs nobody asks
    assert rungs.goes_on(1, 33, 0.7)
    assert not rungs.goes_on(3, 30, 0.69)


def test_it_says_what_rays_scheduler_says() -> None:
    hyperband = pytest.importorskip("ray.tune.schedulers.async_hyperband", reason="ray is not installed")

    class Named:
        def __init__(self, name: int) -> None:
            self.trial_id = name

    bracket, rungs, rng = hyperband._Bracket(2, 40, 3, 0), Rungs(40, 2, 3), np.random.default_rng(0)
    going, said = dict.fromkeys(range(30), 0), 0
    while going:
        trial = int(rng.choice(list(going)))
        going[trial] += 1
        score = float(rng.random())
        theirs = bracket.on_result(Named(trial), going[trial], score) == "CONTINUE"
        assert rungs.goes_on(trial, going[trial], score) == theirs
        said += 1
        if not theirs or going[trial] == 40:
            del going[trial]
    assert said > 100


def test_recorded_scores_count_as_those_that_were_asked() -> None:
    asked = Rungs(90, 10, 3)
    for trial in range(5):
        asked.goes_on(trial, 10, trial / 10)
    told = Rungs.of(90, 10, 3, [(trial, {10: trial / 10}) for trial in range(5)])
    assert [told.goes_on(9, 10, s) for s in (0.26, 0.27)] == [asked.goes_on(9, 10, s) for s in (0.26, 0.27)]


def test_there_is_no_rung_at_the_end() -> None:
    assert Rungs(10, 10, 3).at == Rungs(0, 1, 3).at == ()
    assert math.isclose(Rungs(100, 10, 2.5).at[1], 25)
