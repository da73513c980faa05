"""Going on with trainings: what each was made of, and whether its folder can be gone on with."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import TrainingError
from raremap.files import written

if TYPE_CHECKING:
    from torch import nn

    from raremap.config import Experiment
    from raremap.tiles.catalog import Catalog

# What makes a run faster or slower and not different.
_MANNER = ("device", "workers", "threads", "seed", "cache", "cache_folder")
# Where data lie; the catalog's fingerprint says what they are.
_PATHS = ("root", "images", "band_files", "layers", "masks", "weights")


def checksum_of(experiment: Experiment, catalog: Catalog) -> str:
    """What a run is made of: its experiment, but for where and how fast, the tiles, and our version."""
    from raremap import __version__

    return _digest(_made_of(experiment), catalog.fingerprint, catalog.bands, catalog.listed, __version__)


def training_of(experiment: Experiment, catalog: Catalog, module: nn.Module | None = None) -> str:
    """What the steps of a training are made of, but for its tiles: a checkpoint of another is not gone on with.

    What comes after training is no part of it. Of a network of one's own its make counts, not its weights.
    """
    data = {k: v for k, v in _made_of(experiment).items() if k not in ("decision", "predict")}
    make = module and [make_of(module), [(k, list(v.shape)) for k, v in module.state_dict().items()]]
    return _digest(data, experiment.train.seed, catalog.bands, catalog.listed, make)


def make_of(module: nn.Module) -> str:
    """What a network of one's own is called."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _made_of(experiment: Experiment) -> dict[str, Any]:
    data = experiment.model_dump(mode="json")
    del data["out"], data["tune"]
    for section, keys in (("scenes", _PATHS), ("train", _MANNER), ("split", ("places", "holdout"))):
        data[section] = {k: v for k, v in data[section].items() if k not in keys}
    return data


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def goes_on(folder: Path, experiment: Experiment, catalog: Catalog) -> bool:
    """Whether a run's folder holds a training that can go on; what is of other data, or damaged, is cleared."""
    from raremap.learn import checkpoint

    mark, last, checksum = (
        folder / "checksum",
        folder / "checkpoints" / "last.pt",
        checksum_of(experiment, catalog),
    )
    same = mark.exists() and mark.read_text(encoding="utf-8") == checksum
    try:
        if same and last.exists():
            same = checkpoint.load(last).get("experiment") == training_of(experiment, catalog)
        if same and last.with_name("best.pt").exists():
            checkpoint.load(last.with_name("best.pt"))
    except TrainingError:
        same = False
    if not same:
        mark.unlink(missing_ok=True)  # first: what is half removed is not gone on with
        if folder.exists():
            shutil.rmtree(folder)
        with written(mark) as fresh:
            fresh.write_text(checksum, encoding="utf-8")
    return last.exists()


@contextmanager
def once(told: set[str]) -> Iterator[None]:
    """Pass on each warning the first time only: dozens of trainings have the same to say."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        fresh = {str(w.message): w for w in caught if str(w.message) not in told}
        told.update(fresh)
        for w in fresh.values():
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
