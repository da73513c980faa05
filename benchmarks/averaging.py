"""What averaging adds to one network: turns, resolutions, moving averages of weights, seeds together; each with its own decision.

    python benchmarks/averaging.py EXPERIMENT [--root DATA] [--folds 0,1] [--seeds 3] [--set A.B=C] [--out runs/averaging]
    python benchmarks/averaging.py --quick     small valleys of its own: one fold, two seeds, ten steps

Every network is trained as the preset `raremap` says, and once more with a moving average of its weights (`train.ema`). Scores are of the
test places of the folds, pooled; those of single networks are means over seeds. The decision is fitted again for each way on
calibration places (`raremap calibrate`), and stands beside the plain argmax. `cost` is how often a network is asked.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import raremap as rm
from machine import machine
from raremap.measure.scores import Scores
from raremap.workflows.calibrate import calibrate
from raremap.workflows.ensemble import ensemble
from raremap.workflows.evaluate import evaluate
from raremap.workflows.prepare import catalog_of

WAYS: dict[str, dict[str, Any]] = {
    "one network": {},
    "flips": {"tta": "flips"},
    "all eight turns": {"tta": "d4"},
    "two resolutions": {"scales": [1.0, 0.5]},
}
COST = {"one network": 1, "flips": 4, "all eight turns": 8, "two resolutions": 2}
Confusion = tuple[np.ndarray, np.ndarray]


def asked(bundle: Any, catalog: Any, way: dict[str, Any]) -> tuple[Confusion, Any]:
    """Confusion on test places with the decision of the way and with the argmax, and the evaluation."""
    fitted = calibrate(bundle, catalog, quiet=True, **way).bundle
    found = evaluate(fitted, catalog, quiet=True, **way)
    return (found.decided.matrices.sum(0), found.plain.matrices.sum(0)), found


def trained(experiment: rm.Experiment, fold: int, seed: int, ema: float | None) -> Any:
    """A bundle of one fold and seed; one that is there already is read."""
    folder = f"{experiment.out}/fold-{fold}-seed-{seed}{'-ema' if ema else ''}"
    one = experiment.changed(
        {"out": folder, "split": {"fold": fold}, "train": {"seed": seed, "ema": ema, "cache_folder": f"{experiment.out}/cache"}}
    )  # fmt: skip
    done = Path(folder) / "bundle"
    if done.exists():
        return rm.load_bundle(done)
    catalog = catalog_of(experiment, quiet=True)
    return rm.train(catalog, None, one, quiet=True)


def measure(experiment: rm.Experiment, folds: list[int], seeds: int, ema: float) -> dict[str, Any]:
    """Scores by way of averaging."""
    catalog = catalog_of(experiment, quiet=True)
    pooled: dict[str, dict[int, Confusion]] = {}
    seen: Any = None

    def count(name: str, group: int, confusion: Confusion) -> None:
        before = pooled.setdefault(name, {}).get(group)
        pooled[name][group] = confusion if before is None else tuple(map(np.add, before, confusion))  # pyright: ignore[reportArgumentType]

    for fold in folds:
        members = [trained(experiment, fold, seed, None) for seed in range(seeds)]
        for seed, member in enumerate(members):
            for name, way in WAYS.items():
                confusion, seen = asked(member, catalog, way)
                count(name, seed, confusion)
            count(
                "moving average of weights", seed, asked(trained(experiment, fold, seed, ema), catalog, {})[0]
            )
        if seeds > 1:
            together = ensemble(members, f"{experiment.out}/fold-{fold}-together", quiet=True).ensemble
            for name in ("one network", "all eight turns"):
                title = f"{seeds} seeds together" + ("" if name == "one network" else f", {name}")
                count(title, 0, asked(together, catalog, WAYS[name])[0])
    assert seen is not None

    def means(name: str, of: Callable[[Scores], float]) -> list[float]:
        each = [[of(Scores(m, seen.names, seen.rare)) for m in pair] for pair in pooled[name].values()]
        return [round(float(x), 4) for x in np.mean(each, axis=0)]

    scores = {
        "macro_f1": lambda s: s.macro_f1,
        "rare_f1": lambda s: s.rare_f1,
        "common_f1": lambda s: s.common_f1,
    }
    asks = {
        **COST,
        "moving average of weights": 1,
        f"{seeds} seeds together": seeds,
        f"{seeds} seeds together, all eight turns": 8 * seeds,
    }
    return {n: {"cost": asks[n], **{k: means(n, of) for k, of in scores.items()}} for n in pooled}


def table(found: dict[str, Any]) -> str:
    """Markdown: scores with the decision, and with the argmax in brackets."""
    lines = ["| averaged | cost | macro-F1 | F1 rare | F1 common |", "| --- | --- | --- | --- | --- |"]
    for name, row in found.items():
        cells = [f"{row[k][0]:.3f} ({row[k][1]:.3f})" for k in ("macro_f1", "rare_f1", "common_f1")]
        lines.append(f"| {name} | {row['cost']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path, nargs="?")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--folds", default="0,1")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ema", type=float, default=0.98)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out", default="runs/averaging")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    folds, seeds, path = [int(f) for f in given.folds.split(",")], given.seeds, given.experiment
    with tempfile.TemporaryDirectory() as scratch:
        changes = [f"out={scratch if given.quick else given.out}", "preset=raremap", *given.set]
        if given.quick:
            folds, seeds, path = [0], 2, Path(__file__).parent / "experiments/valleys.yaml"
            rm.simulate(f"{scratch}/valleys", valleys=12, size=96, quiet=True)
            changes += [
                f"scenes.root={scratch}/valleys", "split.holdout=null", "tiles.size=96", "predict.window=96",
                "train.steps=10", "train.monitor_every=10",
            ]  # fmt: skip
        elif path is None:
            parser.error("name the experiment, or --quick")
        elif given.root:
            changes.append(f"scenes.root={given.root}")
        found = measure(rm.Experiment.load(path, changes), folds, seeds, given.ema)
    print(json.dumps({**machine("raremap", "torch"), "averaging": found}, indent=1))
    print(table(found))


if __name__ == "__main__":
    main()
