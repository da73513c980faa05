"""A small labelled project on disk: six scenes whose class follows from the imagery."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.rasters import write

from raremap.config import Experiment
from raremap.learn import checkpoint
from raremap.workflows.train import Training, train_experiment

CLASSES = {1: "land", 2: "water", 5: "slide"}


def make(folder: Path, scenes: int = 6, size: int = 64, seed: int = 0) -> None:
    """Write `img/s0.tif` … and `mask/s0.tif` …: land, water in the west, a few small slides; 0 is unlabelled."""
    rng = np.random.default_rng(seed)
    for i in range(scenes):
        mask = np.ones((size, size), np.uint8)
        mask[:, : size // 3] = 2
        for r, c in rng.integers(size // 2, size - 8, (3, 2)):
            mask[r : r + 6, c : c + 6] = 5
        image = np.stack([mask * 30, mask * 20 + 10, 250 - mask * 25]).astype(np.int16)
        image = (image + rng.normal(0, 6, image.shape)).clip(1, 255).astype(np.uint8)
        mask[:3] = 0
        origin = (4e5 + i * 5000.0, 4.6e6)
        write(folder / "img" / f"s{i}.tif", image, origin, names=("red", "green", "blue"))
        write(folder / "mask" / f"s{i}.tif", mask, origin)


def experiment(folder: Path, out: Path, *overrides: str, **sections: Any) -> Experiment:
    """An experiment on it with a very small network."""
    data: dict[str, Any] = {
        "out": str(out),
        "scenes": {"root": str(folder), "images": "img/*.tif", "masks": "mask/*.tif"},
        "labels": {"classes": CLASSES, "ignore": [0]},
        "tiles": {"size": 32},
        "split": {"block_m": 1000, "folds": 3, "monitor": 0.2, "calibration": 0.2},
        "model": {"encoder": "tu-test_resnet", "decoder_channels": [16, 8, 8]},
        "train": {"steps": 8, "batch_size": 4, "crop": 32, "monitor_every": 2, "checkpoint_every": 2},
        "predict": {"window": 32},
    }
    return Experiment.from_dict({**data, **sections}, overrides)


@contextmanager
def stopped_at(step: int, out: Path) -> Iterator[None]:
    """Around a training in the run folder `out`: what it was like when the checkpoint of a step had been written.

    Afterwards `out` is that again, ready to be resumed; `whole` beside it is what the training left.
    """
    save, stopped = checkpoint.save, out.with_name("stopped")

    def save_and_copy(path: Path, state: dict[str, Any]) -> None:
        save(path, state)
        if path.name == "last.pt" and state["task"]["step"] == step:
            shutil.copytree(out, stopped)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_copy)
        yield
    out.rename(out.with_name("whole"))
    stopped.rename(out)


def ends(out: Path) -> list[dict[str, Any]]:
    """The last state of the unbroken training and that of the resumed one."""
    return [checkpoint.load(p / "checkpoints/last.pt")["task"] for p in (out.with_name("whole"), out)]


def train(folder: Path, out: Path, *overrides: str, resume: bool | None = False) -> Training:
    """A training on it, in the run folder `out`."""
    return train_experiment(experiment(folder, out, *overrides), resume, quiet=True)
