"""Simulated valleys as GeoTIFFs: ground, what lies on it, what the satellite sees, what the labels say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raremap.errors import OutputError
from raremap.files import written
from raremap.jobs import Progress, Silent
from raremap.labels import LabelScheme
from raremap.valley.cover import Cover, make_cover
from raremap.valley.faults import misdraw
from raremap.valley.landslides import make_scars, slope_units
from raremap.valley.layout import FINE, make_layout
from raremap.valley.options import ValleyOptions
from raremap.valley.sensor import Picture, observe
from raremap.valley.spectra import BANDS
from raremap.valley.terrain import CELL, Terrain, make_terrain
from raremap.valley.write import Raster, write_raster, write_units

CRS = "EPSG:25831"
_EAST, _NORTH = 300_000.0, 4_640_000.0
# A part of the work on a valley; each draws from random numbers of its own.
_TERRAIN, _LAYOUT, _SCARS, _COVER, _LABELS, _SCAR_LABELS, _UNITS, _APRIL, _AUGUST = range(9)


@dataclass(frozen=True)
class Simulated:
    """What was written: the folder, the names of the valleys, and the true class shares over all of them."""

    folder: Path
    names: tuple[str, ...]
    shares: dict[str, float]
    landslide_share: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**self.__dict__, "folder": str(self.folder), "names": list(self.names)}

    def __str__(self) -> str:
        width = max(map(len, self.shares))
        lines = [f"{len(self.names)} valley(s) in {self.folder}"]
        lines += [f"  {n:<{width}} {s:>8.2%}" for n, s in sorted(self.shares.items(), key=lambda i: -i[1])]
        return "\n".join([*lines, f"  {'landslides':<{width}} {self.landslide_share:>8.2%}"])


def simulate(
    out_dir: str | Path, options: ValleyOptions | None = None, progress: Progress | None = None
) -> Simulated:
    """Write the valleys of `options` under `out_dir`; those that are there already are kept.

    The folders are described in docs/simulate.md. Raises `OutputError` where the folder cannot be written
    or holds valleys of other options.
    """
    options, folder = options or ValleyOptions(), Path(out_dir)
    progress = progress or Silent()
    _claim(folder, options)
    names = [f"valley_{i:02d}" for i in range(options.valleys or 1)]
    facts = []
    for i, name in enumerate(names):
        done = folder / "facts" / f"{name}.json"
        if not done.exists():
            facts_of_valley = _write_valley(folder, name, i, options)
            with written(done) as path:
                path.write_text(json.dumps(facts_of_valley), encoding="utf-8")
        facts.append(json.loads(done.read_text(encoding="utf-8")))
        progress.advance()
    with written(folder / "places.json") as path:
        path.write_text(json.dumps({f"{n}.tif": n for n in names}, indent=1), encoding="utf-8")
    _join_units(folder, names)
    counts = np.sum([f["true_counts"] for f in facts], axis=0)
    classes = LabelScheme.named("catalonia").names
    shares = dict(zip(classes, (counts / counts.sum()).tolist(), strict=True))
    scars = sum(f["scar_cells"] for f in facts) / counts.sum()
    return Simulated(folder, tuple(names), shares, float(scars))


def _claim(folder: Path, options: ValleyOptions) -> None:
    """Write the options down, or find the same ones there (the number of valleys may differ)."""
    own = options.model_dump(mode="json", exclude={"valleys"}) | {"many": options.valleys is not None}
    if options.coupling == ValleyOptions().coupling:
        del own["coupling"]  # as in folders from before there was one
    mark = folder / "valley.json"
    if mark.exists():
        try:
            there = json.loads(mark.read_text(encoding="utf-8"))
        except ValueError:
            there = None
        if there != own:
            raise OutputError(
                f"{folder} holds valleys of other options ({there}); choose another folder, or remove it"
            )
        return
    with written(mark) as path:
        path.write_text(json.dumps(own, indent=1), encoding="utf-8")


def _write_valley(folder: Path, name: str, number: int, options: ValleyOptions) -> dict[str, Any]:
    """Make and write one valley; gives its figures."""

    def rng(stage: int) -> np.random.Generator:
        return np.random.default_rng((options.seed, number, stage))

    size = options.size
    terrain = make_terrain(size, rng(_TERRAIN), coast=number % 3 == 0)
    layout = make_layout(terrain, rng(_LAYOUT))
    scars = make_scars(terrain, layout, rng(_SCARS), options.coupling)
    cover = make_cover(terrain, layout, scars, rng(_COVER))
    given = misdraw(cover.drawn, rng(_LABELS))
    given_scars = misdraw((scars > 0).astype(np.uint8), rng(_SCAR_LABELS))
    origin = (_EAST + number % 30 * (size * CELL + 2000), _NORTH - number // 30 * (size * CELL + 2000))
    for raster in _label_rasters(terrain, cover, given, scars, given_scars):
        write_raster(folder / raster.folder / f"{name}.tif", raster, origin, CRS)
    forest = (cover.labels[FINE // 2 :: FINE, FINE // 2 :: FINE] == 3).astype(np.float32)
    unit, table = slope_units(terrain, layout, scars, forest, rng(_UNITS))
    write_units(folder, name, unit, table, origin, CRS)
    # By rows: bincount makes eight bytes of every cell.
    counts = np.sum([np.bincount(row, minlength=13) for row in cover.labels], axis=0)[1:13]
    reflectance = cover.reflectance
    del cover, given
    for date, (month, stage) in enumerate((("april", _APRIL), ("august", _AUGUST))):
        picture = observe(reflectance[date], terrain, date, rng(stage))
        for raster in _picture_rasters(month, picture):
            write_raster(folder / raster.folder / f"{name}.tif", raster, origin, CRS)
    return {
        "true_counts": counts.tolist(),
        "scar_cells": int((scars > 0).sum()),
        "houses": layout.houses,
        "lost_houses": layout.lost_houses,
    }


def _label_rasters(
    terrain: Terrain, cover: Cover, given: np.ndarray, scars: np.ndarray, given_scars: np.ndarray
) -> Iterator[Raster]:
    land_cover, landslide = LabelScheme.named("catalonia"), LabelScheme.named("landslide")
    yield Raster("dem", terrain.height, names=("height_m",))
    yield Raster("slope", terrain.slope, names=("slope_deg",))
    centre = slice(FINE // 2, None, FINE)
    for suffix, labels in (("_true", cover.labels), ("", given)):
        yield Raster(f"labels_fine{suffix}", labels, pixel=1.0, nodata=0, scheme=land_cover)
        yield Raster(f"labels{suffix}", labels[centre, centre], nodata=0, scheme=land_cover)
        yield Raster(f"fractions{suffix}", fractions(labels, 13)[1:], names=land_cover.names)
    outside = cover.labels == 0
    for suffix, cells in (("_true", (scars > 0).astype(np.uint8)), ("", given_scars)):
        cells = np.where(outside, 255, cells).astype(np.uint8)
        yield Raster(f"landslides{suffix}", cells[centre, centre], nodata=255, scheme=landslide)
        yield Raster(f"landslides_fine{suffix}", cells, pixel=1.0, nodata=255, scheme=landslide)


def _picture_rasters(month: str, picture: Picture) -> Iterator[Raster]:
    yield Raster(month, picture.image, nodata=0, names=BANDS, scale=1e-4)
    yield Raster(f"clouds_{month}", picture.clouds, nodata=255, names=("cloud",))
    yield Raster(f"clouds_{month}_true", picture.true_clouds, nodata=255, names=("cloud",))


def fractions(labels: np.ndarray, values: int) -> np.ndarray:
    """Percent of each value 0 … values-1 in each 10 × 10 block of labels, uint8 `[values, n/10, n/10]`."""
    n = len(labels) // FINE
    out = np.empty((values, n, n), np.uint8)
    for value in range(values):
        out[value] = (labels == value).reshape(n, FINE, n, FINE).sum((1, 3), dtype=np.uint8)
    return out


def _join_units(folder: Path, names: list[str]) -> None:
    """One table of all valleys' slope units."""
    import pandas as pd

    tables = [pd.read_csv(folder / "slope_units" / f"{name}.csv") for name in names]
    with written(folder / "slope_units.csv") as path:
        pd.concat(tables).to_csv(path, index=False)
