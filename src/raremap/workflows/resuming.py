"""Going on with trainings of a table of runs: what each was made of, and whether its folder can be gone on with."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from raremap.errors import TrainingError

if TYPE_CHECKING:
    from raremap.config import Experiment
    from raremap.tiles.catalog import Catalog

# What makes a run faster or slower and not different.
_MANNER = ("device", "workers", "threads", "seed", "cache", "cache_folder")
# Where data lie; the catalog's fingerprint says what they are.
_PATHS = ("root", "images", "band_files", "layers", "masks", "weights")


def checksum_of(experiment: Experiment, catalog: Catalog) -> str:
    """What a run is made of: its experiment, but for where and how fast, the tiles, and our version."""
    from raremap import __version__

    data = experiment.model_dump(mode="json")
    del data["out"], data["tune"]
    for section, keys in (("scenes", _PATHS), ("train", _MANNER), ("split", ("places", "holdout"))):
        data[section] = {k: v for k, v in data[section].items() if k not in keys}
    text = json.dumps([data, catalog.fingerprint, catalog.bands, catalog.listed, __version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def goes_on(folder: Path, experiment: Experiment, checksum: str) -> bool:
    """Whether a run's folder holds a training that can go on; what is of other data, or damaged, is cleared."""
    from raremap.learn import checkpoint

    mark, older, last = folder / "checksum", folder / "experiment.yaml", folder / "checkpoints" / "last.pt"
    known = mark.exists() and mark.read_text(encoding="utf-8") == checksum
    same = known and (not older.exists() or older.read_text(encoding="utf-8") == experiment.to_yaml())
    try:
        for path in (last, last.with_name("best.pt")):
            if same and path.exists():
                checkpoint.load(path)
    except TrainingError:
        same = False
    if folder.exists() and not same:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(checksum, encoding="utf-8")
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
