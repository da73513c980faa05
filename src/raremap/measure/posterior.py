"""What ground may look like after a stratified sample: draws from the posterior of a class, omissions unseen included.

The normal interval takes the variance from the points. Where none of them met what the map has missed of a class, it sees no
variance there and no doubt, and that is the common case for a class below 1 % of the ground. Here every stratum's
shares have a prior, and the ground that was not visited is drawn from what prior and points leave possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from raremap.measure.stratified import Stratified

DRAWS = 10_000
_WEIGHT = 0.5  # of Jeffreys' prior for a share, Beta(½, ½)
_TAILS = (0.025, 0.975)
_MANY = 100  # times as many pixels as points: what they add to the spread, half a per cent, is not drawn

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Ground:
    """Draws `[draws]` of how much ground the map finds of a class (`hit`), misses (`missed`), and calls so wrongly (`false`).

    `met_missed` and `met_false` say whether the sample has a point of such ground.
    """

    hit: np.ndarray
    missed: np.ndarray
    false: np.ndarray
    met_missed: bool
    met_false: bool

    @property
    def area(self) -> np.ndarray:
        """Ground of the class."""
        return self.hit + self.missed

    @property
    def users(self) -> np.ndarray:
        """User's accuracy."""
        return _share(self.hit, self.hit + self.false)

    @property
    def producers(self) -> np.ndarray:
        """Producer's accuracy."""
        return _share(self.hit, self.hit + self.missed)

    def area_bounds(self, value: float) -> Bounds:
        """Bounds of the area that is estimated as `value`.

        Where no point met an omission the lower bound has none, and where none met a false alarm the upper one has
        none, as Brown, Cai and DasGupta (2001) do with Jeffreys' interval at its ends. Half a point of omission that
        nobody saw would lift the lower bound above the truth of a map that misses nothing.
        """
        least = self.area if self.met_missed else self.hit
        most = self.area if self.met_false else self.area + self.false
        return bounds(least, value)[0], bounds(most, value)[1]


def simulate(
    sample: Stratified, called: np.ndarray, true: np.ndarray, rng: np.random.Generator, draws: int = DRAWS
) -> Ground:
    """Ground of one class by the posterior, from what the map calls the points and what they are, bool `[n]`.

    In each stratum the four cases (hit, missed, false, neither) are Dirichlet–multinomial: the points, a prior, and
    the pixels not visited, which are drawn from both, so that a stratum labelled whole leaves no doubt.

    The prior is Jeffreys', Beta(½, ½), for two shares of the whole map: how much of what it calls the class is of it, and
    how much of the rest is. Its half points are spread over the strata in proportion to their ground of either kind: our
    choice, by benchmarks/area_intervals.py. Half a point in *each* stratum adds up to several omissions that nobody
    saw, more ground than a rare class has.

    Where pixels cover different ground, a stratum counts as the number of equal ones that is as sure (Kish 1965).
    """
    h = len(sample.areas)
    cases = np.zeros((len(called), 4))
    cases[np.arange(len(called)), 2 * ~called + ~true] = 1  # hit, false, missed, neither
    there = np.stack([np.bincount(sample.stratum, sample.weight * c, minlength=h) for c in cases.T], 1)
    prior = np.zeros((h, 4))
    for pair in (slice(0, 2), slice(2, 4)):  # called the class; called another one
        ground = there[:, pair].sum(1)
        if ground.any():
            prior[:, pair] = (_WEIGHT * ground / ground.sum())[:, None]

    out = np.zeros((4, draws))
    strata = zip(
        there, prior, sample.areas, sample.points, sample.pixels, _as_many_equal(sample), strict=True
    )
    for ground, doubt, area, points, pixels, like in strata:
        if not area:
            continue
        seen = ground / area
        cells = np.flatnonzero(doubt)
        left = int(pixels - points)
        if left <= 0:  # points without a design may be more than the pixels
            out += ground[:, None]
            continue
        shares = rng.dirichlet(seen[cells] * like + doubt[cells], draws)
        if left < _MANY * points:
            shares = rng.multinomial(left, shares) / left
        visited = points / pixels
        out[cells] += area * (visited * seen[cells, None] + (1 - visited) * shares.T)
    met = cases.sum(0)
    return Ground(hit=out[0], false=out[1], missed=out[2], met_missed=bool(met[2]), met_false=bool(met[1]))


def bounds(draws: np.ndarray, value: float) -> Bounds:
    """The middle 95 % of draws, stretched where need be to hold the estimate; NaN where there is none.

    >>> bounds(np.arange(1001.0), 10.0)
    (10.0, 975.0)
    """
    if not np.isfinite(value):
        return np.nan, np.nan
    low, high = np.quantile(draws[np.isfinite(draws)], _TAILS)
    return float(min(low, value)), float(max(high, value))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _as_many_equal(sample: Stratified) -> np.ndarray:
    """Points by stratum that would be as sure if all covered alike: (Σg)² / Σg²."""
    h = len(sample.areas)
    total = np.bincount(sample.stratum, sample.weight, minlength=h)
    squares = np.bincount(sample.stratum, sample.weight**2, minlength=h)
    return np.divide(total**2, squares, out=np.zeros(h), where=squares > 0)
