"""What small objects need of a network: AIAS-Net with stems of stride 4, 2 and 1 beside a U-Net, at equal steps and at equal time.

    python benchmarks/stems.py VALLEYS [--seeds 1] [--steps 300] [--out runs/stems]
    python benchmarks/stems.py --quick

VALLEYS is what `raremap simulate` made. Of those that are not held out two thirds train, the others are mapped whole and held beside the true
scars: of the scars of a size, how many the map touches anywhere, and how many objects of the map touch none. A scar of four
pixels is 20 m by 20 m. Equal time is the processor's: seconds of a step are taken in turns before the first training, and the steps of the
others follow from those of the U-Net. What is done is kept in OUT/stems.jsonl; a second start goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from scipy.ndimage import label

import raremap as rm
from landslide_network import development, landslide_network
from raremap.models.options import Hrnet, Smp
from raremap.workflows.models import _training

NETWORKS = {
    "U-Net ResNet-18": Smp(),
    **{f"AIAS-Net, stem {s}": Hrnet(kind="hrnet", size="w18_small", stem_stride=s) for s in (4, 2, 1)},
}
REFERENCE = "U-Net ResNet-18"
SIZES = ((1, 4), (5, 16), (17, None))
EIGHT = np.ones((3, 3))


def seconds_a_step(batch: int = 8, crop: int = 64, turns: int = 5) -> dict[str, float]:
    """Median processor seconds of a training step of each network, taken in turns."""
    image = torch.randn(batch, 10, crop, crop).contiguous(memory_format=torch.channels_last)
    mask = torch.randint(0, 2, (batch, crop, crop))
    steps = {
        name: _training(options.build(10, 2).to(memory_format=torch.channels_last), image, mask)
        for name, options in NETWORKS.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns + 1):
        for name, step in steps.items():
            started = time.process_time()
            step()
            if turn:  # the first one warms up
                taken[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def counts(said: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Scars by size, those met, objects of the map and the false ones, and pixels for F1."""
    valid = (true != 255) & (said != 255)
    said, true = (said == 1) & valid, (true == 1) & valid
    parts, _ = label(true, EIGHT)
    size = np.bincount(parts.ravel())[1:]
    met = np.bincount(parts.ravel(), said.ravel())[1:] > 0
    found, n = label(said, EIGHT)
    touched = np.bincount(found.ravel(), true.ravel(), minlength=n + 1)[1:] > 0
    out: dict[str, float] = {"objects": n, "false": int((~touched).sum())}
    for least, most in SIZES:
        some = (size >= least) & (size <= (most or size.max(initial=0)))
        out[f"all {least}"], out[f"met {least}"] = int(some.sum()), int(met[some].sum())
    return out | {"both": int((said & true).sum()), "said": int(said.sum()), "true": int(true.sum())}


def one_run(folder: Path, network: str, steps: int, seed: int, out: Path) -> dict[str, float]:
    """Train, map the last third of the valleys, count."""
    names = development(folder)
    cut = 2 * len(names) // 3
    model = json.dumps(NETWORKS[network].model_dump(mode="json"))
    started = time.process_time()
    bundle = landslide_network(folder, names[:cut], out / "run", steps, seed, f"model={model}")
    total: dict[str, float] = {"seconds": time.process_time() - started}
    for name in names[cut:]:
        rm.predict(bundle, folder / "august" / f"{name}.tif", out / "map.tif", quiet=True)
        with (
            rasterio.open(out / "map.tif") as said,
            rasterio.open(folder / "landslides_true" / f"{name}.tif") as true,
        ):
            for key, value in counts(said.read(1), true.read(1)).items():
                total[key] = total.get(key, 0) + value
    return total


def row(done: list[dict]) -> str:
    """A line of the table: sums over seeds."""
    total = {k: sum(d[k] for d in done) for k in done[0] if k not in ("network", "kind", "seed")}
    sizes = " | ".join(f"{total[f'met {a}']} of {total[f'all {a}']}" for a, _ in SIZES)
    f1 = 2 * total["both"] / max(total["said"] + total["true"], 1)
    return (
        f"| {done[0]['network']} | {done[0]['steps']:,} | {total['seconds'] / len(done):.0f} | {sizes} "
        f"| {total['false'] / max(total['objects'], 1):.1%} | {f1:.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300, help="of the U-Net, and of all at equal steps")
    parser.add_argument("--out", type=Path, default=Path("runs/stems"))
    parser.add_argument("--quick", action="store_true", help="ten steps, small valleys of its own")
    args = parser.parse_args()
    if args.folder is None and not args.quick:
        parser.error("name the folder of simulated VALLEYS, or give --quick")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        if args.quick:
            args.folder, args.out, args.steps = Path(temporary) / "valleys", Path(temporary) / "out", 10
            rm.simulate(args.folder, valleys=12, size=96, quiet=True)
        measure(args.folder, args.out, args.steps, args.seeds)


def measure(folder: Path, out: Path, steps: int, seeds: int) -> None:
    """Every run that is not there yet, then the table."""
    out.mkdir(parents=True, exist_ok=True)
    log = out / "stems.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if not done:
        second = seconds_a_step()
        done.append({"kind": "second", **second})
        log.write_text(json.dumps(done[0]) + "\n")
    second = {name: done[0][name] for name in NETWORKS}
    plan = {(name, "steps"): steps for name in NETWORKS}
    plan |= {
        (name, "time"): max(round(steps * second[REFERENCE] / second[name]), 1)
        for name in NETWORKS
        if name != REFERENCE
    }
    have = {(d["network"], d["kind"], d["seed"]) for d in done[1:]}
    for seed in range(seeds):
        for (name, kind), count in plan.items():
            if (name, kind, seed) in have:
                continue
            with tempfile.TemporaryDirectory() as temporary:
                found = one_run(folder, name, count, seed, Path(temporary))
            done.append({"network": name, "kind": kind, "seed": seed, "steps": count, **found})
            with log.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            print(row([done[-1]]), flush=True)
    print(f"\nProcessor seconds of a step: {', '.join(f'{k} {v:.2f}' for k, v in second.items())}.")
    heads = " | ".join(f"scars of {a} to {b} px met" if b else f"of {a} px and more" for a, b in SIZES)
    print(f"\n| network | steps | seconds | {heads} | objects without a scar | F1 of pixels |")
    print("|---" * (len(SIZES) + 5) + "|")
    for name, kind in plan:
        print(row([d for d in done[1:] if (d["network"], d["kind"]) == (name, kind)]))


if __name__ == "__main__":
    main()
