"""The day nearest to a date on which a place is clearly seen, by `raremap acquire`."""

from __future__ import annotations

from datetime import date as Date
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import SceneError

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.workflows.acquire import Acquired

_DAYS, _MOST_CLOUD, _TRIES = 15, 40.0, 3


def acquire_nearest(
    folder: str | Path, date: Date, bundle: Bundle | Ensemble, max_pixels: int | None = None, **place: Any
) -> Acquired:
    """Fetch one day of a place as a bundle expects it, within 15 days of `date`; the result has at least one image.

    `place` is what `acquire` takes besides (`bbox`, `point`, `source`, `dem` …); the pixels are those of the bundle's
    training where it knows them. Raises `SceneError` where the place is larger than `max_pixels` or is not seen, `AcquireError`.
    """
    from raremap.workflows.acquire import acquire

    more: dict[str, Any] = {"bundle": bundle, "max_cloud": _MOST_CLOUD, "quiet": True} | place
    around = f"{date - timedelta(_DAYS)}/{date + timedelta(_DAYS)}"
    there = acquire(folder, around, dry_run=True, **more)
    height, width = there.size
    if max_pixels is not None and height * width > max_pixels:
        raise SceneError(
            f"the box is {width:,} x {height:,} pixels, at most {max_pixels:,} in all are taken; draw a smaller one"
        )
    days = sorted(there.found, key=lambda d: (abs((Date.fromisoformat(d.date) - date).days), d.cloud or 0))
    for day in days[:_TRIES]:
        found = acquire(folder, f"{day.date}/{day.date}", yes=True, **more)
        if found.images:
            return found
    raise SceneError(
        f"no imagery of the box within {_DAYS} days of {date} is clear and covers it; try another date"
    )
