"""The target q: the class shares that training should see."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from raremap.balance.options import TargetOptions
from raremap.errors import ConfigError, RaremapWarning, nearest


def target_shares(
    natural: np.ndarray,
    names: Sequence[str],
    options: TargetOptions,
    scores: np.ndarray | None = None,
    offsets: np.ndarray | None = None,
) -> np.ndarray:
    """`q ∝ π^a · (1 − m)^γ · e^φ` as shares `[K]` that sum to 1, for natural shares π `[K]`.

    `scores` are m `[K]` (F1 of 0 to 1; NaN where unknown: that class keeps the q of γ = 0), `offsets` φ.
    With scores, q is at most `cap` times the q of γ = 0, and at least `floor`/K, or that q where it is less.
    Named `shares` are taken as they are; the others divide the rest. A class without a training pixel gets 0,
    with a warning where it was named.
    Raises `ConfigError` for a name that is no class, and where no class has a pixel or a share.

    >>> target_shares(np.array([0.9, 0.1]), ("a", "b"), TargetOptions(a=0.5)).round(2).tolist()
    [0.75, 0.25]
    """
    for name in options.shares:
        if name not in names:
            raise ConfigError(
                f"balance.target.shares names '{name}', which is not a class; {nearest(name, list(names))}"
            )
    present = natural > 0
    if not present.any():
        raise ConfigError(
            "no class has a training pixel, so there is no target; check the labels and the split"
        )
    static = _normalized(np.where(present, np.where(present, natural, 1.0) ** options.a, 0.0))
    if offsets is not None:
        static = _normalized(static * np.exp(offsets - offsets.max()))
    q = static if scores is None else _followed(static, scores, options)
    fixed = {names.index(n): s for n, s in options.shares.items()}
    if not fixed:
        return q
    lost = [names[i] for i, s in fixed.items() if s > 0 and not present[i]]
    if lost:
        warnings.warn(
            f"the target names {', '.join(lost)}, of which there is no training pixel; the share goes to the others",
            RaremapWarning,
            stacklevel=2,
        )
    given = np.zeros(len(names))
    for i, s in fixed.items():
        given[i] = s if present[i] else 0.0
    others = q.copy()
    others[list(fixed)] = 0.0
    if others.sum() == 0:
        if given.sum() == 0:
            asked = ", ".join(names[int(i)] for i in np.flatnonzero(present))
            raise ConfigError(
                f"balance.target.shares gives 0 to {asked}, and no other class has a training pixel; "
                "give one of them a share"
            )
        return _normalized(given)
    return given + _normalized(others) * max(0.0, 1.0 - given.sum())


def _followed(static: np.ndarray, scores: np.ndarray, options: TargetOptions) -> np.ndarray:
    """The target that follows the scores: the worse a class is mapped, the more of it is shown."""
    known = np.isfinite(scores)
    # A class nobody scored moves neither up nor down: it is worth the weight that the others have on average.
    need = np.where(known, np.clip(1.0 - np.where(known, scores, 0.0), 0.0, 1.0) ** options.gamma, np.nan)
    mean = np.nansum(np.where(known, need * static, 0.0)) / max(static[known].sum(), 1e-12)
    need = np.where(known, need, mean if known.any() else 1.0)
    if (static * need).sum() <= 0:
        return static
    low = np.where(static > 0, np.minimum(options.floor / len(static), static), 0.0)
    high = np.minimum(options.cap * static, 1.0)
    return project(_normalized(static * need), low, high)


def project(q: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Shares in proportion to q where that keeps them between `low` and `high`, summing to 1.

    >>> project(np.array([0.9, 0.1, 0.0]), np.full(3, 0.1), np.full(3, 0.6)).round(3).tolist()
    [0.6, 0.3, 0.1]
    """
    if low.sum() > 1 + 1e-9 or high.sum() < 1 - 1e-9:
        raise ValueError(f"no shares lie between {low} and {high}")
    if high.sum() <= 1:  # there is no choice; rounding may leave a little less than 1
        return _normalized(high)
    tiny = np.maximum(q, 1e-12 * (high > 0))
    small, large = 0.0, 1.0
    while np.clip(tiny * large, low, high).sum() < 1:
        large *= 2
    for _ in range(200):
        middle = (small + large) / 2
        if np.clip(tiny * middle, low, high).sum() < 1:
            small = middle
        else:
            large = middle
    return _normalized(np.clip(tiny * large, low, high))


def _normalized(q: np.ndarray) -> np.ndarray:
    return q / q.sum()
