"""One window of cells: read its fine pixels, count them, and turn the counts into a map by the method asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raremap.errors import LabelError
from raremap.scene.alignment import Aligned, Warped
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
        room = max(ROOM, min(254, len(self.labels.names)))
        while True:
            counts, picked = self._counted(window, room)
            if not counts.full:
                break
            if room >= 254:
                raise LabelError(
                    f"{self.labels.path} has more than 254 classes; a class raster has 254 at most"
                )
            room = min(254, room * 4)
        values = self.labels.values(counts.values)
        if self.options.kind != "fractions" and self.nodata in values:
            raise LabelError(
                f"{self.labels.path} has the class value {self.nodata}, which marks no data in the result; "
                f"name it with --ignore {self.nodata} where it means no data, or give the classes with labels"
            )
        if isinstance(self.options, Area):
            needed = self._needed
            return Held(window, shares(counts, needed, self.block, values), counts.by_row)
        return Made(window, self._decided(counts, values, picked), values, counts.by_row)

    def filled(self, held: Held, quota: np.ndarray) -> Made:
        """The map of a window whose quotas are known."""
        number, forced = fill(held.shares, quota, (held.window.row_off, held.window.col_off))
        table = np.full(256, self.nodata, self.dtype)
        table[: len(held.shares.values)] = held.shares.values
        return Made(held.window, table[number], held.shares.values, held.ground, forced)

    @property
    def _needed(self) -> float:
        """Labelled pixels below which a cell is left empty (a little less, for sums of float32)."""
        return self.options.min_cover / self.alignment.pixel_cells * (1 - 1e-5)

    def _counted(self, window: Window, room: int) -> tuple[Counts, np.ndarray | None]:
        """The counts of a window, and for `nearest` the unsigned value at each cell's centre (-1: none)."""
        weighted = isinstance(self.options, Weighted)
        lookup = lookup_table(self.labels.unlabelled)
        counts = empty_counts(window.height, window.width, room, lookup, weighted)
        picked = pick = None
        if isinstance(self.options, Nearest):
            picked = np.full((window.height, window.width), -1, np.int32)
            pick = self._picker(window, picked)
        source = self.alignment.source_window(window)
        count = self._counter(window, counts)
        with bounded_cache():
            for piece, raw in self.labels.pieces(source):
                count(piece, raw)
                if pick is not None:
                    pick(piece, raw)
        return counts, picked

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

    def _decided(self, counts: Counts, values: np.ndarray, picked: np.ndarray | None) -> np.ndarray:
        options = self.options
        if picked is not None:
            number = np.where(picked >= 0, counts.lookup[picked], -1)
            return self._mapped(number, number >= 0, values)
        if isinstance(options, Fractions):
            found = whole_shares(counts, self._needed, self.block, STEPS, values)
            out = np.zeros((len(self.classes), *found.shape[1:]), np.uint8)
            empty = found[0] == 255 if len(found) else np.ones(out.shape[1:], bool)
            for i, value in enumerate(values.tolist()):
                out[self.classes.index(value)] = found[i]
            out[:, empty] = 255
            return out
        covered = counts.covered
        number = counts.best
        if isinstance(options, Weighted) and options.inverse and len(values):
            assert self.frequency is not None
            gain = np.array([self.frequency[v] ** -options.inverse for v in values.tolist()], np.float32)
            number = (counts.classes[:, : len(values)] * gain[:, None]).argmax(1)
        return self._mapped(number, (covered >= self._needed) & (covered > 0), values)

    def _mapped(self, number: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
        table = np.full(max(1, len(values)), self.nodata, self.dtype)
        table[: len(values)] = values
        return np.where(known, table[np.where(known, number, 0)], np.array(self.nodata, self.dtype))


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
