"""The day nearest to a date on which a place is clearly seen, by `raremap acquire`."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from datetime import date as Date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import AcquireError, RaremapWarning, SceneError

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.workflows.acquire import Acquired

_DAYS, _MOST_CLOUD, _TRIES = 15, 40.0, 4
# Of the place itself, where the cover that a scene tells is of 110 km: share with data, and share of that in clouds.
_COVERED, _CLOUDED = 0.9, 0.1
_FIRST = Date(2015, 6, 23)  # Sentinel-2A was launched


def acquire_nearest(
    folder: str | Path, date: Date, bundle: Bundle | Ensemble, max_pixels: int | None = None, **place: Any
) -> Acquired:
    """Fetch one day of a place as a bundle expects it, within 15 days of `date`; the result has one image.

    It is the nearest day on which nine tenths of the place have data and a tenth of that is clouded at most; of four days
    that are tried and are not so, the best, and a warning (`RaremapWarning`) says so. Clouds are no data. `place` is what
    `acquire` takes besides (`bbox`, `point`, `source`, `dem` …). Raises `SceneError` where the place is
    larger than `max_pixels` or is not seen, `AcquireError`.
    """
    from raremap.workflows.acquire import acquire

    check_date(date)
    more: dict[str, Any] = {
        "bundle": bundle, "max_cloud": _MOST_CLOUD, "clouds": "mask", "quiet": True,
    } | place  # fmt: skip
    around = f"{date - timedelta(_DAYS)}/{date + timedelta(_DAYS)}"
    there = acquire(folder, around, dry_run=True, **more)
    check_size(there.size, max_pixels)
    days = sorted(there.found, key=lambda d: (abs((Date.fromisoformat(d.date) - date).days), d.cloud or 0))
    best = None
    for day in days[:_TRIES]:
        found = acquire(folder, f"{day.date}/{day.date}", yes=True, **more)
        seen = found.days[0]
        if seen.covered >= _COVERED and seen.cloud <= _CLOUDED:
            return found
        if best is None or _clear(found) > _clear(best):
            best = found
    if best is None or not _clear(best):
        raise SceneError(
            f"no imagery of the box within {_DAYS} days of {date} is clear and covers it; try another date"
        )
    seen = best.days[0]
    warnings.warn(
        f"no day near {date} shows the place clearly: {seen.date} is the best of {min(len(days), _TRIES)} tried, with data in "
        f"{seen.covered:.0%} of the place, {seen.cloud:.0%} of that clouded",
        RaremapWarning,
        stacklevel=2,
    )
    return best


def check_date(date: Date) -> None:
    """Raise `AcquireError` for a day before there was any imagery, or to come."""
    today = datetime.now(UTC).date()
    if not _FIRST <= date <= today:
        raise AcquireError(f"there is imagery from {_FIRST} to {today}, and {date} is not in between")


def check_size(size: tuple[int, int], max_pixels: int | None) -> None:
    """Raise `SceneError` for more pixels than are taken; `size` is height and width."""
    height, width = size
    if max_pixels is not None and height * width > max_pixels:
        raise SceneError(
            f"the box is {width:,} x {height:,} pixels, at most {max_pixels:,} in all are taken; draw a smaller one"
        )


def _clear(found: Acquired) -> float:
    """Share of the place that is seen."""
    seen = found.days[0]
    return seen.covered * (1 - seen.cloud)
