"""Ways to compute one network's windows on a processor: torch as it is, bf16, torch.compile, and ONNX Runtime.

    python benchmarks/engines.py [--quick] [--window 512] [--rounds 7]

Every way is made in one process and asked for one window of 4 bands after another, by turns, so that what else the
machine does meets them all; medians, and their ratio to torch as it is in float32. One thread each, as `raremap predict`
has a window computed by each of its cores. What compiling takes shows in the first answer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter

from machine import machine
from raremap.bundle import Bundle
from raremap.exported import Exported
from raremap.labels import LabelScheme
from raremap.models.forward import has_bf16
from raremap.models.options import ModelOptions
from raremap.scene.normalize import Normalization
from raremap.workflows.export import export

BANDS, CLASSES = ("red", "green", "blue", "nir"), 6
NETWORKS = ("unet_resnet18", "residual_unet_small", "mobilenetv3")
AS_IT_IS = "torch, float32"
Ask = Callable[[np.ndarray], object]


def ways(name: str, folder: Path, window: int) -> dict[str, Ask]:
    """Each way to compute a window `[1, 4, S, S]` with the same weights."""
    torch.manual_seed(0)
    options = TypeAdapter(ModelOptions).validate_python(name)
    net = options.build(len(BANDS), CLASSES).eval().to(memory_format=torch.channels_last)
    normalization = Normalization("standard", shift=(0.0,) * 4, scale=(1.0,) * 4)
    scheme = LabelScheme({k: f"class {k}" for k in range(CLASSES)})
    bundle = Bundle(net, scheme, BANDS, normalization, options)
    export(bundle, folder / f"{name}.onnx", quiet=True)
    exported = Exported.load(folder / f"{name}.onnx").network(device="cpu")
    valid = np.ones((1, window, window), bool)
    compiled = torch.compile(net)

    def by_torch(module: torch.nn.Module, bf16: bool) -> Ask:
        def ask(image: np.ndarray) -> object:
            pixels = torch.from_numpy(image).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return torch.softmax(module(pixels).float(), 1)

        return ask

    out: dict[str, Ask] = {AS_IT_IS: by_torch(net, False)}
    out["torch.compile, float32"] = by_torch(compiled, False)
    if has_bf16(torch.device("cpu")):
        out["torch, bf16"] = by_torch(net, True)
        out["torch.compile, bf16"] = by_torch(compiled, True)
    out["ONNX Runtime, float32"] = lambda image: exported(image, valid)
    return out


def measure(asks: dict[str, Ask], window: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds a window of each way and its ratio to torch as it is, and the seconds of its first answer."""
    image = np.random.default_rng(0).random((1, len(BANDS), window, window), np.float32)
    first, times = {}, {name: [] for name in asks}
    for name, ask in asks.items():
        started = time.perf_counter()
        ask(image)
        first[name] = time.perf_counter() - started
    for _ in range(rounds):
        for name, ask in asks.items():
            started = time.perf_counter()
            ask(image)
            times[name].append(time.perf_counter() - started)
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
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    window, rounds = (96, 2) if args.quick else (args.window, args.rounds)
    torch.set_num_threads(1)
    print(json.dumps(machine("torch", "onnxruntime") | {"threads": 1, "window": window}))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("mobilenetv3",) if args.quick else NETWORKS:
            print(f"\n| {name} | ms a window | × torch | first answer, s |\n|---|---|---|---|")
            for way, found in measure(ways(name, Path(folder), window), window, rounds).items():
                print(f"| {way} | {found['ms']} | {found['ratio']} | {found['first_s']} |", flush=True)


if __name__ == "__main__":
    main()
