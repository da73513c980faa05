"""Blended probabilities of a whole scene, strip by strip, in memory that does not grow with the scene.

The map is made in column swaths, each from top to bottom, one row of windows at a time: a thread reads
ahead, the network sees the windows, their weighted probabilities are added into a ring of rows, and the
rows that no further window meets are handed on. Memory is bounded by the window's size and the swath's
width, whatever the scene's height and width; values depend on neither (see `lattice`).

Ground without data costs next to nothing: what a sparse file does not hold is not read, windows without a valid
pixel are not computed, and rows of them are neither blended nor decided.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from raremap.errors import BundleError
from raremap.jobs import Progress, Silent
from raremap.maps import blend
from raremap.maps.ahead import ahead
from raremap.maps.lanes import share_by_room
from raremap.maps.lattice import Lattice, Row, Swath, pieces
from raremap.maps.options import PredictOptions
from raremap.scene.gdal import bounded_cache
from raremap.scene.raster import Image
from raremap.scene.window import Window

_SWATH_BYTES = 112 << 20
_BATCH_PIXELS = 512 * 512
_DEVICE_PIXELS = 16 * _BATCH_PIXELS  # more keep no device busier, and what they say has to lie here


class Network(Protocol):
    """What maps need of a model: probabilities of windows of raw pixels, of any size.

    Normalisation, padding, device and precision are its own affair. It is called from one thread, not the
    caller's, unless it has `lanes`.
    """

    def __call__(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Probs float32 `[B, K, h, w]` of an image `[B, C, h, w]` as stored and its validity `[B, h, w]`."""
        ...


@runtime_checkable
class LanedNetwork(Protocol):
    """A network that is faster when several threads ask it at once.

    `lanes` is how many threads; each calls `enter_lane` before its first window.
    """

    lanes: int

    def enter_lane(self) -> None:
        """Prepare the thread that calls it."""
        ...

    def __call__(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """As `Network` says."""
        ...


@runtime_checkable
class RoomyNetwork(Protocol):
    """A network on a device with memory of its own, which may have room for many windows at once."""

    def at_once(self, ask: Callable[[int], object], most: int) -> int | None:
        """How many windows, `most` at the most, it should be asked at once; `ask` asks it so many.

        None where that follows from their size alone.
        """
        ...


@dataclass(frozen=True)
class Strip:
    """A finished rectangle of the scene: probs float32 `[K, h, w]` that sum to 1, and validity `[h, w]`.

    The arrays are views of buffers that are used again: copy what is kept beyond the next strip. Pixels
    that are not valid have whatever the network said there, or 0 where it was not asked. In a `blank` strip
    no pixel is valid, and all classes are alike.
    """

    window: Window
    probs: np.ndarray
    valid: np.ndarray
    blank: bool = False


def stream(
    reader: Image,
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
    swaths = _swaths(reader, num_classes, lattice, wanted)
    batch = batch_of(reader, options, network)
    if len(lattice.row_starts) * len(lattice.col_starts) > batch:
        size = (batch, *_window_size(reader, options))
        share_by_room(network, lambda: _made_up(reader, network, *size), size)
    lanes, prepare = (network.lanes, network.enter_lane) if isinstance(network, LanedNetwork) else (1, None)
    with ThreadPoolExecutor(lanes, "raremap-network", initializer=prepare) as pool:
        for swath in swaths:
            share = swath.width / sum(s.width for s in swaths)
            shown = 0
            ring = _Ring(lattice, swath, num_classes)
            with (
                closing(ahead(_read(reader, ring, lattice.rows(swath, wanted)))) as rows,
                closing(_asked(_jobs(rows, ring, batch), network, num_classes, pool, lanes)) as answers,
                closing(_strips(answers, ring)) as strips,
            ):
                for strip in strips:
                    window = strip.window
                    for piece in [window] if wanted is None else pieces(window, wanted):
                        inside = piece.slices(window)
                        yield Strip(piece, strip.probs[:, *inside], strip.valid[inside], strip.blank)
                    report.advance((window.row_end - shown) * share)
                    shown = window.row_end
                    del strip
            report.advance((grid.height - shown) * share)
            del ring, rows, answers, strips  # or two swaths would be in memory at once


def batch_of(reader: Image, options: PredictOptions, network: Network | None = None) -> int:
    """How many windows of the scene a network is asked at once: `options.batch`, or what its device has room for.

    As many as make 512² pixels where it has no device of its own.
    """
    if options.batch:
        return options.batch
    size = _window_size(reader, options)
    usual = max(1, _BATCH_PIXELS // (size[0] * size[1]))
    if not isinstance(network, RoomyNetwork):
        return usual

    def ask(count: int) -> None:
        _made_up(reader, network, count, *size)

    return network.at_once(ask, max(1, _DEVICE_PIXELS // (size[0] * size[1]))) or usual


def _window_size(reader: Image, options: PredictOptions) -> tuple[int, int]:
    """Rows and columns of a window of the scene."""
    return min(reader.grid.height, options.window), min(reader.grid.width, options.window)


def _made_up(reader: Image, network: Network, count: int, height: int, width: int) -> None:
    """Ask a network of windows that are not valid, so that they settle nothing about its precision."""
    size = (height, width)
    network(np.zeros((count, len(reader.bands), *size), reader.dtype), np.zeros((count, *size), bool))


def parts_of(reader: Image, num_classes: int, options: PredictOptions, rows: int) -> list[Window]:
    """Rectangles that cover the scene, each of about `rows` rows of windows of a swath.

    Each of them `wanted` by itself, on the same kind of processor, has the values of a whole run to the last
    bit: the same windows come to the network in the same batches, and are added in the same order.
    """
    lattice = Lattice.of(reader.grid.height, reader.grid.width, options)
    swaths = _swaths(reader, num_classes, lattice, None)
    return [part for swath in swaths for part in lattice.parts(swath, rows)]


def _swaths(
    reader: Image, num_classes: int, lattice: Lattice, wanted: Sequence[Window] | None
) -> list[Swath]:
    """Swaths whose buffers have room in memory."""
    pixel_bytes = 4 * num_classes + 3 * (len(reader.bands) * reader.dtype.itemsize + 1)
    return lattice.swaths(_SWATH_BYTES // (pixel_bytes * lattice.height), wanted)


@dataclass(frozen=True)
class _Job:
    """Neighbouring windows of a row: lattice columns with whether the network is asked, and what it is asked.

    `valid` is the whole row's, None where it holds no valid pixel and has no windows to ask; `first` and `last`
    say whether the row begins or ends here.
    """

    row: Row
    place: str
    valid: np.ndarray | None
    first: bool
    last: bool
    steps: list[tuple[int, bool]]
    images: np.ndarray
    valids: np.ndarray


def _jobs(rows: Iterator[_Read], ring: _Ring, batch: int) -> Iterator[_Job]:
    """All windows of a swath in the lattice's order, `batch` to be asked at a time."""
    nothing = np.empty((1, 1, 0, 0))
    for row, image, valid in rows:
        if image is None or valid is None:
            yield _Job(row, "", None, True, True, [], nothing, nothing[0])
            continue
        steps: list[tuple[int, bool]] = []
        first = True
        for col, needed in enumerate(row.needed, ring.swath.first):
            # A window that is skipped is missing from the sums of its pixels only, and none of them is
            # valid or wanted; so the weights of every pixel that counts still sum to 1.
            steps.append((col, needed and bool(valid[:, ring.columns(col)].any())))
            last = col == ring.swath.last
            asked = [ring.columns(col) for col, ask in steps if ask]
            if len(asked) == batch or last:
                images = np.stack([image[:, :, c] for c in asked]) if asked else image[None, :, :0, :0]
                valids = np.stack([valid[:, c] for c in asked]) if asked else valid[None, :0, :0]
                yield _Job(row, ring.place(row, steps), valid, first, last, steps, images, valids)
                steps, first = [], False


def _asked(
    jobs: Iterator[_Job], network: Network, num_classes: int, pool: ThreadPoolExecutor, lanes: int
) -> Generator[tuple[_Job, np.ndarray]]:
    """Each job with its probabilities, in order; the threads are kept busy across the rows."""
    waiting: deque[tuple[_Job, Future[np.ndarray]]] = deque()
    try:
        for job in jobs:
            waiting.append((job, pool.submit(_ask, network, job, num_classes)))
            if len(waiting) > lanes:
                job, answer = waiting.popleft()
                yield job, answer.result()
        while waiting:
            job, answer = waiting.popleft()
            yield job, answer.result()
    finally:
        for _, answer in waiting:
            answer.cancel()


def _ask(network: Network, job: _Job, num_classes: int) -> np.ndarray:
    """Probabilities float32 of a job's windows, looked at."""
    expected = (len(job.images), num_classes, *job.valids.shape[1:])
    if not job.valids.size:
        return np.empty((0, num_classes, 0, 0), np.float32)
    probs = network(job.images, job.valids)
    if probs.shape != expected:
        raise BundleError(
            f"the network gives probabilities of shape {probs.shape}, expected {expected} "
            "(windows, classes, rows, columns); its labels must name as many classes as it has"
        )
    if np.isnan(probs[:, 0]).any() and np.isnan(probs[:, 0][job.valids]).any():
        raise BundleError(
            f"the network gives NaN for valid pixels of {job.place}; "
            "check the scene's values there and the bundle's normalisation"
        )
    return np.asarray(probs, np.float32)


def _strips(answers: Iterator[tuple[_Job, np.ndarray]], ring: _Ring) -> Generator[Strip]:
    """The finished strips of one swath, downwards."""
    for job, probs in answers:
        if job.valid is None:
            yield ring.left_out(job.row)
            continue
        if job.first:
            ring.begin(job.row.index)
        each = iter(probs)
        for col, asked in job.steps:
            ring.add(col, next(each) if asked else None)
        if job.last:
            yield from ring.finished(job.row, job.valid)


# A row of windows, its image `[C, h, w]` and its validity; None where no pixel of it is valid.
_Read = tuple[Row, np.ndarray | None, np.ndarray | None]


def _read(reader: Image, ring: _Ring, rows: list[Row]) -> Iterator[_Read]:
    """The image of each row of windows; rows that two of them share are read once, what the file lacks not at all."""
    lattice = ring.lattice
    image = np.zeros((len(reader.bands), lattice.height, ring.across), reader.dtype)
    valid = np.zeros((lattice.height, ring.across), bool)
    some = False  # whether anything of them is valid
    below = 0
    with bounded_cache():
        for row in rows:
            top = lattice.row_starts[row.index]
            kept = max(0, below - top)
            part = Window(top + kept, ring.left, lattice.height - kept, ring.across)
            below = top + lattice.height
            held = _held(reader, part, ring)
            some = some and bool(valid[valid.shape[0] - kept :].any())
            if not held and not some:
                yield row, None, None
                continue
            make = np.empty if held == [slice(0, ring.across)] and (some or not kept) else np.zeros
            fresh = make(image.shape, image.dtype)
            usable = make(valid.shape, bool)
            if some:
                fresh[:, :kept], usable[:kept] = image[:, -kept:], valid[-kept:]
            for cols in held:
                piece = Window(part.row_off, ring.left + cols.start, part.height, cols.stop - cols.start)
                usable[kept:, cols] = reader.read(piece, out=fresh[:, kept:, cols])[1]
            image, valid, some = fresh, usable, bool(usable.any())
            yield (row, image, valid) if some else (row, None, None)


def _held(reader: Image, part: Window, ring: _Ring) -> list[slice]:
    """Columns of the swath's buffers whose windows the scene may hold something of, in `part`; joined where they meet."""
    out: list[slice] = []
    for col in range(ring.swath.first, ring.swath.last + 1):
        cols = ring.columns(col)
        if reader.blank(Window(part.row_off, ring.left + cols.start, part.height, cols.stop - cols.start)):
            continue
        if out and cols.start <= out[-1].stop:
            cols = slice(out.pop().start, cols.stop)
        out.append(cols)
    return out


class _Ring:
    """The rows of a swath that are not final yet, `probs` `[K, window height, columns]`; row r lies at r modulo height."""

    def __init__(self, lattice: Lattice, swath: Swath, num_classes: int) -> None:
        self.lattice, self.swath = lattice, swath
        self.left = lattice.col_starts[swath.first]
        self.across = lattice.col_starts[swath.last] + lattice.width - self.left
        self.probs = np.empty((num_classes, lattice.height, self.across), np.float32)
        self._row = self._top = self._old_rows = self._below = self._beyond = 0

    def columns(self, col: int) -> slice:
        """Where the window of a lattice column lies in the swath's buffers."""
        start = self.lattice.col_starts[col] - self.left
        return slice(start, start + self.lattice.width)

    def place(self, row: Row, steps: list[tuple[int, bool]]) -> str:
        """Where neighbouring windows of a row lie, in words."""
        top, lattice = row.done[0], self.lattice
        left, right = lattice.col_starts[steps[0][0]], lattice.col_starts[steps[-1][0]] + lattice.width
        return f"rows {top}-{top + lattice.height}, columns {left}-{right}"

    def begin(self, row: int) -> None:
        """Start a row of windows; its columns must all follow by `add`, in order."""
        self._row, self._top = row, self.lattice.row_starts[row]
        self._old_rows = max(0, self._below - self._top)
        self._below = self._top + self.lattice.height
        self._beyond = 0

    def add(self, col: int, probs: np.ndarray | None) -> None:
        """Add a window's probabilities `[K, h, w]` by its weights; None leaves the window out."""
        start, height, width = self.columns(col).start, self.lattice.height, self.lattice.width
        old_cols = max(0, self._beyond - start)
        self._beyond = start + width
        if probs is None:
            blend.clear(self.probs, self._top, start, height, width, self._old_rows, old_cols)
            return
        row_weights, col_weights = self.lattice.row_weights[self._row], self.lattice.col_weights[col]
        blend.add(self.probs, probs, row_weights, col_weights, self._top, start, self._old_rows, old_cols)

    def left_out(self, row: Row) -> Strip:
        """The strip that is final after a row of windows of which none is asked.

        Its rows need no clearing: those that no window was added to are set by the next that is.
        """
        start, end = row.done
        window = Window(start, self.swath.start, end - start, self.swath.width)
        shape = (window.height, window.width)
        classes = len(self.probs)
        alike = np.broadcast_to(np.float32(1 / classes), (classes, *shape))
        return Strip(window, alike, np.broadcast_to(False, shape), blank=True)

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
