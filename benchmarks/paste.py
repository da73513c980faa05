"""How many composites a second are rendered, proposed, and how many tiles searched for objects, on one core.

    python benchmarks/paste.py [--quick] [--tiles 64] [--size 256] [--bands 4] [--composites 400]

Scenes of fields, woods, houses and ponds are written to a temporary folder, uint8. Rendering is measured with
the backgrounds in memory and without features; proposing reads masks from the files as it goes, as it does in
use. Figures are medians over rounds, by the processor time of this process, which runs on one thread: on a busy
machine the clock on the wall would count the others' work, too.
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
import rasterio
from rasterio.transform import from_origin

from machine import machine
from raremap.balance.composites import Composites, propose
from raremap.balance.objects import ObjectBank, build_bank
from raremap.balance.options import CopyPasteOptions
from raremap.balance.paste import render
from raremap.labels import LabelScheme
from raremap.scene.sources import ScenesOptions
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare
from raremap.tiles.reader import TileReader

SCHEME = LabelScheme({1: "field", 2: "wood", 3: "house", 4: "pond"})
RARE = (2, 3)


def scenes(folder: Path, tiles: int, size: int, bands: int) -> Catalog:
    """A scene a tile: a field, a wood in it, up to 40 houses of 3 to 20 pixels a side, up to 3 ponds."""
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:size, :size]
    levels = rng.integers(30, 200, (5, bands))
    for i in range(tiles):
        mask = np.ones((size, size), np.uint8)
        mask[(y - rng.integers(size)) ** 2 + (x - rng.integers(size)) ** 2 < (size / 3) ** 2] = 2
        for _ in range(rng.integers(2, 4)):
            r, c = rng.integers(20, size - 20, 2)
            mask[(y - r) ** 2 + (x - c) ** 2 < rng.integers(8, 20) ** 2] = 4
        for _ in range(rng.integers(5, 40)):
            r, c, h, w = *rng.integers(1, size - 25, 2), *rng.integers(3, 20, 2)
            mask[r : r + h, c : c + w] = 3
        image = levels[mask].transpose(2, 0, 1) + rng.normal(0, 6, (bands, size, size))
        for name, array in (("img", image.clip(1, 255).astype(np.uint8)), ("mask", mask[None])):
            path = folder / name / f"s{i:03}.tif"
            path.parent.mkdir(exist_ok=True)
            profile = dict(driver="GTiff", count=len(array), height=size, width=size, dtype="uint8")
            with rasterio.open(
                path, "w", **profile, crs="EPSG:25831", transform=from_origin(5e4 + 4000 * i, 4.6e6, 1, 1)
            ) as file:
                file.write(array)
    options = ScenesOptions(images="img/*.tif", masks="mask/*.tif", root=str(folder))
    return prepare(options, SCHEME, TileOptions(size=size), SplitOptions(block_px=size, folds=2), quiet=True)


def rate(job: Callable[[], int], rounds: int) -> float:
    """Median over rounds of how many a second of processor time."""
    found = []
    for _ in range(rounds):
        started = time.process_time()
        n = job()
        found.append(n / (time.process_time() - started))
    return statistics.median(found)


def rendering(catalog: Catalog, made: Composites, bank: ObjectBank, options: CopyPasteOptions) -> Callable:
    reader = TileReader(catalog, np.arange(len(catalog)))
    reader.load(np.arange(len(catalog)))
    jobs = [(int(made.row[m]), made.pasted(m)) for m in range(len(made))]

    def job() -> int:
        for row, pasted in jobs:
            render(reader, row, pasted, bank, options)
        return len(jobs)

    job()
    return job


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer tiles and rounds, under a minute")
    parser.add_argument("--tiles", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--bands", type=int, default=4)
    parser.add_argument("--composites", type=int, default=400)
    args = parser.parse_args()
    tiles, wanted, rounds = (24, 80, 3) if args.quick else (args.tiles, args.composites, 9)
    cv2.setNumThreads(1)
    target = np.full(4, 0.25)
    with tempfile.TemporaryDirectory(prefix="raremap-bench-") as folder:
        catalog = scenes(Path(folder), tiles, args.size, args.bands)
        rows = np.arange(len(catalog))
        options = CopyPasteOptions(share=min(4, wanted / tiles))
        bank = build_bank(catalog, rows, RARE, options, 0)
        made = propose(catalog, rows, bank, target, options, 0)
        each = [len(o) for o in made.objects]
        areas = bank.table["area"].to_numpy()[np.concatenate(made.objects)]
        lines: dict[str, float] = {}
        lines["rendered"] = rate(rendering(catalog, made, bank, options), rounds)
        unmatched = options.model_copy(update={"match": False})
        lines["rendered_unmatched"] = rate(rendering(catalog, made, bank, unmatched), rounds)
        for n in (1, 2, 4):
            some = [m for m in range(len(made)) if each[m] >= n]
            part = Composites(
                made.row[some],
                *(
                    [c[m][:n] for m in some]
                    for c in (made.objects, made.code, made.scale, made.top, made.left)
                ),
                made.counts[some],
                {},
            )
            lines[f"rendered_of_{n}"] = rate(rendering(catalog, part, bank, options), rounds)
        lines["proposed"] = rate(
            lambda: len(propose(catalog, rows, bank, target, options, 1)), max(1, rounds // 3)
        )
        lines["tiles_searched"] = rate(
            lambda: len(rows) * bool(len(build_bank(catalog, rows, RARE, options, 1))), max(1, rounds // 3)
        )
    figures = {
        **machine("raremap", "numpy", "scipy", "opencv-python-headless"),
        "size": args.size,
        "bands": args.bands,
        "tiles": tiles,
        "composites": len(made),
        "objects_each": round(float(np.mean(each)), 2),
        "median_area": float(np.median(areas)),
        **{f"{name}_per_s": round(value, 1) for name, value in lines.items()},
        "quick": args.quick,
    }
    print(
        f"{len(made)} composites of {args.size}², {args.bands} bands uint8, {figures['objects_each']} objects each "
        f"(median {figures['median_area']:.0f} pixels), one core"
    )
    names = {
        "rendered": "composites rendered",
        "rendered_unmatched": "  without matching to the ring",
        "rendered_of_1": "  with one object",
        "rendered_of_2": "  with two",
        "rendered_of_4": "  with four",
        "proposed": "composites proposed, files read",
        "tiles_searched": "tiles searched for objects, files read",
    }
    for name, text in names.items():
        print(f"{text:<42}{lines[name]:>10.0f} a second")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
