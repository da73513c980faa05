"""Counting: what every tile holds, from one pass over the scenes in strips, whatever the tiles overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numba
import numpy as np

from raremap.jobs import Journal, Progress, in_threads
from raremap.labels import IGNORE, LabelScheme
from raremap.scene.gdal import bounded_cache, modified
from raremap.scene.raster import ImageReader
from raremap.scene.shares import STEPS
from raremap.scene.window import Window
from raremap.tiles.catalog import SceneRecord
from raremap.tiles.options import TileOptions
from raremap.tiles.windows import tile_windows

if TYPE_CHECKING:
    from raremap.cluster import Cluster

_VERSION = 1
# Rows of a strip (more where the file's blocks are higher), and pixels of a scene held at a time by a thread.
_ROWS = 512
_BYTES = 48 << 20
# What is counted beside the classes: usable pixels, those of them under cloud and under snow, and the labels
# under cloud.
_VALID, _CLOUD, _SNOW, _UNDER = range(4)
_MORE = 4


@dataclass(frozen=True)
class Counted:
    """Windows of a scene's tiles, `counts [n, K]` of clear labelled pixels, and other pixels by tile, `[n]`.

    A labelled pixel is `steps` steps: those of shares of classes, or one.
    """

    windows: np.ndarray
    totals: np.ndarray
    steps: int = 1

    @property
    def counts(self) -> np.ndarray:
        """Clear, valid, labelled pixels by class, or areas in pixels."""
        steps = self.totals[:, :-_MORE]
        return steps if self.steps == 1 else steps / self.steps

    @property
    def area(self) -> np.ndarray:
        """All pixels."""
        return self.windows[:, 2] * self.windows[:, 3]

    @property
    def valid(self) -> np.ndarray:
        """Usable pixels."""
        return self.totals[:, _VALID - _MORE]

    @property
    def cloud(self) -> np.ndarray:
        """Usable pixels under cloud."""
        return self.totals[:, _CLOUD - _MORE]

    @property
    def snow(self) -> np.ndarray:
        """Usable pixels with snow."""
        return self.totals[:, _SNOW - _MORE]

    @property
    def under(self) -> np.ndarray:
        """Labelled pixels under cloud."""
        return self.totals[:, _UNDER - _MORE]


@dataclass(frozen=True)
class _Scene:
    name: str
    record: SceneRecord
    scheme: LabelScheme
    tiles: TileOptions

    @cached_property
    def windows(self) -> np.ndarray:
        grid = self.record.grid
        return np.array(tile_windows(grid.height, grid.width, self.tiles), np.int64)

    @cached_property
    def key(self) -> str:
        """A checksum of all that the counts follow from."""
        r = self.record
        stamps = [modified(p) for p in r.files]
        said = (
            _VERSION, r.fingerprint, r.files, stamps, r.names, r.bands, r.nodata, r.vector, r.weights, r.clouds,
            self.scheme, self.tiles.sizes, self.tiles.steps,
        )  # fmt: skip
        return hashlib.sha256(repr(said).encode()).hexdigest()[:24]

    def parts(self) -> list[_Part]:
        """Strips of whole blocks; one part for a file that can only be read from the top down."""
        height = self.record.grid.height
        if height <= _ROWS:
            return [_Part(self, 0, height)]
        with self.record.open_image() as image:
            rows = -(-_ROWS // image.block[0]) * image.block[0]
            if image.sequential:
                return [_Part(self, 0, height)]
        return [_Part(self, top, min(top + rows, height)) for top in range(0, height, rows)]


@dataclass(frozen=True)
class _Part:
    scene: _Scene
    top: int
    bottom: int

    def __str__(self) -> str:
        return f"scene {self.scene.name}, rows {self.top}-{self.bottom}"

    @property
    def key(self) -> str:
        return f"{self.scene.key}:{self.top}:{self.bottom}"

    @cached_property
    def met(self) -> np.ndarray:
        """The tiles that have rows in it."""
        w = self.scene.windows
        return np.flatnonzero((w[:, 0] < self.bottom) & (w[:, 0] + w[:, 2] > self.top))


def count(
    records: dict[str, SceneRecord],
    scheme: LabelScheme,
    tiles: TileOptions,
    journal: Journal,
    threads: int,
    bar: Progress,
    cluster: Cluster | None = None,
) -> Iterator[tuple[str, Counted]]:
    """Every scene's tiles with what they hold, in the order of `records`.

    Every block of the files is read once. Strips of scenes are counted in `threads` at a time and kept in the
    journal, so that a stopped count goes on; with a `cluster` its workers count them. Reports a unit for each scene. Raises `SceneError`, `LabelError`.
    """
    order = list(records)
    scenes = {name: _Scene(name, record, scheme, tiles) for name, record in records.items()}
    k = scheme.num_classes + _MORE
    totals: dict[str, np.ndarray] = {}
    left: dict[str, int] = {}
    ready: dict[str, Counted] = {}

    def parts() -> Iterator[_Part]:
        for name, scene in scenes.items():
            cut = scene.parts()
            left[name], totals[name] = len(cut), np.zeros((len(scene.windows), k), np.int64)
            yield from cut

    def result(part: _Part) -> np.ndarray:
        kept = journal.get(part.key)
        if kept is not None and len(kept) == len(part.met) * k * 8:
            return np.frombuffer(kept, np.int64).reshape(-1, k)
        return counted(part)

    with ExitStack() as stack:
        counted: Callable[[_Part], np.ndarray] = _count_part
        stop: Callable[[], None] | None = None
        if cluster is None:
            stack.enter_context(bounded_cache(128))
        else:
            team = stack.enter_context(cluster.team(_Counter))
            counted, threads, stop = team, team.size, team.close
        for part, found in in_threads(parts(), result, threads, stop):
            name = part.scene.name
            if journal.get(part.key) is None:
                journal.put(part.key, found.tobytes())
            whole = totals[name]
            whole[part.met] += found
            bar.advance((part.bottom - part.top) / part.scene.record.grid.height)
            left[name] -= 1
            if left[name] == 0:
                steps = STEPS if part.scene.record.fractions else 1
                ready[name] = Counted(part.scene.windows, totals.pop(name), steps)
            while order and order[0] in ready:
                yield order[0], ready.pop(order.pop(0))


class _Counter:
    """`_count_part` as a worker of a cluster does it."""

    def __call__(self, part: _Part) -> np.ndarray:
        with bounded_cache(128):
            return _count_part(part)


def _count_part(part: _Part) -> np.ndarray:
    """What the tiles that meet a part hold in it, int64 `[n, K + 4]`."""
    scene, windows = part.scene, part.scene.windows[part.met]
    record, k = scene.record, scene.scheme.num_classes
    tops, lefts = windows[:, 0], windows[:, 1]
    bottoms, rights = tops + windows[:, 2], lefts + windows[:, 3]
    # Between neighbouring edges of tiles every pixel is in the same tiles: cells are counted, then summed.
    edges = [
        np.unique(np.clip(np.concatenate([[a, b], starts, ends]), a, b))
        for a, b, starts, ends in (
            (part.top, part.bottom, tops, bottoms),
            (0, record.grid.width, lefts, rights),
        )
    ]
    cells = np.zeros((len(edges[0]) - 1, len(edges[1]) - 1, k + _MORE), np.int64)
    clouds = record.open_clouds()
    with record.open_image() as image, record.open_mask(scene.scheme) as mask:
        for window in _pieces(image, part, 6 * k if mask.soft else 0):
            valid = image.read_valid(window)
            index = mask.read(window)
            shares = mask.shares(window) if mask.soft else _HARD
            cloud, snow = clouds.read(window) if clouds is not None else (_NONE, _NONE)
            rows, cols = (
                np.searchsorted(e, np.arange(start, start + size), side="right") - 1
                for e, start, size in zip(edges, window[:2], window[2:], strict=True)
            )
            _add(index, shares, valid, cloud, snow, rows, cols, k, cells)
    if clouds is not None:
        clouds.close()
    sums = np.zeros((cells.shape[0] + 1, cells.shape[1] + 1, k + _MORE), np.int64)
    sums[1:, 1:] = cells.cumsum(0).cumsum(1)
    r0, r1 = (np.searchsorted(edges[0], np.clip(v, part.top, part.bottom)) for v in (tops, bottoms))
    c0, c1 = (np.searchsorted(edges[1], v) for v in (lefts, rights))
    return sums[r1, c1] - sums[r0, c1] - sums[r1, c0] + sums[r0, c0]


_NONE = np.zeros((0, 0), bool)
_HARD = np.zeros((0, 0, 0), np.uint8)
_HARD.setflags(write=False)  # as shares are: one compiled kernel serves both


def _pieces(image: ImageReader, part: _Part, more: int = 0) -> Iterator[Window]:
    """Windows of whole blocks that cover a part, from the top down, of a bounded number of bytes.

    `more` are bytes a pixel beside the image's and a mask's.
    """
    height, width = part.bottom - part.top, image.grid.width
    block_h, block_w = image.block
    pixel = len(image.bands) * image.dtype.itemsize + 4 + more
    rows = min(height, -(-_ROWS // block_h) * block_h)
    if rows * block_w * pixel > _BYTES:
        rows = min(rows, max(1, _BYTES // (block_w * pixel * block_h)) * block_h)
    cols = max(1, _BYTES // (rows * block_w * pixel)) * block_w
    for top in range(part.top, part.bottom, rows):
        for left in range(0, width, cols):
            yield Window(top, left, min(rows, part.bottom - top), min(cols, width - left))


@numba.njit(cache=True, nogil=True)
def _add(index, shares, valid, cloud, snow, rows, cols, k, cells):  # pragma: no cover
    """Count the pixels of a piece into the cells that its rows and columns belong to."""
    known = cloud.size > 0
    for r in range(index.shape[0]):
        i = rows[r]
        for c in range(index.shape[1]):
            if not valid[r, c]:
                continue
            j = cols[c]
            cells[i, j, k + _VALID] += 1
            label = index[r, c]
            if known and cloud[r, c]:
                cells[i, j, k + _CLOUD] += 1
                if label != IGNORE:
                    cells[i, j, k + _UNDER] += 1
            elif label != IGNORE and shares.size == 0:
                cells[i, j, label] += 1
            elif label != IGNORE:
                for one in range(k):
                    cells[i, j, one] += shares[one, r, c]
            if known and snow[r, c]:
                cells[i, j, k + _SNOW] += 1


def reasons(found: Counted, tiles: TileOptions, only: Sequence[int]) -> dict[str, np.ndarray]:
    """Which tiles are left out, bool `[n]`, by reason; each tile has the first that applies. `only`: class indices
    of `tiles.drop_only`."""
    labelled = found.counts.sum(1)
    others = np.delete(found.counts, list(only), axis=1).sum(1)
    limit = 1.0 if tiles.max_cloud is None else tiles.max_cloud
    tests = {
        "no valid pixel": found.valid == 0,
        "too few valid pixels": found.valid < tiles.min_valid * found.area,
        "no labelled pixel": labelled + found.under == 0,
        "too much cloud": found.cloud > limit * found.valid,
        "every labelled pixel is clouded": labelled == 0,
        f"nothing but {' and '.join(tiles.drop_only)}": (others == 0)
        if only
        else np.zeros(len(labelled), bool),
    }
    left = np.ones(len(labelled), bool)
    out = {}
    for reason, test in tests.items():
        out[reason] = left & test
        left &= ~test
    return out
