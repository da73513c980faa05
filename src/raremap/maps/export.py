"""A scene's map as files: the class raster, its QGIS style, and probabilities where they are asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raremap.errors import SceneError
from raremap.files import written
from raremap.jobs import Progress
from raremap.labels import LabelScheme
from raremap.maps import blend
from raremap.maps.levelmap import TAG as TREE
from raremap.maps.options import PredictOptions
from raremap.maps.quantities import STYLES, quantity_path, quantity_writer, stored
from raremap.maps.stream import Network, Strip, stream
from raremap.maps.style import qml
from raremap.scene.cog import CogWriter
from raremap.scene.grid import Grid
from raremap.scene.raster import Image

Decide = Callable[[np.ndarray], np.ndarray]
# Probabilities of the network to those that are written.
Soften = Callable[[np.ndarray], np.ndarray]
"""Probs float32 `[K, h, w]` → class index uint8 `[h, w]`, pixel by pixel; called from several threads."""

_THREADS = 2
_PIECE = 1 << 18  # pixels that are decided at once, so that a rule's own arrays stay small


@dataclass(frozen=True)
class MapSummary:
    """What was written: the files, pixels by class name, pixels without data, hectares a pixel, seconds.

    `pixel_ha` is None where the grid is not in units of length (no CRS, or degrees).
    """

    path: Path
    probabilities: Path | None
    pixels: dict[str, int]
    nodata_pixels: int
    pixel_ha: float | None
    seconds: float

    @property
    def hectares(self) -> dict[str, float] | None:
        """Area by class name, as the map's own projection measures it."""
        if self.pixel_ha is None:
            return None
        return {name: count * self.pixel_ha for name, count in self.pixels.items()}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "map": str(self.path),
            "probabilities": str(self.probabilities) if self.probabilities else None,
            "pixels": self.pixels,
            "nodata_pixels": self.nodata_pixels,
            "hectares": self.hectares,
            "seconds": round(self.seconds, 2),
        }

    def __str__(self) -> str:
        total = max(1, sum(self.pixels.values()))
        wide = max(len(name) for name in self.pixels)
        lines = [f"{self.path}  ({self.seconds:.1f} s)"]
        for name, count in self.pixels.items():
            area = f"{count * self.pixel_ha:14,.2f} ha" if self.pixel_ha is not None else ""
            lines.append(f"  {name:<{wide}} {100 * count / total:7.2f} % {count:13,} pixels{area}")
        if self.nodata_pixels:
            lines.append(f"  {'no data':<{wide}} {'':9} {self.nodata_pixels:13,} pixels")
        if self.probabilities:
            lines.append(f"{self.probabilities}")
        return "\n".join(lines)


def write_map(
    reader: Image,
    network: Network,
    out_path: str | Path,
    scheme: LabelScheme,
    options: PredictOptions | None = None,
    decide: Decide | None = None,
    soften: Soften | None = None,
    probabilities: Literal["float32", "uint8"] | None = None,
    tags: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    quantities: Sequence[str] = (),
    network_classes: int | None = None,
) -> MapSummary:
    """Map a scene: class values as in the source's numbering, `scheme.map_nodata` where it is not valid.

    The map is a uint8 COG on the scene's grid, with the classes' colours as its colour table and tags
    `class_7=landslide`; a QGIS style `NAME.qml` stands beside it. `decide` turns probabilities into
    classes (None: the most probable). `soften` turns them into those that are written. `probabilities` also writes `NAME.probs.tif`, a band a class:
    float32 with nodata NaN, or uint8 in steps of 1/250 with nodata 255. `quantities` ("confidence", "entropy") are
    written as `NAME.confidence.tif`, with a style. Where the network has more classes than the scheme
    (`network_classes`) `decide` and `soften` turn its probabilities into those of the scheme.

    All files take their names together, at the end; after a fault or an interruption nothing is left.
    Raises `SceneError` for a scene that cannot be read or holds no valid pixel, `OutputError` where the
    files cannot be written.
    """
    started = time.perf_counter()
    out_path = Path(out_path)
    beside = out_path.with_name(f"{out_path.stem}.probs.tif") if probabilities else None
    nodata = scheme.map_nodata
    grid = reader.grid
    with ExitStack() as files:
        soft = (
            files.enter_context(_probability_writer(beside, grid, scheme, probabilities, tags))
            if beside
            else None
        )
        hard = files.enter_context(
            CogWriter(
                out_path, grid, "uint8", bands=("class",), nodata=nodata,
                colors=dict(zip(scheme.values, map(tuple, scheme.rgb.tolist()), strict=True)),
                tags={**(tags or {}), **_class_tags(scheme)},
            )
        )  # fmt: skip
        more = {
            name: files.enter_context(quantity_writer(quantity_path(out_path, name), name, grid, tags))
            for name in quantities
        }
        strips = stream(reader, network, network_classes or scheme.num_classes, options, progress=progress)
        counts = _write_strips(strips, scheme, decide, soften, hard, soft, more)
        if not counts.any():
            raise SceneError(
                f"{reader.paths[0]} holds no valid pixel: all of it is nodata"
                f"{f' ({reader.nodata:g})' if reader.nodata is not None else ''}; nothing was written"
            )
        for writer in (hard, soft, *more.values()):
            if writer is not None:
                writer.complete()
        style = files.enter_context(written(out_path.with_suffix(".qml")))
        style.write_text(qml(scheme), encoding="utf-8")
        for name in quantities:
            style = files.enter_context(written(quantity_path(out_path, name).with_suffix(".qml")))
            style.write_text(STYLES[name], encoding="utf-8")
    return MapSummary(
        path=out_path,
        probabilities=beside,
        pixels=dict(zip(scheme.names, counts.tolist(), strict=True)),
        nodata_pixels=grid.height * grid.width - int(counts.sum()),
        pixel_ha=_pixel_hectares(grid),
        seconds=time.perf_counter() - started,
    )


def _write_strips(
    strips: Generator[Strip],
    scheme: LabelScheme,
    decide: Decide | None,
    soften: Soften | None,
    hard: CogWriter,
    soft: CogWriter | None,
    quantities: Mapping[str, CogWriter],
) -> np.ndarray:
    """Decide and hand over strip after strip; gives the pixels of each class."""
    counts = np.zeros(scheme.num_classes, np.int64)
    values, nodata = np.array(scheme.values, np.uint8), np.uint8(scheme.map_nodata)
    with closing(strips), ThreadPoolExecutor(_THREADS, "raremap-decide") as pool:
        for strip in strips:
            index = _decided(strip, decide, pool)
            probs = strip.probs if soften is None or not (soft or quantities) else soften(strip.probs)
            for name, writer in quantities.items():
                writer.write(strip.window, stored(name, probs, index, strip.valid))
            blend.to_values(index, strip.valid, values, nodata, counts)
            hard.write(strip.window, index)
            if soft is not None:
                soft.write(strip.window, _stored(probs, strip.valid, soft.dtype))
            del strip, index, probs  # the swath's buffers go before those of the next are filled
    return counts


def _decided(strip: Strip, decide: Decide | None, pool: ThreadPoolExecutor) -> np.ndarray:
    """Class index uint8 `[h, w]` of a strip, in pieces of rows and in several threads."""
    height, width = strip.valid.shape
    index = np.empty((height, width), np.uint8)
    rows = max(1, _PIECE // width)

    def part(top: int) -> None:
        piece = slice(top, top + rows)
        if decide is None:
            blend.argmax(strip.probs[:, piece], index[piece])
        else:
            index[piece] = decide(strip.probs[:, piece])

    for _ in pool.map(part, range(0, height, rows)):  # which raises what a part raised
        pass
    return index


def _probability_writer(
    path: Path, grid: Grid, scheme: LabelScheme, kind: str | None, tags: Mapping[str, str] | None
) -> Any:
    """A COG with a band a class."""
    scaled = {"scale": "0.004", "offset": "0"} if kind == "uint8" else {}
    return CogWriter(
        path, grid, str(kind), bands=scheme.names, nodata=255 if kind == "uint8" else float("nan"),
        tags={**(tags or {}), **_class_tags(scheme), **{f"probability_{k}": v for k, v in scaled.items()}},
        scale=0.004 if kind == "uint8" else None, overviews="average",
    )  # fmt: skip


def _stored(probs: np.ndarray, valid: np.ndarray, kind: str) -> np.ndarray:
    """Probabilities as they are written, nodata where not valid; a copy."""
    if kind == "uint8":
        scaled = np.rint(probs * 250).astype(np.uint8)
        scaled[:, ~valid] = 255
        return scaled
    return np.where(valid, probs, np.float32(np.nan))


def _class_tags(scheme: LabelScheme) -> dict[str, str]:
    named = {f"class_{value}": name for value, name in zip(scheme.values, scheme.names, strict=True)}
    return {**named, **({TREE: json.dumps(scheme.parents)} if scheme.parents else {})}


def _pixel_hectares(grid: Grid) -> float | None:
    if grid.crs is None or not grid.crs.is_projected:
        return None
    metres = grid.crs.linear_units_factor[1]
    return abs(grid.transform.determinant) * metres**2 / 10_000
