"""A scene's map as files: the class raster, its QGIS style, and probabilities where they are asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raremap.errors import OutputError, SceneError
from raremap.files import written
from raremap.jobs import Progress
from raremap.labels import LabelScheme
from raremap.maps.drawing import CLASS, PROBS, Decide, Drawing, Drawn, Soften
from raremap.maps.lanes import told
from raremap.maps.legend import JOB
from raremap.maps.levelmap import TAG as TREE
from raremap.maps.options import PredictOptions
from raremap.maps.quantities import STYLES, quantity_path, quantity_writer
from raremap.maps.stream import Network, batch_of, stream
from raremap.maps.style import qml
from raremap.scene.cog import CogWriter, check_room
from raremap.scene.gdal import grid_of, opened
from raremap.scene.grid import Grid
from raremap.scene.raster import Image
from raremap.scene.rawfile import STRIPE
from raremap.scene.window import Window


@dataclass(frozen=True)
class MapSummary:
    """What was written: the files, pixels by class name, pixels without data, hectares a pixel, seconds.

    `pixel_ha` is None where the grid is not in units of length (no CRS, or degrees). `precision` is what was computed
    in, `batch` how many windows at once. A map that was `kept` stood finished before.
    """

    path: Path
    probabilities: Path | None
    pixels: dict[str, int]
    nodata_pixels: int
    pixel_ha: float | None
    seconds: float
    precision: str = "float32"
    batch: int = 1
    kept: bool = False

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
            "precision": self.precision,
            "windows_at_once": self.batch,
            "kept": self.kept,
        }

    def __str__(self) -> str:
        total = max(1, sum(self.pixels.values()))
        wide = max(len(name) for name in self.pixels)
        lines = [f"{self.path}  ({'kept' if self.kept else f'{self.seconds:.1f} s'})"]
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
    job: str | None = None,
) -> MapSummary:
    """Map a scene: class values as in the source's numbering, `scheme.map_nodata` where it is not valid.

    The map is a uint8 COG on the scene's grid, with the classes' colours as its colour table and tags
    `class_7=landslide`; a QGIS style `NAME.qml` stands beside it. `decide` turns probabilities into
    classes (None: the most probable). `soften` turns them into those that are written. `probabilities` also writes `NAME.probs.tif`, a band a class:
    float32 with nodata NaN, or uint8 in steps of 1/250 with nodata 255. `quantities` ("confidence", "entropy") are
    written as `NAME.confidence.tif`, with a style. Where the network has more classes than the scheme
    (`network_classes`) `decide` and `soften` turn its probabilities into those of the scheme. `job` is kept with the map,
    for `finished`.

    All files take their names together, at the end; after a fault or an interruption nothing is left.
    Raises `SceneError` for a scene that cannot be read or holds no valid pixel, `OutputError` where the
    files cannot be written.
    """
    drawing = Drawing(scheme, decide, soften, probabilities, tuple(quantities))
    options = options or PredictOptions()
    with MapFiles(out_path, reader.grid, drawing, tags, held_rows(reader, options.window), job) as files:
        batch = batch_of(reader, options, network)
        options = options.model_copy(update={"batch": batch})
        strips = stream(reader, network, network_classes or scheme.num_classes, options, progress=progress)
        for drawn in drawing(strips):
            files.write(drawn)
        # Where a device had less room than was found at first, the last number is told.
        batch = min(batch, getattr(network, "most", None) or batch)
        precision = getattr(network, "precision", "float32")
        return files.finish(reader.paths[0], reader.nodata, precision, batch, told(network))


def settled(precision: str, batch: int, window: int) -> str:
    """How a map is computed, in a line for the user."""
    return f"computed in {precision}, windows of {window} pixels, {batch} at once"


def finished(path: Path, drawing: Drawing, job: str) -> MapSummary | None:
    """What `write_map` told of a map that stands with all its files and was made by the same `job`, else None."""
    if not all(p.exists() for p in (*paths_of(path, drawing).values(), path.with_suffix(".qml"))):
        return None
    try:
        with opened(path) as file:
            grid, tags = grid_of(file), file.tags()
    except SceneError:  # cut short, say: it is made again
        return None
    key, *counts = tags.get(JOB, "none").split()
    if key != job:
        return None
    pixels = dict(zip(drawing.scheme.names, map(int, counts), strict=True))
    how = tags["raremap_precision"], int(tags["raremap_batch"])
    return _summary(path, drawing, grid, pixels, 0.0, *how, kept=True)


def paths_of(path: Path, drawing: Drawing) -> dict[str, Path]:
    """The rasters of a map."""
    out = {CLASS: path}
    if drawing.probabilities is not None:
        out[PROBS] = quantity_path(path, PROBS)
    return out | {name: quantity_path(path, name) for name in drawing.quantities}


def _summary(
    path: Path,
    drawing: Drawing,
    grid: Grid,
    pixels: dict[str, int],
    seconds: float,
    precision: str,
    batch: int,
    kept: bool = False,
) -> MapSummary:
    return MapSummary(
        path=path,
        probabilities=paths_of(path, drawing).get(PROBS),
        pixels=pixels,
        nodata_pixels=grid.height * grid.width - sum(pixels.values()),
        pixel_ha=_pixel_hectares(grid),
        seconds=seconds,
        precision=precision,
        batch=batch,
        kept=kept,
    )


def held_rows(reader: Image, window: int) -> list[tuple[int, int]]:
    """Rows (first, end) that a map of the scene may write to, in windows of so many pixels.

    What a sparse file leaves out takes no room of the map either, but for the windows that reach into it.
    """
    grid, out = reader.grid, []
    for top in range(0, grid.height, STRIPE):
        part = Window(top, 0, STRIPE, grid.width).intersect(grid.window)
        if not reader.blank(part):
            out.append((max(0, top - window), min(grid.height, part.row_end + window)))
    return out


class MapFiles:
    """The files of a map, written rectangle by rectangle in any order; they take their names together, by `finish`.

    Where the block ends without it nothing is left. `rows` are those that are written to at the most (None: all), as
    `held_rows` gives them; the disk must have room for these in all files together. `job` is as in `write_map`.
    """

    def __init__(
        self,
        path: str | Path,
        grid: Grid,
        drawing: Drawing,
        tags: Mapping[str, str] | None = None,
        rows: Sequence[tuple[int, int]] | None = None,
        job: str | None = None,
    ) -> None:
        self.path, self.grid, self._drawing, self._tags = Path(path), grid, drawing, tags
        self._rows, self._job = rows, job
        self.counts = np.zeros(drawing.scheme.num_classes, np.int64)
        self._files = ExitStack()
        self._writers: dict[str, CogWriter] = {}
        self._started = time.perf_counter()

    def __enter__(self) -> MapFiles:
        try:
            made = self._made()
            check_room(list(made.values()), self._rows)
            for name, writer in made.items():
                self._writers[name] = self._files.enter_context(writer)
        except BaseException as error:
            self.__exit__(type(error), error)
            raise
        return self

    def _made(self) -> dict[str, CogWriter]:
        """A writer for each file; the classes', which says of which job they are, takes its name last."""
        scheme, tags, kind = self._drawing.scheme, self._tags, self._drawing.probabilities
        paths = paths_of(self.path, self._drawing)
        out = {
            CLASS: CogWriter(
                self.path, self.grid, "uint8", bands=("class",), nodata=scheme.map_nodata,
                colors=dict(zip(scheme.values, map(tuple, scheme.rgb.tolist()), strict=True)),
                tags={**(tags or {}), **_class_tags(scheme)},
            )
        }  # fmt: skip
        if kind is not None:
            out[PROBS] = _probability_writer(paths[PROBS], self.grid, scheme, kind, tags)
        for name in self._drawing.quantities:
            out[name] = quantity_writer(paths[name], name, self.grid, tags)
        return out

    def write(self, drawn: Drawn) -> None:
        """Hand over a rectangle; raises `OutputError` where the disk fails."""
        self.counts += drawn.counts
        for name, array in drawn.layers.items():
            self._writers[name].write(drawn.window, array)

    def finish(
        self,
        source: str,
        nodata: float | None,
        precision: str,
        batch: int,
        lanes: Mapping[str, int] | None = None,
    ) -> MapSummary:
        """Complete and name the files; they say in which precision, how many windows at once, and in which `lanes`.

        Raises `SceneError` where no pixel of the scene `source` was valid.
        """
        scheme, counts = self._drawing.scheme, self.counts.tolist()
        if not any(counts):
            raise SceneError(
                f"{source} holds no valid pixel: all of it is nodata"
                f"{f' ({nodata:g})' if nodata is not None else ''}; nothing was written"
            )
        how = {"precision": precision, "batch": batch, **(lanes or {})}
        for writer in self._writers.values():
            writer.tag({f"raremap_{name}": str(value) for name, value in how.items()})
        if self._job is not None:
            self._writers[CLASS].tag({JOB: " ".join(map(str, (self._job, *counts)))})
        for writer in self._writers.values():
            writer.complete()
        styles = {self.path: qml(scheme)}
        styles |= {quantity_path(self.path, name): STYLES[name] for name in self._drawing.quantities}
        for path, text in styles.items():
            style = self._files.enter_context(written(path.with_suffix(".qml")))
            style.write_text(text, encoding="utf-8")
        self._files.close()
        pixels = dict(zip(scheme.names, counts, strict=True))
        seconds = time.perf_counter() - self._started
        return _summary(self.path, self._drawing, self.grid, pixels, seconds, precision, batch)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        # Not finished is a fault, too: the writers would name what they have.
        error = error or OutputError(f"{self.path} was not finished")
        self._files.__exit__(type(error), error, error.__traceback__)


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


def _class_tags(scheme: LabelScheme) -> dict[str, str]:
    named = {f"class_{value}": name for value, name in zip(scheme.values, scheme.names, strict=True)}
    return {**named, **({TREE: json.dumps(scheme.parents)} if scheme.parents else {})}


def _pixel_hectares(grid: Grid) -> float | None:
    if grid.crs is None or not grid.crs.is_projected:
        return None
    metres = grid.crs.linear_units_factor[1]
    return abs(grid.transform.determinant) * metres**2 / 10_000
