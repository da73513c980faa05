"""A place and a date instead of an upload: the scene is fetched by `raremap acquire`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import AcquireError, MissingExtra, RaremapError
from raremap.serve.faults import Refused
from raremap.serve.models import Model
from raremap.serve.options import ServeOptions

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble


def can_fetch() -> bool:
    """Whether the library that finds scenes is installed."""
    return find_spec("pystac_client") is not None


def missing_line() -> str:
    """Why scenes are not fetched here, in one line."""
    return f"this server cannot fetch scenes ({MissingExtra('pystac-client', 'acquire')}); upload a GeoTIFF"


def unfit(bundle: Bundle | Ensemble) -> str | None:
    """Why there is no imagery for a bundle, in one line: other bands, finer pixels, numbers of a scale of its own."""
    from raremap.workflows.acquire import options_for

    try:
        options_for(bundle)
    except RaremapError as error:
        return str(error)
    return None


def no_place(model: Model) -> str | None:
    """Why no scenes are fetched for a model, None where they are."""
    return model.unfit if can_fetch() else missing_line()


def wanted(model: Model, bbox: Sequence[float], day: date, options: ServeOptions) -> dict[str, Any]:
    """What the worker is told of a place and a date.

    Raises what can be known at once: `Refused` where scenes are not fetched here, `RaremapError` where the model, the
    box or its size will not do.
    """
    from raremap.scene.acquire.options import PIXEL_M
    from raremap.scene.acquire.place import Place
    from raremap.workflows.nearest import check_size

    if not can_fetch():
        raise Refused(501, missing_line())
    if model.unfit is not None:
        raise AcquireError(model.unfit)
    west, south, east, north = bbox
    grid = Place.box(west, south, east, north).grid(model.resolution_m or PIXEL_M)
    check_size((grid.height, grid.width), options.max_pixels)
    return {
        "bbox": list(bbox), "date": day.isoformat(), "called": "the scene", "max_pixels": options.max_pixels,
        "source": options.source, "collection": options.collection,
    }  # fmt: skip


def fetch(task: dict[str, Any], bundle: Bundle | Ensemble, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Fetch the nearest clear day of what was `wanted`, as the model expects it; the file, and what it is.

    Raises `RaremapError`: nothing found, no network, too large.
    """
    from raremap.workflows.nearest import acquire_nearest

    found = acquire_nearest(
        folder, date.fromisoformat(task["date"]), bundle, task["max_pixels"], bbox=task["bbox"],
        source=task["source"], collection=task["collection"], dem=bool(task.get("dem")),
    )  # fmt: skip
    day = found.days[0]
    return found.images[0], {
        "name": None, "date": day.date, "scenes": list(day.scenes), "source": found.source,
        "covered": day.covered, "cloud": day.cloud,
    }  # fmt: skip
