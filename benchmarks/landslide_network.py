"""A network for landslides on simulated valleys, trained as a user would, for benchmarks that need one."""

from __future__ import annotations

import json
from pathlib import Path

from raremap import Bundle, Experiment
from raremap.workflows.train import train_experiment

HERE = Path(__file__).parent


def development(folder: Path) -> list[str]:
    """Names of the valleys of a folder that holdout.json does not keep for the final figures."""
    held = json.loads((HERE / "holdout.json").read_text())["valleys"]["places"]
    return sorted(p.stem for p in (folder / "august").glob("*.tif") if p.stem not in held)


def landslide_network(
    folder: Path, names: list[str], out: Path, steps: int, seed: int = 0, *changes: str
) -> Bundle:
    """The bundle of a small U-Net, trained on the August images of the valleys `names`; no other valley is touched.

    The experiment is benchmarks/experiments/landslides.yaml without terrain, with prior-adjusted CE + Dice at τ ½. Of `names`,
    15 % choose the step and 25 % fit the decision. The run folder is `out`, and `changes` are further keys (`model.width=16`).
    """
    places: dict[str, str] = json.loads((folder / "places.json").read_text())
    kept = {places[name] for name in places if Path(name).stem in names}
    experiment = Experiment.load(
        HERE / "experiments" / "landslides.yaml",
        [
            f"scenes.root={folder}", "scenes.layers={}", "split.holdout=null", f"out={out}", f"train.seed={seed}",
            f"split.test={json.dumps(sorted(set(places.values()) - kept))}",
            "loss={kind: ce_dice, tau: 0.5}", f"train.steps={steps}", f"train.monitor_every={max(steps // 4, 1)}",
            *changes,
        ],
    )  # fmt: skip
    return train_experiment(experiment, quiet=True).bundle
