"""How often the 95 % intervals of `raremap area` hold the true areas: samples drawn again and again from valleys.

    python benchmarks/area_coverage.py [--quick] [--draws 500] [--valleys FOLDER] [--out benchmarks/results/area_coverage.md]

`--valleys` is a folder that `raremap simulate` made; without it four valleys of 256² pixels are simulated.

The truth is what a simulated valley has at each pixel; the map is the labels as people draw them (moved borders, lost
houses), with salt and pepper over it, so that rare classes are missed and invented. A sample of the design that
`raremap sample` makes by default is drawn, labelled with the truth, and put to `raremap area`'s estimator; with and
without the stratum beside rare classes.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio

from raremap.labels import LabelScheme
from raremap.maps.classmap import open_classmap
from raremap.maps.strata import Strata, survey
from raremap.measure.allocation import allocate_for
from raremap.measure.posterior import simulate
from raremap.measure.stratified import Estimate, Stratified
from raremap.scene.window import Window
from raremap.valley.options import ValleyOptions
from raremap.valley.simulate import simulate as simulate_valleys

_VALLEYS = 4
_POSTERIOR_DRAWS = (
    1000  # a tenth of what `raremap area` takes: the ends of an interval scatter by 4 % of its half
)


def erring_map(folder: Path, out: Path, noise: float, rng: np.random.Generator, first: int = 0) -> np.ndarray:
    """The labels of valleys side by side, with noise, as a map; gives their truth as class index (-1 outside)."""
    parts = []
    for name in sorted((folder / "labels").glob("*.tif"))[first : first + _VALLEYS]:
        with rasterio.open(name) as file, rasterio.open(folder / "labels_true" / name.name) as other:
            parts.append((file.read(1), other.read(1)))
            profile, tags = file.profile, file.tags(1)
    drawn, true = (np.concatenate(side, 1) for side in zip(*parts, strict=True))
    flip = (rng.random(drawn.shape) < noise) & (drawn > 0)
    near = np.roll(drawn, (3, -2), (0, 1))  # what is called wrongly is called like something near
    drawn = np.where(flip & (near > 0), near, drawn)
    drawn[true == 0] = 0
    true[drawn == 0] = 0
    profile.update(height=drawn.shape[0], width=drawn.shape[1])
    with rasterio.open(out, "w", **profile) as file:
        file.write(drawn, 1)
        file.update_tags(**tags)
    return true.astype(int) - 1


def estimates(
    strata: Strata, sizes: np.ndarray, true: np.ndarray, draws: int, rng: np.random.Generator
) -> list[list[tuple[Estimate, Estimate]]]:
    """By draw and class the area with its normal interval, and with that of the posterior."""
    stratum, called = (a.ravel() for a in strata.read(Window(0, 0, *true.shape)))
    pixels = np.bincount(stratum[stratum >= 0], minlength=len(sizes))
    places = [np.flatnonzero(stratum == h) for h in range(len(sizes))]
    out = []
    for _ in range(draws):
        at = np.concatenate(
            [rng.choice(p, n, replace=False, shuffle=False) for p, n in zip(places, sizes, strict=True)]
        )
        sample = Stratified(stratum[at], np.ones(len(at)), pixels, pixels, strata.names)
        row = []
        for k in range(len(strata.source.names)):
            is_called, is_true = called[at] == k, true.ravel()[at] == k
            plain = sample.share(is_true.astype(float)).scaled(sample.area)
            ground = simulate(sample, is_called, is_true, rng, _POSTERIOR_DRAWS)
            row.append((plain, replace(plain, bounds=ground.area_bounds(plain.value))))
        out.append(row)
    return out


def by_share(share: np.ndarray, held: np.ndarray, half: np.ndarray) -> list[str]:
    """Markdown: means over the classes of a band of true shares `[K]`; `held`, `half [K, 2]` of either interval."""
    out = [
        "| true share | classes | normal: holds | half width | jeffreys: holds | half width |",
        "|---|---|---|---|---|---|",
    ]
    for least, most in ((0.03, 1.0), (0.01, 0.03), (0.005, 0.01), (0.0, 0.005)):
        there = (share > least) & (share <= most)
        if there.any():
            means = "".join(f"| {held[there, j].mean():.1%} | {half[there, j].mean():.0%} " for j in (0, 1))
            out.append(f"| {least:.1%} to {most:.1%} | {there.sum()} {means}|")
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--valleys", type=Path)
    parser.add_argument("--se", type=float, default=0.01)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.draws = 20
    warnings.simplefilter("ignore")
    started, rng = time.time(), np.random.default_rng(0)
    lines = [
        "# Coverage of the intervals of `raremap area`",
        "",
        f"`python benchmarks/area_coverage.py --draws {args.draws}`: {_VALLEYS} simulated valleys of 256² pixels side by side, "
        f"their drawn labels with {args.noise:.0%} noise as the map, {args.draws} samples of each design, seeds 0, nominal 95 %. "
        f"A binomial 95 % range around 95 % is ± {196 * np.sqrt(0.95 * 0.05 / args.draws):.1f} points. "
        "Bias and half width are shares of the true area; the estimate is the same for both intervals.",
        "",
    ]
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.valleys is None:
            args.valleys = Path(folder)
            simulate_valleys(folder, ValleyOptions(seed=0, size=256, valleys=_VALLEYS))
        path = Path(folder) / "map.tif"
        true = erring_map(args.valleys, path, args.noise, rng)
        names = LabelScheme.named("catalonia").names
        with open_classmap(path) as source:
            areas = survey(Strata.of(source)).areas
            assert source.names == names
            rare = [i for i, a in enumerate(areas) if 0 < a < 0.5 / len(areas) * areas.sum()]
            truth = np.array([(true == i).sum() for i in range(len(names))], float)
            for buffer in (0, 3):
                strata = Strata.of(source, rare, buffer)
                found = survey(strata)
                expected = np.array(
                    [
                        0.7 if n in [names[i] for i in rare] or h == strata.beside else 0.9
                        for h, n in enumerate(strata.names)
                    ]
                )
                sizes = allocate_for(args.se, found.weights, expected, found.pixels.sum(0))
                runs = estimates(strata, sizes, true, args.draws, rng)
                low, high, value = (
                    np.array([[[getattr(e, key) for e in pair] for pair in r] for r in runs])
                    for key in ("low", "high", "value")
                )  # [draws, K, 2]: normal, jeffreys
                held = ((low <= truth[:, None]) & (truth[:, None] <= high)).mean(0)
                half = (high - low).mean(0) / 2
                lines += [
                    f"## {'No buffer' if not buffer else f'Buffer of {buffer} pixels around rare classes'}: {sizes.sum():,} points",
                    "",
                    "| class | true share | mapped | bias | normal: holds | half width | jeffreys: holds | half width |",
                    "|---|---|---|---|---|---|---|---|",
                ]
                for i in np.argsort(-truth):
                    if truth[i]:
                        lines.append(
                            f"| {names[i]}{' (rare)' if i in rare else ''} | {truth[i] / truth.sum():.2%} | {areas[i] / areas.sum():.2%} "
                            f"| {value[:, i, 0].mean() / truth[i] - 1:+.1%} "
                            + "".join(f"| {held[i, j]:.1%} | {half[i, j] / truth[i]:.0%} " for j in (0, 1))
                            + "|"
                        )
                there = truth > 0
                lines += [
                    "",
                    *by_share((truth / truth.sum())[there], held[there], (half / truth[:, None])[there]),
                    "",
                    " ".join(
                        f"{kind}: mean over classes {held[there, j].mean():.1%}, lowest {held[there, j].min():.1%}."
                        for j, kind in enumerate(("normal", "jeffreys"))
                    ),
                    "",
                ]
                print("\n".join(lines[-13 - there.sum() :]), flush=True)
                figures[f"buffer {buffer}"] = {
                    kind: {n: round(float(held[i, j]), 4) for i, n in enumerate(names) if there[i]}
                    for j, kind in enumerate(("normal", "jeffreys"))
                }
    lines.append(
        f"Python {platform.python_version()}, numpy {np.__version__}, {time.time() - started:.0f} s."
    )
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
