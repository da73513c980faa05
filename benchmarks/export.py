"""Exported models beside their bundle: size, memory, windows a second, and F1 before and after int8.

    python benchmarks/export.py [--quick]                          networks as they are made: no F1
    python benchmarks/export.py --run runs/small --run runs/mobile  trained ones: their bundle and catalog.parquet

Memory and speed are of fresh processes that take turns: a process loads one form of the model, is asked for windows
of `--window`² in one thread, and tells its peak memory, all that it imported included. F1 is that of the test places
of the run, each form by its whole way from the scene to the decision.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path

from machine import fresh, machine, peak_mb

BANDS, CLASSES = ("red", "green", "blue", "nir"), 6
FORMS = ("torch", "onnx", "int8")


def child(form: str, path: str, window: int, seconds: float) -> dict[str, float]:
    """Windows a second and peak memory of one form, in this process."""
    import numpy as np

    if form == "torch":
        import torch

        from raremap.bundle import Bundle

        torch.set_num_threads(1)
        model = Bundle.load(path)
    else:
        from raremap.exported import Exported

        model = Exported.load(path)
    # An exported model computes in what it was exported with.
    net = model.network(device="cpu", precision="float32" if form == "torch" else "auto")
    image = np.random.default_rng(0).integers(1, 255, (1, len(model.bands), window, window), dtype=np.uint8)
    valid = np.ones((1, window, window), bool)
    net(image, valid)
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        started = time.process_time()  # of the processor: what else runs here does not count
        net(image, valid)
        times.append(time.process_time() - started)
    return {"windows_s": 1 / statistics.median(times), "peak_mb": peak_mb()}


def measure(form: str, path: Path, window: int, seconds: float) -> dict[str, float]:
    """One measurement in a process of its own."""
    return fresh(__file__, "--child", form, path, window, seconds, environment={"OMP_NUM_THREADS": "1"})


def untrained(name: str, folder: Path, quick: bool) -> tuple[Path, Path]:
    """A bundle of a named network, and a catalog of noise to calibrate with."""
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin

    from raremap.bundle import Bundle
    from raremap.labels import LabelScheme
    from raremap.models.options import model_options
    from raremap.scene.normalize import Normalization
    from raremap.scene.sources import ScenesOptions
    from raremap.tiles.options import SplitOptions, TileOptions
    from raremap.tiles.prepare import prepare

    rng, size = np.random.default_rng(0), 64 if quick else 256
    for i in range(4):
        for kind, values in (
            ("img", rng.integers(1, 255, (len(BANDS), size, size), dtype=np.uint8)),
            ("mask", rng.integers(0, CLASSES, (1, size, size), dtype=np.uint8)),
        ):
            (folder / kind).mkdir(exist_ok=True)
            with rasterio.open(
                folder / kind / f"{i}.tif", "w", driver="GTiff", height=size, width=size, count=len(values), dtype="uint8",
                crs="EPSG:32631", transform=from_origin(4e5 + 9000 * i, 4.6e6, 10, 10),
            ) as file:  # fmt: skip
                file.write(values)
    scheme = LabelScheme({k: f"class {k}" for k in range(CLASSES)})
    scenes = ScenesOptions(root=str(folder), images="img/*.tif", masks="mask/*.tif", bands=BANDS)
    split = SplitOptions(places=1, folds=2)
    catalog = prepare(scenes, scheme, TileOptions(size=size), split, quiet=True)
    options = model_options(name)
    net = options.build(len(BANDS), CLASSES).eval()
    normalization = Normalization("standard", (120.0,) * len(BANDS), (0.02,) * len(BANDS))
    info = {"catalog": catalog.fingerprint, "split": split.model_dump(mode="json"), "name": name}
    bundle = Bundle(net, scheme, BANDS, normalization, options, info=info)
    return bundle.save(folder / "bundle"), catalog.save(folder / "catalog.parquet")


def compare(
    name: str, bundle: Path, catalog: Path, scored: bool, args: argparse.Namespace
) -> dict[str, object]:
    """One network in all its forms, shown as lines of the table."""
    from raremap.workflows.export import export

    with tempfile.TemporaryDirectory(prefix="raremap-bench-") as folder:
        paths = {"torch": bundle, "onnx": Path(folder) / "model.onnx", "int8": Path(folder) / "small.onnx"}
        more = {"evaluate": catalog} if scored else {}
        one = export(bundle, paths["onnx"], quiet=True)
        eight = export(
            bundle, paths["int8"], int8=True, calibrate=catalog, tiles=args.tiles, quiet=True, **more
        )
        runs: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
        for _ in range(args.repeats):
            for form in FORMS:
                runs[form].append(measure(form, paths[form], args.window, args.seconds))
        size = {
            "torch": (bundle / "model.safetensors").stat().st_size,
            "onnx": one.size_bytes,
            "int8": eight.size_bytes,
        }
    found: dict[str, object] = {"parity": one.parity.greatest, "scores": eight.scores}
    found["int8_changed"] = eight.int8.changed if eight.int8 else None
    for form in FORMS:
        middle = {k: round(statistics.median(r[k] for r in runs[form]), 2) for k in runs[form][0]}
        found[form] = {"size_mb": round(size[form] / 1e6, 2), **middle}
        macro = ""
        if eight.scores is not None:
            macro = f"{eight.scores['exported' if form == 'int8' else 'bundle']['macro_f1']:.3f}"
        print(
            f"{name:<24}{form:<7}{size[form] / 1e6:>8.2f} MB{middle['peak_mb']:>8.0f} MB"
            f"{middle['windows_s']:>9.2f}/s{macro:>9}",
            flush=True,
        )
    if eight.scores is not None:
        for klass, before in eight.scores["bundle"]["f1"].items():
            after = eight.scores["exported"]["f1"][klass]
            print(f"  F1 {klass:<20} {before:.3f} → {after:.3f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small network, under a minute")
    parser.add_argument("--run", action="append", type=Path, default=[], help="folder of a finished training")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--tiles", type=int, default=64, help="training tiles that give the ranges of int8")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.child:
        form, path, window, seconds = args.child
        print(json.dumps(child(form, path, int(window), float(seconds))))
        return
    if args.quick:
        args.window, args.repeats, args.seconds, args.tiles = 64, 1, 0.2, 2
    print(f"{'network':<24}{'form':<7}{'size':>11}{'peak':>11}{'windows':>11}{'macro-F1':>9}")
    figures: dict[str, object] = {}
    for run in args.run:
        figures[run.name] = compare(run.name, run / "bundle", run / "catalog.parquet", True, args)
    for name in (
        () if args.run else ("mobilenetv3",) if args.quick else ("residual_unet_small", "mobilenetv3")
    ):
        with tempfile.TemporaryDirectory(prefix="raremap-bench-") as folder:
            bundle, catalog = untrained(name, Path(folder), args.quick)
            figures[name] = compare(name, bundle, catalog, False, args)
    print(
        json.dumps(
            {
                **machine("raremap", "torch", "onnx", "onnxruntime"),
                "window": args.window,
                "quick": args.quick,
                **figures,
            }
        )
    )


if __name__ == "__main__":
    main()
