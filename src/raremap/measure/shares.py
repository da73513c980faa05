"""True class shares of unlabelled ground, from scores that were learned under others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROUNDS = 1000
_STILL = 1e-7


@dataclass(frozen=True)
class SharesFound:
    """Class shares `[K]` of the ground, and after how many rounds they stood still."""

    shares: np.ndarray
    rounds: int


def estimate_shares(probs: np.ndarray, prior: np.ndarray) -> SharesFound:
    """The shares `[K]` of the classes among pixels with probabilities `[n, K]`, learned under the shares `prior` `[K]`.

    Expectation-maximisation of Saerens, Latinne and Decaestecker (2002, eq. 2.9): every pixel's probabilities
    are moved from the prior to the shares found so far, and their mean are the next shares. The likelihood has
    one maximum, and each round comes nearer. Right where scores are calibrated under the prior and pixels of a
    class look alike on both grounds (label shift). A class without prior has no share.

    >>> probs = np.array([[0.9, 0.1]] * 3 + [[0.1, 0.9]])
    >>> estimate_shares(probs, np.array([0.5, 0.5])).shares.round(4).tolist()
    [0.8125, 0.1875]
    """
    if len(probs) == 0:
        raise ValueError("no pixel to estimate the shares of")
    prior = np.asarray(prior, np.float64) / np.sum(prior)
    known = prior > 0
    likelihood = np.divide(probs, prior, out=np.zeros(probs.shape), where=known)
    likelihood = likelihood[likelihood.sum(1) > 0]
    shares, moved, rounds = prior, 1.0, 0
    while moved >= _STILL and rounds < _ROUNDS:
        rounds += 1
        joint = likelihood * shares
        fresh = (joint / joint.sum(1, keepdims=True)).mean(0)
        moved, shares = float(np.abs(fresh - shares).max()), fresh
    return SharesFound(shares, rounds)
