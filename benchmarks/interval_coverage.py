"""How often a 95 % interval holds the truth: the three ways of measure/interval.py on simulated places.

    python benchmarks/interval_coverage.py [--quick] [--repeats 700] [--seeds 5]

A rare class lies in 40 % of the places; places are drawn until the wanted number holds it. Its pixels by place
are log-normal; recall and false alarms differ between places (logit-Student-t with 5 degrees of freedom), and a
little between training seeds. A second method's skill is correlated with the first's. In the heavy world a
few places hold most of the class and most of the false alarms. The truth is F1 pooled over two million places,
the mean over all seeds.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass

import numpy as np
import scipy
from scipy.special import expit

from raremap.measure.interval import Resample, resample

SHARE = 0.4
PIXELS = 20_000  # by place
CLASS_PIXELS = 150  # median of the places that hold the class
GAIN = 0.4  # of the method over the baseline, on both logits
LIKENESS = 0.8  # correlation of the two methods' skill at a place
SEED, PLACE_AND_SEED = 0.1, 0.3  # scales on the logit
HOLDING = (5, 10, 24, 50, 100)
METHODS = ("percentile", "bca", "expanded")


@dataclass(frozen=True)
class World:
    """Spread of the logarithm of class pixels; centre and scale of the logits of recall and false alarms."""

    name: str
    spread: float
    recall: tuple[float, float]
    false_alarm: tuple[float, float]


WORLDS = (World("moderate", 1.3, (0.4, 1.0), (-6.0, 1.0)), World("heavy", 1.8, (0.4, 1.5), (-7.0, 1.8)))


def f1(matrices: np.ndarray) -> np.ndarray:
    hits = 2 * matrices[..., 1, 1]
    both = hits + matrices[..., 0, 1] + matrices[..., 1, 0]
    present = matrices[..., 1, :].sum(-1) > 0
    return np.divide(hits, both, out=np.full(hits.shape, np.nan), where=present)


def places(world: World, holding: int, total: int, seeds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Matrices `[2, S, total, 2, 2]` of method and baseline, of which `holding` hold the class.

    `seeds [2, S]` are the seeds' shifts. Pixels need not be whole: only shares vary, not pixels within.
    """
    shape = (2, seeds.shape[1], total)
    pixels = rng.lognormal(np.log(CLASS_PIXELS), world.spread, total).clip(max=PIXELS / 2)
    true = np.where(np.arange(total) < holding, pixels, 0)

    def rate(centre: float, scale: float, sign: int) -> np.ndarray:
        ease, own = rng.standard_normal((1, total)), rng.standard_normal((2, total))
        skill = np.sqrt(LIKENESS) * ease + np.sqrt(1 - LIKENESS) * own
        tails = np.sqrt(5 / rng.chisquare(5, total))
        noise = PLACE_AND_SEED * rng.standard_normal(shape)
        gain = sign * (np.array([GAIN, 0])[:, None] + seeds)
        return expit(centre + gain[..., None] + (scale * skill * tails)[:, None] + noise)

    hits = rate(*world.recall, sign=1) * true
    false = rate(*world.false_alarm, sign=-1) * (PIXELS - true)
    rows = [np.stack([PIXELS - true - false, false], -1), np.stack([true - hits, hits], -1)]
    return np.stack(rows, -2)


def truth(world: World, total: int, rng: np.random.Generator) -> np.ndarray:
    """F1 of method and baseline over `total` places, the mean over seeds by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    shifts = np.broadcast_to(SEED * nodes, (2, 9))
    part = 20_000
    pooled = sum(places(world, int(SHARE * part), part, shifts, rng).sum(2) for _ in range(total // part))
    return f1(np.asarray(pooled)) @ weights / weights.sum()


def measure(
    world: World, holding: int, target: np.ndarray, repeats: int, seeds: int, rng: np.random.Generator
) -> list[dict]:
    """Coverage and median width by figure and method."""
    goals = {"F1": target[0], "difference": target[0] - target[1]}
    held: dict[tuple[str, str], list[tuple[bool, float]]] = {(g, m): [] for g in goals for m in METHODS}
    for _ in range(repeats):
        total = holding + rng.negative_binomial(holding, SHARE)
        shifts = SEED * rng.standard_normal((2, seeds))
        method, baseline = places(world, holding, total, shifts, rng)
        draws: dict[str, Resample] = {
            "F1": resample(f1, method, rng=rng),
            "difference": resample(f1, method, baseline, rng=rng),
        }
        for (goal, way), rows in held.items():
            low, high = draws[goal].bounds(way, 0.95, holding)
            rows.append((low <= goals[goal] <= high, high - low))
    return [
        {
            "world": world.name,
            "figure": goal,
            "holding": holding,
            "method": way,
            "coverage": float(np.mean([inside for inside, _ in rows])),
            "width": float(np.median([width for _, width in rows])),
        }
        for (goal, way), rows in held.items()
    ]


def table(rows: list[dict]) -> str:
    lines = [
        "| world | figure | places with the class | "
        + " | ".join(f"{m}: covers, width" for m in METHODS)
        + " |",
        "|---|---|---|" + "---|" * len(METHODS),
    ]
    for i in range(0, len(rows), len(METHODS)):
        three = rows[i : i + len(METHODS)]
        cells = [f"{r['coverage']:.1%}, {r['width']:.3f}" for r in three]
        lines.append(f"| {' | '.join(str(three[0][k]) for k in ('world', 'figure', 'holding'))} | ")
        lines[-1] += " | ".join(cells) + " |"
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under a minute: 60 repeats")
    parser.add_argument("--repeats", type=int, default=700)
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each method")
    args = parser.parse_args()
    repeats = 60 if args.quick else args.repeats
    started = time.perf_counter()
    rng = np.random.default_rng(0)
    targets = {w.name: truth(w, 200_000 if args.quick else 2_000_000, rng) for w in WORLDS}
    rows = [
        row
        for w in WORLDS
        for n in HOLDING
        for row in measure(w, n, targets[w.name], repeats, args.seeds, rng)
    ]
    rows.sort(key=lambda r: (r["world"] != WORLDS[0].name, r["figure"]))
    seconds = time.perf_counter() - started
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    said = f"{versions}; {repeats} repeats, seeds {args.seeds}, {seconds:.0f} s. True F1 of method and baseline: "
    said += ", ".join(f"{name} {a:.3f} and {b:.3f}" for name, (a, b) in targets.items())
    print(f"{said}\n\n{table(rows)}\n")
    truths = {name: target.tolist() for name, target in targets.items()}
    head = {"truth": truths, "repeats": repeats, "seeds": args.seeds, "seconds": seconds}
    print(json.dumps({**head, "rows": rows}))


if __name__ == "__main__":
    main()
