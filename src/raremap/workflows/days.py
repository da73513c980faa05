"""Of which day a scene is: what is given, what its YAML file says, its tags, or its name."""

from __future__ import annotations

import re
from datetime import date as Date
from pathlib import Path
from typing import TYPE_CHECKING

from raremap.errors import ConfigError, SceneError

if TYPE_CHECKING:
    from raremap.workflows.scenes import SceneToMap

_DAY = re.compile(r"(?<!\d)((?:19|20)\d{2})[-_:]?(0[1-9]|1[0-2])[-_:]?(0[1-9]|[12]\d|3[01])(?!\d)")


def day_of(path: str | Path, date: str | None = None) -> int:
    """Days since 1970-01-01 of a scene: `date`, or what its tags or its name say; raises `SceneError`, `ConfigError`."""
    from raremap.maps.dates import SPAN, number
    from raremap.scene.gdal import opened

    if date is not None:
        try:
            day = number(Date.fromisoformat(date))
        except ValueError:
            raise ConfigError(f"'{date}' is not a date such as 2024-08-12") from None
        if day is None:
            raise ConfigError(f"the day {date} cannot be kept beside a map, which holds {SPAN}")
        return day
    with opened(path) as file:
        stamp = file.tags().get("TIFFTAG_DATETIME", "")
    match = _DAY.search(stamp) or _DAY.search(Path(path).name)
    if match is None:
        raise SceneError(f"{path} does not say of which day it is, nor does its name; give --date 2024-08-12")
    try:
        day = number(Date(*map(int, match.groups())))
    except ValueError:
        raise SceneError(f"{path} is of {match.group()}, which is no day; give --date") from None
    if day is None:
        raise SceneError(
            f"{path} is of {match.group()}, which cannot be kept beside a map, which holds {SPAN}; "
            "give --date where that is not its day"
        )
    return day


def scene_day(scene: SceneToMap, date: str | None = None) -> int:
    """Days since 1970-01-01 of a scene: `date`, else the last of its dates, else what its file says."""
    if date is None and (known := scene.record.date):
        last = known.rpartition("/")[2][:10]
        if len(last) < 10:
            raise SceneError(
                f"scene {scene.name} is of {last}, which is no day; write its day into the path, or give --date 2024-08-12"
            )
        date = last
    return day_of(scene.path, date)


def date_tag(scene: SceneToMap) -> dict[str, str]:
    """The tag of a map of one scene that says of which day it is, where that is known."""
    from raremap.maps.dates import TAG, iso

    try:
        return {TAG: iso(scene_day(scene))}
    except (SceneError, ConfigError):
        return {}
