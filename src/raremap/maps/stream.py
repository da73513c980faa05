"""Blended probabilities of a whole scene, strip by strip, in memory that does not grow with the scene.

The map is made in column swaths, each from top to bottom, one row of windows at a time: a thread reads
ahead, the network sees the windows, their weighted probabilities are added into a ring of rows, and the
rows that no further window meets are handed on. Memory is bounded by the window's size and the swath's
width, whatever the scene's height and width; values depend on neither (see `lattice`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from raremap.errors import BundleError
from raremap.jobs import Progress, Silent
from raremap.maps import blend
from raremap.maps.ahead import ahead
from raremap.maps.lattice import Lattice, Row, Swath, pieces
from raremap.maps.options import PredictOptions
from raremap.scene.raster import ImageReader, bounded_cache
from raremap.scene.window import Window

THREADS = 2
"""Threads that blend and decide; the network has its own."""

_SWATH_BYTES = 160 << 20
_BATCH_PIXELS = 512 * 512
_ALONE = 1 << 19  # numbers that one thread adds sooner than two can be woken


class Network(Protocol):
    """What maps need of a model: probabilities of windows of raw pixels, of any size.

    Normalisation, padding, device and precision are its own affair. It is called from one thread.
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
) -> Generator[Strip]:
    """Strips that cover the scene, or `wanted` only, each pixel once; swath by swath, downwards in each.

    With `wanted` only windows that meet those rectangles are computed and only what lies in them is
    handed on, in disjoint pieces; the values are those of a whole run. Windows without a valid pixel are
    not computed. `progress` advances by as many rows as the scene has. Raises `SceneError` where reading
    fails, `BundleError` where the network does not give what it should.
    """
    options = options or PredictOptions()
    report = progress or Silent()
    grid = reader.grid
    lattice = Lattice.of(grid.height, grid.width, options)
    if wanted is not None:
        wanted = [w for w in (w.intersect(grid.window) for w in wanted) if not w.empty]
    pixel_bytes = 4 * num_classes + 3 * (len(reader.bands) * reader.dtype.itemsize + 1)
    swaths = lattice.swaths(_SWATH_BYTES // (pixel_bytes * lattice.height), wanted)
    with ThreadPoolExecutor(THREADS, "raremap-blend") as pool:
        for swath in swaths:
            share = swath.width / sum(s.width for s in swaths)
            shown = 0
            ring = _Ring(lattice, swath, num_classes, pool)
            for strip in _strips(reader, network, ring, options, lattice.rows(swath, wanted)):
                for piece in [strip.window] if wanted is None else pieces(strip.window, wanted):
                    rows, cols = piece.slices(strip.window)
                    yield Strip(piece, strip.probs[:, rows, cols], strip.valid[rows, cols])
                report.advance((strip.window.row_end - shown) * share)
                shown = strip.window.row_end
            report.advance((grid.height - shown) * share)


def _strips(
    reader: ImageReader, network: Network, ring: _Ring, options: PredictOptions, rows: list[Row]
) -> Iterator[Strip]:
    """The finished strips of one swath, downwards."""
    width = ring.lattice.width
    batch = options.batch or max(1, _BATCH_PIXELS // (width * ring.lattice.height))
    for row, image, valid in ahead(_read(reader, ring, rows)):
        ring.begin(row.index)
        todo: list[int] = []
        for col, needed in enumerate(row.needed, ring.swath.first):
            # A window that is skipped is missing from the sums of its pixels only, and none of them is
            # valid or wanted; so the weights of every pixel that counts still sum to 1.
            here = ring.columns(col)
            if needed and valid[:, here].any():
                todo.append(col)
            else:
                _compute(network, ring, image, valid, todo)
                ring.skip(col)
            if len(todo) == batch:
                _compute(network, ring, image, valid, todo)
        _compute(network, ring, image, valid, todo)
        yield from ring.finished(row, valid)


def _compute(network: Network, ring: _Ring, image: np.ndarray, valid: np.ndarray, todo: list[int]) -> None:
    """Ask the network for the windows of lattice columns `todo`, add them, and empty the list."""
    if not todo:
        return
    images = np.stack([image[:, :, ring.columns(col)] for col in todo])
    valids = np.stack([valid[:, ring.columns(col)] for col in todo])
    probs = network(images, valids)
    expected = (len(todo), len(ring.probs), *valids.shape[1:])
    if probs.shape != expected:
        raise BundleError(
            f"the network gives probabilities of shape {probs.shape}, expected {expected} "
            "(windows, classes, rows, columns); its labels must name as many classes as it has"
        )
    if np.isnan(probs[:, 0]).any() and np.isnan(probs[:, 0][valids]).any():
        raise BundleError(
            f"the network gives NaN for valid pixels of {ring.where(todo[0])}; "
            "check the scene's values there and the bundle's normalisation"
        )
    for col, one in zip(todo, np.asarray(probs, np.float32), strict=True):
        ring.add(col, one)
    todo.clear()


def _read(reader: ImageReader, ring: _Ring, rows: list[Row]) -> Iterator[tuple[Row, np.ndarray, np.ndarray]]:
    """Image `[C, h, w]` and validity of each row of windows; rows that two of them share are read once."""
    lattice = ring.lattice
    image = np.empty((len(reader.bands), 0, ring.across), reader.dtype)
    valid = np.empty((0, ring.across), bool)
    below = 0
    with bounded_cache():
        for row in rows:
            top = lattice.row_starts[row.index]
            kept = max(0, below - top)
            fresh = np.empty((len(reader.bands), lattice.height, ring.across), reader.dtype)
            usable = np.empty((lattice.height, ring.across), bool)
            if kept:
                fresh[:, :kept], usable[:kept] = image[:, -kept:], valid[-kept:]
            part = Window(top + kept, ring.left, lattice.height - kept, ring.across)
            usable[kept:] = reader.read(part, out=fresh[:, kept:])[1]
            image, valid, below = fresh, usable, top + lattice.height
            yield row, image, valid


class _Ring:
    """The rows of a swath that are not final yet, `probs` `[K, window height, columns]`; row r lies at r modulo height."""

    def __init__(self, lattice: Lattice, swath: Swath, num_classes: int, pool: ThreadPoolExecutor) -> None:
        self.lattice, self.swath = lattice, swath
        self.left = lattice.col_starts[swath.first]
        self.across = lattice.col_starts[swath.last] + lattice.width - self.left
        self.probs = np.empty((num_classes, lattice.height, self.across), np.float32)
        self._pool = pool
        self._row = self._top = self._old_rows = self._below = self._beyond = 0

    def columns(self, col: int) -> slice:
        """Where the window of a lattice column lies in the swath's buffers."""
        start = self.lattice.col_starts[col] - self.left
        return slice(start, start + self.lattice.width)

    def where(self, col: int) -> str:
        """The window of a lattice column, in words."""
        top, left = self._top, self.lattice.col_starts[col]
        return f"rows {top}-{top + self.lattice.height}, columns {left}-{left + self.lattice.width}"

    def begin(self, row: int) -> None:
        """Start a row of windows; its columns must all follow, in order, by `add` or `skip`."""
        self._row, self._top = row, self.lattice.row_starts[row]
        self._old_rows = max(0, self._below - self._top)
        self._below = self._top + self.lattice.height
        self._beyond = 0

    def _old_columns(self, start: int) -> int:
        old = max(0, self._beyond - start)
        self._beyond = start + self.lattice.width
        return old

    def skip(self, col: int) -> None:
        """Leave a window out."""
        start = self.columns(col).start
        old_cols = self._old_columns(start)
        blend.clear(
            self.probs, self._top, start, self.lattice.height, self.lattice.width, self._old_rows, old_cols
        )

    def add(self, col: int, probs: np.ndarray) -> None:
        """Add a window's probabilities `[K, h, w]` by its weights."""
        start = self.columns(col).start
        old_cols = self._old_columns(start)
        row_weights, col_weights = self.lattice.row_weights[self._row], self.lattice.col_weights[col]

        def part(first: int, last: int) -> None:
            blend.add(
                self.probs, probs, row_weights, col_weights, self._top, start, self._old_rows, old_cols,
                first, last,
            )  # fmt: skip

        spread(self._pool, part, self.lattice.height, probs.size)

    def finished(self, row: Row, valid: np.ndarray) -> Iterator[Strip]:
        """The rows that are final after this row of windows, in one strip, or two where the ring wraps."""
        cols = slice(self.swath.start - self.left, self.swath.end - self.left)
        start, end = row.done
        while start < end:
            at = start % self.lattice.height
            stop = min(end, start + self.lattice.height - at)
            yield Strip(
                Window(start, self.swath.start, stop - start, self.swath.width),
                self.probs[:, at : at + stop - start, cols],
                valid[start - self._top : stop - self._top, cols],
            )
            start = stop


def spread(pool: ThreadPoolExecutor, part: Callable[[int, int], object], rows: int, work: int) -> None:
    """Call `part(first, last)` for shares of the rows in several threads, or at once where there is little work."""
    if work < _ALONE or rows < THREADS:
        part(0, rows)
        return
    cuts = [rows * i // THREADS for i in range(THREADS + 1)]
    for done in [pool.submit(part, a, b) for a, b in pairwise(cuts)]:
        done.result()
