"""`Window`: a rectangle of pixels, and the small arithmetic that every reader and writer needs."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of pixels: first row and column, then its size.

    >>> Window(10, 20, 5, 5).intersect(Window(12, 0, 100, 22))
    Window(row_off=12, col_off=20, height=3, width=2)
    """

    row_off: int
    col_off: int
    height: int
    width: int

    @property
    def row_end(self) -> int:
        """First row below."""
        return self.row_off + self.height

    @property
    def col_end(self) -> int:
        """First column to the right."""
        return self.col_off + self.width

    @property
    def empty(self) -> bool:
        """Whether it holds no pixel."""
        return self.height <= 0 or self.width <= 0

    def intersect(self, other: Window) -> Window:
        """What both cover; empty (size 0) where they do not meet."""
        row, col = max(self.row_off, other.row_off), max(self.col_off, other.col_off)
        return Window(
            row,
            col,
            max(0, min(self.row_end, other.row_end) - row),
            max(0, min(self.col_end, other.col_end) - col),
        )

    def slices(self, within: Window | None = None) -> tuple[slice, slice]:
        """Row and column slices, relative to the window `within` (default: to the scene)."""
        row, col = (within.row_off, within.col_off) if within is not None else (0, 0)
        return (
            slice(self.row_off - row, self.row_end - row),
            slice(self.col_off - col, self.col_end - col),
        )
