"""Arrays as pictures: true colour, classes in their colours, and both as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RED_GREEN_BLUE = (("red", "green", "blue"), ("B4", "B3", "B2"), ("B04", "B03", "B02"))


@dataclass(frozen=True)
class Panel:
    """One tile: true-colour picture uint8 `[h, w, 3]`, true and predicted class index `[h, w]`."""

    title: str
    picture: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


def true_color(image: np.ndarray, valid: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Picture uint8 `[h, w, 3]` of an image `[C, h, w]`, stretched between the 2nd and 98th percentile.

    Red, green and blue by name; else the first three bands, or the first one in grey. Invalid is white.
    """
    triple = next((t for t in _RED_GREEN_BLUE if set(t) <= set(bands)), None)
    picks = (
        [list(bands).index(b) for b in triple] if triple else ([0, 1, 2] if len(bands) >= 3 else [0, 0, 0])
    )
    rgb = image[picks].astype(np.float32)
    if not valid.any():
        return np.full((*valid.shape, 3), 255, np.uint8)
    low, high = np.percentile(rgb[:, valid], (2, 98), axis=1)
    # One stretch for all three keeps colours; the darkest band sets the foot of each.
    scale = max(float((high - low).max()), 1e-6)
    out = ((rgb - low[:, None, None]) / scale * 255).clip(0, 255).astype(np.uint8)
    out[:, ~valid] = 255
    return out.transpose(1, 2, 0)


def class_picture(index: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Picture uint8 `[h, w, 3]` of a class index; what is no class is white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(rgb)] = rgb
    return table[index]


def png_uri(picture: np.ndarray, enlarge_to: int = 0) -> str:
    """A picture as a PNG data URI; small ones are enlarged by whole pixels up to `enlarge_to`."""
    from PIL import Image

    image = Image.fromarray(picture)
    factor = enlarge_to // max(image.size)
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
