"""Simulated point labels: of a dense mask a few pixels stay, as if someone had clicked on them.

The same tile has the same points in any worker, order or crop: every pixel of a tile gets a random key that
follows from the seed and the tile's name, and the smallest keys of each group of pixels stay. So fewer points
are always some of the more.

The border of a tile is no boundary: what lies beyond is not known, and a point may lie close to it. The edge of
ignored ground is one.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import ConfigError, RaremapWarning
from raremap.jobs import tracked
from raremap.labels import IGNORE
from raremap.tiles.options import PointOptions, UniformPoints
from raremap.tiles.reader import TileReader

if TYPE_CHECKING:
    from raremap.tiles.catalog import Catalog


def point(
    catalog: Catalog, uses: np.ndarray, options: PointOptions, seed: int, quiet: bool = True
) -> Catalog:
    """The catalog that training sees: of its training tiles only points are labelled and counted.

    Each mask is read once. A tile without a labelled pixel has no point. `natural` of the catalog are the true
    class shares where they are given, or follow from the points. Warns of a class that loses all its pixels; raises
    `ConfigError` where shares are given and deny a class that has points.
    """
    names = catalog.scheme.names
    given = options.by_class(names)
    rows = np.flatnonzero((uses == "train") & (catalog.counts.sum(1) > 0))
    counts, points = catalog.counts.copy(), dict[int, np.ndarray]()
    reader = TileReader(catalog, rows, memory=0) if len(rows) else None
    for row in tracked(rows.tolist(), "points", len(rows), quiet):
        assert reader is not None
        mask = reader.whole(row)[2]
        here = drawn(mask, options, tile_rng(str(catalog.table["tile_id"].iloc[row]), seed))
        points[row] = np.flatnonzero(here).astype(np.int32)
        counts[row] = np.bincount(mask[here], minlength=len(names))
    natural = None
    if given is not None:
        natural = _possible(given, counts[rows].sum(0), names)
    else:
        _tell_lost(catalog.counts[rows].sum(0), counts[rows].sum(0), names)
        if isinstance(options, UniformPoints) and not options.estimates:
            natural = _by_area(catalog.counts[rows], counts[rows])
    table = catalog.table.copy()
    table["counts"] = list(counts)
    return replace(catalog, table=table, points=points, natural=natural)


def tile_rng(tile_id: str, seed: int) -> np.random.Generator:
    """The generator of a tile's points."""
    digest = hashlib.blake2b(tile_id.encode(), digest_size=8).digest()
    return np.random.default_rng((seed, 0x9017, int.from_bytes(digest, "little")))


def drawn(mask: np.ndarray, options: PointOptions, rng: np.random.Generator) -> np.ndarray:
    """Which pixels of a class index `[h, w]` are points, bool; none is where nothing is labelled."""
    keys = rng.random(mask.shape)
    groups = options.kind == "per_object" or options.margin or options.radius
    objects = _objects(mask) if groups else np.zeros(mask.shape, np.int32)
    where = _inside(mask, objects, options.margin, keys) if options.margin else mask != IGNORE
    if isinstance(options, UniformPoints):
        labelled = int((mask != IGNORE).sum())
        count = options.count or max(1, round((options.share or 0) * labelled))
        out = _first(where, np.zeros_like(objects), count, keys)
    else:
        out = _first(where, mask if options.kind == "per_class" else objects, options.count, keys)
    return _disks(out, objects, options.radius) if options.radius else out


def _first(where: np.ndarray, group: np.ndarray, count: int, *by: np.ndarray) -> np.ndarray:
    """The `count` pixels of each group that come first in the order of `by`, the first of these before all."""
    at = np.flatnonzero(where)
    order = at[np.lexsort([*(b.ravel()[at] for b in reversed(by)), group.ravel()[at]])]
    owner = group.ravel()[order].astype(np.int64)
    starts = np.flatnonzero(np.diff(owner, prepend=-1)) if len(owner) else np.empty(0, np.int64)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    out = np.zeros(where.shape, bool)
    out.ravel()[order[rank < count]] = True
    return out


def _objects(mask: np.ndarray) -> np.ndarray:
    """The number of each pixel's object from 1 on, 0 where it is ignored; objects are 8-connected pixels of a class."""
    import cv2

    out, last = np.zeros(mask.shape, np.int32), 0
    for c in np.unique(mask[mask != IGNORE]):
        number, parts = cv2.connectedComponents((mask == c).astype(np.uint8), connectivity=8)
        out += np.where(parts > 0, parts + last, 0).astype(np.int32)
        last += number - 1
    return out


def _inside(mask: np.ndarray, objects: np.ndarray, margin: int, keys: np.ndarray) -> np.ndarray:
    """Pixels with `margin` pixels of their object all around; of an object without any, its innermost pixel."""
    depth = _depth(mask)
    inside = depth > margin
    thin = ~np.isin(objects, np.unique(objects[inside])) & (mask != IGNORE)
    return inside | _first(thin, objects, 1, -depth, keys)


def _depth(mask: np.ndarray) -> np.ndarray:
    """Distance of each labelled pixel to the next one that is not of its object; 0 where it is ignored."""
    from scipy import ndimage

    out = np.zeros(mask.shape)
    for c in np.unique(mask[mask != IGNORE]):
        # The nearest pixel outside an object touches it, so it is of another class: one pass for all its objects.
        here = mask == c
        distance: Any = np.full(mask.shape, np.inf) if here.all() else ndimage.distance_transform_edt(here)
        out[here] = distance[here]
    return out


def _disks(points: np.ndarray, objects: np.ndarray, radius: int) -> np.ndarray:
    """Pixels within `radius` of a point, of the point's object."""
    out = points.copy()
    rows, cols = np.nonzero(points)
    reach = range(-radius, radius + 1)
    for down, right in ((i, j) for i in reach for j in reach if 0 < i * i + j * j <= radius * radius):
        r, c = rows + down, cols + right
        here = (r >= 0) & (r < points.shape[0]) & (c >= 0) & (c < points.shape[1])
        r, c, own = r[here], c[here], objects[rows[here], cols[here]]
        same = objects[r, c] == own
        out[r[same], c[same]] = True
    return out


def _by_area(dense: np.ndarray, points: np.ndarray) -> tuple[float, ...]:
    """Class shares of ground from points `[N, K]` drawn alike inside tiles, each tile as large as its labelled ground."""
    # A number of points a tile says as much of a tile that is half unlabelled as of a full one.
    pooled = (points / np.maximum(points.sum(1, keepdims=True), 1) * dense.sum(1, keepdims=True)).sum(0)
    return tuple((pooled / max(pooled.sum(), 1e-12)).tolist())


def _tell_lost(dense: np.ndarray, points: np.ndarray, names: tuple[str, ...]) -> None:
    """Warn of classes that have labelled pixels `[K]` and no point."""
    lost = [f"'{names[i]}' ({dense[i]:,.0f} pixels)" for i in np.flatnonzero((dense > 0) & (points == 0))]
    if lost:
        warnings.warn(
            f"no training point is of {', '.join(lost)}: it is not learned; take more points, or points.kind: per_class",
            RaremapWarning,
            stacklevel=3,
        )


def _possible(shares: tuple[float, ...], counts: np.ndarray, names: tuple[str, ...]) -> tuple[float, ...]:
    """The shares of the classes that have points; those of others cannot be learned, and that is told."""
    for name, share, number in zip(names, shares, counts, strict=True):
        if share == 0 and number > 0:
            raise ConfigError(
                f"points.shares gives '{name}' a share of 0, but {int(number)} training pixels are of it; give it more"
            )
        if share > 0 and number == 0:
            warnings.warn(
                f"points.shares gives '{name}' {share:.3g} of the ground, but no training point is of it: "
                "it is not learned",
                RaremapWarning,
                stacklevel=3,
            )
    there = np.where(counts > 0, shares, 0.0)
    return tuple((there / max(there.sum(), 1e-12)).tolist())
