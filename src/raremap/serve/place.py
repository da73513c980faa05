"""A place and a date instead of an upload: the scene is fetched by `raremap acquire`."""

from __future__ import annotations

from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import MissingExtra, SceneError
from raremap.serve.models import Model

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble

_DAYS, _MOST_CLOUD, _TRIES = 15, 40.0, 3


def can_fetch() -> bool:
    """Whether the library that finds scenes is installed."""
    return find_spec("pystac_client") is not None


def missing_line() -> str:
    """Why scenes are not fetched here, in one line."""
    return f"this server cannot fetch scenes ({MissingExtra('pystac-client', 'acquire')}); upload a GeoTIFF"


def fetch(task: dict[str, Any], bundle: Bundle | Ensemble, model: Model, folder: Path) -> Path:
    """Fetch the day nearest to the date that is mostly clear, as the model's bands; gives the file.

    Raises `RaremapError`: nothing found, no network, too large.
    """
    from raremap.workflows.acquire import acquire

    wanted = date.fromisoformat(task["date"])
    more: dict[str, Any] = {"bbox": task["bbox"], "bundle": bundle, "max_cloud": _MOST_CLOUD, "quiet": True}
    if model.resolution_m:
        more["resolution_m"] = model.resolution_m
    around = f"{wanted - timedelta(_DAYS)}/{wanted + timedelta(_DAYS)}"
    there = acquire(folder, around, dry_run=True, **more)
    height, width = there.size
    if height * width > task["max_pixels"]:
        raise SceneError(
            f"the box is {width:,} x {height:,} pixels, at most {task['max_pixels']:,} in all are taken; draw a smaller one"
        )
    days = sorted(there.found, key=lambda d: (abs((date.fromisoformat(d.date) - wanted).days), d.cloud or 0))
    for day in days[:_TRIES]:
        if images := acquire(folder, f"{day.date}/{day.date}", yes=True, **more).images:
            return images[0]
    raise SceneError(
        f"no imagery of the box within {_DAYS} days of {wanted} is clear and covers it; try another date"
    )
