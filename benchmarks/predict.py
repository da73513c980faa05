"""Whole-scene prediction: time and peak memory, beside pytorch-toolbelt and beside the network alone.

    python benchmarks/predict.py            about ten minutes on two cores
    python benchmarks/predict.py --quick    under a minute
    python benchmarks/predict.py --only sparse   100,000² pixels, of which twenty squares of 1024² hold something

Every measurement is a fresh process, so that peak memory is its own; those that are compared take turns,
and medians are given. Two models:

- one 3×3 convolution (4 bands → 6 classes), where everything but the network counts. raremap reads,
  computes, blends, decides and writes the COG; toolbelt reads, slices, computes, merges and takes the
  argmax, and writes nothing. Both run the same convolution on 2 threads; raremap adds the softmax.
- a U-Net ResNet-18 as bundles hold it, beside the same network on the same windows alone.

toolbelt is in the dependency group `bench`, or in an environment of its own, with torch and rasterio:
`--python-toolbelt PYTHON`; without it its column stays empty.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import fresh, machine, peak_mb, resident_mb

WINDOW, OVERLAP, CLASSES, BANDS, THREADS = 512, 0.25, 6, 4, 2
NAMES = [f"band{b + 1}" for b in range(BANDS)]


def make_scene(path: Path, height: int, width: int) -> None:
    """4 bands uint8, DEFLATE, tiles of 512²: soft shapes with noise, that compress about as imagery does."""
    import cv2
    import numpy as np
    import rasterio
    from affine import Affine

    rng = np.random.default_rng(0)
    side = 2048
    cell = np.empty((BANDS, side, side), np.uint8)
    for band in cell:
        soft = cv2.resize(rng.random((side // 32, side // 32), np.float32), (side, side)) * 200
        band[:] = soft + rng.integers(0, 24, (side, side))
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": BANDS, "dtype": "uint8",
        "crs": "EPSG:32631", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000), "tiled": True,
        "blockxsize": 512, "blockysize": 512, "compress": "deflate", "num_threads": "all_cpus",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        for row in range(0, height, side):
            for col in range(0, width, side):
                h, w = min(side, height - row), min(side, width - col)
                file.write(cell[:, :h, :w], window=rasterio.windows.Window(col, row, w, h))


def make_sparse(path: Path, side: int) -> None:
    """4 bands uint8 with nodata 0, tiles of 512², of which only those of twenty squares are there."""
    import numpy as np
    import rasterio

    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff", "height": side, "width": side, "count": BANDS, "dtype": "uint8", "crs": "EPSG:32631",
        "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "nodata": 0,
        "SPARSE_OK": True, "bigtiff": "IF_SAFER",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        for _ in range(20):
            row, col = (int(v) for v in rng.integers(0, side - 1024, 2) // 512 * 512)
            values = rng.integers(1, 200, (BANDS, 1024, 1024), dtype=np.uint8)
            file.write(values, window=rasterio.windows.Window(col, row, 1024, 1024))


def network(model: str):
    """The benchmark's torch module: the convolution, or the U-Net as bundles hold it."""
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    if model == "conv":
        return torch.nn.Conv2d(BANDS, CLASSES, 3, padding=1)
    from raremap.models.options import Smp

    return Smp(decoder="unet", encoder="resnet18", weights=None).build(BANDS, CLASSES)


def raremap_network(model: str):
    from raremap.bundle import Bundle
    from raremap.labels import LabelScheme
    from raremap.scene.normalize import Normalization

    scheme = LabelScheme({k: f"class {k}" for k in range(CLASSES)})
    normalization = Normalization("standard", shift=(100.0,) * BANDS, scale=(0.02,) * BANDS)
    bundle = Bundle.from_module(network(model), scheme, NAMES, normalization)
    return bundle.network(device="cpu", precision="float32"), scheme


def run_raremap(scene: Path, model: str) -> dict[str, float]:
    """The whole job, from the file to the finished COG."""
    from raremap.maps.export import write_map
    from raremap.maps.options import PredictOptions
    from raremap.scene.raster import open_image

    net, scheme = raremap_network(model)
    loaded = resident_mb()
    out = scene.with_name(f"map-{os.getpid()}.tif")
    started = time.perf_counter()
    with open_image(scene, names=NAMES) as reader:
        write_map(reader, net, out, scheme, PredictOptions(window=WINDOW, overlap=OVERLAP))
    seconds = time.perf_counter() - started
    out.unlink()
    out.with_suffix(".qml").unlink()
    return {"seconds": seconds, "peak_mb": peak_mb(), "above_model_mb": peak_mb() - loaded}


def run_network(scene: Path, model: str) -> dict[str, float]:
    """The network alone, as `raremap` calls it, as often and on windows of the same size."""
    import numpy as np

    from raremap.maps.lattice import Lattice
    from raremap.maps.options import PredictOptions
    from raremap.scene.raster import open_image
    from raremap.scene.window import Window

    net, _ = raremap_network(model)
    loaded = resident_mb()
    with open_image(scene, names=NAMES) as reader:
        lattice = Lattice.of(
            reader.grid.height, reader.grid.width, PredictOptions(window=WINDOW, overlap=OVERLAP)
        )
        image, valid = reader.read(Window(0, 0, lattice.height, lattice.width))
    image, valid = image[None].copy(), valid[None].copy()
    count = len(lattice.row_starts) * len(lattice.col_starts)
    started = time.perf_counter()
    total = 0.0
    for _ in range(count):
        total += float(np.asarray(net(image, valid))[0, 0, 0, 0])
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_mb": peak_mb(), "above_model_mb": peak_mb() - loaded}


def run_toolbelt(scene: Path, model: str) -> dict[str, float]:
    """What a user of pytorch-toolbelt does, without writing the map; logits are merged, no softmax."""
    import numpy as np
    import rasterio
    import torch
    from pytorch_toolbelt.inference.tiles import ImageSlicer, TileMerger

    net = network(model).eval()
    loaded = resident_mb()
    step = round(WINDOW * (1 - OVERLAP))
    started = time.perf_counter()
    with rasterio.open(scene) as file:
        image = np.ascontiguousarray(np.moveaxis(file.read(), 0, -1))
    slicer = ImageSlicer(image.shape, tile_size=WINDOW, tile_step=step, weight="pyramid")
    merger = TileMerger(slicer.target_shape, CLASSES, slicer.weight)
    with torch.inference_mode():
        for tile, crop in zip(slicer.split(image), slicer.crops, strict=True):
            x = torch.from_numpy(tile).permute(2, 0, 1)[None].float().sub_(100).mul_(0.02)
            merger.integrate_batch(net(x), [crop])
        classes = merger.merge_().argmax(0).to(torch.uint8).numpy()
    slicer.crop_to_orignal_size(classes)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_mb": peak_mb(), "above_model_mb": peak_mb() - loaded}


RUNNERS = {"raremap": run_raremap, "network": run_network, "toolbelt": run_toolbelt}


PYTHONS: dict[str, str] = {}  # of runners with an environment of their own


def measure(runner: str, scene: Path, model: str) -> dict[str, float]:
    """One measurement in a process of its own."""
    return fresh(__file__, "--child", runner, scene, model, python=PYTHONS.get(runner, sys.executable))


def compare(
    title: str, runners: list[str], scene: Path, model: str, repeats: int
) -> dict[str, dict[str, float]]:
    """Medians of runners that take turns, shown as lines of the table."""
    runs: dict[str, list[dict[str, float]]] = {r: [] for r in runners}
    for _ in range(repeats):
        for runner in runners:
            runs[runner].append(measure(runner, scene, model))
    out = {}
    for runner, many in runs.items():
        middle = {key: statistics.median(one[key] for one in many) for key in many[0]}
        out[runner] = {key: round(value, 2) for key, value in middle.items()}
        spread = f"{min(m['seconds'] for m in many):.1f}-{max(m['seconds'] for m in many):.1f}"
        print(
            f"{title:<28} {runner:<9} {middle['seconds']:8.2f} s ({spread:>11}) "
            f"{middle['peak_mb']:7.0f} MB  +{middle['above_model_mb']:.0f} MB",
            flush=True,
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller scenes, one run each, under a minute")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["conv", "long", "unet", "sparse"], help="one part")
    parser.add_argument("--python-toolbelt", metavar="PYTHON", help="one that has pytorch-toolbelt")
    parser.add_argument("--child", nargs=3, metavar=("RUNNER", "SCENE", "MODEL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        runner, scene, model = args.child
        print(json.dumps(RUNNERS[runner](Path(scene), model)))
        return

    n = 2048 if args.quick else 8192
    repeats = 1 if args.quick else args.repeats
    if args.python_toolbelt:
        PYTHONS["toolbelt"] = args.python_toolbelt
    peer = bool(PYTHONS) or importlib.util.find_spec("pytorch_toolbelt") is not None
    figures: dict[str, object] = {
        **machine("raremap", "torch", "numpy", "rasterio"),
        "quick": args.quick,
    }
    if peer:
        asks = "from importlib.metadata import version; print(version('pytorch-toolbelt'))"
        python = PYTHONS.get("toolbelt", sys.executable)
        told = subprocess.run([python, "-c", asks], capture_output=True, text=True, check=True).stdout
        figures["versions"]["pytorch-toolbelt"] = told.strip()  # type: ignore[index]
    else:
        print("pytorch-toolbelt is not installed (uv sync --group bench): its lines are missing")
    print(
        f"{'scene and model':<28} {'':<9} {'median time':>10} {'(range)':>13} {'peak':>10}  above the loaded model"
    )
    with tempfile.TemporaryDirectory(prefix="raremap-bench-") as folder:
        scene = Path(folder) / "scene.tif"
        if args.only in (None, "conv", "long"):
            make_scene(scene, n, n)
        if args.only in (None, "conv"):
            runners = ["raremap", "toolbelt"] if peer else ["raremap"]
            conv = compare(f"{n}x{n} convolution", runners, scene, "conv", repeats)
            figures["conv"] = conv
            if peer:
                figures["conv_time_ratio"] = round(
                    conv["raremap"]["seconds"] / conv["toolbelt"]["seconds"], 3
                )
        if args.only in (None, "long"):
            for height, width in ((4 * n, n), (n, 4 * n)):
                make_scene(scene, height, width)
                title = f"{height}x{width} convolution"
                figures[f"conv_{height}x{width}"] = compare(title, ["raremap"], scene, "conv", 1)["raremap"]
        if args.only in (None, "unet"):
            m = 1024 if args.quick else 4096
            make_scene(scene, m, m)
            unet = compare(f"{m}x{m} U-Net ResNet-18", ["raremap", "network"], scene, "unet", min(repeats, 3))
            figures["unet"] = unet
            figures["unet_overhead"] = round(unet["raremap"]["seconds"] / unet["network"]["seconds"] - 1, 4)
        if args.only == "sparse":
            side = 10_000 if args.quick else 100_000
            make_sparse(scene, side)
            title = f"{side}x{side} sparse, convolution"
            figures["sparse"] = compare(title, ["raremap"], scene, "conv", 1)["raremap"]
    figures["load_after"] = os.getloadavg()[0]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
