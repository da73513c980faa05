"""What fusing image and table gains on simulated valleys, for three strengths of the coupling between terrain and landslides.

    python benchmarks/fusion.py [--quick] [--valleys 36] [--couplings 0.5 1 2] [--work DIR] [--ready 1=DIR]

A third of the valleys trains both models: the image model is a small U-Net on the August image, the table model boosting on
the slope units. The others are calibration places: fusion is fitted and
measured on them, cross-fitted over valleys. The couplings were fixed before the first run: half, once and twice the
simulation's own. `--ready` takes valleys that were simulated before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

from landslide_network import landslide_network


def measured(folder: Path, names: list[str], out: Path, steps: int):
    """The fusion of one set of valleys."""
    import pandas as pd

    from raremap import table_fuse, table_train

    cut = len(names) // 3
    train, rest = names[:cut], names[cut:]
    rows = pd.read_csv(folder / "slope_units.csv")
    rows[rows["valley"].isin(train)].to_csv(out / "train.csv", index=False)
    rows[rows["valley"].isin(rest)].to_csv(out / "rest.csv", index=False)
    table = table_train(
        out / "train.csv", out / "table", label="landslide", group="valley", drop=("unit",), folds=min(4, cut), tune=False,
        quiet=True,
    )  # fmt: skip
    return table_fuse(
        landslide_network(folder, train, out / "image", steps), table.bundle, [folder / "august" / f"{n}.tif" for n in rest],
        [folder / "slope_units" / f"{n}.tif" for n in rest], out / "fused", rows=out / "rest.csv", scene_column="valley",
        label="landslide", folds=min(5, len(rest) // 2), quiet=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one coupling, few valleys of 64 pixels")
    parser.add_argument("--valleys", type=int, default=36)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--couplings", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--work", type=Path, help="folder that keeps the valleys (default: a temporary one)")
    parser.add_argument(
        "--ready", action="append", default=[], metavar="COUPLING=DIR", help="valleys that are there already"
    )
    args = parser.parse_args()
    if args.quick:
        args.couplings, args.valleys, args.size, args.steps = (
            args.couplings[:1],
            min(args.valleys, 12),
            96,
            60,
        )
    from raremap import simulate

    warnings.simplefilter("ignore")
    ready = {float(k): Path(v) for k, v in (text.split("=", 1) for text in args.ready)}
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for coupling in args.couplings:
            started = time.perf_counter()
            folder = ready.get(coupling, (args.work or Path(scratch)) / f"coupling_{coupling:g}")
            if coupling not in ready:
                simulate(folder, valleys=args.valleys, size=args.size, coupling=coupling, quiet=True)
            names = sorted(p.stem for p in (folder / "august").glob("*.tif"))[: args.valleys]
            out = Path(scratch) / f"run_{coupling:g}"
            out.mkdir()
            done = measured(folder, names, out, args.steps)
            assert done.gains is not None
            w = done.fusion.weights
            print(
                f"\ncoupling {coupling:g}: weights image {w[0]:.2f}, table {w[1]:.2f} ({time.perf_counter() - started:.0f} s)"
            )
            print(done.gains, flush=True)
            results[f"{coupling:g}"] = {"weights": list(w), **done.gains.to_dict()}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
