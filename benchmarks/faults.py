"""Suspected label errors beside those that simulated annotators made: how many of the first hundred are errors.

    raremap simulate fresh --valleys 24 --size 256 --seed 11
    python benchmarks/faults.py fresh [--steps 600] [--out runs/faults]
    python benchmarks/faults.py --quick

FRESH is a folder of valleys that no choice of raremap was made on: the rule was chosen on valleys of seed 0. Every fold of
four is trained on the given labels and judges the tiles that it has not learned (`raremap kfold`, `raremap faults`). A
suspect is an error where most of its pixels are truly of another class than the one given; it is named rightly where most
are of the class suspected. Beside it stands the share of all labelled pixels that are wrong: what a blind pick finds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pyogrio
import rasterio
from rasterio.features import geometry_window, rasterize

import raremap as rm
from machine import machine
from raremap.workflows.faults import faults
from raremap.workflows.prepare import catalog_of

HERE = Path(__file__).parent
FIRST = (50, 100, 200, 500)


def judged(folder: Path, found: Path, scheme: rm.LabelScheme) -> np.ndarray:
    """Of every suspect by rank: pixels, those not of the class given, those of the class suspected `[N, 3]`."""
    value = {name: v for v, name in zip(scheme.values, scheme.names, strict=True)}
    out = []
    for row in pyogrio.read_dataframe(found, layer="faults").sort_values("rank").itertuples():
        with rasterio.open(folder / "labels_true" / f"{row.scene}.tif") as file:
            window = geometry_window(file, [row.geometry])
            truth = file.read(1, window=window)
            inside = rasterize([row.geometry], truth.shape, transform=file.window_transform(window)) > 0
        truth = truth[inside]
        out.append((len(truth), (truth != value[row.given]).sum(), (truth == value[row.suspected]).sum()))
    return np.array(out).reshape(-1, 3)


def wrong_pixels(folder: Path, scheme: rm.LabelScheme) -> float:
    """Share of the labelled pixels whose label is not the truth."""
    wrong = labelled = 0
    for path in sorted((folder / "labels").glob("*.tif")):
        with rasterio.open(path) as given, rasterio.open(folder / "labels_true" / path.name) as true:
            a, b = given.read(1), true.read(1)
        some = np.isin(a, scheme.values) & np.isin(b, scheme.values)
        wrong, labelled = wrong + (a != b)[some].sum(), labelled + some.sum()
    return float(wrong / labelled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("valleys", nargs="?", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, out, steps = args.valleys, args.out, args.steps
        if args.quick:
            folder, out, steps = Path(scratch) / "valleys", Path(scratch) / "out", 20
            rm.simulate(folder, valleys=8, size=96, seed=11, quiet=True)
        elif folder is None:
            parser.error("name the folder of fresh valleys, or --quick")
        experiment = rm.Experiment.load(
            HERE / "experiments" / "valleys.yaml",
            [
                f"scenes.root={folder}", "split.holdout=null", "loss={kind: ce_dice}", f"out={out}",
                f"train.steps={steps}", f"train.monitor_every={max(steps // 4, 1)}",
                *(["tiles.size=96", "predict.window=96", "train.batch_size=2"] if args.quick else []),
            ],
        )  # fmt: skip
        folds = rm.kfold(experiment, quiet=True)
        found = faults(
            out / "kfold" / "ensemble", catalog_of(experiment, quiet=True), out / "faults.gpkg", quiet=True
        )
        counts = judged(folder, out / "faults.gpkg", experiment.labels)
        base = wrong_pixels(folder, experiment.labels)
    error, right = (2 * counts[:, k] > counts[:, 0] for k in (1, 2))
    print(f"{found.places} places, {steps} steps a fold, {found.found:,} suspects")
    print(f"labelled pixels that are wrong: {100 * base:.1f} %\n")
    print(
        "| the first | errors | and the class suspected is the true one | pixels (median) |\n|---|---|---|---|"
    )
    for n in (*(n for n in FIRST if n < len(counts)), len(counts)):
        print(
            f"| {n} | {error[:n].sum()} ({100 * error[:n].mean():.0f} %) | {right[:n].sum()} | {np.median(counts[:n, 0]):.0f} |"
        )
    print(json.dumps({"macro_f1": folds.pooled["decision"]["macro_f1"], **machine("torch")}))


if __name__ == "__main__":
    main()
