"""Which 95 % interval holds the area of a rare class: candidates, on valleys and on error matrices of known truth.

    python benchmarks/area_intervals.py [--quick] [--draws 80] [--valleys FOLDER] [--out benchmarks/results/area_intervals.md]

`--valleys` is a folder that `raremap simulate` made, of four valleys a group; without it they are simulated.

A world is the number of pixels by stratum, map class and true class. Samples are drawn from it without repetition, by
the design that `raremap sample` makes by default, and every candidate makes its interval of the same points.

Valleys: groups of four simulated valleys, their labels as people draw them with 5 % noise as the map, with and without a
stratum beside rare classes. Matrices: three common and three rare classes (1.5, 0.4, 0.1 % of 10⁸ pixels), of
which the map misses nothing, 5, 20 or 50 %, anywhere or in one large stratum.

Then, with the interval that raremap makes, what the stratum beside rare classes and the allocation are worth, at an equal
number of points.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy
from scipy.stats import beta, gamma, norm

from area_coverage import erring_map
from raremap.maps.classmap import open_classmap
from raremap.maps.strata import Strata, survey
from raremap.measure.allocation import Allocation, allocate, allocate_for
from raremap.measure.posterior import bounds, simulate
from raremap.measure.stratified import Stratified
from raremap.scene.window import Window
from raremap.valley.options import ValleyOptions
from raremap.valley.simulate import simulate as simulate_valleys

Z = float(norm.ppf(0.975))
SHARES = (0.0, 0.0025, 0.005, 0.01, 0.03, 0.1, 1.0)
POSTERIOR_DRAWS = 500
NOISE = 0.05


@dataclass(frozen=True)
class World:
    """Pixels `cells [H, K, K]` by stratum, map class and true class; user's accuracies that are expected, by stratum."""

    cells: np.ndarray
    expected: np.ndarray

    @property
    def pixels(self) -> np.ndarray:
        return self.cells.sum((1, 2))

    @property
    def true(self) -> np.ndarray:
        return self.cells.sum((0, 1)) / self.cells.sum()

    def sizes(self, points: int | None = None, kind: Allocation = "proportional") -> np.ndarray:
        bounds_ = (self.pixels / self.pixels.sum(), self.expected, self.pixels, 50, kind)
        return allocate_for(0.01, *bounds_) if points is None else allocate(points, *bounds_)


@dataclass(frozen=True)
class Seen:
    """One class in samples of a world: `hits [D, H]` of `n [H]` points, of `pixels [H]`, with `weight [H]`; `own` strata are called so."""

    hits: np.ndarray
    n: np.ndarray
    pixels: np.ndarray
    weight: np.ndarray
    own: np.ndarray

    @property
    def p(self) -> np.ndarray:
        return self.hits / self.n

    @property
    def value(self) -> np.ndarray:
        return (self.weight * self.p).sum(1)

    @property
    def like(self) -> np.ndarray:
        """Points that are as sure without the finite population's correction."""
        return (self.n - 1) / np.maximum(1 - self.n / self.pixels, 1e-9)

    @property
    def variance(self) -> np.ndarray:
        return (self.weight**2 * self.p * (1 - self.p) / self.like).sum(1)


Bounds = tuple[np.ndarray, np.ndarray]


def normal(s: Seen, rng: np.random.Generator) -> Bounds:
    half = Z * np.sqrt(s.variance)
    return s.value - half, s.value + half


def _score(p: np.ndarray, n: np.ndarray, z: float | np.ndarray = Z) -> Bounds:
    centre, scale = p + z**2 / (2 * n), 1 + z**2 / n
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (centre - half) / scale, (centre + half) / scale


def _jeffreys(p: np.ndarray, n: np.ndarray) -> Bounds:
    x = p * n
    low, high = beta.ppf(0.025, x + 0.5, n - x + 0.5), beta.ppf(0.975, x + 0.5, n - x + 0.5)
    return np.where(x > 0, low, 0.0), np.where(x < n, high, 1.0)


def effective(s: Seen, rng: np.random.Generator) -> Bounds:
    variance, p = s.variance, s.value
    n = np.where(variance > 0, p * (1 - p) / np.maximum(variance, 1e-300), s.n.sum())
    return _score(p, n)


def stratified_score(s: Seen, rng: np.random.Generator) -> Bounds:
    spread = s.weight * np.sqrt(s.p * (1 - s.p) / s.like)
    both = spread.sum(1)
    z = np.where(both > 0, Z * np.sqrt((spread**2).sum(1)) / np.maximum(both, 1e-300), Z)[:, None]
    low, high = _score(s.p, s.like, z)
    return (s.weight * low).sum(1), (s.weight * high).sum(1)


def mover(
    s: Seen, rng: np.random.Generator, one: Callable[[np.ndarray, np.ndarray], Bounds] = _score
) -> Bounds:
    low, high = one(s.p, s.like)
    down, up = (np.sqrt((s.weight**2 * (s.p - edge) ** 2).sum(1)) for edge in (low, high))
    return s.value - down, s.value + up


def melded(s: Seen, rng: np.random.Generator) -> Bounds:
    yes, no = s.p * s.like, (1 - s.p) * s.like
    out = []
    for a, b in zip(yes, no, strict=True):
        size, tiny = (POSTERIOR_DRAWS, len(a)), 1e-9
        low = rng.beta(np.maximum(a, tiny), b + 1, size) @ s.weight
        high = rng.beta(a + 1, np.maximum(b, tiny), size) @ s.weight
        out.append((np.quantile(low, 0.025), np.quantile(high, 0.975)))
    low, high = np.array(out).T
    return low, high


def gammas(s: Seen, rng: np.random.Generator) -> Bounds:
    """Fay and Feuer's for what other strata hold of the class, Jeffreys' for its own, joined by MOVER."""
    each = (s.weight / s.like)[~s.own]
    sum_ = (s.weight * s.p)[:, ~s.own].sum(1)
    variance = (s.weight**2 * s.p / s.like)[:, ~s.own].sum(1)

    def quantile(share: float, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
        scale = np.maximum(var, 1e-300) / np.maximum(mean, 1e-300)
        return np.where(mean > 0, gamma.ppf(share, np.maximum(mean, 1e-300) / scale) * scale, 0.0)

    down = (sum_ - quantile(0.025, sum_, variance)) ** 2
    up = (quantile(0.975, sum_ + each.max(), variance + each.max() ** 2) - sum_) ** 2
    low, high = _jeffreys(s.p[:, s.own], s.like[s.own])
    down += (s.weight[s.own] ** 2 * (s.p[:, s.own] - low) ** 2).sum(1)
    up += (s.weight[s.own] ** 2 * (high - s.p[:, s.own]) ** 2).sum(1)
    return s.value - np.sqrt(down), s.value + np.sqrt(up)


def posterior(s: Seen, rng: np.random.Generator, points: float, shared: bool, ends: bool = False) -> Bounds:
    """Beta–binomial in each stratum, with `points` (half of them for, half against) in each, or shared by strata of a kind.

    With `ends` an error that no point met is left out of the bound that it would push from the estimate.
    """
    prior = np.full(len(s.n), points / 2)
    if shared:
        for kind in (s.own, ~s.own):
            if kind.any():
                prior[kind] = points / 2 * s.weight[kind] / s.weight[kind].sum()
    out = []
    for hits in s.hits:
        p = rng.beta(hits + prior, s.n - hits + prior, (POSTERIOR_DRAWS, len(prior)))
        ground = (hits + rng.binomial(s.pixels - s.n, p)) * (s.weight / s.pixels)
        all_, own = ground.sum(1), ground[:, s.own].sum(1)
        least = own if ends and not hits[~s.own].any() else all_
        full = ends and s.own.any() and (hits[s.own] == s.n[s.own]).all()
        most = all_ - own + s.weight[s.own].sum() if full else all_
        out.append((np.quantile(least, 0.025), np.quantile(most, 0.975)))
    low, high = np.array(out).T
    return np.minimum(low, s.value), np.maximum(high, s.value)


CANDIDATES: dict[str, Callable[[Seen, np.random.Generator], Bounds]] = {
    "normal (Olofsson 2014)": normal,
    "Wilson, effective sample size (Franco 2019)": effective,
    "stratified Wilson (Yan & Su 2010)": stratified_score,
    "Wilson by stratum, MOVER": mover,
    "Jeffreys by stratum, MOVER": lambda s, rng: mover(s, rng, _jeffreys),
    "Clopper–Pearson by stratum, melded (Fay 2015)": melded,
    "gamma (Fay & Feuer 1997)": gammas,
    "posterior, Jeffreys in each stratum": lambda s, rng: posterior(s, rng, 1, shared=False),
    "posterior, Jeffreys shared by strata": lambda s, rng: posterior(s, rng, 1, shared=True),
    "the same, ends as met (raremap's)": lambda s, rng: posterior(s, rng, 1, shared=True, ends=True),
    "posterior, uniform shared by strata": lambda s, rng: posterior(s, rng, 2, shared=True),
}


def samples(world: World, sizes: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Points `[D, H, K·K]` of samples without repetition."""
    flat = world.cells.reshape(len(sizes), -1)
    drawn = [
        rng.multivariate_hypergeometric(f, n, size=draws, method="marginals")
        for f, n in zip(flat, sizes, strict=True)
    ]
    return np.stack(drawn, 1)


def seen(world: World, sizes: np.ndarray, drawn: np.ndarray, k: int) -> Seen:
    hits = drawn.reshape(*drawn.shape[:2], *world.cells.shape[1:]).sum(2)[..., k]
    pixels = world.pixels
    return Seen(hits, sizes, pixels, pixels / pixels.sum(), world.cells[:, k].sum(1) == pixels)


@dataclass(frozen=True)
class Score:
    """Of one class of one world: true share, how often it was held, half width as a share of it."""

    share: float
    held: float
    width: float


def score(true: float, low: np.ndarray, high: np.ndarray) -> Score:
    low = np.maximum(low, 0)
    inside = (low <= true * (1 + 1e-9)) & (high >= true * (1 - 1e-9))
    return Score(true, float(inside.mean()), float((high - low).mean() / 2 / true))


def compared(
    worlds: list[World],
    draws: int,
    rng: np.random.Generator,
    names: tuple[str, ...] = tuple(CANDIDATES),
    points: int | None = None,
    kind: Allocation = "proportional",
) -> dict[str, list[Score]]:
    """Scores of candidates on every class that is there and on the map; of the default design, or of so many points."""
    out: dict[str, list[Score]] = {name: [] for name in names}
    for world in worlds:
        sizes = world.sizes(points, kind)
        drawn = samples(world, sizes, draws, rng)
        for k, true in enumerate(world.true.tolist()):
            here = seen(world, sizes, drawn, k)
            if true and here.own.any():
                for name in names:
                    out[name].append(score(true, *CANDIDATES[name](here, rng)))
    return out


def shipped(
    world: World, sizes: np.ndarray, draws: int, rng: np.random.Generator
) -> dict[tuple[str, str], list[Score]]:
    """Scores of the intervals that `raremap area` makes, by figure and interval."""
    k = world.cells.shape[1]
    truth = {
        "area": world.true,
        "user's accuracy": _ratio(np.einsum("hkk->k", world.cells), world.cells.sum((0, 2))),
        "producer's accuracy": _ratio(np.einsum("hkk->k", world.cells), world.cells.sum((0, 1))),
    }
    held: dict[tuple[str, str], list[list[tuple[float, float]]]] = {
        (figure, kind): [[] for _ in range(k)] for figure in truth for kind in ("normal", "jeffreys")
    }
    for counts in samples(world, sizes, draws, rng):
        stratum, cell = (np.repeat(i, counts.ravel()) for i in np.indices(counts.shape).reshape(2, -1))
        called, true = np.divmod(cell, k)
        names = [str(h) for h in range(len(sizes))]
        sample = Stratified(stratum, np.ones(len(stratum)), world.pixels, world.pixels, names)
        for c in np.flatnonzero(world.true):
            is_called, is_true = called == c, true == c
            both = (is_called & is_true).astype(float)
            ground = simulate(sample, is_called, is_true, rng, POSTERIOR_DRAWS)
            area = sample.share(is_true.astype(float))
            low, high = ground.area_bounds(area.value * sample.area)
            users = sample.share(both, is_called.astype(float))
            producers = sample.share(both, is_true.astype(float))
            for figure, plain, own in (
                ("area", area, (low / sample.area, high / sample.area)),
                ("user's accuracy", users, bounds(ground.users, users.value)),
                ("producer's accuracy", producers, bounds(ground.producers, producers.value)),
            ):
                if np.isfinite(plain.value):
                    held[figure, "normal"][c].append((plain.low, plain.high))
                    held[figure, "jeffreys"][c].append(own)
    return {
        (figure, kind): [
            replace(score(truth[figure][c], *np.array(e).T), share=float(world.true[c]))
            for c, e in enumerate(edges)
            if e and truth[figure][c]
        ]
        for (figure, kind), edges in held.items()
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)


def table(rows: dict[str, list[Score]]) -> list[str]:
    """Markdown: by share of the ground the mean coverage, the lowest of a class in brackets, and the mean half width."""
    bands = [(a, b) for a, b in pairwise(SHARES) if any(a <= s.share < b for r in rows.values() for s in r)]
    out = [
        "| | " + " | ".join(f"{a:.4g}–{b:.4g} %" for a, b in (np.array(bands) * 100).tolist()) + " |",
        "|---" * (len(bands) + 1) + "|",
    ]
    for name, scores in rows.items():
        cells = []
        for a, b in bands:
            here = [s for s in scores if a <= s.share < b]
            held = np.array([s.held for s in here])
            width = np.mean([s.width for s in here])
            cells.append(f"{held.mean():.1%} ({held.min():.0%}), ± {width:.0%}")
        out.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*out, ""]


def valley_worlds(
    folder: Path, path: Path, groups: int, buffers: tuple[int, ...], rng: np.random.Generator
) -> dict[int, list[World]]:
    """Worlds of groups of four valleys by width of the stratum beside rare classes."""
    out: dict[int, list[World]] = {b: [] for b in buffers}
    for g in range(groups):
        true = erring_map(folder, path, NOISE, rng, first=4 * g)
        with open_classmap(path) as source:
            areas, k = survey(Strata.of(source)).areas, len(source.names)
            rare = [i for i, a in enumerate(areas) if 0 < a < 0.5 / k * areas.sum()]
            for buffer in buffers:
                strata = Strata.of(source, rare, buffer)
                stratum, own = strata.read(Window(0, 0, *true.shape))
                cells = np.zeros((len(strata.names), k, k), np.int64)
                known = (stratum >= 0) & (true >= 0)
                np.add.at(cells, (stratum[known], own[known], true[known]), 1)
                low = {strata.of_class[i] for i in rare} | {strata.beside}
                expected = np.array([0.7 if h in low else 0.9 for h in range(len(cells))])
                there = cells.any((1, 2))
                out[buffer].append(World(cells[there], expected[there]))
    return out


def matrix_worlds() -> list[World]:
    """Error matrices of known truth."""
    shares, pixels = np.array([0.60, 0.30, 0.08, 0.015, 0.004, 0.001]), 10**8
    rare = (3, 4, 5)
    out = []
    for missed in (0.0, 0.05, 0.2, 0.5):
        for hidden in ("anywhere", "in one stratum"):
            ground = np.diag(shares)  # map, true
            for i, j in ((0, 1), (1, 2), (2, 0)):
                moved = 0.08 * shares[j]
                ground[i, j] += moved
                ground[j, j] -= moved
            for k in rare:
                where = np.array([0.6, 0.3, 0.1]) if hidden == "anywhere" else np.array([0.0, 1.0, 0.0])
                ground[:3, k] += missed * shares[k] * where
                ground[k, k] -= missed * shares[k]
                false = 0.25 * ground[k, k]  # a user's accuracy of 0.8
                ground[k, :3] += false * np.array([0.6, 0.3, 0.1])
                ground[:3, :3] -= np.diag(false * np.array([0.6, 0.3, 0.1]))
            cells = np.zeros((6, 6, 6), np.int64)
            cells[np.arange(6), np.arange(6)] = np.round(ground * pixels)
            out.append(World(cells, np.where(np.isin(np.arange(6), rare), 0.7, 0.9)))
    return out


def designs(worlds: dict[int, list[World]], points: int, draws: int, rng: np.random.Generator) -> dict[str, list[Score]]:  # fmt: skip
    """Scores by design, of as many points each."""
    kinds: list[tuple[int, Allocation]] = [(b, "proportional") for b in worlds]
    kinds += [(3, "neyman"), (3, "equal")]
    pair = ("normal (Olofsson 2014)", "the same, ends as met (raremap's)")
    rows = {}
    for buffer, kind in kinds:
        found = compared(worlds[buffer], draws, rng, pair, points, kind)
        for interval, name in zip(("normal", "jeffreys"), pair, strict=True):
            rows[f"{f'{buffer} px' if buffer else 'none'}, {kind}: {interval}"] = found[name]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--draws", type=int, default=80)
    parser.add_argument("--groups", type=int, default=3, help="of four valleys")
    parser.add_argument("--valleys", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.draws, args.groups = 10, 1
    warnings.simplefilter("ignore")
    started, rng = time.time(), np.random.default_rng(0)
    lines, figures = [], {}

    def show(title: str, rows: dict[str, list[Score]]) -> None:
        lines.extend([f"## {title}", "", *table(rows)])
        print("\n".join(lines[-len(rows) - 5 :]), flush=True)
        small = {name: [s for s in scores if s.share < 0.01] for name, scores in rows.items()}
        figures[title] = {
            name: {
                "coverage": float(np.mean([s.held for s in scores])),
                "half_width": float(np.mean([s.width for s in scores])),
            }
            for name, scores in small.items()
        }

    with tempfile.TemporaryDirectory() as name:
        folder = args.valleys or Path(name)
        if args.valleys is None:
            simulate_valleys(folder, ValleyOptions(seed=0, size=256, valleys=4 * args.groups))
        valleys = valley_worlds(folder, Path(name) / "map.tif", args.groups, (0, 1, 3, 6), rng)
    for buffer in (0, 3):
        beside = f"{buffer} pixels" if buffer else "no stratum"
        title = f"Valleys, {beside} beside rare classes"
        show(title, compared(valleys[buffer], args.draws, rng if not buffer else np.random.default_rng(1)))
    show("Matrices", compared(matrix_worlds(), args.draws, np.random.default_rng(2)))
    rng = np.random.default_rng(3)
    found = [shipped(w, w.sizes(), args.draws // 2, rng) for w in (*valleys[3], *matrix_worlds())]
    rows = {f"{figure}: {kind}": [s for f in found for s in f[figure, kind]] for figure, kind in found[0]}
    show("Areas and accuracies of raremap area, valleys with 3 pixels and matrices", rows)
    points = int(valleys[3][0].sizes().sum())
    rows = designs(valleys, points, args.draws, np.random.default_rng(4))
    show(f"Stratum beside rare classes and allocation, {points:,} points each", rows)
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    lines.append(f"{versions}; {args.draws} draws, {args.groups} groups, {time.time() - started:.0f} s.")
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
