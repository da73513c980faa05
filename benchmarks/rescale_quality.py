"""What rescaling 1 m labels to 10 m costs each class, by method, on simulated valleys with known truth.

    python benchmarks/rescale_quality.py [--quick] [--valleys 36] [--folder VALLEYS]

`--folder` are valleys that `raremap simulate` made; else they are made first. Everything is counted here from the fine
labels, not taken from what rescale reports. For each class: area after over area before. For isolated houses and
roads also the error by square kilometre, how far their ground lies from the nearest cell that is mapped as such,
and how many houses (patches of touching pixels) have a cell. The truth is the fine labels; the majority is
numpy's, in cells without a tie.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from scipy import ndimage

from machine import machine
from raremap.scene.grid import Grid
from raremap.scene.options import METHODS
from raremap.scene.resample import rescale_labels
from raremap.valley.options import ValleyOptions
from raremap.valley.simulate import simulate

RATIO, KM = 10, 100  # fine pixels a cell, cells a kilometre
NAMED = {"isolated_urban": "isolated houses", "transport": "roads"}


def shares(fine: np.ndarray, values: list[int]) -> np.ndarray:
    """Share of each class in each cell's labelled ground `[k, h, w]`; 0 where less than half of it is labelled."""
    h, w = fine.shape[0] // RATIO, fine.shape[1] // RATIO
    cells = fine.reshape(h, RATIO, w, RATIO)
    found = np.stack([(cells == v).mean((1, 3), dtype=np.float64) for v in values])
    labelled = found.sum(0)
    return np.where(labelled >= 0.5, found / np.maximum(labelled, 0.01), 0)


def by_kilometre(cells: np.ndarray) -> np.ndarray:
    """Sums over whole square kilometres `[k, h, w]`."""
    k, h, w = cells.shape
    h, w = h // KM, w // KM
    return cells[:, : h * KM, : w * KM].reshape(k, h, KM, w, KM).sum((2, 4))


class Score:
    """What one method does, over all valleys."""

    def __init__(self) -> None:
        self.sum: dict[str, np.ndarray | float] = defaultdict(float)
        self.worst_cells, self.beyond = 0.0, 0

    def add(self, name: str, values: object) -> None:
        self.sum[name] = self.sum[name] + np.asarray(values, float)


def measure(score: Score, before: np.ndarray, after: np.ndarray, hard: np.ndarray | None, houses: np.ndarray, names: list[str]) -> None:  # fmt: skip
    """Add one valley: shares before and after `[k, h, w]`, the class number of each cell, the houses' patches."""
    had, got = before.sum((1, 2)), after.sum((1, 2))
    off = np.abs(got - had)
    score.worst_cells = max(score.worst_cells, float(off.max()))
    score.beyond += int((off > np.maximum(0.005 * had, 2)).sum())
    score.add("classes", (had > 0).sum())
    score.add("before", had)
    score.add("after", got)
    score.add("km", np.abs(by_kilometre(after) - by_kilometre(before)).sum((1, 2)))
    score.add("kms", by_kilometre(before)[0].size)
    if hard is None:
        return
    own = np.take_along_axis(before, hard.clip(max=len(names) - 1)[None], 0)[0]
    mapped = (hard < len(names)) & before.any(0)
    score.add("cells", mapped.sum())
    score.add("agree", own[mapped].sum())
    two = np.sort(before, 0)[-2:]
    clear = mapped & (two[1] > two[0])
    score.add("majority", (hard == before.argmax(0))[clear].sum())
    score.add("clear", clear.sum())
    score.add("foreign", (own[mapped] == 0).sum())
    for name in NAMED:
        k = names.index(name)
        here = hard == k
        if here.any():
            away = ndimage.distance_transform_edt(~here) * 10
            score.add(f"away {name}", (before[k] * away).sum())
            score.add(f"ground {name}", before[k].sum())
    k = names.index("isolated_urban")
    if houses.max():
        found = ndimage.maximum(
            np.kron(hard == k, np.ones((RATIO, RATIO), np.uint8)), houses, np.arange(1, houses.max() + 1)
        )
        score.add("found", (found > 0).sum())
        score.add("houses", len(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="two small valleys")
    parser.add_argument("--valleys", type=int, default=36)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    scores = {method: Score() for method in METHODS}
    with tempfile.TemporaryDirectory(prefix="raremap-bench-") as name:
        folder = args.folder or Path(name) / "valleys"
        if args.folder is None:
            simulate(
                folder,
                ValleyOptions(valleys=2 if args.quick else args.valleys, size=128 if args.quick else 256),
            )
        paths = sorted((folder / "labels_fine_true").glob("*.tif"))[: 2 if args.quick else args.valleys]
        names: list[str] = []
        for path in paths:
            with rasterio.open(path) as file:
                fine, tags = file.read(1), file.tags(1)
                grid = Grid(
                    file.height // RATIO,
                    file.width // RATIO,
                    file.crs,
                    file.transform @ Affine.scale(RATIO, RATIO),
                )
            classes = {int(k[6:]): v for k, v in tags.items() if k.startswith("class_")}
            values = sorted(classes)
            names = [classes[v] for v in values]
            before = shares(fine, values)
            houses, _ = ndimage.label(fine == values[names.index("isolated_urban")])
            for method, options in METHODS.items():
                out = Path(name) / "out.tif"
                rescale_labels(path, grid, out, options(), threads=1)
                with rasterio.open(out) as file:
                    raw = file.read()
                if method == "fractions":
                    measure(scores[method], before, np.where(raw == 255, 0, raw / 200), None, houses, names)
                else:
                    hard = np.searchsorted(values, raw[0])  # no data: one more than there are
                    after = np.stack([(hard == k) & before.any(0) for k in range(len(values))]).astype(float)
                    measure(scores[method], before, after, hard, houses, names)
    rows: list[tuple[str, list[str]]] = []
    for k, name in enumerate(names):
        rows.append((NAMED.get(name, name.replace("_", " ")), [f"{s.sum['after'][k] / s.sum['before'][k]:.3f}" for s in scores.values()]))  # fmt: skip
    for name, text in NAMED.items():
        k = names.index(name)
        rows.append((f"{text}, ha off in a km²", [f"{s.sum['km'][k] / s.sum['kms'] / 100:.4f}" for s in scores.values()]))  # fmt: skip
        rows.append((f"{text}, m to the nearest cell", [f"{s.sum[f'away {name}'] / s.sum[f'ground {name}']:.2f}" if s.sum["cells"] else "" for s in scores.values()]))  # fmt: skip
    hard_rows = {
        "houses that have a cell, %": ("found", "houses", 2),
        "fine ground of its cell's class, %": ("agree", "cells", 2),
        "cells of the majority's class, %": ("majority", "clear", 2),
        "cells without ground of their class, %": ("foreign", "cells", 4),
    }
    for text, (top, bottom, digits) in hard_rows.items():
        rows.append((text, [f"{100 * s.sum[top] / s.sum[bottom]:.{digits}f}" if s.sum["cells"] else "" for s in scores.values()]))  # fmt: skip
    rows.append(("a class of a scene off at most, cells", [f"{s.worst_cells:.1f}" for s in scores.values()]))
    rows.append(("classes of scenes off by > 0.5 % and > 2 cells", [f"{s.beyond} of {s.sum['classes']:.0f}" for s in scores.values()]))  # fmt: skip
    print(f"{len(paths)} valleys of {grid.height}x{grid.width} cells\n")
    print("| | " + " | ".join(scores) + " |\n|---|" + "---|" * len(scores))
    for text, cells in rows:
        print(f"| {text} | " + " | ".join(cells) + " |")
    print(json.dumps({"valleys": len(paths), "rows": dict(rows), **machine("raremap", "numpy", "rasterio")}))  # fmt: skip


if __name__ == "__main__":
    main()
