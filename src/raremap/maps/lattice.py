"""Which windows a scene is predicted in, and in what order, so that memory is bounded and values are not moved.

The lattice of windows is the scene's alone. Swaths (columns of the map that are finished together) and
wanted parts only choose among its windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from raremap.maps.blend import axis_weights
from raremap.maps.options import PredictOptions
from raremap.scene.window import Window
from raremap.tiles.windows import stride


@dataclass(frozen=True)
class Swath:
    """Columns `start` to `end` of the map, and the lattice columns `first` to `last` whose windows meet them."""

    start: int
    end: int
    first: int
    last: int

    @property
    def width(self) -> int:
        """Columns of the map."""
        return self.end - self.start


@dataclass(frozen=True)
class Row:
    """A row of windows to compute in a swath, the rows of the map that are final after it, which windows are needed."""

    index: int
    done: tuple[int, int]
    needed: tuple[bool, ...]


@dataclass(frozen=True)
class Lattice:
    """All windows of a scene: starts of their rows and columns, and blending weights along each axis."""

    scene: Window
    row_starts: list[int]
    col_starts: list[int]
    row_weights: np.ndarray
    col_weights: np.ndarray

    @classmethod
    def of(cls, height: int, width: int, options: PredictOptions) -> Lattice:
        """The lattice of a scene of this size."""
        step = stride(options.window, options.overlap)
        rows, row_weights = axis_weights(height, options.window, step, options.blend)
        cols, col_weights = axis_weights(width, options.window, step, options.blend)
        return cls(Window(0, 0, height, width), rows, cols, row_weights, col_weights)

    @property
    def height(self) -> int:
        """Rows of every window."""
        return self.row_weights.shape[1]

    @property
    def width(self) -> int:
        """Columns of every window."""
        return self.col_weights.shape[1]

    def swaths(self, widest: int, wanted: Sequence[Window] | None = None) -> list[Swath]:
        """Swaths whose windows span at most about `widest` columns, but no less than three windows.

        A swath ends where a window begins, so that few windows (one in each row where the overlap is up
        to half) meet two swaths; those are computed twice.
        """
        starts, size, end = self.col_starts, self.width, self.scene.width
        widest = max(widest, 3 * size)
        cuts: list[int] = []
        if end > widest:
            step = starts[1] - starts[0]
            together = (widest - size) // step + 1  # windows side by side in a swath
            again = -(-size // step) - 1  # of which so many were in the swath before, too
            count = -(-(len(starts) - again) // (together - again))
            cuts = [starts[round(i * len(starts) / count)] for i in range(1, count)]
        out = []
        for a, b in zip([0, *cuts], [*cuts, end], strict=True):
            if wanted is not None:
                meets = [w for w in wanted if w.col_off < b and w.col_end > a]
                if not meets:
                    continue
                a, b = max(a, min(w.col_off for w in meets)), min(b, max(w.col_end for w in meets))
            windows = [j for j, s in enumerate(starts) if s < b and s + size > a]
            out.append(Swath(a, b, windows[0], windows[-1]))
        return out

    def rows(self, swath: Swath, wanted: Sequence[Window] | None = None) -> list[Row]:
        """Rows of windows to compute in a swath, downwards; those that meet nothing wanted are left out."""
        here = Window(0, swath.start, self.scene.height, swath.width)
        asked = [here] if wanted is None else [w for w in (w.intersect(here) for w in wanted) if not w.empty]
        ends = [*self.row_starts[1:], self.scene.height]
        out = []
        for i, row in enumerate(self.row_starts):
            meets = [w for w in asked if w.row_off < row + self.height and w.row_end > row]
            needed = tuple(
                any(w.col_off < col + self.width and w.col_end > col for w in meets)
                for col in self.col_starts[swath.first : swath.last + 1]
            )
            if any(needed):
                out.append(Row(i, (row, ends[i]), needed))
        return out

    def parts(self, swath: Swath, rows: int) -> list[Window]:
        """A swath in pieces of about `rows` rows of windows, each to be computed by itself to the same values.

        They end where a window begins, so that few windows (one in each column where the overlap is up to
        half) meet two of them; those are computed twice.
        """
        count = -(-len(self.row_starts) // rows)
        cuts = [self.row_starts[round(i * len(self.row_starts) / count)] for i in range(1, count)]
        ends = pairwise([0, *cuts, self.scene.height])
        return [Window(top, swath.start, bottom - top, swath.width) for top, bottom in ends]


def pieces(window: Window, wanted: Sequence[Window]) -> list[Window]:
    """What lies in `window` and in any of `wanted`, as disjoint rectangles.

    >>> pieces(Window(0, 0, 4, 9), [Window(0, 0, 2, 3), Window(0, 3, 2, 2), Window(1, 0, 9, 1)])
    [Window(row_off=0, col_off=0, height=1, width=5), Window(row_off=1, col_off=0, height=1, width=5),
     Window(row_off=2, col_off=0, height=2, width=1)]
    """
    parts = [p for p in (w.intersect(window) for w in wanted) if not p.empty]
    edges = sorted({p.row_off for p in parts} | {p.row_end for p in parts})
    out: list[Window] = []
    for top, bottom in pairwise(edges):
        run: Window | None = None
        for p in sorted(
            (p for p in parts if p.row_off <= top and p.row_end >= bottom), key=lambda p: p.col_off
        ):
            if run is not None and p.col_off <= run.col_end:
                run = run._replace(width=max(run.col_end, p.col_end) - run.col_off)
                continue
            if run is not None:
                out.append(run)
            run = Window(top, p.col_off, bottom - top, p.width)
        if run is not None:
            out.append(run)
    return out
