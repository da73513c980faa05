"""What each solver of the stream makes of uneven classes, on simulated and real tiles, and how it scales.

    python benchmarks/balance.py [--quick] [--root DIR] [--valleys DIR]

Three parts. (a) OpenEarthMap's class shares with 2,000 tiles of mixed composition (Dirichlet, concentration 2,
6, 20), with and without composites: background tiles of which 5 % or 15 % is replaced by a rare class, half as
many as tiles. Beside them the one figure known of DIAO-CP: KL from 0.338 to 0.192, a factor of 0.57. (b) With
`--root`, the folder of the real sets, the same on their training tiles, from the counts of the catalogs.
(c) A million tiles of 12 classes and 500,000 repeats: seconds and memory, each case in a process of its own.

These are diagnostics: a low KL can be had by showing a few tiles over and over, which the effective sizes tell.
Whether a stream helps is told by scores on places that nothing has seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from machine import fresh, machine, peak_mb
from raremap.balance.census import kl
from raremap.balance.greedy import solve_greedy
from raremap.balance.options import BalanceOptions
from raremap.balance.solvers import solve
from raremap.balance.sources import effective_size

# METHODS §a: from memory there, so a shape to compare solvers on and no measurement.
OPENEARTHMAP = np.array([1.5, 22.9, 16.1, 6.7, 20.2, 3.3, 13.7, 15.6])
CONCENTRATIONS = (2, 6, 20)
TILES, PIXELS = 2000, 512 * 512
ARTICLE = (0.3380, 0.1924)
SOLVERS: dict[str, dict[str, Any]] = {
    "uniform": {"kind": "uniform"},
    "diao, +0.5 N, at most twice": {"kind": "diao", "budget": 0.5, "max_repeats": 2},
    "diao, +0.5 N": {"kind": "diao", "budget": 0.5},
    "diao (+1 N, at most 4 times)": {"kind": "diao"},
    "diao by density": {"kind": "diao", "score": "density"},
    "diao, effective size 70 %": {"kind": "diao", "min_effective": 0.7},
    "mixture (at most 4 times)": {"kind": "mixture"},
    "mixture, rho 0.05": {"kind": "mixture", "rho": 0.05},
    "mixture, no cap": {"kind": "mixture", "max_repeats": 1e9},
    "repeat_factor": {"kind": "repeat_factor"},
    "repeat_factor, threshold 0.5": {"kind": "repeat_factor", "threshold": 0.5},
    "rare_class": {"kind": "rare_class"},
    "copies": {"kind": "copies"},
    "inverse_frequency": {"kind": "inverse_frequency"},
}
WITH_COMPOSITES = ("diao, +0.5 N", "diao (+1 N, at most 4 times)", "mixture (at most 4 times)")
SETS = ("naip", "river", "dubai", "chattogram")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
SCALE = (
    ("diao, gain, tiles of one size", {"kind": "diao", "budget": 0.5}, "even"),
    ("diao, gain, tiles of all sizes", {"kind": "diao", "budget": 0.5}, "uneven"),
    ("diao, gain, half of the tiles pure", {"kind": "diao", "budget": 0.5}, "pure"),
    ("diao, density, tiles of one size", {"kind": "diao", "budget": 0.5, "score": "density"}, "even"),
    ("diao, density, tiles of all sizes", {"kind": "diao", "budget": 0.5, "score": "density"}, "uneven"),
    ("mixture, gap 1e-3", {"kind": "mixture"}, "even"),
    ("mixture, gap 1e-3, tiles of all sizes", {"kind": "mixture"}, "uneven"),
    ("mixture, gap 1e-3, half of the tiles pure", {"kind": "mixture"}, "pure"),
)


def parsed(given: dict[str, Any]) -> Any:
    return TypeAdapter(BalanceOptions).validate_python(given)


def figures(weights: np.ndarray, counts: np.ndarray, target: np.ndarray, tiles: int) -> dict[str, float]:
    """KL of the pooled pixels both ways, nats, and how many tiles the stream and its rarest class are worth."""
    p = weights @ counts
    p = p / p.sum()
    rarest = int(np.argmin(np.where(target > 0, counts[:tiles].sum(0), np.inf)))
    return {
        "kl_target_from": max(0.0, kl(target, p)),  # rounding
        "kl_from_target": max(0.0, kl(p, target)),
        "effective": effective_size(weights) / tiles,
        "effective_rarest": effective_size(weights * counts[:, rarest]),
        "largest": float(weights.max() * tiles),
    }


def openearthmap(concentration: float, rng: np.random.Generator, tiles: int) -> np.ndarray:
    shares = OPENEARTHMAP / OPENEARTHMAP.sum()
    return rng.dirichlet(concentration * shares, tiles) * PIXELS


def composited(counts: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Half as many composites as tiles: a tile drawn at random gives `share` of its pixels to a rare class.

    Rare is below half of 1/K. The class is drawn by how much it lacks, q/P − 1, as composites are proposed.
    """
    k = counts.shape[1]
    pooled, further = counts.sum(0), []
    rare = np.flatnonzero(pooled / pooled.sum() < 0.5 / k)
    for i in rng.choice(len(counts), len(counts) // 2, replace=False):
        lack = np.maximum(pooled.sum() / k / pooled[rare] - 1, 0)
        if lack.sum() == 0:
            break
        row = (1 - share) * counts[i]
        row[rng.choice(rare, p=lack / lack.sum())] += share * counts[i].sum()
        further.append(row)
        pooled = pooled + row
    return np.array(further).reshape(-1, k)


def simulated(seeds: int, tiles: int) -> list[dict[str, Any]]:
    """Every solver on every census, means over seeds."""
    rows = []
    for concentration in CONCENTRATIONS:
        found: dict[tuple[str, float], list[dict[str, float]]] = {}
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            counts = openearthmap(concentration, rng, tiles)
            k = counts.shape[1]
            target, natural = np.full(k, 1 / k), counts.sum(0) / counts.sum()
            for share in (0.0, 0.05, 0.15):
                more = composited(counts, share, rng) if share else np.empty((0, k))
                rows_ = np.concatenate([counts, more])
                composite = np.arange(len(rows_)) >= tiles
                for name, given in SOLVERS.items():
                    if share and name not in WITH_COMPOSITES:
                        continue
                    options = parsed({**given, "copy_paste": True} if share else given)
                    draws = solve(options, rows_, target, natural < 0.5 / k, composite)
                    one = figures(draws.weights, rows_, target, tiles)
                    one["composites"] = float(draws.weights[composite].sum())
                    found.setdefault((name, share), []).append(one)
        base = np.mean([f["kl_target_from"] for f in found["uniform", 0.0]])
        for (name, share), each in found.items():
            mean = {key: float(np.mean([f[key] for f in each])) for key in each[0]}
            factor = mean["kl_target_from"] / float(base)
            rows.append(
                {"concentration": concentration, "solver": name, "pasted": share, "factor": factor, **mean}
            )
    return rows


def real(root: Path, valleys: Path) -> list[dict[str, Any]]:
    """Every solver on the training tiles of the real sets and of simulated valleys."""
    from raremap.balance.make import make_plan, target_of
    from raremap.balance.target import target_shares
    from raremap.config import Experiment
    from raremap.tiles.splits import uses
    from raremap.workflows.prepare import catalog_of
    from raremap.workflows.simulate import simulate

    here = Path(__file__).parents[1]
    sources = {name: (here / f"examples/{name}.yaml", root / name) for name in SETS}
    if not any(valleys.glob("august/*.tif")):
        simulate(valleys, valleys=36, size=256, quiet=True)
    sources["valleys"] = (here / "benchmarks/experiments/valleys.yaml", valleys)
    rows = []
    with tempfile.TemporaryDirectory(prefix="raremap-bench-") as folder:
        for name, (path, data) in sources.items():
            if not data.is_dir():
                print(f"{name}: {data} is not there", file=sys.stderr)
                continue
            given = [f"scenes.root={data}", f"out={folder}/{name}"]
            experiment = Experiment.load(str(path), given)
            catalog = catalog_of(experiment, quiet=True)
            chosen = uses(catalog, experiment.split) == "train"
            places = catalog.table["place"].to_numpy().astype(str)
            for solver, options in SOLVERS.items():
                plan = make_plan(
                    catalog, chosen, parsed({**options, "aim": False}), experiment.tiles.largest, 0
                )
                target = target_shares(plan.natural, catalog.scheme.names, target_of(plan.options))
                row = figures(plan.weights, plan.counts, target, len(plan.weights))
                rarest = int(np.argmin(np.where(plan.natural > 0, plan.natural, np.inf)))
                _, inverse = np.unique(places[plan.rows(catalog)], return_inverse=True)
                held = np.bincount(inverse, plan.weights * plan.counts[:, rarest])
                even = np.bincount(inverse, plan.counts[:, rarest])
                rows.append(
                    {
                        "set": name,
                        "tiles": len(plan.weights),
                        "rarest": catalog.scheme.names[rarest],
                        "solver": solver,
                        **row,
                        "places_before": effective_size(even),
                        "places": effective_size(held),
                    }
                )
    return rows


def census(tiles: int, kind: str, k: int = 12) -> np.ndarray:
    """Counts of tiles with shares that fall by a third from class to class."""
    rng = np.random.default_rng(0)
    shares = (2 / 3) ** np.arange(k)
    shares /= shares.sum()
    density = rng.dirichlet(6 * shares, tiles)
    if kind == "pure":
        pure = rng.random(tiles) < 0.5
        density[pure] = np.eye(k)[rng.choice(k, int(pure.sum()), p=shares)]
    size = rng.uniform(0.3, 1, tiles) * 65536 if kind == "uneven" else np.full(tiles, 65536.0)
    counts = np.floor(density * np.floor(size)[:, None])
    counts[:, 0] += np.floor(size) - counts.sum(1)
    return counts


def case(number: int, tiles: int) -> dict[str, Any]:
    """One case of the scale, in this process."""
    name, given, kind = SCALE[number]
    options, target = parsed(given), np.full(12, 1 / 12)
    few = census(2000, kind)
    solve(options, few, target, np.zeros(12, bool))  # compiles, or reads what was compiled
    if given["kind"] == "diao":
        solve_greedy(few, target, np.full(2000, 4), 10, score=given.get("score", "gain"))
    counts = census(tiles, kind)
    start, own = time.perf_counter(), time.process_time()
    draws = solve(options, counts, target, np.zeros(12, bool))
    seconds, own = time.perf_counter() - start, time.process_time() - own
    return {
        "case": name,
        "tiles": tiles,
        "repeats": int(draws.repeats.sum()) - tiles if given["kind"] == "diao" else None,
        "seconds": seconds,
        "processor_seconds": own,
        "peak_mb": peak_mb(),
        "kl": figures(draws.weights, counts, target, tiles)["kl_target_from"],
        "note": draws.note,
    }


def scale(tiles: int) -> list[dict[str, Any]]:
    """Every case at a tenth of the tiles and at all, each in a process of its own."""
    rows = []
    for number in range(len(SCALE)):
        for size in (tiles // 10, tiles):
            rows.append(fresh(__file__, "--case", number, size, environment=ONE_THREAD))
    return rows


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(r)} |" for r in rows)])


def simulated_table(rows: list[dict[str, Any]]) -> str:
    parts = []
    for concentration in CONCENTRATIONS:
        parts.append(f"### Concentration {concentration}\n")
        body = [
            [
                r["solver"],
                f"{r['pasted']:.0%}" if r["pasted"] else "–",
                f"{r['kl_target_from']:.3f}",
                f"{r['kl_from_target']:.3f}",
                f"{r['factor']:.2f}",
                f"{r['effective']:.0%}",
                f"{r['effective_rarest']:,.0f}",
                f"{r['largest']:.1f}",
                f"{r['composites']:.0%}" if r["pasted"] else "–",
            ]
            for r in rows
            if r["concentration"] == concentration
        ]
        head = ["solver", "pasted", "KL(u‖p)", "KL(p‖u)", "factor", "effective tiles"]
        head += ["effective tiles of the rarest class", "largest weight × N", "composites in the stream"]
        parts.append(table(head, body) + "\n")
    return "\n".join(parts)


def real_table(rows: list[dict[str, Any]]) -> str:
    parts = []
    for name in dict.fromkeys(r["set"] for r in rows):
        some = [r for r in rows if r["set"] == name]
        parts.append(f"### {name}: {some[0]['tiles']} training tiles, rarest class {some[0]['rarest']}\n")
        body = [
            [
                r["solver"],
                f"{r['kl_target_from']:.3f}",
                f"{r['kl_from_target']:.3f}",
                f"{r['effective']:.0%}",
                f"{r['effective_rarest']:.1f}",
                f"{r['places_before']:.1f} → {r['places']:.1f}",
                f"{r['largest']:.1f}",
            ]
            for r in some
        ]
        head = ["solver", "KL(q‖p)", "KL(p‖q)", "effective tiles", "of the rarest class"]
        parts.append(table([*head, "effective places of it", "largest weight × N"], body) + "\n")
    return "\n".join(parts)


def scale_table(rows: list[dict[str, Any]]) -> str:
    body = []
    for few, many in zip(rows[::2], rows[1::2], strict=True):
        repeats = "–" if many["repeats"] is None else f"{many['repeats']:,}"
        ratio = many["processor_seconds"] / few["processor_seconds"]
        body.append(
            [
                many["case"],
                f"{many['tiles']:,}",
                repeats,
                f"{many['seconds']:.2f}",
                f"{many['processor_seconds']:.2f}",
                f"{few['processor_seconds']:.2f}",
                f"{ratio:.1f}",
                f"{many['peak_mb']:,.0f}",
                many["note"],
            ]
        )
    head = ["case", "tiles", "repeats", "seconds", "processor seconds", "at a tenth", "ratio", "peak MB"]
    return table([*head, "note"], body)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under a minute: one seed, a tenth of the tiles")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--root", type=Path, help="folder of the real sets")
    parser.add_argument("--valleys", type=Path, help="simulated valleys; made where they are not there")
    parser.add_argument("--case", type=int, nargs=2, metavar=("NUMBER", "TILES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(case(*args.case)))
        return
    here = machine("raremap", "numpy", "numba")
    told = ", ".join(f"{n} {v}" for n, v in here["versions"].items())
    print(f"{told}; {here['cores']} cores, one used; load {here['load']:.1f} at the start\n")

    seeds = 1 if args.quick else args.seeds
    oem = simulated(seeds, 400 if args.quick else TILES)
    print(f"## OpenEarthMap's shares, mixed tiles, means of {seeds} seeds\n\n{simulated_table(oem)}")
    print(f"The article: {ARTICLE[0]:.3f} → {ARTICLE[1]:.3f}, a factor of {ARTICLE[1] / ARTICLE[0]:.2f}.\n")
    sets: list[dict[str, Any]] = []
    if args.root:
        with tempfile.TemporaryDirectory(prefix="raremap-bench-") as folder:
            sets = real(args.root, args.valleys or Path(folder) / "valleys")
        print(f"## Real sets\n\n{real_table(sets)}")
    timed = scale(50_000 if args.quick else 1_000_000)
    print(f"## Scale, compilation left out, each in a process of its own\n\n{scale_table(timed)}\n")
    print(
        json.dumps(
            {**here, "quick": args.quick, "article": ARTICLE, "simulated": oem, "real": sets, "scale": timed}
        )
    )


if __name__ == "__main__":
    main()
