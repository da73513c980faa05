"""Places that are kept for the final figures: their list in a file, and how often they were used."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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


def times_used(split: SplitOptions) -> int:
    """How often final figures were taken from the places, by the record beside their file."""
    return len(_record(split)[2])


def record_use(split: SplitOptions, what: dict[str, Any]) -> int:
    """Write down that final figures are taken now; gives how often that was done, this time included."""
    path, name, uses = _record(split)
    if path is None:
        return 1
    everything = _uses(path)
    everything[name] = [*uses, {"time": datetime.now(UTC).isoformat(timespec="seconds"), **what}]
    with written(path) as fresh:
        fresh.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return len(everything[name])


def _record(split: SplitOptions) -> tuple[Path | None, str, list[Any]]:
    if not isinstance(split.holdout, str):
        return None, "", []
    path, name = _address(split.holdout)
    beside = path.with_name(f"{path.stem}-uses.json")
    return beside, name, _uses(beside).get(name, [])


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
