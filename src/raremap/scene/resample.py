"""Fine class rasters to a coarser grid: streamed window by window, on all cores.

Every window reads its own fine pixels and shares nothing with the others but, for `area`, what is owed to each
class; so what is computed does not depend on the windows or the number of threads, and memory is bounded by windows.
GDAL's cache is shared by all threads all the same: its size stays as it is throughout (see `bounded_cache`).
Labels whose blocks are whole rows are read in windows as wide as the grid, so that no row is decoded twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raremap.errors import LabelError, OutputError, SceneError
from raremap.jobs import Progress, Silent, in_order
from raremap.labels import LabelScheme
from raremap.scene.alignment import Aligned, Warped, align
from raremap.scene.cog import CogWriter
from raremap.scene.counting import add_histogram
from raremap.scene.gdal import bounded_cache
from raremap.scene.grid import Grid
from raremap.scene.ground import cell_areas
from raremap.scene.labelfile import LabelFile, open_labels
from raremap.scene.options import Area, Fractions, RescaleOptions, Weighted
from raremap.scene.shares import STEPS
from raremap.scene.window import Window
from raremap.scene.windowing import ROOM, Held, Made, Windowing, divided

if TYPE_CHECKING:
    from raremap.cluster import Cluster


_CELLS = 512  # cells a side of a window, about
_PIXELS = 16384  # fine pixels a side of a window, at most (but a block at least)
_MEMORY = 512 << 20  # for the counts of all windows under way


@dataclass(frozen=True)
class ClassArea:
    """Ground of a class: labelled within the grid before, and mapped after, in `unit`; cells after."""

    name: str
    before: float
    after: float
    cells: float


@dataclass(frozen=True)
class Rescaled:
    """What was written: area by class value before and after in `unit` (ha, or cells without a CRS).

    `cells` and `empty_cells` are those with and without a class; `forced` cells got a class that they do not
    hold, to keep its area; `error` is the largest deviation of a position, in fine pixels.
    """

    path: Path
    method: str
    ratio: float
    unit: str
    classes: dict[int, ClassArea]
    cells: int
    empty_cells: int
    forced: int
    error: float


def rescale_labels(
    labels: str | Path,
    grid: Grid,
    out: str | Path,
    options: RescaleOptions | None = None,
    scheme: LabelScheme | None = None,
    like: str = "the grid",
    threads: int | None = None,
    progress: Progress | None = None,
    tags: Mapping[str, str] | None = None,
    cluster: Cluster | None = None,
    empty: bool = False,
) -> Rescaled:
    """Write the classes of a fine raster on a coarser grid; the source's values are kept.

    The result is a COG with the classes' colours and tags `class_7=landslide`, nodata 255 (or the highest
    free value where the scheme uses 255); with fractions a band a class of uint8, 200 for all of a cell and
    nodata 255. `like` names the grid in errors. The file takes its name at the end; after a fault or an
    interruption nothing is left. With a `cluster` its workers read and count, and the result is the same.
    Labels without a labelled pixel within the grid are an error, but where `empty` is allowed.
    Raises `SceneError`, `LabelError`, `OutputError`.
    """
    options, progress = options or Area(), progress or Silent()
    source, out = open_labels(labels, scheme, options.ignore), Path(out)
    for path in (source.path, like):
        if out.exists() and Path(path).exists() and out.samefile(path):
            raise OutputError(f"{out} is also what is read; choose another file to write to")
    alignment = align(source.grid, grid, source.path, like)
    workers = threads or _cores()
    try:
        with bounded_cache(), _workers(workers) as pool:
            work = _windowing(source, alignment, options, scheme, pool, workers)
            if cluster is None:
                return _write(work, out, _Step(work), pool, workers, progress, tags or {}, empty)
        # The team ends before the threads that wait for it: a run that is stopped does not wait for its windows.
        with _workers(cluster.size()) as pool, cluster.team(partial(_Step, work), _told) as team:
            return _write(work, out, team, pool, team.size, progress, tags or {}, empty)
    finally:
        source.close()


_Filling = tuple[Held, np.ndarray]


@dataclass(frozen=True)
class _Step:
    """What is done to a window: it is counted, or filled once its quotas are known."""

    work: Windowing

    def __call__(self, item: Window | _Filling) -> Made | Held:
        return self.work(item) if isinstance(item, Window) else self.work.filled(*item)


def _told(item: Window | _Filling) -> str:
    w = item if isinstance(item, Window) else item[0].window
    return f"rescale, rows {w.row_off}-{w.row_end}, columns {w.col_off}-{w.col_end}"


def _write(
    work: Windowing,
    out: Path,
    step: Callable[[Window | _Filling], Made | Held],
    pool: ThreadPoolExecutor,
    workers: int,
    progress: Progress,
    tags: Mapping[str, str],
    empty: bool,
) -> Rescaled:
    source, grid, options = work.labels, work.alignment.coarse, work.options
    windows = windows_of(work, workers)
    ahead = max(2, min(2 * workers, _MEMORY // max(1, _bytes(windows[0], source))))
    tally = _Tally(work)
    with _writer(work, out, tags) as writer:
        made = (
            _area(work, windows, step, pool, ahead)
            if isinstance(options, Area)
            else in_order(pool, step, windows, ahead)
        )
        for one in made:
            assert isinstance(one, Made)
            writer.write(one.window, one.array)
            tally.add(one)
            progress.advance(one.window.height * one.window.width / (grid.height * grid.width))
        result = tally.result(out, empty)
    return result


def windows_of(work: Windowing, workers: int) -> list[Window]:
    """The grid in windows of whole blocks, row by row: near 512 cells a side, smaller where that keeps all at work."""
    grid, block = work.alignment.coarse, work.block
    ratio = float(np.sqrt(1 / work.alignment.pixel_cells))
    side = max(1, min(_CELLS, int(_PIXELS / ratio)) // block)
    while side > 1 and grid.height * grid.width < 2 * workers * (side * block) ** 2:
        side //= 2
    height = width = side * block
    if work.labels.striped and isinstance(work.alignment, Aligned):
        width = grid.width
        fits = _MEMORY // 4 // (_bytes(Window(0, 0, 1, width), work.labels) * block)
        height = block * max(1, min(side, int(fits), grid.height // (block * 2 * workers)))
    return [
        Window(row, col, min(height, grid.height - row), min(width, grid.width - col))
        for row in range(0, grid.height, height)
        for col in range(0, grid.width, width)
    ]


def _bytes(window: Window, source: LabelFile) -> int:
    return window.height * window.width * max(ROOM, len(source.names)) * 4


def _area(
    work: Windowing, windows: list[Window], step: Callable[[Window | _Filling], Made | Held],
    pool: ThreadPoolExecutor, ahead: int,
) -> Iterator[Made | Held]:  # fmt: skip
    """Bands of windows: counted in parallel, quotas one after the other, filled in parallel."""
    carry, slots = np.zeros(254), dict[int, int]()
    blocks_across = -(-work.alignment.coarse.width // work.block)
    counted = in_order(pool, step, windows, ahead)
    for _, band in groupby(counted, key=lambda held: held.window.row_off):
        held = [one for one in band if isinstance(one, Held)]
        share = divided(held, carry, slots, blocks_across, work.block)
        yield from in_order(pool, step, list(zip(held, share, strict=True)), ahead)


@contextmanager
def _workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads, "raremap-rescale")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _windowing(
    source: LabelFile, alignment: Aligned | Warped, options: RescaleOptions, scheme: LabelScheme | None,
    pool: ThreadPoolExecutor, workers: int,
) -> Windowing:  # fmt: skip
    """What every window needs to know, with a first reading of the labels where the method cannot do without."""
    found: dict[int, int] = {}
    wide = source.dtype.itemsize > 1
    inverse = isinstance(options, Weighted) and options.inverse > 0
    if inverse or (not source.known and (wide or isinstance(options, Fractions))):
        found = _histogram(source, alignment, pool, workers)
    values = tuple(source.names) if source.known else tuple(sorted(found))
    if isinstance(options, Fractions):
        nodata, dtype = 255, "uint8"
        if len(values) > 254:
            raise LabelError(f"{source.path} has {len(values)} classes; a class raster has 254 at most")
    else:
        dtype = "uint8" if max(values, default=0) < 256 else "uint16"
        top = 255 if dtype == "uint8" else 65535
        nodata = next(v for v in range(top, -1, -1) if v not in values)
    total = sum(found.values())
    frequency = {v: n / total for v, n in found.items()} if inverse else None
    return Windowing(
        source, alignment, options, _block(options, alignment.coarse), dtype, nodata, values, frequency
    )


def _block(options: RescaleOptions, grid: Grid) -> int:
    """Side of a block of ground in cells; where the method has none, what windows are made of."""
    metres = getattr(options, "block_m", None)
    if metres is None:
        return getattr(options, "block", 64)
    areas = cell_areas(grid)
    if areas is None:
        raise SceneError(
            f"block_m is {metres:g}, but the image has no CRS and so no metres; give block in cells"
        )
    return max(1, min(2048, round(metres / float(np.sqrt(np.median(areas))))))


def _histogram(
    source: LabelFile, alignment: Aligned | Warped, pool: ThreadPoolExecutor, workers: int
) -> dict[int, int]:
    """Pixels of each class of the labels that lie around the grid."""
    whole = alignment.source_window(alignment.coarse.window)
    step = max(_CELLS * 8 // source.block[0], 1) * source.block[0]
    width = whole.width if source.striped else max(_CELLS * 8 // source.block[1], 1) * source.block[1]
    parts = [
        Window(row, col, step, width).intersect(whole)
        for row in range(whole.row_off // step * step, whole.row_end, step)
        for col in range(
            whole.col_off if source.striped else whole.col_off // width * width, whole.col_end, width
        )
    ]

    def count(part: Window) -> np.ndarray:
        out = np.zeros(1 << 16, np.int64)
        for _, raw in source.pieces(part):
            add_histogram(out, raw)
        return out

    total = np.zeros(1 << 16, np.int64)
    for one in in_order(pool, count, parts, 2 * workers):
        total += one
    total[list(source.blanks)] = 0
    met = np.flatnonzero(total)
    return dict(zip(source.values(met).tolist(), total[met].tolist(), strict=True))


def _writer(work: Windowing, out: Path, tags: Mapping[str, str]) -> CogWriter:
    source, fractions = work.labels, isinstance(work.options, Fractions)
    tags = {
        **{f"class_{value}": name for value, name in source.names.items()},
        "rescaled": work.options.kind,
        **tags,
    }
    return CogWriter(
        out, work.alignment.coarse, work.dtype,
        bands=tuple(source.name(v) for v in work.classes) if fractions else ("class",),
        nodata=work.nodata,
        colors=source.colors if source.colors and not fractions else None,
        tags=tags,
        scale=1 / STEPS if fractions else None,
        level=1 if fractions else 5,  # most of many bands is 0: a tenth larger, in less than half the time
    )  # fmt: skip


class _Tally:
    """Areas by class as windows come."""

    def __init__(self, work: Windowing) -> None:
        self._work = work
        self._areas = cell_areas(work.alignment.coarse)
        self._before: dict[int, float] = {}
        self._after: dict[int, float] = {}
        self._cells: dict[int, float] = {}
        self._empty = self._forced = 0

    def add(self, made: Made) -> None:
        work, window = self._work, made.window
        row = (
            np.ones(window.height)
            if self._areas is None
            else self._areas[window.row_off : window.row_end] / 1e4
        )
        for value, ground in zip(made.values.tolist(), made.ground.T, strict=True):
            area = float(ground @ row) * work.alignment.pixel_cells
            self._before[value] = self._before.get(value, 0.0) + area
        self._forced += made.forced
        if isinstance(work.options, Fractions):
            empty = made.array[0] == 255
            found = (
                (v, np.where(empty, 0, band).sum(1) / STEPS)
                for v, band in zip(work.classes, made.array, strict=True)
            )
            self._empty += int(np.count_nonzero(empty))
        else:
            found = [(v, np.count_nonzero(made.array == v, axis=1)) for v in made.values.tolist()]
            self._empty += int(np.count_nonzero(made.array == work.nodata))
        for value, cells in found:
            self._cells[value] = self._cells.get(value, 0) + float(cells.sum())
            self._after[value] = self._after.get(value, 0.0) + float(cells @ row)

    def result(self, out: Path, empty: bool) -> Rescaled:
        work = self._work
        if not self._before and not empty:
            raise LabelError(
                f"{work.labels.path} has no labelled pixel within the image: all of it is nodata or ignored; "
                "nothing was written"
            )
        grid = work.alignment.coarse
        values = sorted({*self._before, *work.labels.names})
        return Rescaled(
            path=out,
            method=work.options.kind,
            ratio=float(np.sqrt(1 / work.alignment.pixel_cells)),
            unit="cells" if self._areas is None else "ha",
            classes={
                v: ClassArea(
                    work.labels.name(v),
                    self._before.get(v, 0.0),
                    self._after.get(v, 0.0),
                    self._cells.get(v, 0.0),
                )
                for v in values
            },
            cells=grid.height * grid.width - self._empty,
            empty_cells=self._empty,
            forced=self._forced,
            error=getattr(work.alignment, "error", 0.0),
        )
