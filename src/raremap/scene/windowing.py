"""One window of cells: read its fine pixels, count them, and turn the counts into a map by the method asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raremap.errors import LabelError
from raremap.scene.alignment import Aligned, Warped
from raremap.scene.cells import CLASSES, CellCounter, Cells, decided, sparse
from raremap.scene.counting import (
    Counts,
    count_aligned,
    count_warped,
    empty_counts,
    interpolated,
    lookup_table,
    span,
)
from raremap.scene.gdal import bounded_cache
from raremap.scene.labelfile import LabelFile
from raremap.scene.options import Area, Fractions, Nearest, RescaleOptions, Weighted
from raremap.scene.quotas import Shares, fill, quotas, shares, whole_shares
from raremap.scene.shares import STEPS
from raremap.scene.window import Window

ROOM = 16  # classes that a window has room for at first


@dataclass(frozen=True)
class Made:
    """A window of the map `[h, w]` or `[bands, h, w]`, and the pixels of ground of each class by row before."""

    window: Window
    array: np.ndarray
    values: np.ndarray
    ground: np.ndarray
    forced: int = 0


@dataclass(frozen=True)
class Held:
    """A window whose shares wait for their quotas."""

    window: Window
    shares: Shares
    ground: np.ndarray


@dataclass(frozen=True)
class Windowing:
    """What it takes to rescale any window: the labels, where they lie, the method, and what is written.

    `block` is in cells; windows begin at multiples of it. `classes` are the values of the bands of fractions;
    `frequency` the share of each value in the whole, for inverse weights.
    """

    labels: LabelFile
    alignment: Aligned | Warped
    options: RescaleOptions
    block: int
    dtype: str
    nodata: int
    classes: tuple[int, ...] = ()
    frequency: dict[int, float] | None = None

    def __call__(self, window: Window) -> Made | Held:
        """A window's map, or its shares where the method is `area`."""
        if isinstance(self.options, Weighted):
            counts = self._counted(window)
            values = self._checked(counts.values)
            return Made(window, self._weighed(counts, values), values, counts.by_row)
        picked = None
        if isinstance(self.options, Nearest):  # the unsigned value at each cell's centre, -1: none
            picked = np.full((window.height, window.width), -1, np.int32)
        cells = self._cells(window, picked)
        values = self._checked(cells.values)
        if isinstance(self.options, Area):
            return Held(window, shares(cells, self._needed, self.block), cells.by_row)
        if isinstance(self.options, Fractions):
            band = np.array([self.classes.index(v) for v in values.tolist()], np.int64)
            out = whole_shares(cells, self._needed, self.block, STEPS, band, len(self.classes))
        elif picked is not None:
            out = self._table(1 << 16, cells.values, values)[picked]
            out[picked < 0] = self.nodata
        else:
            table = self._table(256, np.arange(len(values)), values)
            out = decided(cells, self._needed, table, self.nodata)
        return Made(window, out, values, cells.by_row)

    def filled(self, held: Held, quota: np.ndarray) -> Made:
        """The map of a window whose quotas are known."""
        number, forced = fill(held.shares, quota, (held.window.row_off, held.window.col_off))
        table = self._table(256, np.arange(len(held.shares.values)), held.shares.values)
        return Made(held.window, table[number], held.shares.values, held.ground, forced)

    @property
    def _needed(self) -> float:
        """Labelled pixels below which a cell is left empty (a little less, for sums of float32)."""
        return self.options.min_cover / self.alignment.pixel_cells * (1 - 1e-5)

    def _checked(self, found: np.ndarray) -> np.ndarray:
        """The source values of a window's unsigned ones; raises `LabelError` for one that cannot be mapped."""
        values = self.labels.values(found)
        if self.options.kind != "fractions" and self.nodata in values:
            raise LabelError(
                f"{self.labels.path} has the class value {self.nodata}, which marks no data in the result; "
                f"name it with --ignore {self.nodata} where it means no data, or give the classes with labels"
            )
        return values

    def _cells(self, window: Window, picked: np.ndarray | None) -> Cells:
        """The cells of a window; fills in `picked`."""
        pick = self._picker(window, picked) if picked is not None else None
        if isinstance(self.alignment, Aligned):
            rows = self.alignment.axis(0, window.row_off, window.height)
            cols = self.alignment.axis(1, window.col_off, window.width)
            if rows.whole and cols.whole:
                counter = CellCounter(rows[:2], cols[:2], self.labels.blanks)
                source = self.alignment.source_window(window)
                with bounded_cache():
                    for piece, raw in self.labels.bands(source, rows.end):
                        counter.add(raw, piece.row_off)
                        if counter.full:
                            raise self._too_many()
                        if pick is not None:
                            pick(piece, raw)
                return counter.cells()
        return sparse(self._counted(window, pick))

    def _counted(self, window: Window, pick: Callable[[Window, np.ndarray], None] | None = None) -> Counts:
        """The counts of a window whatever the grids, with room for its classes."""
        room = max(ROOM, min(CLASSES, len(self.labels.names)))
        while True:
            counts = empty_counts(
                window.height, window.width, room, lookup_table(self.labels.blanks),
                isinstance(self.options, Weighted),
            )  # fmt: skip
            count = self._counter(window, counts)
            with bounded_cache():
                for piece, raw in self.labels.pieces(self.alignment.source_window(window)):
                    count(piece, raw)
                    if pick is not None:
                        pick(piece, raw)
            if not counts.full:
                return counts
            if room >= CLASSES:
                raise self._too_many()
            room = min(CLASSES, room * 4)

    def _too_many(self) -> LabelError:
        return LabelError(
            f"{self.labels.path} has more than {CLASSES} classes; a class raster has {CLASSES} at most"
        )

    def _counter(self, window: Window, counts: Counts) -> Callable[[Window, np.ndarray], None]:
        sigma = self.options.sigma if isinstance(self.options, Weighted) else None
        place = self.alignment
        if isinstance(place, Warped):
            return lambda piece, raw: count_warped(
                counts, raw, piece.row_off, piece.col_off, place.nodes(piece), place.step, place.samples,
                (window.row_off, window.col_off), place.pixel_cells, sigma,
            )  # fmt: skip
        spans = (window.row_off, window.height), (window.col_off, window.width)
        rows, cols = (place.axis(i, *span) for i, span in enumerate(spans))
        row_weight, col_weight = rows.weight, cols.weight
        if sigma is not None:
            row_weight, col_weight = (
                w * np.exp(-(place.offsets(i, *span) ** 2) / (2 * sigma**2))
                for (i, span), w in zip(enumerate(spans), (row_weight, col_weight), strict=True)
            )
        down = (rows.first, rows.end, row_weight, rows.weight)
        across = span(cols.first, cols.end, col_weight, cols.weight)
        return lambda piece, raw: count_aligned(counts, raw, piece.row_off, down, across)

    def _picker(self, window: Window, picked: np.ndarray) -> Callable[[Window, np.ndarray], None]:
        """Fills in the pixel at each cell's centre as the pieces come."""
        place = self.alignment
        if isinstance(place, Aligned):
            row = place.centres(0, window.row_off, window.height)[:, None]
            col = place.centres(1, window.col_off, window.width)[None]
        else:
            nodes = place.back_nodes(window)
            row, col = interpolated(nodes, place.back_step, *window)

        def pick(piece: Window, raw: np.ndarray) -> None:
            y, x = row - piece.row_off, col - piece.col_off
            inside = (y >= 0) & (y < piece.height) & (x >= 0) & (x < piece.width)
            y, x = np.broadcast_arrays(y, x)
            picked[inside] = raw[y[inside], x[inside]]

        return pick

    def _weighed(self, counts: Counts, values: np.ndarray) -> np.ndarray:
        covered, number = counts.covered, counts.best
        inverse = getattr(self.options, "inverse", 0.0)
        if inverse and len(values):
            assert self.frequency is not None
            gain = np.array([self.frequency[v] ** -inverse for v in values.tolist()], np.float32)
            number = (counts.classes[:, : len(values)] * gain[:, None]).argmax(1)
        out = self._table(256, np.arange(len(values)), values)[number]
        out[(covered < self._needed) | (covered == 0)] = self.nodata
        return out

    def _table(self, size: int, numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
        """What is written for each number: its value, or no data."""
        table = np.full(size, self.nodata, self.dtype)
        table[numbers] = values
        return table


def divided(
    held: list[Held], carry: np.ndarray, slots: dict[int, int], blocks_across: int, block: int
) -> list[np.ndarray]:
    """Quotas of a band of windows, blocks taken row by row and to and fro, so that remainders stay near.

    The order, and so the result, does not depend on how the band is cut into windows.
    """
    order: list[tuple[int, int, int]] = []
    for number, one in enumerate(held):
        across = -(-one.window.width // block)
        for b in range(len(one.shares.ground)):
            row = one.window.row_off // block + b // across
            col = one.window.col_off // block + b % across
            order.append((row, col if row % 2 == 0 else blocks_across - col, number))
    out = [np.zeros(one.shares.ground.shape, np.int64) for one in held]
    slot = [
        np.array([slots.setdefault(v, len(slots)) for v in one.shares.values.tolist()], np.int64)
        for one in held
    ]
    # A run of neighbouring blocks of one window is done in one go.
    order_by_place = sorted((row, at, number) for row, at, number in order)
    i = 0
    while i < len(order_by_place):
        row, _, number = order_by_place[i]
        stop = i
        while stop < len(order_by_place) and order_by_place[stop][::2] == (row, number):
            stop += 1
        one = held[number]
        across = -(-one.window.width // block)
        cols = np.array([at if row % 2 == 0 else blocks_across - at for _, at, _ in order_by_place[i:stop]])
        blocks = (row - one.window.row_off // block) * across + cols - one.window.col_off // block
        out[number] += quotas(one.shares, carry, slot[number], blocks)
        i = stop
    return out
