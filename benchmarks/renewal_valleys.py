"""Landslides of simulated valleys found back by renewing the April map with the clouded August scene.

    python benchmarks/renewal_valleys.py FOLDER [--steps 1500] [--margin 0.5]
    python benchmarks/renewal_valleys.py --quick

FOLDER is what `raremap simulate --valleys` made. The April map has no landslide. August is mapped by an oracle, which
knows the true scars, by a logistic regression on the ten bands of single pixels and by a small U-Net, both fitted on the
labels of two thirds of the valleys that are not held out, with their faults, and tried on the others; clouds are those of the given masks, which miss 7 % of the true
ones. Renewal may change nothing under them.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import rasterio
import torch
from scipy.ndimage import label
from sklearn.linear_model import LogisticRegression

from landslide_network import development, landslide_network
from raremap import simulate
from raremap.bundle import Bundle
from raremap.labels import LabelScheme
from raremap.workflows.change import change
from raremap.workflows.renew import renew

SCHEME = LabelScheme.named("landslide")


def read(folder: Path, kind: str, name: str) -> np.ndarray:
    with rasterio.open(folder / kind / name) as file:
        return file.read()


def linear(weights: np.ndarray, bias: float, bands: list[str]) -> Bundle:
    net = torch.nn.Conv2d(len(bands), 2, 1)
    with torch.no_grad():
        net.weight[:] = torch.tensor(np.stack([np.zeros_like(weights), weights]), dtype=torch.float32)[
            :, :, None, None
        ]
        net.bias[:] = torch.tensor([0.0, bias])
    return Bundle.from_module(net, SCHEME, bands, prior=(0.99, 0.01))


def regression(folder: Path, names: list[str], bands: list[str]) -> Bundle:
    xs, ys = [], []
    for name in names:
        image, labels = read(folder, "august", name), read(folder, "landslides", name)[0]
        clear = (read(folder, "clouds_august", name)[0] == 0) & (labels != 255) & (image.max(0) > 0)
        xs.append(image[:, clear].T / 1e4)
        ys.append(labels[clear])
    fit = LogisticRegression(C=100, max_iter=500).fit(np.concatenate(xs), np.concatenate(ys))
    return linear(fit.coef_[0] / 1e4, float(fit.intercept_[0]), bands)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--margin", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=1500, help="of the network's training")
    parser.add_argument("--quick", action="store_true", help="twelve small valleys of its own, 20 steps")
    args = parser.parse_args()
    if args.folder is None and not args.quick:
        parser.error("name the FOLDER of simulated valleys, or give --quick")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        if args.quick:
            args.folder, args.steps = Path(temporary), 20
            simulate(args.folder, valleys=12, size=96, quiet=True)
        measure(args.folder, args.steps, args.margin)


def measure(folder: Path, steps: int, margin: float) -> None:
    """Print the table."""
    names = [f"{name}.tif" for name in development(folder)]
    fitted, tested = names[: 2 * len(names) // 3], names[2 * len(names) // 3 :]
    with rasterio.open(folder / "august" / names[0]) as file:
        bands = [str(b) for b in file.descriptions]
    with tempfile.TemporaryDirectory() as temporary:
        network = landslide_network(folder, [Path(n).stem for n in fitted], Path(temporary) / "run", steps)
    bundles = {
        "oracle": linear(np.array([8.0]), -4.0, ["scar"]),
        "regression": regression(folder, fitted, bands),
        "network": network,
    }
    lines = [
        f"`python benchmarks/renewal_valleys.py FOLDER --steps {steps} --margin {margin:g}`: {len(tested)} valleys, April maps without a landslide, the",
        f"August scene. Network: {network.info['steps']} steps on {len(fitted)} other valleys.",
        "",
        "| model | scar pixels | under given cloud | found of the clear ones | false, of all changed | scars of 4 pixels or more | met | changed under cloud |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, bundle in bundles.items():
        scar = under = found = changed = false = objects = met = wrong = 0
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            for name in tested:
                true = read(folder, "landslides_true", name)[0]
                cloud = read(folder, "clouds_august", name)[0] > 0
                with rasterio.open(folder / "landslides_true" / name) as file:
                    profile = file.profile
                with rasterio.open(work / "april.tif", "w", **profile) as file:
                    file.write(np.where(true == 255, 255, 0).astype(np.uint8), 1)
                    file.update_tags(class_0="background", class_1="landslide", raremap_date="2024-04-12")
                scene = folder / "august" / name
                if model == "oracle":
                    scene = work / "scar.tif"
                    with rasterio.open(scene, "w", **profile) as file:
                        file.write(true, 1)
                        file.set_band_description(1, "scar")
                renew(
                    bundle, scene, work / "april.tif", work / "august.tif", margin=margin, date="2024-08-12",
                    clouds=folder / "clouds_august" / name, cloud_values=(1, 2), quiet=True,
                )  # fmt: skip
                change(work / "april.tif", work / "august.tif", work / "change.tif", quiet=True)
                with rasterio.open(work / "change.tif") as file:
                    new = file.read(1) == 1  # background → landslide
                is_scar = true == 1
                scar += is_scar.sum()
                under += (is_scar & cloud).sum()
                found += (new & is_scar).sum()
                changed += new.sum()
                false += (new & ~is_scar).sum()
                wrong += (new & cloud).sum()
                parts, _ = label(is_scar & ~cloud)
                sizes = np.bincount(parts.ravel())
                hit = np.bincount(parts.ravel(), new.ravel()) > 0
                objects += (sizes[1:] >= 4).sum()
                met += (hit[1:] & (sizes[1:] >= 4)).sum()
        lines.append(
            f"| {model} | {scar:,} | {under:,} | {found / max(scar - under, 1):.1%} | {false / max(changed, 1):.1%} "
            f"| {objects} | {met} | {wrong} |"
        )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
