"""`FeatureReader`: a scene read as bands and features, and the range of its bands, taken once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.scene.features.channels import Channels
from raremap.scene.features.pixels import Ranges
from raremap.scene.gdal import bounded_cache, fingerprint
from raremap.scene.raster import Image, ImageReader
from raremap.scene.window import Window

if TYPE_CHECKING:
    from raremap.scene.features.options import Feature
    from raremap.scene.features.views import Views

log = logging.getLogger(__name__)

# Pixels of a band that the pass over a scene reads at a time, and rows of it: those of usual blocks.
_PIXELS, _ROWS = 1 << 22, 512
_known: dict[tuple[Any, ...], dict[str, tuple[float, float]]] = {}


def featured(image: ImageReader, features: Sequence[Feature]) -> Image:
    """The image with features after its bands; itself where there are none. Raises `SceneError` where one cannot be made."""
    if not features:
        return image
    return FeatureReader(image, Channels.of(image.bands, features, [image.grid]))


class FeatureReader:
    """An image whose bands are `channels`, read by window like an `ImageReader`; float32.

    A window has the values of the whole scene: it is read with its margin.
    """

    def __init__(self, image: ImageReader, channels: Channels | Views) -> None:
        self._image, self._channels = image, channels
        self.paths, self.grid, self.nodata, self.named = image.paths, image.grid, image.nodata, image.named
        self.bands, self.dtype = channels.names, np.dtype(np.float32)

    def __enter__(self) -> FeatureReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        self._image.close()

    def blank(self, window: Window) -> bool:
        """Whether it is known without reading that no pixel of a window is valid."""
        return self._image.blank(window)

    @cached_property
    def _ranges(self) -> Ranges:
        return ranges_of(self._image, self._channels.ranged)

    def read(self, window: Window, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Channels float32 `[C, h, w]` and validity `[h, w]` of a window, in `out` where it is given."""
        grown = self._channels.grown(window, self.grid)
        image, valid = self._image.read(grown)
        pixels = self._channels.pixels(image, valid, self.grid, grown, self._ranges)
        inner = window.slices(within=grown)
        found = self._channels.compute(pixels)[:, *inner]
        if out is None:
            return found, valid[inner]
        out[:] = found
        return out, valid[inner]


def ranges_of(image: ImageReader, bands: tuple[str, ...]) -> Ranges:
    """The least and greatest valid value of some bands of a scene, in one pass; kept while the process lives.

    (0, 0) where no pixel is valid. Raises `SceneError` where reading fails.
    """
    if not bands:
        return {}
    key = (tuple(_mark(p) for p in image.paths), image.bands, repr(image.nodata), bands)  # NaN is not NaN
    if key not in _known:
        log.info("%s: one pass for the range of %s", image.paths[0], ", ".join(bands))
        _known[key] = _pass(image, bands)
    return _known[key]


def _mark(path: str) -> str:
    return path if "://" in path or path.startswith("/vsi") else f"{path} {fingerprint(path)}"


def _pass(image: ImageReader, bands: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    rows = [image.bands.index(b) for b in bands]
    low, high = np.full(len(bands), np.inf), np.full(len(bands), -np.inf)
    height = min(_ROWS, image.grid.height)
    width = min(image.grid.width, max(_ROWS, _PIXELS // height // _ROWS * _ROWS))
    with bounded_cache():
        for row in range(0, image.grid.height, height):
            for col in range(0, image.grid.width, width):
                window = Window(row, col, height, width).intersect(image.grid.window)
                if image.blank(window):
                    continue
                part, valid = image.read(window)
                if valid.any():
                    values = part[rows][:, valid]
                    low, high = np.minimum(low, values.min(1)), np.maximum(high, values.max(1))
    found = zip(low.tolist(), high.tolist(), strict=True)
    return {b: (lo, hi) if lo <= hi else (0.0, 0.0) for b, (lo, hi) in zip(bands, found, strict=True)}
