"""Which way of bringing 1 m labels to 10 m trains the best map, scored against the fine truth, on simulated valleys.

    raremap simulate valleys --valleys 36 --size 256
    python benchmarks/rescale_training.py valleys [--seeds 3] [--out runs/rescale-training] [--quick]

Every method is an experiment of its own (`scenes.rescale`), with the same network, steps, folds and seeds; places have the same use
for all, those that `area` deals them. The test places are mapped whole, and each cell of a map counts as the true fine pixels
under it (labels_fine_true: 100 a cell), so that no method is scored by its own labels. Labels to train on have the faults
that simulated annotators make. A run that is done is kept in OUT/runs.jsonl; a second start goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import rasterio

import raremap as rm
from raremap.labels import IGNORE
from raremap.measure.interval import interval
from raremap.tiles.splits import uses as uses_of
from raremap.workflows.prepare import catalog_of
from raremap.workflows.rare import rare_indices
from raremap.workflows.train import train_experiment

METHODS = ("area", "mode", "nearest", "weighted", "fractions")
WAYS = ("argmax", "fitted")
HERE = Path(__file__).parent


def experiment_of(root: Path, out: Path, method: str, *more: str) -> rm.Experiment:
    return rm.Experiment.load(
        HERE / "experiments" / "valleys.yaml",
        [
            f"scenes.root={root}", "scenes.masks=labels_fine/*.tif", f"scenes.rescale={{kind: {method}}}",
            f"split.holdout={HERE / 'holdout.json'}#valleys", "loss={kind: ce_dice}", f"out={out}", *more,
        ],
    )  # fmt: skip


def matrix_of(map_: Path, truth: Path, values: list[int]) -> np.ndarray:
    """True fine pixels by class and by the class of the cell over them `[K, K]`."""
    with rasterio.open(map_) as file:
        said = file.read(1)
    with rasterio.open(truth) as file:
        true = file.read(1)
    ratio = true.shape[0] // said.shape[0]
    index = np.full(256, IGNORE, np.int64)
    index[values] = np.arange(len(values))
    said, true = index[np.kron(said, np.ones((ratio, ratio), np.uint8))], index[true]
    both = (said != IGNORE) & (true != IGNORE)
    k = len(values)
    return np.bincount(k * true[both] + said[both], minlength=k * k).reshape(k, k)


def one_run(root: Path, experiment: rm.Experiment, places: list[str], values: list[int]) -> dict:
    out = Path(experiment.out)
    shutil.rmtree(out, ignore_errors=True)
    train_experiment(experiment, quiet=True)
    scenes = [root / "august" / f"{p}.tif" for p in places]
    found = {}
    for way in WAYS:
        rm.predict(out / "bundle", scenes, out / way, argmax=way == "argmax", quiet=True)
        found[way] = [
            matrix_of(out / way / f"{p}.map.tif", root / "labels_fine_true" / f"{p}.tif", values).tolist()
            for p in places
        ]
    shutil.rmtree(out)
    return found


def f1(matrix: np.ndarray) -> np.ndarray:
    hit = np.diagonal(matrix, axis1=-2, axis2=-1)
    return 2 * hit / np.maximum(matrix.sum(-1) + matrix.sum(-2), 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("valleys", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("runs/rescale-training"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="ten steps, one fold, one seed, two methods; on valleys of its own",
    )
    args = parser.parse_args()
    if args.valleys is None and not args.quick:
        parser.error("name the folder of simulated VALLEYS, or give --quick")
    if not args.quick:
        return train_all(args)
    with tempfile.TemporaryDirectory() as temporary:
        if args.valleys is None:
            args.valleys = Path(temporary) / "valleys"
            rm.simulate(args.valleys, valleys=12, size=96, quiet=True)
        args.out = Path(temporary) / "runs"
        train_all(args)


def train_all(args: argparse.Namespace) -> None:
    """Every run that is not there yet, then the table."""
    args.out.mkdir(parents=True, exist_ok=True)
    more = ("train.steps=10", "train.monitor_every=10") if args.quick else ()
    methods, seeds = (("area", "fractions"), 1) if args.quick else (args.methods, args.seeds)
    reference = experiment_of(args.valleys, args.out / "area", "area", *more)
    catalog = catalog_of(reference, quiet=True)
    names, values, rare = catalog.scheme.names, list(catalog.scheme.values), rare_indices(catalog)
    place = catalog.table["place"].to_numpy().astype(str)
    log = args.out / "runs.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    have = {(d["method"], d["seed"], d["fold"]) for d in done}
    for seed in range(seeds):
        for fold in range(1 if args.quick else reference.split.folds):
            uses = uses_of(catalog, reference.split.model_copy(update={"fold": fold}), warn=False)
            dealt = {u: sorted(set(place[uses == u])) for u in ("test", "monitor", "calibration")}
            for method in methods:
                if (method, seed, fold) in have:
                    continue
                experiment = experiment_of(
                    args.valleys, args.out / method, method, *more, f"train.seed={seed}",
                    f"split.test={json.dumps(dealt['test'])}",
                    f"split.monitor_places={json.dumps(dealt['monitor'])}",
                    f"split.calibration_places={json.dumps(dealt['calibration'])}",
                )  # fmt: skip
                found = one_run(args.valleys, experiment, dealt["test"], values)
                done.append({"method": method, "seed": seed, "fold": fold, "places": dealt["test"], **found})
                with log.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
                figure = f1(np.sum(found["fitted"], 0)).mean()
                print(f"{method} seed {seed} fold {fold}: macro-F1 {figure:.3f}", flush=True)
    table(done, methods, names, rare)


def table(done: list[dict], methods: tuple[str, ...], names: tuple[str, ...], rare: list[int]) -> None:
    """The methods beside `area`, over the seeds and places that all of them have."""
    runs = {(d["method"], d["seed"], d["fold"]): d for d in done}
    seeds = sorted({s for _, s, _ in runs})
    folds = sorted({f for _, _, f in runs})
    seeds = [s for s in seeds if all((m, s, f) in runs for m in methods for f in folds)]
    stacks = {
        (m, w): np.array([[p for f in folds for p in runs[m, s, f][w]] for s in seeds])
        for m in methods
        for w in WAYS
    }
    common = [k for k in range(len(names)) if k not in rare]
    figures = {
        "macro-F1": lambda m: f1(m).mean(-1),
        "F1 of rare classes": lambda m: f1(m)[..., rare].mean(-1),
        "F1 of common classes": lambda m: f1(m)[..., common].mean(-1),
        "overall accuracy": lambda m: np.trace(m, axis1=-2, axis2=-1) / m.sum((-2, -1)),
    }
    base = stacks["area", "fitted"]
    holding = int((base[0].sum(-1) > 0).sum(0).min())
    print(f"\n{len(seeds)} seeds, {base.shape[1]} places; rare: {', '.join(names[k] for k in rare)}\n")
    print("| labels by | decision | " + " | ".join(f"{n} | difference" for n in figures) + " |")
    print("|" + " --- |" * (2 + 2 * len(figures)))
    for (m, w), stack in stacks.items():
        cells = []
        for metric in figures.values():
            same = (m, w) == ("area", "fitted")
            value = metric(stack.sum(1)).mean()
            rng = np.random.default_rng(0)
            gap = "–" if same else interval(metric, stack, base, holding=holding, rng=rng).text(100, 1)
            cells += [f"{value:.3f}", gap]
        print(f"| {m} | {w} | " + " | ".join(cells) + " |")
    print("\n| labels by, decision fitted | " + " | ".join(names) + " |\n|" + " --- |" * (1 + len(names)))
    for m in methods:
        print(f"| {m} | " + " | ".join(f"{v:.3f}" for v in f1(stacks[m, "fitted"].sum(1)).mean(0)) + " |")


if __name__ == "__main__":
    main()
