"""Cleaning and polygons: speed and peak memory, beside scipy's labels of the whole scene and GDAL's sieve and polygons.

    python benchmarks/clean.py            some minutes
    python benchmarks/clean.py --quick    under a minute

Every measurement is a fresh process, so that peak memory is its own. The map is of blobs of 12 classes with crumbs of one
to a few pixels, as predictions have them. `scipy` labels every class of the whole scene and measures its
components, which is the least that any cleaning needs; `sieve` is GDAL's by pixels, for all classes alike.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from machine import fresh, machine, peak_mb

CLASSES, LIMIT = 12, 8


def make_map(path: Path, side: int) -> None:
    import cv2
    import numpy as np
    import rasterio
    from affine import Affine

    rng = np.random.default_rng(0)
    cell = 1024
    coarse = rng.random((CLASSES, cell // 32, cell // 32)).astype(np.float32)
    scores = np.stack([cv2.resize(c, (cell, cell), interpolation=cv2.INTER_CUBIC) for c in coarse])
    scores += rng.normal(0, 0.05, scores.shape).astype(np.float32)
    block = scores.argmax(0).astype(np.uint8)
    profile = {
        "driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": "uint8", "nodata": 255,
        "crs": "EPSG:32631", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000), "tiled": True,
        "blockxsize": 512, "blockysize": 512, "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.update_tags(**{f"class_{k}": f"class {k}" for k in range(CLASSES)})
        for row in range(0, side, cell):
            for col in range(0, side, cell):
                h, w = min(cell, side - row), min(cell, side - col)
                file.write(block[:h, :w], 1, window=rasterio.windows.Window(col, row, w, h))


def run(job: str, path: Path) -> dict[str, float]:
    """One job in this process; compiled code is loaded before the clock starts."""
    import numpy as np
    import rasterio

    import raremap as rm

    out = path.with_name(f"out-{os.getpid()}")
    small = path.with_name("little.tif")

    def ours(source: Path) -> None:
        if job == "clean":
            rm.clean(source, out.with_suffix(".tif"), mmu=100 * LIMIT, quiet=True)
        elif job == "clean_filters":
            rm.clean(
                source, out.with_suffix(".tif"), mmu=100 * LIMIT, majority=3, open={"class 1": 30}, quiet=True
            )
        else:
            rm.vectorize(source, out.with_suffix(".gpkg"), quiet=True)

    def theirs(source: Path) -> None:
        from rasterio.features import shapes, sieve
        from scipy import ndimage

        with rasterio.open(source) as file:
            index = file.read(1)
        if job == "scipy":
            for k in range(CLASSES):
                labels, _ = ndimage.label(index == k, np.ones((3, 3)))
                np.bincount(labels.ravel())
        elif job == "sieve":
            sieve(index, LIMIT, connectivity=8)
        else:
            sum(1 for _ in shapes(index, connectivity=4))

    work = ours if job in ("clean", "clean_filters", "vectorize") else theirs
    work(small)
    started, worked = time.perf_counter(), time.process_time()
    work(path)
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    for left in path.parent.glob(f"out-{os.getpid()}*"):
        left.unlink()
    return {"seconds": seconds, "cpu_s": cpu, "peak_mb": peak_mb()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--map", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(run(args.job, args.map)))
        return
    jobs = ("clean", "clean_filters", "scipy", "sieve", "vectorize", "shapes")
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        make_map(Path(folder) / "little.tif", 64)
        for side in (512,) if args.quick else (2048, 8192):
            path = Path(folder) / f"map{side}.tif"
            make_map(path, side)
            for job in jobs:
                if args.quick and job in ("clean_filters", "shapes"):
                    continue
                if side > 4000 and job in ("vectorize", "shapes"):
                    continue  # a million polygons take minutes in either
                found = fresh(__file__, "--job", job, "--map", path)
                figures.append({"side": side, "job": job, "mpx_s": side**2 / 1e6 / found["seconds"], **found})
                print(
                    f"{side:>6}²  {job:<14}{found['seconds']:8.2f} s{found['cpu_s']:8.2f} CPU s{figures[-1]['mpx_s']:8.2f} Mpx/s"
                    f"{found['peak_mb']:8.0f} MB",
                    flush=True,
                )
    print(json.dumps({"figures": figures, **machine("raremap", "numpy", "numba", "rasterio", "scipy")}))


if __name__ == "__main__":
    main()
