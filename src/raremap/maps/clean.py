"""A finished map without what is too small, too narrow or too doubtful, made strip by strip."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from raremap.errors import ConfigError, OutputError, RaremapWarning
from raremap.files import written
from raremap.jobs import Progress, in_order
from raremap.maps.classmap import ClassMap
from raremap.maps.cleaning import BySize, CleanOptions
from raremap.maps.components import Limits, Relabelling, SmallComponents
from raremap.maps.exact import ExactAreas
from raremap.maps.filters import Step, closing, disc, majority, opening
from raremap.maps.index import index_type, none_of
from raremap.maps.legend import Legend
from raremap.maps.probabilities import UNIT, Probabilities
from raremap.maps.strips import Filtered, read_index, strips, tiles
from raremap.maps.style import paletted
from raremap.scene.grid import Grid
from raremap.scene.steps import Steps
from raremap.scene.window import Window

if TYPE_CHECKING:
    from raremap.cluster import Cluster

_ENOUGH = 0.995  # of a minimum mapping unit
Index = Callable[[Window], np.ndarray]


class Cleaned:
    """What was changed, by class index `[K]`: square metres before and after, components given away, and left alone."""

    def __init__(self, classes: int) -> None:
        self.before, self.after = np.zeros(classes), np.zeros(classes)
        self.filled, self.alone = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        self.changed_pixels = self.pixels = 0


def clean_map(
    source: ClassMap,
    out: Path,
    options: CleanOptions,
    probabilities: Probabilities | None,
    progress: Progress,
    tags: dict[str, str],
    cluster: Cluster | None = None,
) -> Cleaned:
    """Write the cleaned map with its style beside it; the result depends on no strip.

    Memory is that of a strip and of the small components that are not settled yet, with 9 bytes for
    each that was met; that of the filters some 16 bytes for each pixel of a tile (`strips.tiles`). With a `cluster` its workers filter; small components, which reach from strip to strip, are
    settled here. Raises `ConfigError` or `LabelError` for options that do not fit the map.
    """
    grid, legend = source.grid, Legend.of(source)
    if grid.crs is None:
        raise ConfigError(
            f"{source.path} has no CRS, so square metres and metres mean nothing on it; set it with gdal_edit.py -a_srs"
        )
    for name in options.names:
        legend.index(name, "the option")
    if options.min_confidence is not None and probabilities is None:
        raise ConfigError("min_confidence needs the probabilities that were written with the map")
    exact = ExactAreas(grid)
    _warn_of_none_smaller(exact, options)
    limits = Limits(
        _limits(exact, options.mmu, legend),
        _limits(exact, options.small or 0.0, legend),
        UNIT * (options.min_confidence or 0.0),
    )
    windows = strips(grid, 40 + (8 * len(legend.names) if probabilities else 0))
    eight, none = options.connectivity == 8, none_of(index_type(len(legend.names)))
    result = Cleaned(len(legend.names))
    with ExitStack() as files:
        writer = files.enter_context(legend.writer(out, grid, {**source.tags, **tags}))
        read = files.enter_context(_filtered(source, _steps(options, legend, grid), out, cluster))
        again: Callable[[np.ndarray], np.ndarray] | None = None
        if limits.any.any():
            small = SmallComponents(grid.width, limits, eight, probabilities is not None)
            for window in windows:
                probs = probabilities.read(window) if probabilities else None
                small.add(read(window), exact.areas(window), probs)
                progress.advance(window.height / 2)
            again = Relabelling(grid.width, small.finish(), limits, eight)
            result.filled, result.alone = small.filled, small.alone
        for window in windows:
            before, index = read_index(source, window), read(window)
            index = index if again is None else again(index)
            areas = exact.areas(window)
            for sums, these in ((result.before, before), (result.after, index)):
                sums += _by_class(these, areas, none, len(sums)) / exact.scale
            result.pixels += int((before != none).sum())
            result.changed_pixels += int((before != index).sum())
            writer.write(window, legend.stored(index))
            progress.advance(window.height / (1 if again is None else 2))
        writer.complete()
        style = files.enter_context(written(out.with_suffix(".qml")))
        style.write_text(paletted(legend.values, legend.names, legend.colors), encoding="utf-8")
    return result


def _each(tile: Filtered, windows: list[Window], cluster: Cluster | None) -> Iterator[np.ndarray]:
    """The filtered tiles in order, here or by the workers of a cluster."""
    if cluster is None:
        yield from map(tile, windows)
        return

    def told(w: Window) -> str:
        return f"clean, rows {w.row_off}-{w.row_end}, columns {w.col_off}-{w.col_end}"

    with (
        ThreadPoolExecutor(cluster.size(), "raremap-clean") as pool,
        cluster.team(partial(_same, tile), told) as team,
    ):
        yield from in_order(pool, team, windows, 2 * team.size)


def _same(tile: Filtered) -> Filtered:
    return tile


def _limits(exact: ExactAreas, sizes: BySize, legend: Legend) -> np.ndarray:
    """Square metres by class as whole numbers `[K]`, a little less."""
    given = [sizes.get(name, 0.0) if isinstance(sizes, dict) else sizes for name in legend.names]
    return exact.whole(np.array(given) * _ENOUGH)


def _warn_of_none_smaller(exact: ExactAreas, options: CleanOptions) -> None:
    for key, sizes in (("mmu", options.mmu), ("small", options.small or 0.0)):
        for size in set(sizes.values() if isinstance(sizes, dict) else [sizes]):
            if 0 < size <= exact.least:
                warnings.warn(
                    f"{key} {size:g} m² is at most one pixel ({exact.least:.4g} m²), and no component is smaller: it changes nothing",
                    RaremapWarning,
                    stacklevel=3,
                )


def _steps(options: CleanOptions, legend: Legend, grid: Grid) -> list[Step]:
    """The filters, with sizes in pixels as they are in the middle of the scene."""
    steps = Steps.of(grid, Window(grid.height // 2, 0, 1, 1))
    assert steps is not None, "the grid has a CRS"
    across, down = (float(np.hypot(*steps.matrix[:, i, 0, 0])) for i in (0, 1))
    made = [majority(options.majority, len(legend.names))] if options.majority > 1 else []
    for how, what, sizes in ((opening, "open", options.open), (closing, "close", options.close)):
        for name, size in sizes.items():
            element = disc(size, (down, across), f"{what} {name}")
            if element.size > 1:
                made.append(how(legend.index(name, what), element))
            elif size:
                warnings.warn(
                    f"{what} {name} of {size:g} m does nothing: it is one pixel, of {across:.3g} x {down:.3g} m",
                    RaremapWarning,
                    stacklevel=4,
                )
    return made


@contextmanager
def _filtered(source: ClassMap, steps: list[Step], out: Path, cluster: Cluster | None) -> Iterator[Index]:
    """How to read the map after the filters; they are done once, into a scratch file beside the result."""
    if not steps:
        yield lambda window: read_index(source, window)
        return
    kind, width = index_type(len(source.names)), source.grid.width
    try:
        scratch = tempfile.TemporaryFile(dir=out.parent)  # noqa: SIM115 closed below
        tile = Filtered(source, tuple(steps))
        windows = tiles(source.grid, tile.reach)
        for window, index in zip(windows, _each(tile, windows, cluster), strict=True):
            for row, line in enumerate(index, window.row_off):
                scratch.seek(kind.itemsize * (row * width + window.col_off))
                scratch.write(line.tobytes())
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}); nothing was changed") from None

    def read(window: Window) -> np.ndarray:
        scratch.seek(kind.itemsize * window.row_off * width)
        raw = np.frombuffer(scratch.read(kind.itemsize * window.height * width), kind)
        return raw.reshape(window.height, window.width)

    with scratch:
        yield read


@njit(nogil=True, cache=True)
def _by_class(index, areas, none, classes):  # pragma: no cover
    sums = np.zeros(classes)
    for y in range(index.shape[0]):
        for x in range(index.shape[1]):
            if index[y, x] != none:
                sums[index[y, x]] += areas[y, x if areas.shape[1] > 1 else 0]
    return sums
