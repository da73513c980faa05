"""Random windows of a scene: from the GeoTIFF and from the cache, beside torchgeo's RandomGeoSampler.

    python benchmarks/loading.py [--quick] [--repeats 3] [--size 8192] [--only features] [--peer PYTHON]

A scene of 4 bands uint8, tiled 256², DEFLATE; batches of 16 windows of 256² are delivered as uint8 tensors by a
DataLoader. Every measurement is a fresh process that takes its turn; its clock starts with the third batch. Each
loads without workers and with one a core, and its better rate counts. Two ways:

- "far larger": GDAL keeps 16 MB of decoded blocks, as if the scene were far larger than its cache, which is how
  national imagery is read: nearly every window is decoded anew.
  Windows of the catalog's tiles ("raremap tiles") lie on the file's blocks, where any window meets four of them.
  Rows with "features" deliver float32, three costly features (Canny, median of 10, Gaussian) after the bands: "cache" has the
  bands alone in the cache, "kept" the features, too; as of samples that are neither turned nor changed in colour.
- "all in GDAL's cache": GDAL keeps as much as it likes (5 % of the machine's memory), and every window is read once
  before the clock starts, so that nothing is decoded any more.

torchgeo has versions of its own wishes: `--peer` names a Python that has it (it needs nothing of raremap's). Where
none has, its rows say so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import fresh, machine

WINDOW, BATCH, BANDS, WARM_UP = 256, 16, 4, 2
WAYS = {"far larger": "16", "all in GDAL's cache": None}
# What one training crop of 256² costs an accelerator: see the last lines of `main`.
GIGA_MACS, PEAK_TERA, USED = 5.5, 990.0, 0.3


def make_scene(folder: Path, size: int) -> None:
    """Soft shapes with noise, that compress about as imagery does, and a mask of five classes."""
    import cv2
    import numpy as np
    import rasterio
    from affine import Affine

    rng, side = np.random.default_rng(0), 1024
    profile = {
        "driver": "GTiff", "height": size, "width": size, "count": BANDS, "dtype": "uint8", "crs": "EPSG:32631",
        "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000), "tiled": True, "blockxsize": 256, "blockysize": 256,
        "compress": "deflate", "num_threads": "all_cpus", "photometric": "minisblack", "alpha": "unspecified",
    }  # fmt: skip
    (folder / "img").mkdir()
    mask = folder / "mask.tif"
    with (
        rasterio.open(folder / "img/scene.tif", "w", **profile) as image,
        rasterio.open(mask, "w", **{**profile, "count": 1}) as labels,
    ):
        for row in range(0, size, side):
            for col in range(0, size, side):
                window = rasterio.windows.Window(col, row, min(side, size - col), min(side, size - row))
                shape = (window.height, window.width)
                soft = cv2.resize(rng.random((40, 40), np.float32), shape[::-1])
                part = [soft * (150 + 20 * b) + rng.integers(0, 24, shape) for b in range(BANDS)]
                image.write(np.array(part).astype(np.uint8), window=window)
                labels.write((1 + soft * 4).astype(np.uint8), 1, window=window)


def catalog_of(folder: Path):
    from raremap.labels import LabelScheme
    from raremap.scene.sources import ScenesOptions
    from raremap.tiles.options import SplitOptions, TileOptions
    from raremap.tiles.prepare import prepare

    scenes = ScenesOptions(images=str(folder / "img/scene.tif"), masks=str(folder / "mask.tif"))
    classes = LabelScheme({k: f"class {k}" for k in range(1, 6)})
    return prepare(scenes, classes, TileOptions(size=1024), SplitOptions(block_px=2048, folds=2), quiet=True)


class Windows:
    """Random windows of the scene, image alone or with its labels, by whatever reads them."""

    def __init__(self, count: int, size: int, read, aligned: bool) -> None:
        import numpy as np

        corners = np.random.default_rng(1).integers(0, size - WINDOW + 1, (count, 2))
        self._corners = (corners // WINDOW * WINDOW if aligned else corners).tolist()
        self._read = read

    def __len__(self) -> int:
        return len(self._corners)

    def __getitem__(self, i: int):
        import torch

        from raremap.scene.window import Window

        return torch.from_numpy(self._read(Window(*self._corners[i], WINDOW, WINDOW)))


def costly():
    """Features that look around."""
    from raremap.scene.features.options import Canny, Gaussian, Median

    band = "band1"
    return Canny(of=band, low=20, high=60), Median(of=band), Gaussian(of=band)


def raremap_windows(folder: Path, count: int, runner: str):
    """Ours, from the GeoTIFF or the cache; with labels the class indices are one band more."""
    import numpy as np

    from raremap.batches.cache import keep_features
    from raremap.tiles.fill import fill
    from raremap.tiles.reader import TileReader

    cached, labels, aligned, kept = (word in runner for word in ("cache", "labels", "tiles", "kept"))
    features = costly() if "features" in runner else ()
    catalog = catalog_of(folder)
    name, rows = next(iter(catalog.scenes)), np.arange(len(catalog))
    reader = TileReader(catalog, rows, memory=0, features=features)
    if cached or kept:
        reader.use(fill(catalog, reader.windows, folder / "cache", quiet=True))
    if kept:
        keep_features(reader, catalog, True, folder / "cache", range(len(features)), rows, quiet=True)
    image = None

    def read(window):
        nonlocal image
        if features:
            return reader.cut(0, window).image()
        if labels:
            pixels, _, mask = reader.crop(0, window)
            return np.concatenate([pixels, mask[None]])
        if image is None:  # of this process: a worker opens its own
            image = reader._store.open(name)[0] if cached else catalog.open_image(name)
        return image.read(window)[0]

    return Windows(count, catalog.scenes[name].grid.width, read, aligned)


def torchgeo_windows(folder: Path, count: int):
    import torch
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import RandomGeoSampler

    class Scene(RasterDataset):
        filename_glob = "scene.tif"
        is_image = True
        dtype = torch.uint8  # by default it makes float32 of them
        all_bands = tuple(f"band{b + 1}" for b in range(BANDS))

    dataset = Scene(str(folder / "img"))
    generator = torch.Generator().manual_seed(1)
    sampler = RandomGeoSampler(dataset, size=WINDOW, length=count, generator=generator)
    chosen = list(sampler)  # drawn before the clock starts

    class Fixed(torch.utils.data.Sampler):
        def __iter__(self):
            return iter(chosen)

        def __len__(self):
            return len(chosen)

    def collate(samples):
        return stack_samples([{"image": s["image"]} for s in samples])["image"]

    return dataset, (Fixed(), collate)


def child(runner: str, folder: Path, count: int, workers: int, warm: bool) -> None:
    """Print the windows a second, and what an image was like."""
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    if runner == "torchgeo":
        windows, (sampler, collate) = torchgeo_windows(folder, count)
        more = {"sampler": sampler, "collate_fn": collate}
    else:
        windows = raremap_windows(folder, count, runner)
        more = {}
    loader = DataLoader(
        windows, BATCH, num_workers=workers, persistent_workers=workers > 0, prefetch_factor=4 if workers else None,
        **more,
    )  # fmt: skip
    if warm:
        for _ in range(1 + (workers > 1)):  # a worker has a cache of its own, and may get other windows
            for _ in loader:
                pass
    done, started, batch, cpu = 0, 0.0, None, 0.0
    for i, batch in enumerate(loader):
        if i == WARM_UP:
            started, cpu = time.perf_counter(), time.process_time()
        elif i > WARM_UP:
            done += len(batch)
    seconds = time.perf_counter() - started
    assert batch is not None
    assert batch.dtype == (torch.float32 if "features" in runner else torch.uint8)
    found = {
        "rate": done / seconds,
        "shape": list(batch.shape[1:]),
        "mean": float(batch[:, :BANDS].float().mean()),
    }
    if not workers:
        found["cpu_ms"] = 1e3 * (time.process_time() - cpu) / done
    print(json.dumps(found))


def measure(python: str, runner: str, folder: Path, count: int, workers: int, way: str) -> dict[str, float]:
    """One measurement in a process of its own."""
    environment = {"OMP_NUM_THREADS": "1"}
    if WAYS[way] is not None:
        environment["GDAL_CACHEMAX"] = str(WAYS[way])
    warm = int(WAYS[way] is None)
    words = ("--child", runner, folder, count, workers, warm)
    return fresh(__file__, *words, python=python, environment=environment)


def peer_version(python: str) -> str | None:
    """The version of torchgeo that a Python has, or None."""
    code = "from importlib import metadata; import torchgeo; print(metadata.version('torchgeo'))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.split()[-1] if done.returncode == 0 and done.stdout.split() else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small scene, one run each, under a minute")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--count", type=int, default=800, help="windows of a run")
    parser.add_argument("--workers", default=f"0,{os.cpu_count()}", help="numbers of workers to try")
    parser.add_argument("--only", default="", help="ours whose name has this word: features")
    parser.add_argument("--peer", default=sys.executable, help="a Python that has torchgeo")
    parser.add_argument("--child", nargs=5, metavar="WHAT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        runner, folder, count, workers, warm = args.child
        child(runner, Path(folder), int(count), int(workers), warm == "1")
        return

    size, count = (2048, 160) if args.quick else (args.size, args.count)
    repeats = 1 if args.quick else args.repeats
    tries = [0] if args.quick else [int(w) for w in args.workers.split(",")]
    peer = peer_version(args.peer)
    figures: dict[str, object] = {
        **machine("raremap", "torch", "numpy", "rasterio"),
        "torchgeo": peer,
        "scene": size,
        "windows": count,
        "quick": args.quick,
    }
    runners = ["raremap", "raremap tiles", "raremap cache", "raremap labels", "raremap cache labels"]
    runners += ["raremap features", "raremap features cache", "raremap features kept"]
    runners = [runner for runner in runners if args.only in runner]
    with tempfile.TemporaryDirectory(prefix="raremap-bench-") as name:
        folder = Path(name)
        make_scene(folder, size)
        started = time.perf_counter()
        measure(sys.executable, "raremap cache", folder, 4 * BATCH, 0, "far larger")
        figures["fill_seconds"] = round(time.perf_counter() - started, 1)
        started = time.perf_counter()
        measure(sys.executable, "raremap features kept", folder, 4 * BATCH, 0, "far larger")
        figures["fill_features_seconds"] = round(time.perf_counter() - started, 1)
        for way in WAYS:
            names = ["torchgeo", *runners] if peer else runners
            rates: dict[tuple[str, int], list[dict[str, float]]] = {}
            for _ in range(repeats):
                for runner in names:
                    for workers in tries:
                        python = args.peer if runner == "torchgeo" else sys.executable
                        found = measure(python, runner, folder, count, workers, way)
                        rates.setdefault((runner, workers), []).append(found)
            figures[way] = show(way, names, tries, rates, peer)
    needed = USED * PEAK_TERA * 1e12 / (2 * 3 * GIGA_MACS * 1e9)
    figures["accelerator_windows_a_second"] = round(needed)
    print(
        f"\nassumed, not measured: an accelerator of {PEAK_TERA:g} bf16 TFLOP/s, {USED:.0%} of it used, trains a U-Net "
        f"ResNet-18\n({GIGA_MACS:g} G multiply-adds for 256² forward, three times that with backward) on {needed:,.0f} "
        "windows a second"
    )
    figures["load_after"] = os.getloadavg()[0]
    print(json.dumps(figures))


def show(way: str, names: list[str], tries: list[int], rates: dict, peer: str | None) -> dict[str, object]:
    """The table of one way: medians of windows a second, the better number of workers, and ratios to the peer."""
    print(
        f"\n{way}\n{'':<24}{'windows/s':>10}  {'range':<15}{'workers':>8}{'CPU ms a window':>17}{'ratio':>8}"
    )
    out: dict[str, object] = {}
    best: dict[str, list[float]] = {}
    if peer is None:
        print(f"{'torchgeo':<24}{'not measured':>12}  (no torchgeo: see --peer)")
    for runner in names:
        medians = {w: statistics.median(r["rate"] for r in rates[runner, w]) for w in tries}
        workers = max(medians, key=lambda w: medians[w])
        best[runner] = [r["rate"] for r in rates[runner, workers]]
        alone = [r["cpu_ms"] for r in rates[runner, 0]] if 0 in tries else []
        line: dict[str, object] = {
            "rate": round(medians[workers], 1),
            "workers": workers,
            "cpu_ms": round(statistics.median(alone), 3) if alone else None,
        }
        if peer is not None and runner != "torchgeo":
            pairs = zip(best[runner], best["torchgeo"], strict=True)
            line["ratio"] = round(statistics.median(a / b for a, b in pairs), 2)
        out[runner] = line
        spread = f"{min(best[runner]):.0f}-{max(best[runner]):.0f}"
        print(
            f"{runner:<24}{medians[workers]:>10.0f}  {spread:<15}{workers:>8}"
            f"{line['cpu_ms'] if alone else '':>17}{line.get('ratio', ''):>8}",
            flush=True,
        )
    return out


if __name__ == "__main__":
    main()
