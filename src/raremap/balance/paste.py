"""Rendering composites: an object cut from one tile, turned, scaled, matched and set into another.

Labels have a hard edge, which `paste` and `paste_mask` share: counts that a plan was made with are those of
the rendered tile. The image is feathered outside the object only: an object of few pixels stays what it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from raremap.labels import IGNORE
from raremap.scene.shares import STEPS
from raremap.scene.turn import dihedral

if TYPE_CHECKING:
    from raremap.balance.bank import ObjectBank
    from raremap.balance.options import CopyPasteOptions
    from raremap.tiles.reader import TileReader

Tile = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Image `[C, h, w]` as stored, validity bool `[h, w]`, and class index uint8 (of a patch: the object, bool)."""

_GROUND = ("dem", "dtm", "dsm", "elevation", "altitude")
_FORM = ("slope", "aspect", "hillshade", "curvature", "tpi", "tri", "twi", "roughness", "relief")
# Fewer ring pixels than these say nothing of light and haze.
_ENOUGH = 8
_GAIN = 0.5, 2.0


class Pasted(NamedTuple):
    """One object of a composite: its row in the bank, D4 code, scale, and the corner of its patch in the tile."""

    object: int
    code: int
    scale: float
    top: int
    left: int


@lru_cache
def terrain_bands(bands: tuple[str, ...]) -> tuple[int, ...]:
    """Indices of the bands that describe the ground's shape, by name: they stay as they are at the new place.

    >>> terrain_bands(("red", "DEM_10m", "height_m", "canopy_height", "plan_curvature"))
    (1, 2, 4)
    """
    words = [[w for w in re.split("[^a-z]+", b.lower()) if w] for b in bands]
    return tuple(i for i, w in enumerate(words) if {*_GROUND, *_FORM} & set(w) or w[:1] == ["height"])


def placed(object_mask: np.ndarray, code: int, scale: float) -> np.ndarray:
    """The object mask bool `[h, w]` turned and scaled: the nearest source pixel of each; never without a pixel."""
    hard = _nearest(object_mask, Pasted(0, code, scale, 0, 0))
    if not hard.any() and object_mask.any():
        # A shrunk object fell between the samples: the pixel that its first one lies in.
        turned = dihedral(object_mask, code)
        r, c = (
            int(v[0]) * n // m for v, n, m in zip(turned.nonzero(), hard.shape, turned.shape, strict=True)
        )
        hard[r, c] = True
    return hard


def halo(hard: np.ndarray, radius: int) -> np.ndarray:
    """The mask and all pixels within `radius` of it (a disk), inside the array."""
    return cv2.dilate(hard.astype(np.uint8), _disk(radius)).astype(bool)


def edge(hard: np.ndarray, feather: float) -> np.ndarray:
    """How much of the object is seen: 1 on it, falling to 0 outside like twice a Gaussian edge of that sigma."""
    alpha = hard.astype(np.float32)
    if feather <= 0:
        return alpha
    size = 2 * int(np.ceil(2 * feather)) + 1
    soft = cv2.GaussianBlur(alpha, (size, size), feather, borderType=cv2.BORDER_CONSTANT)
    return np.where(hard, 1, np.minimum(1, 2 * soft))


def paste_mask(
    mask: np.ndarray, object_mask: np.ndarray, klass: int, code: int, scale: float, top: int, left: int
) -> np.ndarray:
    """A copy of `mask` (class index `[h, w]`) with the object in it: exactly the labels that `paste` gives."""
    mask = mask.copy()
    _label(mask, placed(object_mask, code, scale), klass, top, left)
    return mask


def pasted_labels(
    mask: np.ndarray, shares: np.ndarray | None, pasted: Sequence[Pasted], bank: ObjectBank
) -> tuple[np.ndarray, np.ndarray | None]:
    """Copies of a class index `[h, w]` and of any shares `[K, h, w]` with objects in them, as `render` has the former.

    A pasted pixel is of the object's class all over.
    """
    mask, shares = mask.copy(), None if shares is None else shares.copy()
    for p in pasted:
        hard = placed(bank.patch(p.object)[2], p.code, p.scale)
        _label(mask, hard, bank.klass(p.object), p.top, p.left, shares)
    return mask, shares


def paste(
    image: np.ndarray,
    valid: np.ndarray,
    mask: np.ndarray,
    patch: Tile,
    klass: int,
    code: int,
    scale: float,
    top: int,
    left: int,
    *,
    feather: float,
    match: bool | np.ndarray,
    terrain: Sequence[int],
    labels: np.ndarray | None = None,
    ring: int = 4,
) -> Tile:
    """New arrays: the tile with the patch's object in it, its class, and the tile's own validity.

    The tile is as `TileReader.whole` gives it (`IGNORE` where invalid). The patch is turned by the D4 `code`,
    scaled, and its corner set at (`top`, `left`), which may lie outside; what leaves the tile is cut. Bands in
    `terrain` and pixels that are invalid or `IGNORE` stay as they are. `feather` is the sigma of the image's
    edge, pixels.

    `match`: a gain and an offset of each band give the patch's ring (pixels within `ring` of the object) the
    mean of the tile's ring there; the object goes along, by as much or by the share `[C]` that is given
    (`light.followed`). Where the patch's `labels` `[h, w]` are given only classes that both rings hold are
    compared, so that a meadow's light is not taken from a forest; without a common class the object stays.
    """
    image, mask = image.copy(), mask.copy()
    how = _How(feather, match, terrain, ring)
    _into((image, valid, mask), patch, labels, klass, Pasted(0, code, scale, top, left), how)
    return image, valid.copy(), mask


def render(
    reader: TileReader, row: int, pasted: Sequence[Pasted], bank: ObjectBank, options: CopyPasteOptions
) -> Tile:
    """A composite: the tile of catalog row `row` with its objects in order; the same bytes every time."""
    whole, valid, labels = reader.whole(row)
    image, mask = whole.copy(), labels.copy()
    match = bank.follows if options.match else False
    how = _How(options.feather, match, terrain_bands(bank.bands), options.ring)
    for p in pasted:
        _into((image, valid, mask), bank.patch(p.object), bank.labels(p.object), bank.klass(p.object), p, how)
    return image, valid.copy(), mask


class _How(NamedTuple):
    feather: float
    match: bool | np.ndarray
    terrain: Sequence[int]
    ring: int


def _into(tile: Tile, patch: Tile, labels: np.ndarray | None, klass: int, at: Pasted, how: _How) -> None:
    """`paste` into the arrays themselves; all work is on the patch's window."""
    image, valid, mask = tile
    hard = placed(patch[2], at.code, at.scale)
    window, part = _meeting(mask.shape, hard.shape, at.top, at.left)
    bands = [b for b in range(len(image)) if b not in how.terrain]
    source = patch[0] if not how.terrain else patch[0][bands]
    if not patch[1].all():
        source = _filled(source, patch[1])
    pixels = _resized(dihedral(source, at.code), hard.shape)[:, *part]
    usable, core, open_ = _nearest(patch[1], at)[part], hard[part], valid[window]
    # What is not valid may be no number.
    under = np.where(open_, image[:, *window] if not how.terrain else image[bands, *window], 0)
    under = under.astype(pixels.dtype)
    alpha = edge(hard, how.feather)[part] * (open_ & (mask[window] != IGNORE) & (usable | core))
    if how.match is not False:
        near = (halo(hard, how.ring) & ~hard)[part]
        home = near & usable, None if labels is None else _nearest(labels, at)[part]
        low, high, alike = _ring_means(pixels, under, home, (near & open_, mask[window]))
        share = np.ones(len(image)) if how.match is True else np.asarray(how.match)
        pixels = _matched(pixels, core, low, high, share[bands] * alike)
    blended = under + alpha * (pixels - under)
    if np.issubdtype(image.dtype, np.integer):
        kind = np.iinfo(image.dtype)
        blended = blended.round().clip(kind.min, kind.max)
    changed = alpha > 0
    for band, values in zip(bands, blended, strict=True):
        np.copyto(image[band][window], values, where=changed, casting="unsafe")
    _label(mask, hard, klass, at.top, at.left)


def _ring_means(
    pixels: np.ndarray,
    under: np.ndarray,
    home: tuple[np.ndarray, np.ndarray | None],
    new: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Means `[C]` of the patch's ring in `pixels` and of the tile's ring in `under`, and whether they are comparable.

    `home`, `new`: the ring's pixels, bool, and labels `[h, w]`. Classes weigh by the pixels that both rings
    have of them; without enough of such all pixels are taken, and the means are those of different things.
    """
    (at_home, home_labels), (at_new, new_labels) = home, new
    alike, weights = home_labels is None, None
    if home_labels is not None:
        n_home = np.bincount(home_labels[at_home], minlength=256)
        n_new = np.bincount(new_labels[at_new], minlength=256)
        both = np.minimum(n_home, n_new)
        both[IGNORE] = 0
        if both.sum() >= _ENOUGH:
            share, alike = both / both.sum(), True
            weights = (
                (share / np.maximum(n_home, 1))[home_labels] * at_home,
                (share / np.maximum(n_new, 1))[new_labels] * at_new,
            )
    if weights is None:
        n_home, n_new = at_home.sum(), at_new.sum()
        if min(n_home, n_new) < _ENOUGH:
            return np.zeros(len(pixels), pixels.dtype), np.zeros(len(pixels), pixels.dtype), False
        weights = at_home / n_home, at_new / n_new
    # Sums of numpy, not of a matrix product: those depend on the number of threads.
    low, high = (
        (a * w.astype(a.dtype)).sum((1, 2), dtype=float)
        for a, w in zip((pixels, under), weights, strict=True)
    )
    return low.astype(pixels.dtype), high.astype(pixels.dtype), alike


def _matched(
    pixels: np.ndarray, core: np.ndarray, low: np.ndarray, high: np.ndarray, share: np.ndarray
) -> np.ndarray:
    """A patch `[C, h, w]` whose ring goes from mean `low` to `high` `[C]`, and its object (`core`) by `share` of it."""
    around = _moved(pixels, low, high)
    if not core.any():
        return around
    own = (pixels * core).sum((1, 2)) / core.sum(dtype=pixels.dtype)
    positive = (own > 0) & (low > 0) & (high > 0)
    ratio = np.clip(np.divide(high, low, out=np.ones_like(low), where=positive), *_GAIN)
    step = np.where(positive, own * (ratio**share - 1), share * (high - low))
    return np.where(core, _moved(pixels, own, own + step.astype(own.dtype)), around)


def _moved(pixels: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Pixels `[C, h, w]` of mean `low` `[C]` with the mean `high`: by a gain of ½ to 2, and an offset for the rest.

    Light multiplies: what is dark stays dark. Values that are not positive are only shifted.
    """
    positive = (low > 0) & (high > 0)
    gain = np.clip(np.divide(high, low, out=np.ones_like(low), where=positive), *_GAIN)
    return pixels * gain[:, None, None] + (high - gain * low)[:, None, None]


def _label(
    mask: np.ndarray, hard: np.ndarray, klass: int, top: int, left: int, shares: np.ndarray | None = None
) -> None:
    tile, part = _meeting(mask.shape, hard.shape, top, left)
    view = mask[tile]
    here = hard[part] & (view != IGNORE)
    view[here] = klass
    if shares is not None:
        under = shares[:, *tile]
        under[:, here] = 0
        under[klass, here] = STEPS


def _meeting(
    tile: tuple[int, ...], patch: tuple[int, ...], top: int, left: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a patch at (top, left) lies in the tile, and which part of it; empty slices where it is outside."""
    r0, c0 = min(max(top, 0), tile[0]), min(max(left, 0), tile[1])
    r1, c1 = max(r0, min(top + patch[0], tile[0])), max(c0, min(left + patch[1], tile[1]))
    inside = slice(r0 - top, r1 - top), slice(c0 - left, c1 - left)
    return (slice(r0, r1), slice(c0, c1)), inside


def _nearest(array: np.ndarray, at: Pasted) -> np.ndarray:
    """`[h, w]` turned and scaled, each pixel the nearest of the source; in whole numbers, so the same everywhere."""
    turned = dihedral(array, at.code)
    rows, cols = (_sources(n, float(at.scale)) for n in turned.shape)
    return turned[rows[:, None], cols]


@lru_cache(1024)
def _sources(length: int, scale: float) -> np.ndarray:
    """The source pixel of each pixel of a scaled side."""
    size = max(1, round(length * scale))
    return (2 * np.arange(size) + 1) * length // (2 * size)


def _resized(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bands `[C, h, w]` as real numbers of another size, linearly; float64 where float32 is not exact."""
    kind = np.float64 if image.dtype.itemsize > 2 and image.dtype != np.float32 else np.float32
    image = np.ascontiguousarray(image, dtype=kind)
    if image.shape[1:] == shape:
        return image
    out = np.empty((len(image), *shape), kind)
    for band, target in zip(image, out, strict=True):
        target[:] = cv2.resize(band, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return out


def _filled(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Invalid pixels take the nearest valid one: otherwise they would bleed into their neighbours."""
    from scipy.ndimage import distance_transform_edt

    nearest = np.empty((2, *valid.shape), np.int32)
    distance_transform_edt(~valid, return_distances=False, return_indices=True, indices=nearest)
    return image[:, nearest[0], nearest[1]]


@lru_cache
def _disk(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x**2 + y**2 <= radius**2).astype(np.uint8)
