"""Places that are kept for the final figures: their list in a file, and how often they were used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from raremap.errors import SplitError, nearest
from raremap.files import written
from raremap.tiles.options import SplitOptions


def held_out(split: SplitOptions) -> list[str]:
    """Names of the places that are held out; raises `SplitError` where their file does not say."""
    if not isinstance(split.holdout, str):
        return list(split.holdout or ())
    path, name = _address(split.holdout)
    sets = _read(path)
    if name not in sets:
        raise SplitError(f"{path} names no places of '{name}' (split.holdout); {nearest(name, sets)}")
    return [str(p) for p in sets[name]["places"]]


def listed(places: np.ndarray, wanted: Sequence[str], key: str) -> np.ndarray:
    """Which places are listed under `key`: by their name, or by the part before a `/` where they were divided.

    Raises `SplitError` naming a listed place that is not there.
    """
    for name in wanted:
        if not among(places, [name]).any():
            known = {str(p).split("/", 1)[0] for p in places}
            raise SplitError(
                f"{key} names the place '{name}', which is not in the catalog; {nearest(name, known)}"
            )
    return among(places, wanted)


def among(places: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Which places bear one of the names, or a `/` after it, bool `[N]`."""
    known = set(names)
    return np.array([str(p) in known or str(p).split("/", 1)[0] in known for p in places], bool)


def times_used(split: SplitOptions, folder: Path) -> int:
    """How often final figures were taken from the places, by the record beside their file (a list: in `folder`)."""
    path, name = _record(split, folder)
    return len(_uses(path).get(name, []))


def record_use(split: SplitOptions, folder: Path, runs: Mapping[str, str]) -> bool:
    """Write down that `runs` (name to checksum) are about to be scored on the places; whether that is a new use.

    Runs that the folder's own earlier use has announced, stopped and started again, are no new one.
    """
    path, name = _record(split, folder)
    everything = _uses(path)
    uses = everything.setdefault(name, [])
    where = str(folder.resolve())
    if any(u.get("folder") == where and runs.items() <= u.get("runs", {}).items() for u in uses):
        return False
    now = datetime.now(UTC).isoformat(timespec="seconds")
    uses.append({"time": now, "folder": where, "runs": dict(runs)})
    with written(path) as fresh:
        fresh.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return True


def _record(split: SplitOptions, folder: Path) -> tuple[Path, str]:
    """The file of the record, and the name of the places in it."""
    if not isinstance(split.holdout, str):
        return folder / "holdout-uses.json", "listed"
    path, name = _address(split.holdout)
    return path.with_name(f"{path.stem}-uses.json"), name


def _uses(path: Path) -> dict[str, list[Any]]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SplitError(f"{path}, the record of final figures, is not JSON ({error}); mend it") from None


def _address(text: str) -> tuple[Path, str]:
    path, sep, name = text.rpartition("#")
    if not sep or not path or not name:
        raise SplitError(f"split.holdout is '{text}', expected FILE.json#NAME or a list of places")
    return Path(path), name


def _read(path: Path) -> dict[str, Any]:
    try:
        sets = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(s["places"], list) for s in sets.values()):
            raise TypeError
    except FileNotFoundError:
        raise SplitError(
            f"{path} does not exist (split.holdout); give the file that names the places"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        raise SplitError(
            f'{path} (split.holdout) does not name places; expected {{"NAME": {{"places": ["A", "B"]}}}}'
        ) from None
    return sets
