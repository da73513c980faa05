"""Labels of 1 m to 10 m: raremap's methods beside GDAL's mode and the bare decoding, on one file.

    python benchmarks/rescale.py [--quick] [--size 20000] [--repeats 3]

Simulated valleys are tiled to a DEFLATE GeoTIFF of size². GDAL's mode runs by warp (all threads) and by RasterIO;
the faster counts. Each way is timed by the wall and by the processor (all threads), the best of the repeats: on a
busy machine only the processor's time says anything.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.warp import Resampling, reproject
from rasterio.windows import Window

from machine import machine
from raremap.scene.grid import Grid
from raremap.scene.options import METHODS
from raremap.scene.resample import rescale_labels
from raremap.valley.options import ValleyOptions
from raremap.valley.simulate import simulate


def labels(folder: Path, size: int) -> Path:
    """Fine labels of four small valleys, repeated to a raster of size²."""
    simulate(folder / "valleys", ValleyOptions(valleys=4, size=128))
    fine = [rasterio.open(p) for p in sorted((folder / "valleys" / "labels_fine_true").glob("*.tif"))]
    a, b, c, d = (f.read(1) for f in fine)
    block = np.block([[a, b], [c, d]])
    path = folder / "labels.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=size, width=size, count=1, dtype="uint8", nodata=0, crs="EPSG:25831",
        transform=Affine(1, 0, 3e5, 0, -1, 4.6e6), tiled=True, blockxsize=512, blockysize=512, compress="deflate",
        bigtiff="IF_SAFER",
    ) as file:  # fmt: skip
        file.update_tags(1, **{k: v for k, v in fine[0].tags(1).items() if k.startswith("class_")})
        strip = np.tile(block, (1, -(-size // block.shape[1])))[:, :size]
        for row in range(0, size, len(block)):
            height = min(len(block), size - row)
            file.write(strip[:height], 1, window=Window(0, row, size, height))
    return path


def best(job: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Least wall and least processor seconds."""
    walls, spent = [], []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        job()
        walls.append(time.perf_counter() - wall)
        spent.append(time.process_time() - processor)
    return min(walls), min(spent)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="4000² once, under a minute")
    parser.add_argument("--size", type=int, default=20000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="one method alone, without GDAL: for the memory it takes")
    args = parser.parse_args()
    size, repeats = (4000, 1) if args.quick else (args.size, args.repeats)
    cells = size // 10
    with tempfile.TemporaryDirectory(prefix="raremap-bench-") as name:
        folder = Path(name)
        path = labels(folder, size)
        with rasterio.open(path) as file:
            grid = Grid(cells, cells, file.crs, file.transform @ Affine.scale(10, 10))

        def decode() -> None:
            with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(path) as file:
                for row in range(0, size, 512):
                    file.read(1, window=Window(0, row, size, min(512, size - row)))

        def warp() -> None:
            out = np.zeros((cells, cells), np.uint8)
            with rasterio.open(path) as file:
                reproject(
                    rasterio.band(file, 1), out, dst_transform=grid.transform, dst_crs=grid.crs,
                    resampling=Resampling.mode, num_threads=os.cpu_count() or 1, warp_mem_limit=256,
                )  # fmt: skip

        def overview() -> None:
            with rasterio.Env(GDAL_CACHEMAX=512), rasterio.open(path) as file:
                file.read(1, out_shape=(cells, cells), resampling=Resampling.mode)

        jobs: dict[str, Callable[[], object]] = {}
        if not args.only:
            jobs |= {"decoding": decode, "GDAL mode, warp": warp, "GDAL mode, RasterIO": overview}
        for method in [args.only] if args.only else METHODS:
            jobs[method] = lambda m=method: rescale_labels(path, grid, folder / "out.tif", METHODS[m]())
            small = Grid(64, 64, grid.crs, grid.transform)
            rescale_labels(path, small, folder / "out.tif", METHODS[method]())  # compiles
        times = {}
        print(f"{size}² labels to {cells}², {path.stat().st_size / 1e6:.0f} MB, {os.cpu_count()} cores")
        print(f"{'':<22}{'wall s':>9}{'processor s':>14}")
        for name, job in jobs.items():
            times[name] = best(job, repeats)
            print(f"{name:<22}{times[name][0]:>9.2f}{times[name][1]:>14.2f}", flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"memory at its highest: {memory:.2f} GB")
    print(
        json.dumps(
            {
                **machine("raremap", "numpy", "numba", "rasterio"),
                "gdal": rasterio.__gdal_version__,
                "size": size,
                "wall_s": {k: round(w, 3) for k, (w, _) in times.items()},
                "processor_s": {k: round(p, 3) for k, (_, p) in times.items()},
                "memory_gb": round(memory, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
