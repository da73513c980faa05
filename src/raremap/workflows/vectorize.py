"""`raremap vectorize`: a map as polygons."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import ConfigError, OutputError, RaremapError, RaremapWarning
from raremap.jobs import progress

if TYPE_CHECKING:
    from raremap.labels import LabelScheme
    from raremap.maps.classmap import ClassMap

FEW = 40
"""Of more classes than this, as maps of changes have them, those are told that occur."""
BACKGROUND = ("background", "other", "rest")
"""Names of a class that is written only when asked for."""


@dataclass(frozen=True)
class VectorSummary:
    """What was written: polygons and square metres by class name (None where the map has no CRS)."""

    path: Path
    polygons: dict[str, int]
    area_m2: dict[str, float] | None
    left_out: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "polygons_file": str(self.path),
            "polygons": self.polygons,
            "area_m2": self.area_m2,
            "left_out": list(self.left_out),
            "seconds": round(self.seconds, 2),
        }

    def __str__(self) -> str:
        wide = max(len(name) for name in self.polygons)
        lines = [f"{self.path}  ({sum(self.polygons.values()):,} polygons, {self.seconds:.1f} s)"]
        for name, count in self.polygons.items():
            if not count and len(self.polygons) > FEW:
                continue
            area = f"{self.area_m2[name] / 1e4:14,.2f} ha" if self.area_m2 is not None else ""
            lines.append(f"  {name:<{wide}} {count:11,}{area}")
        if self.left_out:
            more = f" and {len(self.left_out) - FEW} more" if len(self.left_out) > FEW else ""
            lines.append(f"  not written: {', '.join(self.left_out[:FEW])}{more}")
        return "\n".join(lines)


def vectorize(
    source: str | Path,
    out: str | Path,
    background: bool = False,
    classes: Sequence[str] | None = None,
    simplify_m: float | None = None,
    probabilities: str | Path | None = None,
    scheme: LabelScheme | str | None = None,
    quiet: bool = False,
) -> VectorSummary:
    """Write a map's polygons to a GeoPackage or GeoParquet, with a QGIS style beside them.

    A class called background, other or rest, and in a map of changes what did not change, is written only with
    `background`, or when `classes` names it. A polygon is of pixels that share sides: of a map that was cleaned by components
    that hold together by corners some are below the minimum mapping unit, which is warned of.
    `simplify_m` takes away bends smaller than about that many metres; all polygons are then held in memory. Raises
    `SceneError`, `LabelError`, `ConfigError` or `OutputError`, in one line.
    """
    from raremap.labels import LabelScheme
    from raremap.maps.classmap import open_classmap
    from raremap.maps.probabilities import open_probabilities
    from raremap.maps.vectors import SUFFIXES, write_vectors

    started = time.perf_counter()
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{out} is neither .gpkg nor .parquet; name a GeoPackage or a GeoParquet file")
    scheme = LabelScheme.named(scheme) if isinstance(scheme, str) else scheme
    with open_classmap(source, scheme) as opened:
        wanted = _wanted(opened, background, classes)
        if _by_corners(opened):
            warnings.warn(
                f"{source} was cleaned with pixels that touch by a corner as one component, and polygons are of those that share "
                "sides: some are below the minimum mapping unit; clean with --connectivity 4 for polygons",
                RaremapWarning,
                stacklevel=2,
            )
        simplify_px = _pixels(opened, simplify_m) if simplify_m is not None else None
        probs = open_probabilities(probabilities, opened) if probabilities else None
        with progress(f"vectorize {Path(source).name}", opened.grid.height, quiet) as bar:
            done = write_vectors(opened, out, wanted, simplify_px, probs, bar)
        names, located = opened.names, opened.grid.crs is not None
    return VectorSummary(
        path=out,
        polygons={n: int(c) for n, c, w in zip(names, done.polygons, wanted, strict=True) if w},
        area_m2={n: float(a) for n, a, w in zip(names, done.area_m2, wanted, strict=True) if w} if located else None,
        left_out=tuple(n for n, w in zip(names, wanted, strict=True) if not w),
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def _wanted(source: ClassMap, background: bool, classes: Sequence[str] | None) -> Any:
    import numpy as np

    from raremap.maps.change import stable_codes
    from raremap.maps.legend import Legend

    legend = Legend.of(source)
    if classes is not None:
        wanted = np.zeros(len(legend.names), bool)
        wanted[[legend.index(name, "classes") for name in classes]] = True
    else:
        same = stable_codes(source) or ()
        wanted = np.array(
            [
                background or (name.lower() not in BACKGROUND and i not in same)
                for i, name in enumerate(legend.names)
            ]
        )
    if not wanted.any():
        raise ConfigError(
            f"no class of {source.path} is to be written; name some with --classes, or give --background"
        )
    return wanted


def _by_corners(source: ClassMap) -> bool:
    """Whether `raremap clean` let components under a minimum mapping unit hold together by corners."""
    from raremap.maps.cleaning import CleanOptions

    try:
        done = CleanOptions.model_validate_json(source.tags.get("raremap_clean", "{}"))
    except ValueError:  # of another version
        return False
    units = done.mmu.values() if isinstance(done.mmu, dict) else [done.mmu]
    return any(units) and done.connectivity == 8


def _pixels(source: ClassMap, size_m: float) -> float:
    """Metres as pixels in the middle of the map."""
    import numpy as np

    from raremap.scene.steps import Steps
    from raremap.scene.window import Window

    if not 0 < size_m < float("inf"):
        raise ConfigError(f"simplify {size_m:g} is no size; give metres above 0")
    steps = Steps.of(source.grid, Window(source.grid.height // 2, 0, 1, 1))
    if steps is None:
        raise RaremapError(
            f"{source.path} has no CRS, so metres mean nothing on it; set it with gdal_edit.py -a_srs"
        )
    return size_m / float(np.sqrt(abs(np.linalg.det(steps.matrix[:, :, 0, 0]))))
