"""How many million pixels a second each feature is computed at, on one core, beside scipy and OpenCV.

    python benchmarks/features.py [--quick] [--size 1024] [--crop 256]

A soft random scene of seven uint8 bands. `whole` is the scene at once; `crop` are windows with their margins, the
pixels inside counted: what a training sample costs. `kept` are windows read from the cache of a training instead, as large,
half a block off its blocks, by then in memory; of features that it keeps. Medians over rounds, by the processor time of this process, which runs
on one thread: on a busy machine the clock on the wall would count the others' work, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from affine import Affine
from pydantic import TypeAdapter
from rasterio.crs import CRS
from scipy import ndimage

from machine import machine
from raremap.scene.features.channels import Channels
from raremap.scene.features.options import KINDS, Feature, FeatureOptions
from raremap.scene.grid import Grid
from raremap.scene.window import Window
from raremap.tiles.identity import feature_form
from raremap.tiles.store import BLOCK, Store, StoredScene

BANDS = ("blue", "green", "red", "nir", "swir1", "swir2", "dem")
GIVEN = {
    "canny": {"kind": "canny", "low": 20, "high": 60},
    "global": {"kind": "global", "low": (0, 0, 0), "high": (250, 250, 250)},
}
DECK = ("local", "ndvi", "ndmi", "nbr", "grey", "gaussian", "median")


def soft(size: int) -> np.ndarray:
    noise = np.random.default_rng(0).random((len(BANDS), size, size), np.float32)
    noise = np.stack([cv2.GaussianBlur(b, (0, 0), 2) for b in noise])
    return ((noise - noise.min()) / np.ptp(noise) * 250).astype(np.uint8)


def rate(job: Callable[[], object], pixels: int, rounds: int) -> float:
    job()
    found = []
    for _ in range(rounds):
        started = time.process_time()
        job()
        found.append(pixels / (time.process_time() - started) / 1e6)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--crop", type=int, default=256)
    args = parser.parse_args()
    size, rounds = (512, 1) if args.quick else (args.size, 5)
    cv2.setNumThreads(1)
    image = soft(size)
    valid = np.ones(image.shape[1:], bool)
    grid = Grid(size, size, CRS.from_epsg(25831), Affine(10, 0, 4e5, 0, -10, 4.6e6))
    ranges = dict.fromkeys(BANDS, (0.0, 250.0))
    crops = [
        Window(r, c, args.crop, args.crop)
        for r in range(0, size - args.crop + 1, args.crop)
        for c in range(0, size - args.crop + 1, args.crop)
    ]

    def measured(channels: Channels) -> tuple[float, float]:
        def over(windows: list[Window]) -> None:
            for window in windows:
                grown = channels.grown(window, grid)
                inside = grown.slices()
                channels.compute(channels.pixels(image[:, *inside], valid[inside], grid, grown, ranges))

        crop = sum(w.height * w.width for w in crops)
        return rate(lambda: over([grid.window]), size * size, rounds), rate(lambda: over(crops), crop, rounds)

    def kept(feature: FeatureOptions) -> float:
        form = feature_form(feature)
        blocks = size // BLOCK
        offsets = np.arange(blocks**2).reshape(blocks, blocks) * form.size(BLOCK, BLOCK)
        block = form.pack([np.ones((len(feature.channels), BLOCK, BLOCK))])
        off = [Window(w.row_off // 2 + 1, w.col_off // 2 + 1, w.height, w.width) for w in crops]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kept.pixels"
            path.write_bytes(block * blocks**2)
            store = Store(path, {"scene": StoredScene(size, size, form, offsets)}).mapped()
            pixels = sum(w.height * w.width for w in off)
            return rate(lambda: [store.read("scene", w, (0,)) for w in off], pixels, rounds)

    rows: dict[str, tuple[float, float, float]] = {}
    reading = TypeAdapter(Feature).validate_python
    for kind in KINDS:
        one = reading(GIVEN.get(kind, kind))
        rows[kind] = *measured(Channels.of(BANDS, [one])), kept(one) if one.kept else float("nan")
    rows["deck, 9 channels"] = *measured(Channels.of(BANDS, [reading(k) for k in DECK])), float("nan")
    grey = image[:3].astype(np.float32).mean(0)
    peers = {
        "gaussian: cv2": lambda: cv2.GaussianBlur(grey, (11, 11), 1.85),
        "gaussian: scipy": lambda: ndimage.gaussian_filter(grey, 1.85),
        "median 10: scipy": lambda: ndimage.median_filter(grey, 10),
        "canny: cv2, uint8": lambda: cv2.Canny(image[0], 20, 60, L2gradient=True),
    }
    print(f"{'feature':20} {'whole':>8} {'crop':>8} {'kept':>8}   Mpx/s, one core")
    for name, (whole, crop, read) in rows.items():
        print(f"{name:20} {whole:8.1f} {crop:8.1f} {read:8.1f}")
    for name, job in peers.items():
        print(f"{name:20} {(found := rate(job, size * size, rounds)):8.1f}")
        rows[name] = (found, float("nan"), float("nan"))
    figures = {name: round(whole, 2) for name, (whole, _, _) in rows.items()}
    read = {name: round(found, 2) for name, (_, _, found) in rows.items() if found == found}
    print(
        json.dumps(
            {
                "size": size,
                "crop": args.crop,
                "mpx_s": figures,
                "kept_mpx_s": read,
                **machine("raremap", "numpy", "numba", "scipy"),
            }
        )
    )


if __name__ == "__main__":
    main()
