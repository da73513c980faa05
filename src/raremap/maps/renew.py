"""A map brought up to date by a newer scene: only where that shows the ground, and only where it is sure enough."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raremap.errors import SceneError
from raremap.files import written
from raremap.jobs import Progress
from raremap.labels import LabelScheme
from raremap.maps.classmap import NONE, ClassMap, blocks
from raremap.maps.dates import DATE_BANDS, TAG, Dates, dates_path, iso
from raremap.maps.legend import JOB
from raremap.maps.options import PredictOptions
from raremap.maps.stream import Network, Strip, stream
from raremap.maps.style import qml
from raremap.scene.clouds import CloudReader
from raremap.scene.cog import CogWriter
from raremap.scene.grid import Grid
from raremap.scene.raster import Image
from raremap.scene.window import Window

CLEANED = "raremap_clean"
"""The tag of a map that `raremap clean` wrote."""


@dataclass(frozen=True)
class Newer:
    """A scene that may bring news: its image, its clouds where they are known, its day since 1970-01-01.

    `decide` gives classes of probabilities, `odds` the log-odds of classes `[h, w]` over others.
    """

    image: Image
    network: Network
    decide: Callable[[np.ndarray], np.ndarray]
    odds: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    day: int
    clouds: CloudReader | None = None
    options: PredictOptions | None = None


@dataclass
class Counts:
    """Pixels of the map: `changed [K + 1, K]` from (last row: no class) and to, and those that stay, by reason."""

    changed: np.ndarray
    confirmed: int = 0
    unsure: int = 0
    clouded: int = 0
    unknown: int = 0
    not_newer: int = 0

    @property
    def looked(self) -> bool:
        """Whether the scene showed any pixel anew."""
        return bool(self.confirmed or self.unsure or self.changed.any())


def check_legend(before: ClassMap, scheme: LabelScheme) -> None:
    """Raise `SceneError` where a map's legend is not that of a label scheme."""
    legend = dict(zip(before.values, before.names, strict=True))
    wanted = dict(zip(scheme.values, scheme.names, strict=True))
    for value in legend.keys() | wanted.keys():
        one, other = (names.get(value, "no class") for names in (legend, wanted))
        if one != other:
            raise SceneError(
                f"value {value} of map {before.path} is '{one}', in the bundle it is '{other}'; "
                "a map is renewed by a bundle of its own classes"
            )


def offset(scene: Grid, on: Grid, name: str, path: str) -> tuple[int, int]:
    """Row and column of a scene's first pixel on a map's grid; raises `SceneError` where their pixels differ."""
    if scene.crs is not None and on.crs is not None and scene.crs != on.crs:
        raise SceneError(
            f"{name} has another CRS than map {path}; bring it to the map's grid (gdalwarp -tap)"
        )
    t = ~on.transform @ scene.transform
    row, col = round(t.f), round(t.c)
    shift = max(abs(t.f - row), abs(t.c - col))
    # Off by less than a hundredth of a pixel, at the far end too.
    drift = max(abs(t.a - 1), abs(t.e - 1), abs(t.b), abs(t.d)) * max(scene.height, scene.width)
    if shift > 1e-2 or drift > 1e-2:
        raise SceneError(
            f"{name} has another grid than map {path} (its pixels lie {max(shift, drift):.3g} pixels off); "
            "bring it to the map's grid first (gdalwarp with the map's -te and -tr)"
        )
    return row, col


def renew(
    before: ClassMap,
    newer: Newer,
    out: str | Path,
    scheme: LabelScheme,
    margin: float,
    tags: dict[str, str],
    progress: Progress | None = None,
) -> Counts:
    """Write the renewed map, its dates and its style; every pixel that the scene has no news for is as it was.

    News are where the scene is valid, known to be free of clouds and newer than what the pixel rests upon. There a pixel
    without a class gets one, and another changes where the log-odds of the new class over its own exceed
    `margin`. A map without dates beside it begins with the day of its tag `TAG`. `out` may be the map itself. All
    files take their names together, at the end. Raises `SceneError` where grids or classes do not fit, `OutputError`.
    """
    check_legend(before, scheme)
    row, col = offset(newer.image.grid, before.grid, newer.image.paths[0], before.path)
    here = Window(row, col, newer.image.grid.height, newer.image.grid.width).intersect(before.grid.window)
    if here.empty:
        raise SceneError(f"{newer.image.paths[0]} does not meet map {before.path}; nothing was written")
    out = Path(out)
    dates = Dates(before)
    latest = dates.latest or 0
    counts = Counts(np.zeros((scheme.num_classes + 1, scheme.num_classes), np.int64))
    colors = dict(zip(scheme.values, map(tuple, scheme.rgb.tolist()), strict=True))
    with ExitStack() as files:
        days = files.enter_context(
            CogWriter(dates_path(out), before.grid, "uint16", bands=DATE_BANDS, nodata=0, tags={"unit": "days since 1970-01-01"})
        )  # fmt: skip
        classes = files.enter_context(
            CogWriter(
                out, before.grid, "uint8", bands=("class",), nodata=before.nodata, colors=colors,
                tags={**_kept(before.tags), **tags, **{f"class_{v}": n for v, n in zip(scheme.values, scheme.names, strict=True)}},
            )
        )  # fmt: skip
        for window in blocks(before.grid):
            day = dates.read(window)
            latest = max(latest, int(day[0].max()))
            classes.write(window, before.raw(window))
            days.write(window, day)
        wanted = [Window(here.row_off - row, here.col_off - col, here.height, here.width)]
        strips = stream(
            newer.image, newer.network, scheme.num_classes, newer.options, wanted=wanted, progress=progress
        )
        with closing(strips):
            for strip in strips:
                window = strip.window
                on_map = Window(window.row_off + row, window.col_off + col, window.height, window.width)
                raw, day = before.raw(on_map), dates.read(on_map)
                _merge(raw, day, before.read(on_map), strip, newer, scheme, margin, counts)
                classes.write(on_map, raw)
                days.write(on_map, day)
        if counts.looked:
            latest = max(latest, newer.day)
        if latest:
            for writer in (days, classes):
                writer.tag({TAG: iso(latest)})
        if CLEANED in before.tags and not counts.changed.any():
            classes.tag({CLEANED: before.tags[CLEANED]})
        for writer in (days, classes):
            writer.complete()
        style = files.enter_context(written(out.with_suffix(".qml")))
        style.write_text(qml(scheme), encoding="utf-8")
    return counts


def _merge(
    raw: np.ndarray,
    day: np.ndarray,
    old: np.ndarray,
    strip: Strip,
    newer: Newer,
    scheme: LabelScheme,
    margin: float,
    counts: Counts,
) -> None:
    """Put a strip's news into the map's values `raw` and dates `day` `[2, h, w]`."""
    look = strip.valid.copy()
    if newer.clouds is not None:
        cloud, unknown = newer.clouds.hidden(strip.window)
        counts.clouded += int((look & cloud).sum())
        counts.unknown += int((look & unknown).sum())
        look &= ~(cloud | unknown)
    late = day[0] >= newer.day
    counts.not_newer += int((look & late).sum())
    look &= ~late
    new = newer.decide(strip.probs)
    fresh = look & (old == NONE)
    differs = look & (old != NONE) & (new != old)
    sure = np.zeros_like(differs)
    if differs.any():
        over = newer.odds(strip.probs, new, np.where(old == NONE, 0, old))
        sure = differs & (over > margin)
    change = fresh | sure
    counts.unsure += int((differs & ~sure).sum())
    counts.confirmed += int((look & ~fresh & ~differs).sum())
    k = scheme.num_classes
    pairs = np.where(old == NONE, k, old)[change] * k + new[change]
    counts.changed += np.bincount(pairs, minlength=(k + 1) * k).reshape(k + 1, k)
    raw[change] = np.array(scheme.values, np.uint8)[new[change]]
    day[0, look] = newer.day
    day[1, change] = newer.day


def _kept(tags: dict[str, Any]) -> dict[str, str]:
    """A map's own tags without those that the driver writes itself, and what is not true of its new pixels."""
    return {k: str(v) for k, v in tags.items() if k not in ("AREA_OR_POINT", CLEANED, JOB)}
