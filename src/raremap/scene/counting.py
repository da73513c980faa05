"""Counting the classes of fine pixels in each cell of a window, piece by piece as they are read.

Classes get numbers in the order in which a window meets them, so that nothing need be known beforehand and a
window's arrays are no wider than its own classes. The kernels release the interpreter's lock.

`h w` cells of the window, `k` room for classes. Labels are patches: what is counted are runs of equal pixels along
a row, and a run adds to all the cells it fills in one sweep.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numba
import numpy as np

UNSEEN, UNLABELLED = -1, -2
_VALUES = 1 << 16  # values are looked up by their lowest 16 bits


@dataclass
class Counts:
    """What a window has counted: ground of each class in pixels `[h, k, w]`; and by cell the class that leads.

    `best` `[h, w]` is the class that first reached the largest count, which is `lead`.

    Where counts are weighted, `cover` `[h, w]` and `ground` `[h, k]` are the labelled ground as it is, by cell
    and by row and class, in pixels; else they are empty.
    `values` are the source values of the classes met, in the order of their numbers.
    """

    classes: np.ndarray
    best: np.ndarray
    lead: np.ndarray
    cover: np.ndarray
    ground: np.ndarray
    lookup: np.ndarray
    found: np.ndarray  # source values of the class numbers; the last entry is how many there are
    full: bool = field(default=False)

    @property
    def weighted(self) -> bool:
        """Whether the counts are not of plain ground."""
        return self.cover.size > 0

    @property
    def by_row(self) -> np.ndarray:
        """Labelled ground by row of cells and class, float64 `[h, classes met]`, in pixels."""
        n = len(self.values)
        return self.ground[:, :n] if self.weighted else _by_row(self.classes, n)

    @property
    def covered(self) -> np.ndarray:
        """Labelled ground of each cell in pixels `[h, w]`."""
        return self.cover if self.weighted else self.classes.sum(1)

    @property
    def values(self) -> np.ndarray:
        """Source value of each class number met."""
        return self.found[: self.found[-1]]


def empty_counts(height: int, width: int, room: int, lookup: np.ndarray, weighted: bool) -> Counts:
    """Nothing counted yet, with room for so many classes; `lookup` says which values are `UNLABELLED`."""
    return Counts(
        np.zeros((height, room, width), np.float32),
        np.zeros((height, width), np.uint8),
        np.zeros((height, width), np.float32),
        np.zeros((height, width) if weighted else (0, 0), np.float32),
        np.zeros((height, room) if weighted else (0, 0)),
        lookup.copy(),
        np.zeros(room + 1, np.int64),
    )


def lookup_table(unlabelled: tuple[int, ...]) -> np.ndarray:
    """A table of 65536 values, all `UNSEEN` but those that do not count."""
    table = np.full(_VALUES, UNSEEN, np.int16)
    table[[v % _VALUES for v in unlabelled]] = UNLABELLED
    return table


def by_bits(raw: np.ndarray) -> np.ndarray:
    """Values as unsigned numbers that fit the table; they must lie in -32768 … 65535."""
    return raw if raw.dtype in (np.uint8, np.uint16) else raw.astype(np.uint16)


@numba.njit(nogil=True, cache=True)
def _by_row(classes, k):  # pragma: no cover - compiled
    out = np.zeros((classes.shape[0], k))
    for r in range(classes.shape[0]):
        for i in range(k):
            for c in range(classes.shape[2]):
                out[r, i] += classes[r, i, c]
    return out


class Span(NamedTuple):
    """The cells of a window along its columns.

    `first` and `end` pixel of each cell; sums of its pixels' weights up to each pixel `[w, m + 1]`, as they count
    and as they cover; the first of these over the whole cell; and how many cells have ended at each pixel from
    the first cell's on.
    """

    first: np.ndarray
    end: np.ndarray
    total: np.ndarray
    cover_total: np.ndarray
    full: np.ndarray
    ended: np.ndarray


def span(first: np.ndarray, end: np.ndarray, weight: np.ndarray, cover: np.ndarray) -> Span:
    """The span of cells with the weights `[w, m]` of their pixels, as they count and as they cover."""
    total, cover_total = (
        np.concatenate([np.zeros((len(w), 1)), w.cumsum(1)], axis=1).astype(np.float32)
        for w in (weight, cover)
    )
    ended = np.searchsorted(end, np.arange(first[0], end[-1] + 1), side="right")
    return Span(first, end, total, cover_total, total[:, -1].copy(), ended)


def count_aligned(
    counts: Counts,
    raw: np.ndarray,
    top: int,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    cols: Span,
) -> None:
    """Add a piece of fine pixels whose first row is `top` and whose columns are those of the span.

    `rows` are first and end pixel of each cell row, and two weights of each of its pixels `[h, m]`: as it
    counts, and as it covers. Sets `full` where a class found no room.
    """
    counts.full |= _count_aligned(
        np.ascontiguousarray(raw), top, *rows, *cols, counts.lookup, counts.found, counts.classes, counts.best,
        counts.lead, counts.cover, counts.ground, counts.weighted,
    )  # fmt: skip


@numba.njit(nogil=True, cache=True)
def _count_aligned(  # pragma: no cover - compiled
    raw, top, row_first, row_end, row_weight, row_cover,
    col_first, col_end, col_sum, col_cover, full, ended,
    lookup, found, classes, best, lead, cover, ground, covers,
):  # fmt: skip
    height, room, width = classes.shape
    left, n = col_first[0], raw.shape[1]
    # One byte a pixel, 1 where another run begins, looked through eight bytes at a time.
    change = np.zeros((n + 15) // 8 * 8, np.uint8)
    words = change.view(np.uint64)
    for r in range(height):
        for i in range(max(row_first[r], top), min(row_end[r], top + raw.shape[0])):
            weight = np.float32(row_weight[r, i - row_first[r]])
            share = np.float32(row_cover[r, i - row_first[r]])
            row = raw[i - top]
            for j in range(1, n):
                change[j] = row[j] != row[j - 1]
            change[n] = 1
            start = 0
            for w in range(len(words)):
                if words[w] == 0:
                    continue
                for stop in range(8 * w, 8 * w + 8):
                    if not change[stop]:
                        continue
                    k = lookup[row[start]]
                    if k == UNSEEN:
                        k = found[-1]
                        if k >= room or k >= 254:
                            return True
                        found[k] = row[start]
                        found[-1] = k + 1
                        lookup[row[start]] = k
                    if k >= 0:
                        # Begins within cell c, fills the cells from c to `stopped`, ends within a further one.
                        c, stopped = ended[start], ended[stop]
                        if c < width and col_first[c] - left < start:
                            base = col_first[c] - left
                            part = col_sum[c, min(stop, col_end[c] - left) - base] - col_sum[c, start - base]
                            x = classes[r, k, c] + weight * part
                            classes[r, k, c] = x
                            if x > lead[r, c]:
                                lead[r, c] = x
                                best[r, c] = k
                            c += 1
                        for m in range(c, stopped):
                            x = classes[r, k, m] + weight * full[m]
                            classes[r, k, m] = x
                            if x > lead[r, m]:
                                lead[r, m] = x
                                best[r, m] = k
                        c = max(c, stopped)
                        while c < width and col_first[c] - left < stop and col_end[c] - left > stop:
                            x = classes[r, k, c] + weight * col_sum[c, stop - col_first[c] + left]
                            classes[r, k, c] = x
                            if x > lead[r, c]:
                                lead[r, c] = x
                                best[r, c] = k
                            c += 1
                        if covers:
                            c = ended[start]
                            while c < width and col_first[c] - left < stop:
                                base = col_first[c] - left
                                part = col_cover[c, min(stop, col_end[c] - left) - base]
                                part = share * (part - col_cover[c, max(start - base, 0)])
                                cover[r, c] += part
                                ground[r, k] += part
                                c += 1
                    start = stop
    return False


def count_warped(
    counts: Counts,
    raw: np.ndarray,
    top: int,
    left: int,
    nodes: np.ndarray,
    step: int,
    samples: int,
    origin: tuple[int, int],
    pixel_cells: float,
    sigma: float | None,
) -> None:
    """Add a piece of fine pixels by their place in the grid, interpolated between `nodes` `[2, n, m]`.

    The first node lies at the multiples of `step` before (`top`, `left`); `origin` is the window's first
    cell. A pixel counts by its true size in cells over the nominal one, `pixel_cells`. `sigma`: weigh it by
    its distance to the cell's centre.
    """
    counts.full |= _count_warped(
        raw, top, left, nodes, step, samples, origin[0], origin[1], pixel_cells, sigma or 0.0,
        counts.lookup, counts.found, counts.classes, counts.best, counts.lead, counts.cover, counts.ground,
        counts.weighted,
    )  # fmt: skip


@numba.njit(nogil=True, cache=True)
def _count_warped(  # pragma: no cover - compiled
    raw, top, left, nodes, step, samples, row_off, col_off, pixel_cells, sigma,
    lookup, found, classes, best, lead, cover, ground, covers,
):  # fmt: skip
    height, room, width = classes.shape
    node_row, node_col = top // step, left // step
    for i in range(raw.shape[0]):
        n = (top + i) // step - node_row
        for j in range(raw.shape[1]):
            value = raw[i, j]
            k = lookup[value]
            if k == UNLABELLED:
                continue
            m = (left + j) // step - node_col
            y00, y01, y10, y11 = (
                nodes[0, n, m],
                nodes[0, n, m + 1],
                nodes[0, n + 1, m],
                nodes[0, n + 1, m + 1],
            )
            x00, x01, x10, x11 = (
                nodes[1, n, m],
                nodes[1, n, m + 1],
                nodes[1, n + 1, m],
                nodes[1, n + 1, m + 1],
            )
            size = abs((y10 - y00) * (x01 - x00) - (y01 - y00) * (x10 - x00)) / (step * step)
            if not np.isfinite(size + y11 + x11):
                continue
            size = size / pixel_cells / (samples * samples)
            for a in range(samples):
                ty = ((top + i) % step + (a + 0.5) / samples) / step
                for b in range(samples):
                    tx = ((left + j) % step + (b + 0.5) / samples) / step
                    y = (1 - ty) * ((1 - tx) * y00 + tx * y01) + ty * ((1 - tx) * y10 + tx * y11) - row_off
                    x = (1 - ty) * ((1 - tx) * x00 + tx * x01) + ty * ((1 - tx) * x10 + tx * x11) - col_off
                    r, c = int(np.floor(y)), int(np.floor(x))
                    if r < 0 or c < 0 or r >= height or c >= width:
                        continue
                    if k == UNSEEN:
                        k = found[-1]
                        if k >= room or k >= 254:
                            return True
                        found[k] = value
                        found[-1] = k + 1
                        lookup[value] = k
                    weight = size
                    if covers:
                        cover[r, c] += size
                        ground[r, k] += size
                        weight *= np.exp(-((y - r - 0.5) ** 2 + (x - c - 0.5) ** 2) / (2 * sigma * sigma))
                    classes[r, k, c] += weight
                    if classes[r, k, c] > lead[r, c]:
                        lead[r, c] = classes[r, k, c]
                        best[r, c] = k
    return False


@numba.njit(nogil=True, cache=True)
def add_histogram(histogram, raw):  # pragma: no cover - compiled
    """Count the values of a piece into an array of 65536."""
    for i in range(raw.shape[0]):
        for j in range(raw.shape[1]):
            histogram[raw[i, j]] += 1


@numba.njit(nogil=True, cache=True)
def interpolated(nodes, step, row_off, col_off, height, width):  # pragma: no cover - compiled
    """Pixel that holds each cell's centre, int64 `[2, h, w]`, interpolated between nodes of the coarse grid."""
    out = np.empty((2, height, width), np.int64)
    first_row, first_col = row_off // step, col_off // step
    for i in range(height):
        n = (row_off + i) // step - first_row
        ty = ((row_off + i) % step + 0.5) / step
        for j in range(width):
            m = (col_off + j) // step - first_col
            tx = ((col_off + j) % step + 0.5) / step
            for axis in range(2):
                at = (1 - ty) * ((1 - tx) * nodes[axis, n, m] + tx * nodes[axis, n, m + 1])
                at += ty * ((1 - tx) * nodes[axis, n + 1, m] + tx * nodes[axis, n + 1, m + 1])
                out[axis, i, j] = int(np.floor(at + 1e-6)) if np.isfinite(at) else -1
    return out
