"""Blended probabilities of a whole scene, strip by strip, in memory that does not grow with the scene.

The scene is cut into column swaths and each is gone through from top to bottom, one row of windows at a
time: a thread reads ahead, the network sees the windows, their weighted probabilities are added into a
ring of rows, and rows that no further window meets are handed on. Memory is bounded by the window's size
and the swath's width, whatever the scene's height and width. The windows' lattice and the order of the
sums are the scene's, so the values depend neither on the swaths nor on what part of the scene is wanted.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import rasterio

from raremap.jobs import Progress, Silent
from raremap.maps import blend
from raremap.maps.options import PredictOptions
from raremap.scene.raster import ImageReader
from raremap.scene.window import Window
from raremap.tiles.windows import stride

T = TypeVar("T")

THREADS = 2
_SWATH_BYTES = 160 << 20
_BATCH_PIXELS = 512 * 512
_GDAL_CACHE_MB = 64


class Network(Protocol):
    """What maps need of a model: probabilities of windows of raw pixels, of any size.

    Normalisation, padding, device and precision are its own affair.
    """

    def __call__(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Probs float32 `[B, K, h, w]` of an image `[B, C, h, w]` as stored and its validity `[B, h, w]`."""
        ...


@dataclass(frozen=True)
class Strip:
    """A finished rectangle of the scene: probs float32 `[K, h, w]` that sum to 1, and validity `[h, w]`.

    The arrays are views of buffers that are used again: copy what is kept beyond the next strip. Pixels
    that are not valid have whatever the network said there, or 0 where it was not asked.
    """

    window: Window
    probs: np.ndarray
    valid: np.ndarray


def stream(
    reader: ImageReader,
    network: Network,
    num_classes: int,
    options: PredictOptions | None = None,
    wanted: Sequence[Window] | None = None,
    progress: Progress | None = None,
) -> Iterator[Strip]:
    """Strips that cover the scene, or `wanted` only, each pixel once; swath by swath, downwards in each.

    With `wanted` only windows that meet those rectangles are computed and only what lies in them is
    handed on, in disjoint pieces; the values are those of a whole run. Windows without a valid pixel are
    not computed. `progress` advances by rows of the scene. Raises `SceneError` where reading fails.
    """
    options = options or PredictOptions()
    grid = reader.grid
    lattice = _Lattice.of(grid.height, grid.width, options)
    column_bytes = lattice.height * (4 * num_classes + 3 * (len(reader.bands) * reader.dtype.itemsize + 1))
    report = progress or Silent()
    if wanted is not None:
        wanted = [w for w in (w.intersect(grid.window) for w in wanted) if not w.empty]
    with ThreadPoolExecutor(THREADS, "raremap-blend") as pool:
        for swath in lattice.swaths(_SWATH_BYTES // column_bytes):
            share = swath.width / grid.width
            jobs = lattice.rows(swath, wanted)
            strips = _swath(reader, network, num_classes, options, lattice, swath, jobs, pool)
            shown = 0
            for strip in strips:
                report.advance((strip.window.row_end - shown) * share)
                shown = strip.window.row_end
                yield from _pieces(strip, wanted)
            report.advance((grid.height - shown) * share)


@dataclass(frozen=True)
class _Swath:
    """Columns `start` to `end` of the map, and the lattice columns `first` to `last` whose windows meet them."""

    start: int
    end: int
    first: int
    last: int

    @property
    def width(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class _Row:
    """A row of windows to compute: its index, the rows of the map that it finishes, which columns are needed."""

    index: int
    done: tuple[int, int]
    needed: tuple[bool, ...]


@dataclass(frozen=True)
class _Lattice:
    """All windows of a scene: starts and blending weights of rows and columns of windows of one size."""

    scene: Window
    row_starts: list[int]
    col_starts: list[int]
    row_weights: np.ndarray
    col_weights: np.ndarray

    @classmethod
    def of(cls, height: int, width: int, options: PredictOptions) -> _Lattice:
        step = stride(options.window, options.overlap)
        rows, row_weights = blend.axis_weights(height, options.window, step, options.blend)
        cols, col_weights = blend.axis_weights(width, options.window, step, options.blend)
        return cls(Window(0, 0, height, width), rows, cols, row_weights, col_weights)

    @property
    def height(self) -> int:
        return self.row_weights.shape[1]

    @property
    def width(self) -> int:
        return self.col_weights.shape[1]

    def window(self, row: int, col: int) -> Window:
        return Window(self.row_starts[row], self.col_starts[col], self.height, self.width)

    def swaths(self, widest: int) -> list[_Swath]:
        """Swaths whose windows span at most about `widest` columns, but no less than three windows.

        A swath ends where a window begins, so that few windows (one where the overlap is up to half) meet
        two swaths; those are computed twice.
        """
        starts, size, end = self.col_starts, self.width, self.scene.width
        widest = max(widest, 3 * size)
        if end <= widest or len(starts) == 1:
            return [_Swath(0, end, 0, len(starts) - 1)]
        step = starts[1] - starts[0]
        together = (widest - size) // step + 1  # windows in a swath
        again = -(-size // step) - 1  # of which so many were in the swath before
        count = -(-(len(starts) - again) // (together - again))
        cuts = [starts[round(i * len(starts) / count)] for i in range(1, count)]
        out = []
        for a, b in zip([0, *cuts], [*cuts, end], strict=True):
            meets = [i for i, s in enumerate(starts) if s < b and s + size > a]
            out.append(_Swath(a, b, meets[0], meets[-1]))
        return out

    def rows(self, swath: _Swath, wanted: Sequence[Window] | None) -> list[_Row]:
        """Rows of windows to compute in a swath, downwards; those that meet nothing wanted are left out."""
        here = Window(0, swath.start, self.scene.height, swath.width)
        asked = [here] if wanted is None else [w for w in (w.intersect(here) for w in wanted) if not w.empty]
        bounds = [*self.row_starts[1:], self.scene.height]
        out = []
        for i, row in enumerate(self.row_starts):
            meets = [w for w in asked if w.row_off < row + self.height and w.row_end > row]
            needed = tuple(
                any(w.col_off < self.col_starts[j] + self.width and w.col_end > self.col_starts[j] for w in meets)
                for j in range(swath.first, swath.last + 1)
            )
            if any(needed):
                out.append(_Row(i, (row, bounds[i]), needed))
        return out


def _swath(
    reader: ImageReader,
    network: Network,
    num_classes: int,
    options: PredictOptions,
    lattice: _Lattice,
    swath: _Swath,
    rows: list[_Row],
    pool: ThreadPoolExecutor,
) -> Iterator[Strip]:
    """The finished strips of one swath, downwards."""
    if not rows:
        return
    height, width = lattice.height, lattice.width
    left = lattice.col_starts[swath.first]
    across = lattice.col_starts[swath.last] + width - left
    inside = slice(swath.start - left, swath.end - left)
    ring = np.empty((num_classes, height, across), np.float32)
    batch = options.batch or max(1, _BATCH_PIXELS // (height * width))
    below = 0  # first row that no window has met yet
    for row, image, valid in _ahead(_read(reader, lattice, swath, rows)):
        top = lattice.row_starts[row.index]
        old_rows = max(0, below - top)
        below = top + height
        weights = lattice.row_weights[row.index]
        beyond = 0  # first column that no window of this row has met yet
        todo: list[tuple[int, int]] = []  # columns, and how many of each are met before

        def flush(todo: list[tuple[int, int]]) -> None:
            probs = _ask(network, image, valid, [col for col, _ in todo], width, num_classes)
            for (col, old_cols), one in zip(todo, probs, strict=True):
                j = lattice.col_starts.index(col + left)
                _spread(
                    pool, height,
                    lambda a, b: blend.add(
                        ring, one, weights, lattice.col_weights[j], top, col, old_rows, old_cols, a, b
                    ),
                )  # fmt: skip
            todo.clear()

        for j, needed in enumerate(row.needed, swath.first):
            col = lattice.col_starts[j] - left
            old_cols = max(0, beyond - col)
            beyond = col + width
            # A window that is skipped is missing from the sums of its pixels only, and none of them is
            # valid; so the weights of every valid pixel still sum to 1.
            if needed and valid[:, col : col + width].any():
                todo.append((col, old_cols))
                if len(todo) == batch:
                    flush(todo)
            else:
                flush_before = bool(todo)
                if flush_before:
                    flush(todo)
                blend.clear(ring, top, col, height, width, old_rows, old_cols)
        if todo:
            flush(todo)
        start, end = row.done
        while start < end:
            y = start % height
            stop = min(end, start + height - y)
            yield Strip(
                Window(start, swath.start, stop - start, swath.width),
                ring[:, y : y + stop - start, inside],
                valid[start - top : stop - top, inside],
            )
            start = stop
