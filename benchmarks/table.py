"""Tables: how well models rank beside a plain random forest in the same folds, and how fast rows and pixels are scored.

    python benchmarks/table.py [--quick] [--data DIR] [--tune] [--rows 10000000] [--side 4000] [--skip-ranking]

Ranking: slope units of `DIR/yongxin` (10,041, 2.8 % positive, no coordinates: random folds, which flatter). The plain
forest is scikit-learn's with 300 trees and nothing else, its categories as numbers. Measures of a unit's size (its
area and outline) are left out unless --sizes: a larger unit is likelier to hold a landslide, whatever its ground.
Without the data this part is skipped. Streaming: a model of ten attributes (one categorical) over a Parquet of random rows and a raster of random
attributes, each in a fresh process whose greatest memory is told; half as much is scored first, to see whether it grows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import rasterio
from pyarrow import parquet
from rasterio.windows import Window

from machine import fresh, peak_mb

ATTRIBUTES = 10
_SIZES = ["len_x", "len_y", "Shape_Leng", "Shape_Area"]
_CODES = ("soil_0", "landuse_0", "lithology_0")


def ranking(folder: Path, tune: bool, quick: bool, sizes: bool) -> dict[str, dict]:
    """Average precision and AUC of each method with intervals, and its gain on the plain forest, in the same folds."""
    import pandas as pd
    from sklearn.ensemble import RandomForestClassifier

    from raremap.tabular import measures
    from raremap.tabular.columns import Faults, find_columns
    from raremap.tabular.crossval import cross_validate
    from raremap.tabular.fitting import clipped_log_odds
    from raremap.tabular.folds import by_row, deal
    from raremap.tabular.options import MODELS, TableOptions

    factors = pd.read_csv(folder / "factors.csv").drop(columns=["Unnamed: 0", *([] if sizes else _SIZES)])
    truth = pd.read_csv(folder / "labels.csv").landslide.to_numpy() == 1
    table = pa.Table.from_pandas(factors)
    columns = find_columns(table, _CODES, (), "yongxin").columns
    values = columns.values(table, Faults())
    base = TableOptions(label="landslide", tune=False, folds=3 if quick else 5)
    fold = deal(truth, by_row(len(truth)), base.folds, base.seed)
    plain, trees = np.empty(len(truth)), 50 if quick else 300
    for k in range(base.folds):
        forest = RandomForestClassifier(trees, random_state=0).fit(
            factors[fold != k].to_numpy(), truth[fold != k]
        )
        plain[fold == k] = clipped_log_odds(forest.predict_proba(factors[fold == k].to_numpy())[:, 1], trees)
    out = {"plain forest": _figures(measures, plain, truth, None, plain)}
    print(out, file=sys.stderr)
    methods = [("boosting", "weights"), ("logistic", "weights"), ("boosting", "none"), ("boosting", "smote")]
    methods += [] if quick else [("forest", "weights")]
    for model, balance in methods[: 2 if quick else None]:
        options = base.model_copy(
            update={"model": MODELS[model](), "balance": balance, "tune": tune and balance == "weights"}
        )
        found = cross_validate(values, truth, columns, by_row(len(truth)), options)
        assert (found.fold == fold).all()
        name = f"{model}, {balance}{', tuned' if options.tune else ''}"
        out[name] = _figures(measures, found.calibrated, truth, plain, found.unshifted)
        print({name: out[name]}, file=sys.stderr)
    return out


def _figures(measures, logits, truth, plain, raw) -> dict:
    rows = np.arange(len(truth))
    one = measures.intervals(logits, truth, logits > 0, rows, 1000, 0)
    out = {k: str(one[k]) for k in ("average_precision", "auc")}
    if plain is not None:
        gain = measures.intervals(logits, truth, logits > 0, rows, 1000, 0, other=plain)
        out |= {f"{k}_gain": str(v) for k, v in gain.items()}
    out["error_raw"], out["error"] = (round(measures.calibration_error(z, truth), 4) for z in (raw, logits))
    return out


def make_bundle(folder: Path) -> Path:
    """A boosting of default size on ten random attributes, the last categorical."""
    from raremap.tabular.calibration import Calibration
    from raremap.tabular.columns import Column, Columns
    from raremap.tabular.fitting import fit
    from raremap.tabular.model import TableModel
    from raremap.tabular.options import Boosting

    names = [f"a{i}" for i in range(ATTRIBUTES)]
    columns = Columns(
        (
            *(Column(n, "numeric") for n in names[:-1]),
            Column(names[-1], "categorical", tuple(map(str, range(8)))),
        )
    )
    values = _attributes(20_000, 0)
    rng = np.random.default_rng(1)
    truth = rng.random(len(values)) < 1 / (1 + np.exp(4 - values[:, 0] - values[:, 1] * (values[:, -1] == 3)))
    fitted = fit(values, truth, columns, Boosting(), "weights", 0)
    share = float(truth.mean())
    more = {"prior": share, "serves": share, "threshold": 0.0, "positive": "1"}
    return TableModel.of(fitted, columns, Calibration(), **more).save(folder / "bundle")


def _attributes(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, ATTRIBUTES), np.float32)
    values[:, -1] = rng.integers(0, 8, n)
    return values


def make_rows(path: Path, rows: int) -> Path:
    step = 250_000
    schema = pa.schema([(f"a{i}", pa.float32()) for i in range(ATTRIBUTES)])
    with parquet.ParquetWriter(path, schema) as file:
        for start in range(0, rows, step):
            part = _attributes(min(step, rows - start), start)
            file.write_table(pa.table(list(part.T.copy()), schema=schema))
    return path


def make_raster(path: Path, side: int) -> Path:
    profile = dict(
        driver="GTiff",
        count=ATTRIBUTES,
        height=side,
        width=side,
        dtype="float32",
        tiled=True,
        blockxsize=512,
        blockysize=512,
    )
    with rasterio.open(
        path, "w", **profile, crs="EPSG:32632", transform=rasterio.Affine(10, 0, 0, 0, -10, 0)
    ) as file:
        file.descriptions = [f"a{i}" for i in range(ATTRIBUTES)]
        for row in range(0, side, 512):
            high = min(512, side - row)
            part = _attributes(high * side, row).T.reshape(ATTRIBUTES, high, side)
            file.write(part, window=Window(0, row, side, high))
    return path


def measured(bundle: Path, source: Path, out: Path) -> dict[str, float]:
    """Seconds and greatest memory of a prediction in a process of its own."""
    return fresh(__file__, "--score", bundle, source, out)


def score(bundle: str, source: str, out: str) -> None:
    import raremap as rm

    started, cpu = time.perf_counter(), time.process_time()
    done = rm.table_predict(bundle, source, out, quiet=True)
    print(
        json.dumps(
            {
                "count": done.count,
                "seconds": round(time.perf_counter() - started, 1),
                "processor_seconds": round(time.process_time() - cpu, 1),
                "peak_mb": round(peak_mb()),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer folds, methods, rows and pixels")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("RAREMAP_DATA"), help="folder that holds yongxin"
    )
    parser.add_argument("--tune", action="store_true", help="tune the weighted models on inner folds")
    parser.add_argument("--sizes", action="store_true", help="with the measures of a unit's size, too")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--side", type=int, default=4000, help="of the raster, in pixels")
    parser.add_argument("--skip-ranking", action="store_true")
    parser.add_argument("--skip-streaming", action="store_true")
    parser.add_argument("--score", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.score:
        return score(*args.score)
    warnings.simplefilter("ignore")
    figures: dict[str, object] = {}
    if args.data and not args.skip_ranking and (Path(args.data) / "yongxin").is_dir():
        figures["ranking"] = ranking(Path(args.data) / "yongxin", args.tune, args.quick, args.sizes)
        print(
            "| method | average precision | AUC | gain of AP | gain of AUC | calibration error raw → calibrated |"
        )
        print("|---|---|---|---|---|---|")
        for name, f in figures["ranking"].items():  # type: ignore[attr-defined]
            gains = [f.get(f"{k}_gain", "") for k in ("average_precision", "auc")]
            print(
                f"| {name} | {f['average_precision']} | {f['auc']} | {gains[0]} | {gains[1]} | {f['error_raw']} → {f['error']} |"
            )
    if not args.skip_streaming:
        rows, side = (200_000, 800) if args.quick else (args.rows, args.side)
        with tempfile.TemporaryDirectory(prefix="raremap-bench-") as name:
            folder = Path(name)
            bundle = make_bundle(folder)
            print("| scored | seconds | of the processor | greatest memory, MB |")
            print("|---|---|---|---|")
            for n in (rows // 2, rows):
                found = measured(bundle, make_rows(folder / "rows.parquet", n), folder / "scores.parquet")
                figures[f"rows_{n}"] = found
                print(
                    f"| {found['count']:,} rows | {found['seconds']} | {found['processor_seconds']} | {found['peak_mb']} |",
                    flush=True,
                )
            for s in (side // 2, side):
                found = measured(bundle, make_raster(folder / "in.tif", s), folder / "map.tif")
                figures[f"pixels_{s}"] = found
                print(
                    f"| {s:,}² pixels | {found['seconds']} | {found['processor_seconds']} | {found['peak_mb']} |",
                    flush=True,
                )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
