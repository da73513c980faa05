"""Catalog and census of one large labelled scene: time, peak memory, and going on after a kill.

    python benchmarks/prepare.py            30,000²: some minutes, most of them for making the scene
    python benchmarks/prepare.py --quick    a scene of 3,000²

The scene is a simulated valley, laid side by side: four bands of uint16 (nodata 0), pixel-interleaved, which is
the worst case for finding what is valid, and labels of twelve classes; GeoTIFF in tiles of 512², DEFLATE. Every
measurement is a fresh process, so that peak memory is its own. `gdal` only decodes the same files, on as many
threads, and counts nothing: what any program has to pay.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from machine import fresh, machine, peak_mb

SIDE, QUICK_SIDE, BLOCK = 30_000, 3_000, 512
BANDS = ("B2", "B3", "B4", "B8")


def make(folder: Path, side: int) -> None:
    """Image and labels of `side`² pixels from one simulated valley."""
    import numpy as np
    import rasterio
    from affine import Affine
    from rasterio.windows import Window

    import raremap

    raremap.simulate(folder / "valley", size=512, seed=0, quiet=True)
    april = next(iter(sorted((folder / "valley").rglob("april*"))))
    april = next(iter(sorted(april.rglob("*.tif")))) if april.is_dir() else april
    labels = next(iter(sorted((folder / "valley").glob("labels*"))))
    labels = next(iter(sorted(labels.rglob("*.tif")))) if labels.is_dir() else labels
    with rasterio.open(april) as file:
        image = file.read([file.descriptions.index(b) + 1 for b in BANDS])
    with rasterio.open(labels) as file:
        mask = file.read()
    common = {
        "driver": "GTiff", "height": side, "width": side, "crs": "EPSG:25831", "tiled": True, "bigtiff": "if_safer",
        "transform": Affine(10, 0, 300_000, 0, -10, 4_700_000), "blockxsize": BLOCK, "blockysize": BLOCK,
        "compress": "deflate", "zlevel": 1, "num_threads": 2,
    }  # fmt: skip
    for name, array, more in (
        ("image", image, {"nodata": 0, "interleave": "pixel"}),
        ("labels", mask, {"nodata": 0}),
    ):
        times = -(-side // array.shape[2])
        line = np.tile(array, (1, 1, times))[:, :, :side]
        with rasterio.open(
            folder / f"{name}.tif", "w", count=len(array), dtype=array.dtype, **common, **more
        ) as file:
            for row in range(0, side, line.shape[1]):
                height = min(line.shape[1], side - row)
                file.write(line[:, :height], window=Window(0, row, side, height))
            if name == "image":
                for i, band in enumerate(BANDS, start=1):
                    file.set_band_description(i, band)


def experiment(folder: Path):
    import raremap

    data = {
        "out": str(folder / "run"),
        "scenes": {"root": str(folder), "images": "image.tif", "masks": "labels.tif"},
        "labels": "catalonia",
        "tiles": {"size": 256},
        "split": {"block_m": 10_240},
    }
    return raremap.Experiment.from_dict(data)


def run_prepare(folder: Path) -> dict[str, float]:
    """Catalog and census, as the command line makes them."""
    import raremap

    started = time.perf_counter()
    catalog = raremap.prepare(experiment(folder), quiet=True)
    made = time.perf_counter()
    text = str(raremap.census(catalog))
    assert "forest" in text
    return {
        "seconds": made - started,
        "census_seconds": time.perf_counter() - made,
        "cpu_seconds": time.process_time(),
        "peak_mb": peak_mb(),
        "tiles": len(catalog),
        "side": float(catalog.scenes["image"].grid.height),
        "pixels": float(catalog.counts.sum()),
    }


def run_gdal(folder: Path) -> dict[str, float]:
    """Decoding alone: strips of the same files on two threads."""
    import rasterio
    from rasterio.windows import Window

    def decode(job: tuple[str, int]) -> None:
        with rasterio.open(folder / job[0]) as file:
            for col in range(0, file.width, 4096):
                height = min(BLOCK, file.height - job[1])
                file.read(window=Window(col, job[1], min(4096, file.width - col), height))

    started = time.perf_counter()
    with rasterio.open(folder / "image.tif") as file:
        rows = range(0, file.height, BLOCK)
    with rasterio.Env(GDAL_CACHEMAX=128), ThreadPoolExecutor(2) as pool:
        list(pool.map(decode, [(n, r) for r in rows for n in ("image.tif", "labels.tif")]))
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time(),
        "peak_mb": peak_mb(),
    }


def measured(what: str, folder: Path) -> dict[str, float]:
    return fresh(__file__, "--run", what, folder)


def killed(folder: Path, seconds: float) -> int:
    """Start the same and kill it after so many seconds; bytes of finished strips that are left."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--run", "prepare", str(folder)], stdout=subprocess.DEVNULL
    )
    time.sleep(seconds)
    process.kill()
    process.wait()
    kept = folder / "run" / "catalog.counts"
    return kept.stat().st_size if kept.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a scene of 3,000²")
    parser.add_argument("--folder", type=Path, help="keep the scene there, and take it from there")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        what, folder = args.run
        print(json.dumps((run_prepare if what == "prepare" else run_gdal)(Path(folder))))
        return
    side = QUICK_SIDE if args.quick else SIDE
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "labels.tif").exists():
            make(folder, side)
        gdal = measured("gdal", folder)
        whole = measured("prepare", folder)
        kept = killed(folder, 0.6 * whole["seconds"] + 3)
        again = measured("prepare", folder)
        assert (again["tiles"], again["pixels"]) == (whole["tiles"], whole["pixels"])
        size = sum((folder / f).stat().st_size for f in ("image.tif", "labels.tif"))
    side = round(whole["side"])
    print(
        f"{side:,}² × {len(BANDS)} bands and labels, {size / 1e9:.1f} GB, {whole['tiles']:,} tiles; {os.cpu_count()} cores"
    )
    print(f"{'':<34}{'seconds':>9}{'CPU s':>9}{'peak MB':>9}")
    for label, r in (("decoding alone", gdal), ("catalog and census", whole), ("again after a kill", again)):
        seconds = r["seconds"] + r.get("census_seconds", 0)
        print(f"{label:<34}{seconds:>9.1f}{r['cpu_seconds']:>9.1f}{r['peak_mb']:>9.0f}")
    figures = {
        "side": side, "gdal": gdal, "prepare": whole, "kept_bytes": kept, "again": again,
        **machine("raremap", "numpy", "rasterio"),
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
