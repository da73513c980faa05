"""How hard the simulated valleys are: a pixel-wise classifier, and with --unet a U-Net, on valleys never seen.

    python benchmarks/valley_difficulty.py [--quick] [--valleys 24] [--unet]

Half of the valleys are for training, the others for the score; both dates are stacked (20 bands), the labels
are the given ones. The mark (VALLEY): histogram gradient boosting above .85 F1 on water and forest, below .45
on isolated urban, green areas and industrial; a U-Net ResNet-18 at least 8 points of macro-F1 above it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from sklearn.ensemble import HistGradientBoostingClassifier

from raremap.labels import IGNORE, LabelScheme
from raremap.measure.confusion import confusion
from raremap.measure.scores import Scores
from raremap.valley.options import ValleyOptions
from raremap.valley.simulate import simulate

SCHEME = LabelScheme.named("catalonia")


def read(folder: Path, name: str, labels: str = "labels") -> tuple[np.ndarray, np.ndarray]:
    """Both dates `[20, h, w]` and class index `[h, w]` of a valley."""
    stack = []
    for month in ("april", "august"):
        with rasterio.open(folder / month / f"{name}.tif") as file:
            stack.append(file.read().astype(np.float32) / 10000)
    with rasterio.open(folder / labels / f"{name}.tif") as file:
        return np.concatenate(stack), SCHEME.encode(file.read(1))


def boosting(train: list, test: list, pixels: int) -> Scores:
    rng = np.random.default_rng(0)
    x = np.concatenate([image.reshape(20, -1).T[(mask < IGNORE).ravel()] for image, mask in train])
    y = np.concatenate([mask[mask < IGNORE] for _, mask in train])
    pick = rng.choice(len(y), min(pixels, len(y)), replace=False)
    model = HistGradientBoostingClassifier(
        max_iter=150, max_leaf_nodes=31, early_stopping=False, random_state=0
    )
    model.fit(x[pick], y[pick])
    matrix = np.zeros((12, 12), np.int64)
    for image, mask in test:
        inside = mask < IGNORE
        matrix += confusion(
            mask[inside], model.predict(image.reshape(20, -1).T[inside.ravel()]).astype(np.uint8), 12
        )
    return Scores(matrix, SCHEME.names)


def unet(train: list, test: list, steps: int) -> Scores:
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    mean = np.stack([i.mean((1, 2)) for i, _ in train]).mean(0)[:, None, None]
    std = np.stack([i.std((1, 2)) for i, _ in train]).mean(0)[:, None, None]
    net = smp.Unet("resnet18", encoder_weights=None, in_channels=20, classes=12).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        images, masks = [], []
        for _ in range(8):
            image, mask = train[rng.integers(len(train))]
            r, c = rng.integers(0, image.shape[1] - 127, 2)
            k, flip = rng.integers(4), rng.integers(2)
            a, b = ((image - mean) / std)[:, r : r + 128, c : c + 128], mask[r : r + 128, c : c + 128]
            a, b = np.rot90(a, k, (1, 2)), np.rot90(b, k)
            images.append(a[..., ::-1] if flip else a)
            masks.append(b[..., ::-1] if flip else b)
        x = torch.from_numpy(np.ascontiguousarray(np.stack(images), np.float32)).to(
            memory_format=torch.channels_last
        )
        y = torch.from_numpy(np.stack(masks).astype(np.int64))
        loss = torch.nn.functional.cross_entropy(net(x), y, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()
    matrix = np.zeros((12, 12), np.int64)
    with torch.inference_mode():
        for image, mask in test:
            x = torch.from_numpy(((image - mean) / std).astype(np.float32))[None]
            matrix += confusion(mask, net(x).argmax(1)[0].numpy().astype(np.uint8), 12)
    return Scores(matrix, SCHEME.names)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under a minute: 6 valleys of 128²")
    parser.add_argument("--valleys", type=int, default=24)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="keep the valleys here, and use those that are there")
    parser.add_argument("--unet", action="store_true", help="train the U-Net, too")
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    n, size = (6, 128) if args.quick else (args.valleys, args.size)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        started = time.perf_counter()
        done = simulate(folder, ValleyOptions(valleys=n, size=size))
        seconds = time.perf_counter() - started
        scenes = [read(folder, name) for name in done.names]
    train, test = scenes[::2], scenes[1::2]
    results = {"boosting": boosting(train, test, 30_000 if args.quick else 200_000)}
    if args.unet:
        results["unet"] = unet(train, test, 20 if args.quick else args.steps)
    print(f"{n} valleys of {size}² in {seconds:.0f} s")
    print(f"{'class':<20}{'share':>9}" + "".join(f"{k:>12}" for k in results))
    for i, name in enumerate(SCHEME.names):
        print(f"{name:<20}{done.shares[name]:>9.2%}" + "".join(f"{s.f1[i]:>12.3f}" for s in results.values()))
    print(f"{'macro-F1':<29}" + "".join(f"{s.macro_f1:>12.3f}" for s in results.values()))
    figures = {
        k: {"macro_f1": s.macro_f1, "f1": dict(zip(SCHEME.names, s.f1.tolist(), strict=True))}
        for k, s in results.items()
    }
    print(json.dumps({"valleys": n, "size": size, "seconds": seconds, "shares": done.shares, **figures}))


if __name__ == "__main__":
    main()
