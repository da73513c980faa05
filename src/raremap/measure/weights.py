"""Class weights, from the class shares of the training stream or from counts of tiles or objects."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from raremap.errors import ConfigError
from raremap.options import Options

WeightKind = Literal["none", "ins", "sqrt_ins", "median_frequency", "effective_number"]
_LARGEST = 10.0


class EffectiveNumber(Options):
    """Weights by the effective number of samples, with its `beta`: near 1 they are those of `ins`, at 0 equal."""

    kind: Literal["effective_number"] = "effective_number"
    beta: float = Field(default=0.9999, ge=0, lt=1)


Weights = WeightKind | EffectiveNumber | tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...]
"""A kind of weights, or the weights themselves, one a class."""


def class_weights(weights: Weights, shares: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Weights `[K]` with mean 1 over the classes present, at most 10, for class shares `[K]`.

    - ins: 1/n (inverse number of samples); sqrt_ins: 1/√n.
    - median_frequency: 1/f, f a class's share of the pixels of the tiles that hold it (Eigen and Fergus 2015;
      theirs have the median 1, ours the mean 1). Needs `counts` `[N, K]`, pixels by tile; of plain
      shares it would be ins.
    - effective_number: (1 − β)/(1 − βⁿ) (Cui et al. 2019). n are not pixels: with 1e5 and more of each class,
      all weights are 1 at β .9999. They are the tiles that hold the class, for `counts` `[N, K]`, or what
      the caller counts (objects, say), for `counts` `[K]`.
    - a tuple: taken as it is.

    A class without a pixel weighs 0. Raises `ConfigError` where counts are missing or do not fit.

    >>> class_weights("ins", np.array([0.8, 0.2])).round(3).tolist()
    [0.4, 1.6]
    """
    shares = np.asarray(shares, np.float64)
    if isinstance(weights, tuple):
        if len(weights) != len(shares):
            raise ConfigError(f"{len(weights)} class weights are given for {len(shares)} classes")
        if not any(weights):
            raise ConfigError("all class weights are 0, so that no pixel counts; give one of them more")
        return np.asarray(weights, np.float64)
    kind = weights.kind if isinstance(weights, EffectiveNumber) else weights
    present = shares > 0
    if kind == "none" or not present.any():
        return present.astype(np.float64)
    if kind in ("ins", "sqrt_ins"):
        amount = shares ** (1.0 if kind == "ins" else 0.5)
    elif kind == "median_frequency":
        amount = _frequency(_counts(kind, counts, (2,)))
    else:
        beta = weights.beta if isinstance(weights, EffectiveNumber) else EffectiveNumber().beta
        counts = _counts(kind, counts, (1, 2))
        samples = counts if counts.ndim == 1 else (counts > 0).sum(0)
        amount = _effective(samples, beta)
    present &= amount > 0
    if not present.any():
        return present.astype(np.float64)
    raw = np.where(present, 1 / np.where(present, amount, 1.0), 0.0)
    return np.minimum(raw / raw[present].mean(), _LARGEST)


def _counts(kind: str, counts: np.ndarray | None, axes: tuple[int, ...]) -> np.ndarray:
    if counts is None or np.ndim(counts) not in axes:
        found = "none" if counts is None else str(np.shape(counts))
        raise ConfigError(f"class weights '{kind}' need counts by tile [N, K]; found {found}")
    return np.asarray(counts, np.float64)


def _frequency(counts: np.ndarray) -> np.ndarray:
    """Share of each class in the pixels of the tiles that hold it."""
    pixels = (counts.sum(1, keepdims=True) * (counts > 0)).sum(0)
    return counts.sum(0) / np.maximum(pixels, 1e-12)


def _effective(samples: np.ndarray, beta: float) -> np.ndarray:
    """(1 − βⁿ)/(1 − β), exact also where βⁿ is near 1."""
    if beta == 0:
        return (samples > 0).astype(np.float64)
    return -np.expm1(samples * np.log(beta)) / (1 - beta)
