"""Things drawn over imagery: outlines of objects, and how often ground is seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

# Outlines are drawn on pictures of about this many pixels: on small tiles they would cover what they show.
_SIDE = 512
_LESS, _MORE = np.array([33, 102, 172.0]), np.array([178, 24, 43.0])
_VOID = 233


def outlined(
    picture: np.ndarray, objects: Sequence[tuple[np.ndarray, Sequence[int]]], width: int = 3
) -> np.ndarray:
    """An enlarged picture uint8 `[H, W, 3]` with the outline of each object: a mask bool `[h, w]` and its colour."""
    factor = max(1, round(_SIDE / max(picture.shape[:2])))
    out = enlarged(picture, factor)
    for mask, color in objects:
        large = np.kron(mask.astype(np.uint8), np.ones((factor, factor), np.uint8))
        # The line runs around the object, so that even one of few pixels stays visible inside it.
        around = cv2.dilate(large, np.ones((width + 4, width + 4), np.uint8))
        edges, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(out, edges, -1, (255, 255, 255), width + 4)
        cv2.drawContours(out, edges, -1, tuple(int(c) for c in color), width)
    return out


def enlarged(picture: np.ndarray, factor: int) -> np.ndarray:
    """A picture whose sides are `factor` times as long, smooth."""
    if factor == 1:
        return np.ascontiguousarray(picture).copy()
    size = (picture.shape[1] * factor, picture.shape[0] * factor)
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_CUBIC)


def mosaic(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures `[h, w, 3]` side by side in rows, each in a square cell."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = -(-len(pictures) // columns)
    cell = _SIDE // columns
    out = np.full((rows * cell, columns * cell, 3), _VOID, np.uint8)
    for i, picture in enumerate(pictures):
        scale = (cell - 4) / max(picture.shape[:2])
        size = tuple(max(1, round(n * scale)) for n in picture.shape[1::-1])
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        r, c = i // columns * cell + 2, i % columns * cell + 2
        out[r : r + small.shape[0], c : c + small.shape[1]] = small
    return out


def heat_picture(picture: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """The picture in grey, red where the ratio `[h, w]` is above 1 and blue below: full colour from 4 and ¼ on."""
    grey = picture.mean(2, keepdims=True) * 0.8 + 30
    with np.errstate(divide="ignore"):
        power = np.clip(np.log2(ratio) / 2, -1, 1)[..., None]
    strength = 0.75 * np.abs(power)
    color = np.where(power > 0, _MORE, _LESS)
    return (grey * (1 - strength) + color * strength).clip(0, 255).astype(np.uint8)
