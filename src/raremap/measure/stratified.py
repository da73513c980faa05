"""Accuracy and areas from a stratified random sample of reference points, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from raremap.errors import SampleError
from raremap.measure.posterior import Bounds, bounds, simulate
from raremap.plain import plain

Z95 = 1.959963984540054

IntervalKind = Literal["jeffreys", "normal"]


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error; NaN where the sample cannot tell. `most` bounds what is possible.

    Its 95 % interval is `bounds` where given, else ± 1.96 standard errors.

    >>> str(Estimate(0.5, 0.1, most=1)), str(Estimate(0.98, 0.02, bounds=(0.9, 1.0)))
    ('0.500 (0.304–0.696)', '0.980 (0.900–1.000)')
    """

    value: float
    se: float
    most: float = np.inf
    bounds: Bounds | None = None

    @property
    def half(self) -> float:
        """Half the width of the normal 95 % interval."""
        return Z95 * self.se

    @property
    def low(self) -> float:
        """Lower bound of the 95 % interval."""
        if self.bounds is not None:
            return self.bounds[0]
        return max(0.0, self.value - self.half) if np.isfinite(self.value) else np.nan

    @property
    def high(self) -> float:
        """Upper bound of the 95 % interval."""
        if self.bounds is not None:
            return self.bounds[1]
        return min(self.most, self.value + self.half) if np.isfinite(self.value) else np.nan

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"

    def scaled(self, by: float) -> Estimate:
        """The same in another unit."""
        bounds = None if self.bounds is None else (self.bounds[0] * by, self.bounds[1] * by)
        return Estimate(self.value * by, self.se * by, self.most * by, bounds)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready figures."""
        return plain({"value": self.value, "se": self.se, "low": self.low, "high": self.high})


class Stratified:
    """The stratified estimator: totals over all ground, from points drawn at random in each stratum.

    `stratum [n]` is that of each point, `ground [n]` how much its pixel covers, `areas [H]` and `pixels [H]` how
    much ground and how many pixels each stratum has. Pixels are drawn alike; where they cover different ground
    (degrees) a stratum's figure is that of its points weighed by their ground (separate ratio estimator,
    Cochran 1977, section 6.10), else it is the plain mean. Raises `SampleError` where a stratum
    has fewer points than an interval needs.
    """

    def __init__(
        self,
        stratum: np.ndarray,
        ground: np.ndarray,
        areas: np.ndarray,
        pixels: np.ndarray,
        names: Sequence[str],
    ) -> None:
        self.stratum = np.asarray(stratum, np.int64)
        self.areas = np.asarray(areas, np.float64)
        self.points = np.bincount(self.stratum, minlength=len(names))
        self.pixels = pixels = np.asarray(pixels, np.int64)
        for name, held, all_, area in zip(names, self.points, pixels, self.areas, strict=True):
            if all_ and held < min(2, all_):
                raise SampleError(
                    f"stratum '{name}' ({area / self.areas.sum():.2%} of the map) has {_points(held)} with a reference; "
                    "an estimate needs two in each stratum, label more of them"
                )
        seen = np.bincount(self.stratum, ground, minlength=len(names))
        self._by_ground = np.divide(self.areas, seen, out=np.zeros(len(names)), where=seen > 0)
        self.weight = self._by_ground[self.stratum] * ground
        left = np.maximum(1 - self.points / np.maximum(pixels, 1), 0)  # the finite population's correction
        self._factor = left * self.points / np.maximum(self.points - 1, 1)

    @property
    def area(self) -> float:
        """All ground."""
        return float(self.areas.sum())

    def total(self, y: np.ndarray) -> float:
        """How much ground has a property; `y [n]` says which points have it."""
        return float((self.weight * y).sum())

    def variance(self, y: np.ndarray) -> float:
        """Variance of `total(y)`."""
        h = len(self.areas)
        there = np.bincount(self.stratum, self.weight * y, minlength=h)
        mean = np.divide(there, self.areas, out=np.zeros(h), where=self.areas > 0)
        residual = self.weight * (y - mean[self.stratum])
        return float((self._factor * np.bincount(self.stratum, residual**2, minlength=h)).sum())

    def share(self, y: np.ndarray, of: np.ndarray | None = None) -> Estimate:
        """The share of the ground `of` (default: all) that has the property `y`; NaN where there is none.

        The combined ratio estimator of Stehman 2014 (equations 25 to 28), in areas.
        """
        of = np.ones(len(y)) if of is None else of
        whole = self.total(of)
        if whole <= 0:
            return Estimate(np.nan, np.nan, 1.0)
        value = self.total(y) / whole
        return Estimate(value, float(np.sqrt(self.variance(y - value * of))) / whole, 1.0)


def _points(count: int) -> str:
    return {0: "no point", 1: "one point"}.get(count, f"{count} points")


@dataclass(frozen=True)
class Accuracy:
    """What a reference sample says of a map: rows are the map's classes, columns the reference's.

    `counts [K, K]` are points, `shares [K, K]` estimated shares of the ground, `mapped [K]` the map's own areas, all areas in one unit. `areas` are
    those of the reference, adjusted for the errors of the map.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    shares: np.ndarray
    mapped: np.ndarray
    overall: Estimate
    users: tuple[Estimate, ...]
    producers: tuple[Estimate, ...]
    areas: tuple[Estimate, ...]


def accuracy(
    sample: Stratified,
    mapped_class: np.ndarray,
    reference: np.ndarray,
    names: Sequence[str],
    mapped: np.ndarray,
    interval: IntervalKind = "jeffreys",
    rng: np.random.Generator | None = None,
) -> Accuracy:
    """Error matrix, user's, producer's and overall accuracy, and areas, from class indices `[n]` of the points.

    Where the strata are the map's classes the figures and standard errors are equations 4 to 11 of Olofsson et al. 2014, with the finite
    population's correction besides; strata may also differ from the classes (Stehman 2014). `interval` "normal" is theirs,
    ± 1.96 standard errors; "jeffreys" is that of the posterior (`posterior.simulate`), drawn by `rng` (default:
    always the same draws), which knows of omissions that no point has met.
    """
    k = len(names)
    called = np.asarray(mapped_class)[None] == np.arange(k)[:, None]
    true = np.asarray(reference)[None] == np.arange(k)[:, None]
    both = called & true
    counts = np.zeros((k, k), np.int64)
    np.add.at(counts, (mapped_class, reference), 1)
    shares = np.zeros((k, k))
    np.add.at(shares, (mapped_class, reference), sample.weight / sample.area)
    found = Accuracy(
        names=tuple(names),
        counts=counts,
        shares=shares,
        mapped=np.asarray(mapped, np.float64),
        overall=sample.share(both.any(0).astype(float)),
        users=tuple(sample.share(both[i].astype(float), called[i].astype(float)) for i in range(k)),
        producers=tuple(sample.share(both[i].astype(float), true[i].astype(float)) for i in range(k)),
        areas=tuple(sample.share(t.astype(float)).scaled(sample.area) for t in true),
    )
    return found if interval == "normal" else _by_posterior(found, sample, called, true, rng)


def _by_posterior(
    found: Accuracy,
    sample: Stratified,
    called: np.ndarray,
    true: np.ndarray,
    rng: np.random.Generator | None,
) -> Accuracy:
    """The same figures with the intervals of the posterior."""
    rng = np.random.default_rng(0) if rng is None else rng
    right = np.asarray((called & true).any(0))
    whole = simulate(sample, np.ones(len(right), bool), right, rng)
    classes = [simulate(sample, c, t, rng) for c, t in zip(called, true, strict=True)]

    def held(estimate: Estimate, draws: np.ndarray) -> Estimate:
        return replace(estimate, bounds=bounds(draws, estimate.value))

    return replace(
        found,
        overall=held(found.overall, whole.users),
        users=tuple(held(e, g.users) for e, g in zip(found.users, classes, strict=True)),
        producers=tuple(held(e, g.producers) for e, g in zip(found.producers, classes, strict=True)),
        areas=tuple(
            replace(e, bounds=g.area_bounds(e.value)) for e, g in zip(found.areas, classes, strict=True)
        ),
    )
