"""Ways to compute one network's windows on a processor: torch as it is, bf16, torch.compile, and ONNX Runtime.

    python benchmarks/engines.py [--quick] [--window 512] [--rounds 9]

Every way is a network as maps have it, asked as `raremap predict` asks it: each core computes windows of its own, all
at the same time. All are made in one process and take turns, so that what else the machine does meets them all;
medians, and their ratio to torch as it is in float32. The first answer shows what compiling takes: "first" where
the machine compiled nothing before (its cache is a fresh folder), "again" in a second process that finds that cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from machine import fresh, machine
from raremap.bundle import Bundle
from raremap.exported import Exported
from raremap.labels import LabelScheme
from raremap.maps.lanes import share_by_room
from raremap.maps.stream import LanedNetwork
from raremap.models.forward import has_bf16
from raremap.models.options import ModelOptions
from raremap.scene.normalize import Normalization
from raremap.workflows.export import export

BANDS, CLASSES = ("red", "green", "blue", "nir"), 6
NETWORKS = ("unet_resnet18", "residual_unet_small", "mobilenetv3")
AS_IT_IS = "torch, float32"


def ways(name: str, folder: Path) -> dict[str, LanedNetwork]:
    """Each way to compute windows of 4 bands with the same weights."""
    torch.manual_seed(0)
    options = TypeAdapter(ModelOptions).validate_python(name)
    net = options.build(len(BANDS), CLASSES).eval()
    normalization = Normalization("standard", shift=(0.0,) * 4, scale=(1.0,) * 4)
    scheme = LabelScheme({k: f"class {k}" for k in range(CLASSES)})
    bundle = Bundle(net, scheme, BANDS, normalization, options)
    export(bundle, folder / f"{name}.onnx", quiet=True)
    found: dict[str, Any] = {}
    for precision in ("float32", *(("bf16",) if has_bf16(torch.device("cpu")) else ())):
        found[f"torch, {precision}"] = bundle.network("cpu", precision)
        found[f"torch.compile, {precision}"] = bundle.network("cpu", precision, compiled=True)
    return found | {"ONNX Runtime, float32": Exported.load(folder / f"{name}.onnx").network("cpu")}


def seconds(pool: ThreadPoolExecutor, network: LanedNetwork, image: np.ndarray, count: int) -> float:
    """Seconds a window when the pool's threads ask for `count` of them."""
    valid = np.ones((1, *image.shape[-2:]), bool)
    started = time.perf_counter()
    for answer in [pool.submit(network, image, valid) for _ in range(count)]:
        answer.result()
    return (time.perf_counter() - started) / count


def measure(asks: dict[str, LanedNetwork], window: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds a window of each way, its ratio to torch as it is, and the seconds of its first answer."""
    image = np.random.default_rng(0).random((1, len(BANDS), window, window), np.float32)
    nothing = np.zeros((1, window, window), bool)
    times: dict[str, list[float]] = {name: [] for name in asks}
    first: dict[str, float] = {}
    with ExitStack() as stack:
        pools: dict[str, ThreadPoolExecutor] = {}
        for name, network in asks.items():
            share_by_room(network, lambda asked=network: asked(image, nothing), window)  # as a map begins
            pool = ThreadPoolExecutor(network.lanes, initializer=network.enter_lane)
            pools[name] = stack.enter_context(pool)
            first[name] = seconds(pool, network, image, network.lanes) * network.lanes
        for _ in range(rounds):
            for name, network in asks.items():
                times[name].append(seconds(pools[name], network, image, 6))
    return {
        name: {
            "ms": round(1000 * statistics.median(taken), 1),
            "ratio": round(statistics.median(a / b for a, b in zip(taken, times[AS_IT_IS], strict=True)), 2),
            "first_s": round(first[name], 1),
        }
        for name, taken in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=NETWORKS, help="one network, told as JSON")
    args = parser.parse_args()
    window, rounds = (96, 2) if args.quick else (args.window, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        if args.only:
            print(json.dumps(measure(ways(args.only, Path(folder)), window, rounds)))
            return
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "cache")
        print(json.dumps(machine("torch", "onnxruntime") | {"window": window}))
        for name in ("mobilenetv3",) if args.quick else NETWORKS:
            print(f"\n| {name} | ms a window | × torch | first answer, s | again, s |\n|---|---|---|---|---|")
            measured = measure(ways(name, Path(folder)), window, rounds)
            later = fresh(__file__, "--only", name, "--rounds", 1, "--window", window)
            for way, found in measured.items():
                told = f"{found['ms']} | {found['ratio']} | {found['first_s']} | {later[way]['first_s']}"
                print(f"| {way} | {told} |", flush=True)


if __name__ == "__main__":
    main()
