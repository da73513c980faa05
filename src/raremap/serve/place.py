"""A place and a date instead of an upload: the scene is fetched by `raremap acquire`."""

from __future__ import annotations

from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import MissingExtra
from raremap.serve.faults import Refused
from raremap.serve.models import Model

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble


def can_fetch() -> bool:
    """Whether the library that finds scenes is installed."""
    return find_spec("pystac_client") is not None


def fetching() -> None:
    """Raise `Refused` where scenes are not fetched here."""
    if not can_fetch():
        raise Refused(501, missing_line())


def missing_line() -> str:
    """Why scenes are not fetched here, in one line."""
    return f"this server cannot fetch scenes ({MissingExtra('pystac-client', 'acquire')}); upload a GeoTIFF"


def fetch(task: dict[str, Any], bundle: Bundle | Ensemble, model: Model, folder: Path) -> Path:
    """Fetch the day nearest to the date that is mostly clear, as the model's bands; gives the file.

    Raises `RaremapError`: nothing found, no network, too large.
    """
    from raremap.workflows.nearest import acquire_nearest

    more: dict[str, Any] = {"resolution_m": model.resolution_m} if model.resolution_m else {}
    if task.get("dem"):
        more["dem"] = True
    found = acquire_nearest(
        folder, date.fromisoformat(task["date"]), bundle, task["max_pixels"], bbox=task["bbox"], **more
    )
    return found.images[0]
