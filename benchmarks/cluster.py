"""Two workers of Ray beside one: time to map a scene, and whether the map is the same.

    python benchmarks/cluster.py            a scene of 4096², some minutes on two cores
    python benchmarks/cluster.py --quick    a scene of 1024² with a small window

A U-Net ResNet-18 as bundles hold it, float32, a thread for each worker. Ray is started before, and the clock holds all
the rest: starting the workers, sending them the bundle, mapping, and writing the map. One process with as many
threads as cores stands beside them: it has no halo rows and sends nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from predict import BANDS, make_scene, module


def measured(folder: Path, side: int, window: int) -> dict[str, float | bool]:
    """Seconds of one process, of one worker and of two, and whether all three maps are equal."""
    import rasterio

    from raremap.bundle import Bundle
    from raremap.cluster import joined
    from raremap.labels import LabelScheme
    from raremap.maps.options import PredictOptions
    from raremap.scene.normalize import Normalization
    from raremap.workflows.predict import predict

    scene = folder / "scene.tif"
    make_scene(scene, side, side)
    bundle = Bundle.from_module(
        module("unet"), LabelScheme({k: f"class {k}" for k in range(6)}), [f"band{b + 1}" for b in range(BANDS)],
        Normalization("standard", shift=(100.0,) * 4, scale=(0.02,) * 4), predict=PredictOptions(window=window),
    )  # fmt: skip
    out: dict[str, float | bool] = {}
    with joined("local", 2):
        for name, more in (("one process", {}), ("1 worker", {"workers": 1}), ("2 workers", {"workers": 2})):
            ray = {"ray": "auto", **more} if more else {}
            started = time.perf_counter()
            predict(
                bundle, scene, folder / f"{name}.tif", precision="float32", device="cpu", quiet=True, **ray
            )
            out[name] = round(time.perf_counter() - started, 1)
    maps = [rasterio.open(folder / f"{name}.tif").read().tobytes() for name in out]
    out["same"] = all(m == maps[0] for m in maps)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    side, window = (1024, 128) if quick else (4096, 512)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), side, window)
    for name, value in found.items():
        print(f"{name:<12} {value}")
    gain = float(found["1 worker"]) / float(found["2 workers"])
    print(json.dumps({"side": side, "window": window, **found, "gain": round(gain, 2)}))


if __name__ == "__main__":
    main()
