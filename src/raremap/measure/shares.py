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


def calibrated(probs: np.ndarray, labelled: np.ndarray, truth: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Probabilities `[n, K]` made honest under `prior` `[K]`, by what `labelled` `[m, K]` of known classes `[m]` say.

    Bias-corrected temperature scaling (Alexandari, Kundaje and Shrikumar 2020), softmax(a·log p + b). The
    labelled pixels are weighed so that their classes have the shares of the prior: they may come in any. A
    class that they do not hold keeps its bias of 0.
    """
    from scipy.optimize import minimize

    k = len(prior)
    held = np.bincount(truth, minlength=k)
    weight = np.divide(prior, held, out=np.zeros(k), where=held > 0)[truth]
    if weight.sum() == 0:
        return probs
    weight /= weight.sum()
    z, free = _logs(labelled), held > 0

    def cost(x: np.ndarray) -> tuple[float, np.ndarray]:
        q = _softmax(x[0] * z + x[1:])
        own = np.arange(len(truth)), truth
        slope = q.copy()
        slope[own] -= 1
        slope *= weight[:, None]
        return -float(weight @ np.log(np.maximum(q[own], 1e-30))), np.r_[
            (slope * z).sum(), np.where(free, slope.sum(0), 0.0)
        ]

    found = minimize(
        cost, np.r_[1.0, np.zeros(k)], jac=True, method="L-BFGS-B", bounds=[(0.01, 100.0), *[(-20, 20)] * k]
    ).x
    return _softmax(found[0] * _logs(probs) + found[1:])


def _logs(probs: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probs.astype(np.float64), 1e-12))


def _softmax(z: np.ndarray) -> np.ndarray:
    z = np.exp(z - z.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)
