"""A scene to a map: classes in the source's numbers, legend, style, and probabilities on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

import numpy as np

from raremap.errors import SceneError
from raremap.files import written
from raremap.jobs import Progress
from raremap.labels import IGNORE, LabelScheme
from raremap.maps.options import PredictOptions
from raremap.maps.stream import Network, stream
from raremap.measure.decision import most_likely
from raremap.scene.cog import cog_writer
from raremap.scene.raster import ImageReader

Probabilities = Literal["float32", "uint8"]
# uint8 probabilities: 0-250 stand for 0-1, 255 is no data.
_SCALE, _NO_PROBABILITY = 250, 255


@dataclass(frozen=True)
class MapSummary:
    """Where a map lies, and how many pixels (and hectares, where the CRS is metric) each class has."""

    path: Path
    pixels: dict[str, int]
    hectares: dict[str, float] | None
    nodata: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**self.__dict__, "path": str(self.path), "seconds": round(self.seconds, 2)}

    def __str__(self) -> str:
        total = max(1, sum(self.pixels.values()))
        width = max(map(len, self.pixels))
        lines = [
            f"{self.path} ({total + self.nodata:,} pixels, {self.nodata:,} without data, {self.seconds:.1f} s)"
        ]
        for name, n in sorted(self.pixels.items(), key=lambda item: -item[1]):
            area = f"{self.hectares[name]:>14,.1f} ha" if self.hectares else ""
            lines.append(f"  {name:<{width}} {n / total:>9.3%}{area}")
        return "\n".join(lines)


def write_map(
    reader: ImageReader,
    network: Network,
    path: str | Path,
    scheme: LabelScheme,
    options: PredictOptions,
    decide: Callable[[np.ndarray], np.ndarray] | None = None,
    probabilities: Probabilities | None = None,
    tags: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> MapSummary:
    """Map a scene: a uint8 COG in source values on the scene's grid, with a QGIS style beside it.

    Pixels without data are `scheme.map_nodata`. The colour table, the class names (tags `class_VALUE` of the
    band) and `tags` are in the file. `decide` gives class indices `[h, w]` of probabilities `[K, h, w]`
    (default: the likeliest). `probabilities` writes `NAME.probs.tif`, a band a class. Raises
    `SceneError` where no pixel of the scene is valid.
    """
    path, started = Path(path), time.perf_counter()
    decide = decide or most_likely
    table = np.full(256, scheme.map_nodata, np.uint8)
    table[: scheme.num_classes] = scheme.values
    counts = np.zeros(256, np.int64)
    with ExitStack() as stack:
        classes = stack.enter_context(_class_writer(path, reader, scheme, tags or {}))
        share = None
        if probabilities:
            share = stack.enter_context(_probability_writer(path, reader, scheme, probabilities, tags or {}))
        strips = stream(reader, network, scheme.num_classes, options, progress=progress)
        for strip in stack.enter_context(closing(strips)):
            index = decide(strip.probs)
            index[~strip.valid] = IGNORE
            counts += np.bincount(index.ravel(), minlength=256)
            classes.write(strip.window, table[index])
            if share is not None and probabilities:
                share.write(strip.window, _scaled(strip.probs, strip.valid, probabilities))
        if counts[: scheme.num_classes].sum() == 0:
            raise SceneError(
                f"{reader.paths[0]} holds no valid pixel; check its nodata value ({reader.nodata})"
            )
    with written(path.with_suffix(".qml")) as style:
        style.write_text(qml(scheme), encoding="utf-8")
    pixels = {n: int(c) for n, c in zip(scheme.names, counts, strict=False)}
    return MapSummary(
        path, pixels, _hectares(reader, pixels), int(counts[IGNORE]), time.perf_counter() - started
    )


def _class_writer(path: Path, reader: ImageReader, scheme: LabelScheme, tags: dict[str, str]) -> Any:
    colors = {v: tuple(int(x) for x in rgb) for v, rgb in zip(scheme.values, scheme.rgb, strict=True)}
    return cog_writer(
        path,
        reader.grid,
        "uint8",
        nodata=scheme.map_nodata,
        descriptions=["class"],
        colors=colors,  # type: ignore[arg-type]
        tags=tags,
        band_tags={f"class_{v}": n for v, n in zip(scheme.values, scheme.names, strict=True)},
    )


def _probability_writer(
    path: Path, reader: ImageReader, scheme: LabelScheme, kind: Probabilities, tags: dict[str, str]
) -> Any:
    scale = {} if kind == "float32" else {"raremap_scale": f"1/{_SCALE}"}
    return cog_writer(
        path.with_suffix(".probs.tif"),
        reader.grid,
        kind,
        count=scheme.num_classes,
        nodata=float("nan") if kind == "float32" else _NO_PROBABILITY,
        descriptions=scheme.names,
        tags={**tags, **scale},
        overviews="average",
    )


def _scaled(probs: np.ndarray, valid: np.ndarray, kind: Probabilities) -> np.ndarray:
    if kind == "float32":
        out = probs.copy()
        out[:, ~valid] = np.nan
        return out
    out = np.rint(probs * _SCALE).clip(0, _SCALE).astype(np.uint8)
    out[:, ~valid] = _NO_PROBABILITY
    return out


def _hectares(reader: ImageReader, pixels: dict[str, int]) -> dict[str, float] | None:
    grid = reader.grid
    if grid.crs is None or not grid.crs.is_projected:
        return None
    metre = grid.crs.linear_units_factor[1]
    hectare = abs(grid.transform.determinant) * metre**2 / 1e4
    return {name: n * hectare for name, n in pixels.items()}


def qml(scheme: LabelScheme) -> str:
    """A QGIS layer style with the scheme's colours and names."""
    entries = "\n".join(
        f'        <paletteEntry value="{v}" color={quoteattr(c)} label={quoteattr(n)} alpha="255"/>'
        for v, c, n in zip(scheme.values, scheme.palette, scheme.names, strict=True)
    )
    return f"""<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.28" styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">
      <colorPalette>
{entries}
      </colorPalette>
    </rasterrenderer>
  </pipe>
</qgis>
"""
