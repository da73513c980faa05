"""What a folder of acquired imagery holds: the request it answers, and the days that are finished."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raremap.errors import OutputError
from raremap.files import written

NAME = "acquired.json"


@dataclass(frozen=True)
class Day:
    """A finished day: its image (None where the place has no data on it), its scenes, and shares of the place, 0 to 1.

    `covered` is the share with data; `cloud` that of clouds and their shadows within it.
    """

    date: str
    image: str | None
    classes: str | None
    scenes: tuple[str, ...]
    covered: float
    cloud: float


class Journal:
    """The journal of a folder, written anew after each day."""

    def __init__(self, folder: Path, request: dict[str, Any]) -> None:
        self._path, self._request = folder / NAME, request
        self.days: dict[str, Day] = {}
        if self._path.exists():
            self._read()

    def finished(self, date: str, scenes: tuple[str, ...]) -> Day | None:
        """The day as it was finished of the same scenes, where its files are still there."""
        day = self.days.get(date)
        if day is None or set(day.scenes) != set(scenes):
            return None
        files = [f for f in (day.image, day.classes) if f is not None]
        return day if all((self._path.parent / f).is_file() for f in files) else None

    def add(self, day: Day) -> None:
        """Write down a finished day."""
        self.days[day.date] = day
        self.days = dict(sorted(self.days.items()))
        data = {**self._request, "days": [asdict(d) for d in self.days.values()]}
        with written(self._path) as path:
            path.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")

    def _read(self) -> None:
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            days = [Day(**{**d, "scenes": tuple(d["scenes"])}) for d in data.pop("days")]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise OutputError(
                f"{self._path} is not the journal of a download; remove it, or choose another folder with -o"
            ) from None
        for key, value in self._request.items():
            if data.get(key) != value:
                raise OutputError(
                    f"{self._path.parent} holds imagery of another request ({key} is {_short(data.get(key))}, "
                    f"now {_short(value)}); choose another folder with -o"
                )
        self.days = {d.date: d for d in days}


def _short(value: Any) -> str:
    if isinstance(value, dict) and "transform" in value:
        step, _, left, _, _, top = value["transform"]
        return f"{value['width']}x{value['height']} pixels of {step:g} m from {left:g}, {top:g}"
    return json.dumps(value)
