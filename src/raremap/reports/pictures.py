"""Arrays as pictures: true colour, classes in their colours, both as data URIs, and a map with its legend."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raremap.files import written

if TYPE_CHECKING:
    from PIL.Image import Image

    from raremap.labels import LabelScheme

_RED_GREEN_BLUE = (("red", "green", "blue"), ("B4", "B3", "B2"), ("B04", "B03", "B02"))
_WRONG = np.array([214, 39, 40], np.uint8)
# More pixels than a screen shows are only weight.
_LARGEST = 512
_DARK = 0.3


@dataclass(frozen=True)
class Panel:
    """One tile to show: a word for why, a caption, true-colour picture uint8 `[h, w, 3]`, true and predicted
    class index `[h, w]`."""

    word: str
    caption: str
    picture: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


def true_color(image: np.ndarray, valid: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Picture uint8 `[h, w, 3]` of an image `[C, h, w]`, stretched between the 2nd and 98th percentile.

    Where bright spots (clouds) would leave the ground dark, a gamma of at least ½ lifts its median. Red, green and blue by name; else the first three bands, or the first one in grey. Invalid is white.
    """
    lower = [b.lower() for b in bands]
    triple = next((t for t in _RED_GREEN_BLUE if {n.lower() for n in t} <= set(lower)), None)
    if triple:
        picks = [lower.index(n.lower()) for n in triple]
    else:
        picks = [0, 1, 2] if len(bands) >= 3 else [0, 0, 0]
    rgb = image[picks].astype(np.float32)
    if not valid.any():
        return np.full((*valid.shape, 3), 255, np.uint8)
    # One stretch for all three bands keeps the colours as they are.
    low, high = np.percentile(rgb[:, valid], (2, 98))
    out = np.clip((rgb - low) / max(float(high - low), 1e-6), 0, 1)
    middle = float(np.median(out[:, valid]))
    if 0 < middle < _DARK:
        out **= max(0.5, np.log(_DARK) / np.log(middle))
    out *= 255
    out[:, ~valid] = 255
    return out.astype(np.uint8).transpose(1, 2, 0)


def class_picture(index: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Picture uint8 `[h, w, 3]` of a class index; what is no class is white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(rgb)] = rgb
    return table[index]


def difference_picture(panel: Panel) -> np.ndarray:
    """The picture in pale grey, red where the prediction is not the label; unlabelled ground is never red."""
    grey = panel.picture.mean(2, keepdims=True) / 2 + 120
    wrong = (panel.truth < 255) & (panel.truth != panel.predicted)
    return np.where(wrong[..., None], _WRONG, grey.astype(np.uint8)).astype(np.uint8)


def photo_uri(picture: np.ndarray) -> str:
    """A photograph as a WebP data URI."""
    return _uri(_shrunk(_image(picture), smooth=True), "WEBP", quality=86)


def class_uri(index: np.ndarray, rgb: np.ndarray) -> str:
    """A class index as a PNG data URI with a palette; what is no class is transparent."""
    from PIL import Image

    table = np.zeros((256, 3), np.uint8)
    table[: len(rgb)] = rgb
    image = Image.fromarray(np.ascontiguousarray(index))
    image.putpalette(table.tobytes())
    return _uri(_shrunk(image, smooth=False), "PNG", transparency=255, optimize=True)


def _image(picture: np.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(picture))


def _shrunk(image: Image, smooth: bool) -> Image:
    from PIL import Image

    factor = _LARGEST / max(image.size)
    if factor >= 1:
        return image
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)


def _uri(image: Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def map_picture(
    path: str | Path,
    image: np.ndarray,
    valid: np.ndarray,
    bands: Sequence[str],
    scheme: LabelScheme,
    maps: dict[str, np.ndarray],
    title: str | None = None,
    pixels: int = 560,
) -> Path:
    """Write a PNG of a scene beside its class maps, with a legend of the classes that occur.

    `image [C, h, w]` with validity `[h, w]` and its band names; `maps` are class indices `[h, w]` by
    title. The longer side of each is `pixels` long.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    views = {"imagery": true_color(image, valid, bands)}
    views |= {name: class_picture(index, scheme.rgb) for name, index in maps.items()}
    there = np.zeros(256, bool)
    for index in maps.values():
        there[np.unique(index)] = True
    h, w = valid.shape
    dpi, gap = 100, 0.12
    across, down = (pixels / dpi * min(1, w / h), pixels / dpi * min(1, h / w))
    needed = len(views) * across + (len(views) + 1) * gap
    width = max(needed, 3.5)  # the legend needs some
    columns = max(1, int(width / 1.75))
    shown = [i for i in range(scheme.num_classes) if there[i]]
    rows = -(-len(shown) // columns)
    foot, head = 0.3 * rows + 0.16, 0.32 + (0.34 if title else 0)
    height = down + foot + head
    figure = pyplot.figure(figsize=(width, height), dpi=dpi, facecolor="white")
    try:
        for i, (name, picture) in enumerate(views.items()):
            left = (width - needed) / 2 + gap + i * (across + gap)
            box = (left / width, foot / height, across / width, down / height)
            axes = figure.add_axes(box)
            smooth = "antialiased" if i == 0 else "nearest"
            axes.imshow(_view(picture, pixels * 2, smooth=i == 0), interpolation=smooth)
            axes.set_title(name, fontsize=11, pad=5, color="#1d2429")
            axes.set_axis_off()
        if title:
            figure.suptitle(title, fontsize=13, y=1 - 0.1 / height, color="#1d2429")
        handles = [
            Patch(facecolor=scheme.palette[i], edgecolor="#0004", label=scheme.names[i].replace("_", " "))
            for i in shown
        ]
        figure.legend(
            handles=handles, ncols=columns, loc="lower center", frameon=False, fontsize=10,
            bbox_to_anchor=(0.5, 0), handlelength=1.1, handleheight=1.0, borderpad=0.3, labelcolor="#1d2429",
        )  # fmt: skip
        with written(path) as fresh:
            figure.savefig(fresh, format="png")
    finally:
        pyplot.close(figure)
    return Path(path)


def _view(picture: np.ndarray, largest: int, smooth: bool) -> np.ndarray:
    """At most `largest` pixels wide; classes are never mixed."""
    step = -(-picture.shape[1] // largest)
    if step == 1:
        return picture
    if not smooth or picture.shape[0] < step:
        return picture[::step, ::step]
    h, w = picture.shape[0] // step * step, picture.shape[1] // step * step
    return picture[:h, :w].reshape(h // step, step, w // step, step, 3).mean((1, 3)).astype(np.uint8)
