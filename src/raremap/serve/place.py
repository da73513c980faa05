"""A place and a date instead of an upload: the scene is fetched by `raremap acquire`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raremap.errors import MissingExtra
from raremap.serve.models import Model

_LIBRARIES = ("pystac_client", "odc.stac")


def can_fetch() -> bool:
    """Whether the verb and its libraries are installed."""
    if find_spec("raremap.workflows.acquire") is None:
        return False
    return all(find_spec(name.split(".")[0]) is not None for name in _LIBRARIES)


def missing_line() -> str:
    """Why scenes are not fetched here, in one line."""
    if find_spec("raremap.workflows.acquire") is None:
        return "this server cannot fetch scenes; upload a GeoTIFF"
    return f"this server cannot fetch scenes ({MissingExtra('pystac-client', 'acquire')}); upload a GeoTIFF"


def fetch(task: dict[str, Any], model: Model, out: Path) -> None:
    """Write the scene of a place and a date as the model's bands; raises `RaremapError`."""
    raise NotImplementedError
