"""Scores fitted under any stream are the same, once the loss has taken the stream's prior into account.

Pixels of class y have features of one Gaussian, wherever they lie: label shift in its pure form. Multinomial
logistic scores on `z + log π̂ − (1 − τ) log π` come to z = log p(x | y) + (1 − τ) log π, whose coefficients are
known.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from raremap.balance.options import Diao, InverseFrequency, Mixture, RareClass, Uniform
from raremap.balance.plan import SamplingPlan
from raremap.balance.sampler import Stream

MEANS = np.array([[0.0, 0.0], [1.2, 0.0], [0.4, 1.4]])
DRAWS, PIXELS = 2000, 16
STREAMS = (
    Uniform(),
    Diao(kind="diao", budget=2, max_repeats=6),
    Mixture(kind="mixture", max_repeats=8),
    Mixture(kind="mixture", target={"shares": {"rare": 0.6}}, max_repeats=8),
    RareClass(kind="rare_class", temperature=0.2, min_pixels=2),
    InverseFrequency(kind="inverse_frequency"),
)


def census(rng):
    base = np.array([0.82, 0.14, 0.04])
    return np.array([rng.multinomial(PIXELS, d) for d in rng.dirichlet(1.5 * base, 800)], float)


def plan_of(options, counts):
    natural = counts.sum(0) / counts.sum()
    shares = options.target.shares if isinstance(options, Mixture) else {}
    target = np.array([0.2, 0.2, 0.6]) if shares else np.full(3, 1 / 3)
    ones = np.ones(len(counts))
    plan = SamplingPlan(
        np.arange(len(counts)),
        ones / len(ones),
        ones,
        counts,
        natural,
        target,
        np.array([False, False, True]),
        options,
    )
    return plan.toward(target)


def pixels(plan, rng):
    """Features and classes of the pixels of the drawn tiles."""
    stream = Stream(plan, 0)
    counts = np.array([plan.counts[stream[i][1]] for i in range(DRAWS)], int)
    y = np.repeat(np.tile(np.arange(3), DRAWS), counts.ravel())
    return MEANS[y] + rng.standard_normal((len(y), 2)), y


def fit(x, y, adjustment):
    """Scores `[3, 3]` (class, features and constant; class 0 is the origin) and their standard errors."""
    design = np.column_stack([x, np.ones(len(x))])
    one = np.eye(3)[y]

    def loss(free):
        logits = design @ np.vstack([np.zeros(3), free.reshape(2, 3)]).T + adjustment
        slope = (softmax(logits, 1) - one).T @ design / len(x)
        return -log_softmax(logits, 1)[np.arange(len(y)), y].mean(), slope[1:].ravel()

    found = minimize(loss, np.zeros(6), jac=True, method="BFGS", options={"gtol": 1e-7})
    scores = np.vstack([np.zeros(3), found.x.reshape(2, 3)])
    p = softmax(design @ scores.T + adjustment, 1)[:, 1:]
    # Fisher's information.
    weight = p[:, :, None] * np.eye(2) - p[:, :, None] * p[:, None, :]
    information = np.einsum("nab,ni,nj->aibj", weight, design, design).reshape(6, 6)
    error = np.sqrt(np.diag(np.linalg.inv(information))).reshape(2, 3)
    return scores[1:], error


def truth(natural, tau):
    """Coefficients of log p(x | y) + (1 − τ) log π, class 0 as the origin."""
    constant = -0.5 * (MEANS**2).sum(1) + (1 - tau) * np.log(natural)
    whole = np.column_stack([MEANS, constant])
    return whole[1:] - whole[0]


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_fitted_scores_do_not_depend_on_the_stream(tau):
    rng = np.random.default_rng(int(10 * tau))
    counts = census(rng)
    found = {}
    for number, options in enumerate(STREAMS):
        plan = plan_of(options, counts)
        x, y = pixels(plan, rng)
        adjustment = np.log(plan.shares) - (1 - tau) * np.log(plan.natural)
        scores, error = fit(x, y, adjustment)
        assert (np.abs(scores - truth(plan.natural, tau)) < 4.5 * error).all(), options.kind
        found[number] = (plan.shares, scores)
    prior = np.array([p for p, _ in found.values()])
    assert np.ptp(prior[:, 2]) > 0.15, "the streams are far apart"


def test_scores_that_leave_the_stream_out_of_the_loss_do_depend_on_it():
    """The other way round: what the test above would tell, were the prior wrong."""
    rng = np.random.default_rng(1)
    counts = census(rng)
    plan = plan_of(Mixture(kind="mixture", max_repeats=8), counts)
    wrong = replace(plan, weights=np.full(len(counts), 1 / len(counts)))
    x, y = pixels(plan, rng)
    for adjustment in (np.zeros(3), np.log(wrong.shares) - np.log(plan.natural)):
        scores, error = fit(x, y, adjustment)
        assert (np.abs(scores - truth(plan.natural, 0.0))[:, 2] > 10 * error[:, 2]).any()
