"""Two workers of Ray beside one: time to map a scene, and whether the map is the same.

    python benchmarks/cluster.py            a scene of 4096², some minutes on two cores
    python benchmarks/cluster.py --side 8192 --rounds 1
    python benchmarks/cluster.py --quick    a scene of 1024² with a small window

A U-Net ResNet-18 as bundles hold it, float32, a thread for each worker. Ray is started before, and the clock holds all
the rest: starting the workers, sending them the bundle, mapping, and writing the map; "start" is what a scene of one
window takes, which is nearly all start. One process with as many threads as cores stands beside them: it has no halo
rows and sends nothing. All take turns; medians, and the ratios of each turn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from machine import machine
from predict import BANDS, make_scene, module

WAYS: dict[str, dict[str, Any]] = {
    "one process": {},
    "1 worker": {"ray": "auto", "workers": 1},
    "2 workers": {"ray": "auto", "workers": 2},
}


def measured(folder: Path, side: int, window: int, rounds: int) -> dict[str, Any]:
    """Median seconds of each way, the gain of two workers over one, and whether all maps are equal."""
    import rasterio

    from raremap.bundle import Bundle
    from raremap.cluster import joined
    from raremap.labels import LabelScheme
    from raremap.maps.options import PredictOptions
    from raremap.scene.normalize import Normalization
    from raremap.workflows.predict import predict

    scene, small = folder / "scene.tif", folder / "small.tif"
    make_scene(scene, side, side)
    make_scene(small, window, window)
    bundle = Bundle.from_module(
        module("unet"), LabelScheme({k: f"class {k}" for k in range(6)}), [f"band{b + 1}" for b in range(BANDS)],
        Normalization("standard", shift=(100.0,) * 4, scale=(0.02,) * 4), predict=PredictOptions(window=window),
    )  # fmt: skip

    def seconds(path: Path, out: Path, way: str) -> float:
        started = time.perf_counter()
        predict(bundle, path, out, precision="float32", device="cpu", quiet=True, **WAYS[way])
        return time.perf_counter() - started

    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    maps: set[bytes] = set()
    with joined("local", 2):
        start = seconds(small, folder / "start.tif", "2 workers")
        for turn in range(rounds):
            for way, found in taken.items():
                out = folder / f"{way}-{turn}.tif"
                found.append(seconds(scene, out, way))
                with rasterio.open(out) as file:
                    maps.add(hashlib.sha256(file.read().tobytes()).digest())
    gains = [a / b for a, b in zip(taken["1 worker"], taken["2 workers"], strict=True)]
    return {
        "start": round(start, 1),
        **{way: round(statistics.median(found), 1) for way, found in taken.items()},
        "gain": round(statistics.median(gains), 2),
        "gains": [round(gain, 2) for gain in gains],
        "same": len(maps) == 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    side, window, rounds = (1024, 128, 1) if args.quick else (args.side, 512, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), side, window, rounds)
    for name, value in found.items():
        print(f"{name:<12} {value}")
    print(json.dumps(machine("torch", "ray") | {"side": side, "window": window, "rounds": rounds, **found}))


if __name__ == "__main__":
    main()
