"""Whole-scene prediction beside peers and beside the network alone: time, peak memory, and what blending does to it.

    python benchmarks/predict.py --python-geoai PYTHON --python-terratorch PYTHON --python-raster-vision PYTHON
    python benchmarks/predict.py --quick         small scenes, one run each
    python benchmarks/predict.py --only sparse   100,000² pixels, of which twenty squares of 1024² hold something
    python benchmarks/predict.py --only huge     30,000² pixels of ten bands; the scene takes about 5 GB of disk

Every measurement is a fresh process, so that peak memory is its own; those that are compared take turns,
and medians are given. Two models:

- one 3×3 convolution (4 bands → 6 classes), where everything but the network counts. raremap reads,
  computes, blends, decides and writes the COG.
- a U-Net ResNet-18, by raremap, by peers, and by the same network on the same windows alone.

Peers run in `predict_peers.py`, each in an environment of its own with torch, rasterio and segmentation-models-pytorch;
its table says what each of them reads, holds, blends and writes. pytorch-toolbelt is also in the dependency group
`bench`. Peers that are not named are left out. All have the same weights, float32; bf16 comes beside it where the
processor has it.

`deviation` is how far the probabilities are from those of the convolution of the whole scene at once: what the seams
of windows leave, where each window's border is padded with zeros.
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
from typing import Any

from machine import fresh, machine, peak_mb, resident_mb
from predict_peers import BANDS, CLASSES, OVERLAP_PX, PACKAGES, PEERS, SCALE, SHIFT, WINDOW

OVERLAP = OVERLAP_PX / WINDOW
CHANNELS = {"conv": BANDS, "unet": BANDS, "conv10": 10}  # of the models
NO_BLEND = "raster-vision-crop"
PYTHONS: dict[str, str] = {}  # of each peer that is measured
PARTS = ("deviation", "conv", "wide", "long", "unet", "sparse", "huge")
USUAL = PARTS[:5]
LIMIT_S = 900  # of a peer's run


def make_scene(path: Path, height: int, width: int, bands: int = BANDS) -> None:
    """uint8, DEFLATE, tiles of 512²: soft shapes with noise, that compress about as imagery does."""
    import cv2
    import numpy as np
    import rasterio
    from affine import Affine

    rng = np.random.default_rng(0)
    side = 2048
    cell = np.empty((bands, side, side), np.uint8)
    for band in cell:
        soft = cv2.resize(rng.random((side // 32, side // 32), np.float32), (side, side)) * 200
        band[:] = soft + rng.integers(0, 24, (side, side))
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": "uint8",
        "crs": "EPSG:32631", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000), "tiled": True,
        "blockxsize": 512, "blockysize": 512, "compress": "deflate", "photometric": "minisblack", "num_threads": "all_cpus", "bigtiff": "if_safer",
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


def module(model: str) -> Any:
    """The benchmark's torch module: the convolution, or the U-Net as bundles hold it."""
    import torch

    if model != "unet":
        return torch.nn.Conv2d(CHANNELS[model], CLASSES, 3, padding=1)
    from raremap.models.options import Smp

    return Smp(decoder="unet", encoder="resnet18", weights=None).build(BANDS, CLASSES)


def make_weights(folder: Path) -> dict[str, Any]:
    """Weights of every model, as their plain modules name them; and what this processor can do."""
    import torch

    from raremap.models.forward import has_bf16

    torch.manual_seed(0)
    for model in CHANNELS:
        net = module(model)
        torch.save(getattr(net, "net", net).state_dict(), folder / f"{model}.pt")
    return {"bf16": has_bf16(torch.device("cpu"))}


def raremap_network(model: str, weights: Path, threads: int, precision: str = "float32"):
    import torch

    from raremap.bundle import Bundle
    from raremap.labels import LabelScheme
    from raremap.scene.normalize import Normalization

    torch.set_num_threads(threads)
    net, bands = module(model), CHANNELS[model]
    getattr(net, "net", net).load_state_dict(torch.load(weights, weights_only=True))
    scheme = LabelScheme({k: f"class {k}" for k in range(CLASSES)})
    normalization = Normalization("standard", shift=(SHIFT,) * bands, scale=(SCALE,) * bands)
    bundle = Bundle.from_module(net, scheme, _names(bands), normalization)
    return bundle.network(device="cpu", precision=precision), scheme


def _names(bands: int) -> list[str]:
    return [f"band{b + 1}" for b in range(bands)]


def run_raremap(scene: Path, model: str, net: Any, scheme: Any, keep: Path | None) -> None:
    """The whole job, from the file to the finished COG."""
    import numpy as np
    import rasterio

    from raremap.maps.export import write_map
    from raremap.maps.options import PredictOptions
    from raremap.scene.raster import open_image

    options = PredictOptions(window=WINDOW, overlap=OVERLAP)
    with (
        tempfile.TemporaryDirectory(dir=scene.parent) as folder,
        open_image(scene, names=_names(CHANNELS[model])) as reader,
    ):
        out = Path(folder) / "map.tif"
        done = write_map(reader, net, out, scheme, options, probabilities=None if keep is None else "float32")
        if keep is not None and done.probabilities is not None:
            with rasterio.open(done.probabilities) as file:
                np.save(keep, file.read())


def run_network(scene: Path, model: str, net: Any, scheme: Any, keep: Path | None) -> None:
    """The network alone, as `raremap` calls it, as often and on windows of the same size."""
    import numpy as np

    from raremap.maps.lattice import Lattice
    from raremap.maps.options import PredictOptions
    from raremap.scene.raster import open_image

    with open_image(scene, names=_names(CHANNELS[model])) as reader:
        grid, dtype, bands = reader.grid, reader.dtype, len(reader.bands)
    lattice = Lattice.of(grid.height, grid.width, PredictOptions(window=WINDOW, overlap=OVERLAP))
    size = (lattice.height, lattice.width)
    image = np.random.default_rng(0).integers(0, 224, (1, bands, *size)).astype(dtype)
    valid = np.ones((1, *size), bool)
    for _ in range(len(lattice.row_starts) * len(lattice.col_starts)):
        net(image, valid)


def run_dense(scene: Path, model: str, net: Any, scheme: Any, keep: Path | None) -> None:
    """The network on the whole scene at once, in float64: what windows should come to."""
    import numpy as np
    import rasterio
    import torch

    with rasterio.open(scene) as file:
        image = torch.from_numpy(file.read()).double()[None].sub_(SHIFT).mul_(SCALE)
    with torch.inference_mode():
        probs = torch.softmax(net._module.double()(image), 1)[0].numpy()
    if keep is not None:
        np.save(keep, probs)


OURS = {"raremap": run_raremap, "raremap-bf16": run_raremap, "network": run_network, "dense": run_dense}


def child(runner: str, scene: Path, model: str, weights: Path, threads: int, keep: Path | None) -> None:
    """One of our own measurements, in this process."""
    import raremap.maps.export
    import raremap.scene.raster  # noqa: F401  (loading libraries is not part of what is timed, as with peers)

    net, scheme = raremap_network(model, weights, threads, "bf16" if runner == "raremap-bf16" else "float32")
    loaded = resident_mb()
    started = time.perf_counter()
    OURS[runner](scene, model, net, scheme, keep)
    seconds = time.perf_counter() - started
    peak = peak_mb()
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "above_model_mb": peak - loaded}))


def measure(
    runner: str, scene: Path, model: str, threads: int, keep: Path | None = None
) -> dict[str, float] | None:
    """One measurement in a process of its own; None of a peer that has not ended after `LIMIT_S`."""
    here = Path(__file__)
    about = [str(scene), model, str(scene.with_name(f"{model}.pt"))]
    if runner in PEERS:
        # Without our own paths in it, a peer's environment is its own.
        script, python, environment = here.with_name("predict_peers.py"), PYTHONS[runner], {"PYTHONPATH": ""}
        about = [runner, *about]
    else:
        script, python, environment = here, sys.executable, None
        about = ["--child", runner, *about]
    kept = [] if keep is None else ["--keep", keep]
    return fresh(
        str(script), *about, "--threads", threads, *kept, python=python, environment=environment,
        limit_s=LIMIT_S if runner in PEERS else None,
    )  # fmt: skip


def compare(
    title: str, runners: list[str], scene: Path, model: str, repeats: int, megapixels: float, threads: int
) -> dict[str, dict[str, float]]:
    """Medians of runners that take turns, shown as lines of the table."""
    runs: dict[str, list[dict[str, float]]] = {r: [] for r in runners}
    for _ in range(repeats):
        for runner in runners:
            if runner not in runs:
                continue  # stopped before
            if (one := measure(runner, scene, model, threads)) is None:
                del runs[runner]
                print(f"{title:<26} {runner:<18} stopped: it had not ended after {LIMIT_S} s", flush=True)
            else:
                runs[runner].append(one)
    out = {}
    for runner, many in runs.items():
        middle = {key: statistics.median(one[key] for one in many) for key in many[0]}
        middle["megapixels_s"] = megapixels / middle["seconds"]
        out[runner] = {key: round(value, 2) for key, value in middle.items()}
        spread = f"{min(m['seconds'] for m in many):.1f}-{max(m['seconds'] for m in many):.1f}"
        print(
            f"{title:<26} {runner:<18} {middle['seconds']:8.2f} s ({spread:>11}) {middle['megapixels_s']:6.2f} Mpx/s "
            f"{middle['peak_mb']:7.0f} MB  +{middle['above_model_mb']:.0f} MB",
            flush=True,
        )
    return out


def ratio(lines: dict[str, dict[str, float]]) -> dict[str, Any]:
    """How many times faster raremap is than the fastest peer that blends."""
    blend = {name: line["seconds"] for name, line in lines.items() if name in PEERS and name != NO_BLEND}
    if not blend:
        return {}
    best = min(blend, key=blend.__getitem__)
    return {"fastest": best, "times": round(blend[best] / lines["raremap"]["seconds"], 2)}


def deviations(runners: list[str], scene: Path, threads: int) -> dict[str, dict[str, float]]:
    """How far each runner's probabilities are from the dense reference, shown as lines of a table.

    The scene's outermost pixels stand apart (`border`): what lies beyond them is each one's own convention.
    """
    import numpy as np

    exact_path, path = scene.with_name("exact.npy"), scene.with_name("probs.npy")
    measure("dense", scene, "conv", threads, exact_path)
    exact, out = np.load(exact_path), {}
    print(
        f"{'deviation from the dense reference':<34} {'greatest':>9} {'border':>9} {'mean':>9} {'other class':>12}"
    )
    for runner in runners:
        if measure(runner, scene, "conv", threads, path) is None:
            print(f"{runner:<34} stopped: it had not ended after {LIMIT_S} s", flush=True)
            continue
        probs = np.load(path)
        apart = np.abs(np.nan_to_num(probs) - exact).max(
            0
        )  # no answer is as far from the right one as can be
        inside = apart[1:-1, 1:-1]
        line = {
            "greatest": float(inside.max()), "border": float(apart.max()), "mean": float(inside.mean()),
            "other_class": float((probs.argmax(0) != exact.argmax(0)).mean()),
        }  # fmt: skip
        out[runner] = {key: float(f"{value:.3g}") for key, value in line.items()}
        print(
            f"{runner:<34} {line['greatest']:9.2g} {line['border']:9.2g} {line['mean']:9.2g} {line['other_class']:11.4%}",
            flush=True,
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small scenes, one run each")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=2, help="of the network; 1 where the machine is shared"
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be given again")
    for peer in ("toolbelt", "geoai", "terratorch", "raster-vision"):
        parser.add_argument(f"--python-{peer}", metavar="PYTHON", help=f"one that has {PACKAGES[peer]}")
    parser.add_argument(
        "--child", nargs=4, metavar=("RUNNER", "SCENE", "MODEL", "WEIGHTS"), help=argparse.SUPPRESS
    )
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        runner, scene, model, weights = args.child
        child(runner, Path(scene), model, Path(weights), args.threads, args.keep)
        return
    if args.weights:
        print(json.dumps(make_weights(args.weights)))
        return
    here = sys.executable if importlib.util.find_spec("pytorch_toolbelt") is not None else None
    pythons = {
        "pytorch-toolbelt": args.python_toolbelt or here,
        "geoai-py": args.python_geoai,
        "terratorch": args.python_terratorch,
        "rastervision_pytorch_learner": args.python_raster_vision,
    }
    PYTHONS.update({peer: python for peer in PEERS if (python := pythons[PACKAGES[peer]]) is not None})
    with tempfile.TemporaryDirectory(prefix="raremap-bench-") as folder:
        measured(args, Path(folder))


def measured(args: argparse.Namespace, folder: Path) -> None:
    """The parts that are asked for, each with its lines; at the end all figures as JSON."""
    parts = args.only or USUAL
    repeats = 1 if args.quick else args.repeats
    facts = fresh(__file__, "--weights", folder)
    figures: dict[str, Any] = {
        **(here := machine("raremap", "torch", "numpy", "rasterio")),
        "versions": here["versions"] | peer_versions(), "threads": args.threads, "bf16": facts["bf16"],
        "quick": args.quick,
    }  # fmt: skip
    ours = ["raremap", *(["raremap-bf16"] if facts["bf16"] else [])]
    peers = list(PYTHONS)
    print(
        f"peers: {', '.join(peers) or 'none'}; bf16: {'yes' if facts['bf16'] else 'not native here, left out'}"
    )
    scene = folder / "scene.tif"

    def part(
        title: str, runners: list[str], model: str, height: int, width: int, times: int
    ) -> dict[str, Any]:
        return compare(
            f"{height}x{width} {title}", runners, scene, model, times, height * width / 1e6, args.threads
        )

    if "deviation" in parts:
        make_scene(scene, 700, 900) if args.quick else make_scene(scene, 1900, 2300)
        figures["deviation"] = deviations([*ours, *peers], scene, args.threads)
    print(
        f"{'scene and model':<26} {'':<18} {'median time':>10} {'(range)':>13} {'speed':>12} {'peak':>10}  above the loaded model"
    )
    if "conv" in parts:
        for n in (1024,) if args.quick else (4096, 8192):
            make_scene(scene, n, n)
            lines = part("convolution", [*ours, *peers], "conv", n, n, repeats)
            figures[f"conv_{n}"] = lines | {"beside": ratio(lines)}
    if "wide" in parts and "toolbelt" in peers:
        n = 1536 if args.quick else 12288
        make_scene(scene, n, n)
        lines = part("convolution", ["raremap", "toolbelt"], "conv", n, n, repeats)
        figures[f"conv_{n}"] = lines | {"beside": ratio(lines)}
    if "long" in parts:
        n = 512 if args.quick else 8192
        for height, width in ((4 * n, n), (n, 4 * n)):
            make_scene(scene, height, width)
            figures[f"conv_{height}x{width}"] = part("convolution", ["raremap"], "conv", height, width, 1)
    if "unet" in parts:
        n = 600 if args.quick else 4096
        make_scene(scene, n, n)
        unet = part("U-Net ResNet-18", [*ours, "network", *peers], "unet", n, n, repeats)
        figures[f"unet_{n}"] = unet | {"beside": ratio(unet)}
        figures["unet_overhead"] = round(unet["raremap"]["seconds"] / unet["network"]["seconds"] - 1, 4)
    if "sparse" in parts:
        n = 10_000 if args.quick else 100_000
        make_sparse(scene, n)
        figures["sparse"] = part("sparse", ["raremap"], "conv", n, n, 1)
    if "huge" in parts:
        n = 1500 if args.quick else 30_000
        make_scene(scene, n, n, CHANNELS["conv10"])
        figures["huge"] = part("10 bands", ["raremap"], "conv10", n, n, 1)
    figures["load_after"] = os.getloadavg()[0]
    print(json.dumps(figures))


def peer_versions() -> dict[str, str]:
    """The version of each peer's package and of its torch."""
    out = {}
    for peer, python in PYTHONS.items():
        ask = (
            f"from importlib.metadata import version as v; print(v({PACKAGES[peer]!r}), 'torch', v('torch'))"
        )
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{python} has no {PACKAGES[peer]}:\n{done.stderr[-500:]}")
        out[PACKAGES[peer]] = done.stdout.strip()
    return out


if __name__ == "__main__":
    main()
