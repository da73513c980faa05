"""`raremap rescale`: fine labels on an image's grid, with the area of each class before and after."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from raremap.cluster import maybe_joined
from raremap.errors import ConfigError
from raremap.jobs import progress
from raremap.scene.options import METHODS, RescaleOptions

if TYPE_CHECKING:
    from raremap.labels import LabelScheme
    from raremap.scene.resample import Rescaled


@dataclass(frozen=True)
class RescaleSummary:
    """What was written, and how long it took."""

    result: Rescaled
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; areas in `unit`."""
        r = self.result
        return {
            "map": str(r.path),
            "method": r.method,
            "ratio": r.ratio,
            "unit": r.unit,
            "classes": {
                c.name: {"value": v, "before": c.before, "after": c.after, "cells": c.cells}
                for v, c in r.classes.items()
            },
            "cells": r.cells,
            "empty_cells": r.empty_cells,
            "forced_cells": r.forced,
            "position_error_px": r.error,
            "seconds": round(self.seconds, 2),
        }

    def __str__(self) -> str:
        r = self.result
        wide = max(len(c.name) for c in r.classes.values())
        lines = [
            f"{r.path}  ({r.method}, {r.ratio:.3g} pixels to a cell, {self.seconds:.1f} s)",
            f"  {'':<{wide}} {'before':>16} {'after':>16}  {r.unit}",
        ]
        for c in r.classes.values():
            change = f"{100 * (c.after / c.before - 1):+8.2f} %" if c.before else ""
            lines.append(f"  {c.name:<{wide}} {c.before:16,.2f} {c.after:16,.2f} {change}")
        if r.empty_cells:
            lines.append(f"  no data in {r.empty_cells:,} of {r.cells + r.empty_cells:,} cells")
        if r.forced:
            lines.append(f"  {r.forced:,} cells hold a class that has no ground in them, to keep its area")
        return "\n".join(lines)


def rescale(
    labels: str | Path,
    like: str | Path,
    out: str | Path,
    method: str = "area",
    scheme: LabelScheme | str | None = None,
    threads: int | None = None,
    quiet: bool = False,
    ray: str | None = None,
    workers: int | None = None,
    **options: Any,
) -> RescaleSummary:
    """Write the classes of a fine raster on the grid of the image `like`.

    `method` is `area`, `mode`, `nearest`, `weighted` or `fractions`; `options` are those of the method
    (`min_cover`, `ignore`, `block`, `block_m`, `sigma`, `inverse`). `scheme` names the classes where the
    file does not: a LabelScheme, or the name of a built-in one. `ray` is the address of a Ray cluster whose `workers` share the
    work, or "local" (`raremap.cluster`). Raises `ConfigError`, `SceneError`,
    `LabelError` or `OutputError`, in one line.
    """
    from raremap.labels import LabelScheme
    from raremap.scene.raster import open_image
    from raremap.scene.resample import rescale_labels

    started = time.perf_counter()
    chosen = _options(method, options)
    with open_image(like) as image:
        grid = image.grid
    scheme = LabelScheme.named(scheme) if isinstance(scheme, str) else scheme
    with maybe_joined(ray, workers) as cluster, progress("rescale", 1, quiet) as bar:
        result = rescale_labels(labels, grid, out, chosen, scheme, str(like), threads, bar, cluster=cluster)
    return RescaleSummary(result, time.perf_counter() - started)


def _options(method: str, options: dict[str, Any]) -> RescaleOptions:
    from raremap.errors import nearest

    if method not in METHODS:
        raise ConfigError(f"no method is called '{method}'; {nearest(method, METHODS)}")
    try:
        return METHODS[method](**options)
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            raise ConfigError(f"the method {method} has no option '{name}'; leave it out") from None
        raise ConfigError(f"{name} {fault['input']}: {fault['msg'][0].lower() + fault['msg'][1:]}") from None
