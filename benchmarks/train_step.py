"""What the training loop costs over a plain torch loop, on the same batches with the same network.

    python benchmarks/train_step.py [--quick] [--steps 60] [--batch 16] [--crop 128] [--encoder resnet18]

Both loops take turns step by step in one process: after each step of raremap's (loader, Lightning, loss,
counts of classes, schedule, progress) a plain step (forward, cross-entropy, backward, AdamW, one-cycle) of
an equal network runs on the same batch, already stacked. Monitor and checkpoints are left out: a plain loop would
need them as well. Medians over steps; the ratio is the median over pairs. What drawing a batch costs
(crop, normalise, augment from tiles in memory) is measured beside it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from rasterio.transform import from_origin

from machine import machine
from raremap.balance.plan import SamplingPlan
from raremap.balance.sampler import Stream
from raremap.batches.dataset import TrainSamples
from raremap.batches.options import AugmentOptions
from raremap.labels import IGNORE, LabelScheme
from raremap.learn.options import OptimizerOptions, TrainOptions
from raremap.learn.run import TrainingRun
from raremap.measure.losses import CrossEntropy
from raremap.measure.scores import Scores
from raremap.models.forward import best_device
from raremap.models.options import Smp
from raremap.scene.normalize import Normalization
from raremap.scene.sources import ScenesOptions
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare
from raremap.tiles.reader import TileReader

BANDS, CLASSES, TILES, TILE = 4, 6, 16, 256
NAMES = tuple(f"class {k}" for k in range(CLASSES))
WARM_UP = 3


def catalog_of(folder: Path) -> Catalog:
    """A scene of noise in `TILES` tiles, a tenth of it without a label."""
    rng, side = np.random.default_rng(0), 4 * TILE
    mask = rng.integers(0, CLASSES, (1, side, side), np.uint8)
    mask[rng.random(mask.shape) < 0.1] = IGNORE
    for name, array in (("image", rng.integers(0, 255, (BANDS, side, side), np.uint8)), ("mask", mask)):
        with rasterio.open(
            folder / f"{name}.tif", "w", driver="GTiff", count=len(array), height=side, width=side, dtype="uint8",
            crs="EPSG:32631", transform=from_origin(5e5, 5e6, 10, 10), photometric="minisblack", alpha="unspecified",
        ) as file:  # fmt: skip
            file.write(array)
    scenes = ScenesOptions(images="image.tif", masks="mask.tif", root=str(folder))
    scheme = LabelScheme(dict(enumerate(NAMES)), ignore=[IGNORE])
    split = SplitOptions(block_px=2 * TILE, folds=2)
    return prepare(scenes, scheme, TileOptions(size=TILE), split, quiet=True)


def plain(network: torch.nn.Module, options: OptimizerOptions, steps: int) -> Any:
    """One plain training step a call."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=options.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=options.lr, total_steps=steps + 1)

    def step(image: torch.Tensor, mask: torch.Tensor) -> float:
        loss = F.cross_entropy(network(image), mask, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="8 pairs of steps of 4 crops of 64², under a minute"
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--encoder", default="resnet18")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.batch, args.crop = 8, 4, 64
    steps = args.steps + WARM_UP

    torch.manual_seed(0)
    device = best_device()
    network = Smp(encoder=args.encoder).build(BANDS, CLASSES).to(device).to(memory_format=torch.channels_last)
    options = OptimizerOptions()
    normalization = Normalization("standard", (127.5,) * BANDS, (1 / 74,) * BANDS)
    with tempfile.TemporaryDirectory(prefix="raremap-bench-") as folder:
        catalog = catalog_of(Path(folder))
        rows = np.arange(TILES)
        assert len(catalog) == TILES
        reader = TileReader(catalog, rows)
        reader.load(rows)
        stream = Stream(SamplingPlan.uniform(catalog, np.ones(TILES, bool)), 0)
        drawn = TrainSamples(reader, catalog, stream, normalization, args.crop, AugmentOptions(), 0)
        started = time.perf_counter()
        samples = [drawn[i] for i in range(steps * args.batch)]
        drawing = (time.perf_counter() - started) / steps
    stacked = []
    for b in range(steps):
        batch = samples[b * args.batch : (b + 1) * args.batch]
        image, mask = (
            torch.from_numpy(np.stack([s[key] for s in batch])).to(device) for key in ("image", "mask")
        )
        stacked.append((image.to(memory_format=torch.channels_last), mask))

    plain_step = plain(copy.deepcopy(network).train(), options, steps)
    train = TrainOptions(steps=steps, batch_size=args.batch, crop=args.crop, precision="float32", workers=0)
    train = train.model_copy(update={"monitor_every": steps, "checkpoint_every": steps})
    times: dict[str, list[float]] = {"raremap": [], "plain": []}
    losses: dict[str, float] = {}

    def monitor(*_: Any) -> Scores:
        return Scores(np.eye(CLASSES, dtype=np.int64), NAMES)

    with tempfile.TemporaryDirectory(prefix="raremap-bench-") as folder:
        run = TrainingRun(
            network,
            monitor,
            NAMES,
            CrossEntropy().build(CLASSES),
            options,
            train,
            device,
            Path(folder),
            stream,
        )  # type: ignore[arg-type]
        after, clock = run.task._after_step, SimpleNamespace(start=0.0)

        def turn(step: int) -> None:
            if step == 1:
                losses["raremap"] = float(run.task._sums["loss"])
            if step < steps:  # the last one scores and writes a checkpoint
                after(step)
                times["raremap"].append(time.perf_counter() - clock.start)
            started = time.perf_counter()
            loss = plain_step(*stacked[step - 1])
            times["plain"].append(time.perf_counter() - started)
            losses.setdefault("plain", loss)
            if step == steps:
                after(step)
            clock.start = time.perf_counter()

        run.task._after_step = turn
        run.go(samples, quiet=True)  # type: ignore[arg-type]

    assert abs(losses["raremap"] - losses["plain"]) < 1e-4, losses
    ours, theirs = (times[k][WARM_UP : steps - 1] for k in ("raremap", "plain"))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    figures = {
        **machine("raremap", "torch", "lightning", "segmentation-models-pytorch"),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "pairs": len(ratios),
        "batch": args.batch,
        "crop": args.crop,
        "encoder": args.encoder,
        "raremap_ms": round(1e3 * statistics.median(ours), 1),
        "plain_ms": round(1e3 * statistics.median(theirs), 1),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_of_sums": round(sum(ours) / sum(theirs), 4),
        "drawing_ms": round(1e3 * drawing, 1),
        "quick": args.quick,
    }
    print(
        f"U-Net {args.encoder}, {args.batch} crops of {args.crop}², {BANDS} bands, float32, {device}, {len(ratios)} pairs"
    )
    print(f"{'plain torch step':<34}{figures['plain_ms']:>10.1f} ms")
    print(f"{'raremap step':<34}{figures['raremap_ms']:>10.1f} ms   {100 * (figures['ratio'] - 1):+.1f} %")
    print(f"{'drawing a batch (not in the above)':<34}{figures['drawing_ms']:>10.1f} ms")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
