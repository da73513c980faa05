"""Windows that cover a scene: one rule for training tiles and for prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raremap.scene.window import Window

if TYPE_CHECKING:
    from raremap.tiles.options import TileOptions


def offsets(length: int, size: int, step: int) -> list[int]:
    """Starts of windows of `size` pixels, every `step`, that cover `length` pixels.

    The last window is moved back inside, so that the far edge is covered and no window leaves the
    scene; where the scene is smaller than a window there is one window, at 0, cut to the scene.

    >>> offsets(10, 4, 3)
    [0, 3, 6]
    >>> offsets(11, 4, 4)
    [0, 4, 7]
    >>> offsets(3, 4, 4)
    [0]
    """
    if length < 1 or size < 1 or not 1 <= step <= size:
        raise ValueError(f"need length >= 1, size >= 1 and 1 <= step <= size, got {length}, {size}, {step}")
    if length <= size:
        return [0]
    last = length - size
    return [*range(0, last, step), last]


def stride(size: int, overlap: float) -> int:
    """Step between windows of `size` pixels that share the fraction `overlap` (0 to below 1) with the next."""
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be at least 0 and below 1, got {overlap}")
    return max(1, round(size * (1 - overlap)))


def cover(height: int, width: int, size: int, step: int) -> list[Window]:
    """Windows of at most `size`² pixels, row by row, that cover `height` × `width` pixels."""
    return [
        Window(row, col, min(size, height), min(size, width))
        for row in offsets(height, size, step)
        for col in offsets(width, size, step)
    ]


def tile_windows(height: int, width: int, tiles: TileOptions) -> list[Window]:
    """Windows of all sizes, size by size; a scene smaller than two sizes is one window for both.

    >>> from raremap.tiles.options import TileOptions
    >>> [tuple(w) for w in tile_windows(16, 40, TileOptions(size=[16, 32, 64]))]
    [(0, 0, 16, 16), (0, 16, 16, 16), (0, 24, 16, 16), (0, 0, 16, 32), (0, 8, 16, 32), (0, 0, 16, 40)]
    """
    found = (
        w
        for size, step in zip(tiles.sizes, tiles.steps, strict=True)
        for w in cover(height, width, size, step)
    )
    return list(dict.fromkeys(found))
