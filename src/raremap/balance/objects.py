"""Building the object bank: one pass over the training tiles."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from raremap.balance.bank import ObjectBank, bank_table
from raremap.balance.cut import (
    Found,
    Shelf,
    Wanted,
    contact_shares,
    contacts_of,
    objects_of,
    plausibility,
    unrepeated,
)
from raremap.balance.ground import pixel_size, resolution, slope_of
from raremap.balance.light import followed
from raremap.balance.paste import Tile
from raremap.jobs import tracked
from raremap.tiles.reader import TileReader

if TYPE_CHECKING:
    from raremap.balance.options import CopyPasteOptions
    from raremap.tiles.catalog import Catalog

__all__ = ["ObjectBank", "build_bank"]

log = logging.getLogger(__name__)


def build_bank(
    catalog: Catalog,
    rows: np.ndarray,
    classes: Sequence[int],
    options: CopyPasteOptions,
    seed: int,
    quiet: bool = True,
) -> ObjectBank:
    """Objects of `classes` (indices) in the tiles `rows` that hold one, read once, one after the other.

    At most `options.per_class` of a class stay, drawn with `seed` and as evenly over the places as they
    have them; whole objects go before those that touch a tile's border. Views of one object in overlapping
    tiles of a scene count once, the whole or largest one. What is met is in memory for two rows of tiles
    at most, what stays is in the bank. Logs a warning for each class without a whole object.
    """
    k = catalog.scheme.num_classes
    most = options.max_area or max(options.min_area, catalog.tile_options.largest**2 // 8)
    wanted = Wanted(classes, k, options.min_area, most, options.ring, options.margin)
    places = catalog.table["place"].to_numpy().astype(str)
    shelves = {c: Shelf(options.per_class) for c in classes}
    contacts, all_pixels, whole_pixels = np.zeros((k, k), np.int64), np.zeros(k), np.zeros(k)
    waiting: dict[int, list[Found]] = {}  # finds of tiles that a later one may overlap

    def settle(row: int) -> None:
        for find in waiting.pop(row):
            shelves[find.klass].offer(places[row], find)

    # A tile that holds none of the classes has neither objects of them nor contacts with them.
    rows = np.asarray(rows, np.int64)
    rows = rows[(catalog.counts[rows][:, list(classes)] > 0).any(1)]
    for row, tile in _tiles(catalog, rows, quiet):
        window, size = catalog.windows[row], pixel_size(catalog.scenes[catalog.scene_names[row]].grid)
        for earlier in [r for r in waiting if _passed(catalog, r, row)]:
            settle(earlier)
        slope = slope_of(tile[0], tile[1], catalog.bands, size)
        rng = np.random.default_rng((seed, 0x0B1E, row))
        finds, pixels = objects_of(row, tile, window, slope, wanted, rng)
        contacts += contacts_of(tile[2], k)
        all_pixels += pixels
        np.add.at(whole_pixels, [f.klass for f in finds], [f.area * (not f.touches) for f in finds])
        for earlier in waiting:
            if not catalog.windows[earlier].intersect(window).empty:
                waiting[earlier], finds = unrepeated(waiting[earlier], finds)
        waiting[row] = finds
    for row in list(waiting):
        settle(row)
    for c in classes:
        if shelves[c].whole.size == 0:
            log.warning(
                "no object of '%s' has %d to %d pixels and lies whole in a training tile; none is pasted",
                *(catalog.scheme.names[c], options.min_area, most),
            )
    kept = [find for c in classes for find in shelves[c]]
    whole = whole_pixels / np.maximum(all_pixels, 1)
    return _bank(catalog, kept, contact_shares(contacts), whole, classes, options)


def _tiles(catalog: Catalog, rows: np.ndarray, quiet: bool) -> Iterator[tuple[int, Tile]]:
    """Tiles scene by scene from the top down, none kept."""
    if len(rows) == 0:
        return
    reader = TileReader(catalog, np.asarray(rows), memory=0)
    order = sorted((int(r) for r in rows), key=lambda r: (catalog.scene_names[r], catalog.windows[r]))
    for row in tracked(order, "objects", len(order), quiet):
        yield row, reader.whole(row)


def _passed(catalog: Catalog, earlier: int, row: int) -> bool:
    """Whether no tile from `row` on can overlap the earlier one."""
    if catalog.scene_names[earlier] != catalog.scene_names[row]:
        return True
    return catalog.windows[earlier].row_end <= catalog.windows[row].row_off


def _bank(
    catalog: Catalog,
    finds: list[Found],
    contacts: np.ndarray,
    whole: np.ndarray,
    classes: Sequence[int],
    options: CopyPasteOptions,
) -> ObjectBank:
    """Everything kept, as a bank, in an order that does not depend on that of the pass."""
    finds = sorted(finds, key=lambda f: (f.klass, f.row, f.window))
    plausible = np.zeros(len(contacts))
    for c in classes:
        usual = np.array([plausibility(f.ring, contacts, c) for f in finds if f.klass == c])
        usual = usual[np.isfinite(usual)]
        # A little less: rounding must not refuse surroundings that are exactly those of real objects.
        plausible[c] = (1 - 1e-9) * np.quantile(usual, options.plausibility) if len(usual) else 0.0
    rows = [f.row for f in finds]
    tiles = catalog.table.iloc[rows]
    sizes = {s: resolution(pixel_size(catalog.scenes[s].grid)) for s in set(tiles["scene"])}
    dates = [None if pd.isna(d) else str(d) for d in tiles["date"]]
    frame = bank_table(
        {
            "klass": [f.klass for f in finds],
            **{name: tiles[name].tolist() for name in ("tile_id", "scene", "place")},
            "date": dates,
            "resolution": [sizes[s] for s in tiles["scene"]],
            **{
                name: [getattr(f.window, name) for f in finds]
                for name in ("row_off", "col_off", "height", "width")
            },
            "area": [f.area for f in finds],
            "touches": [f.touches for f in finds],
            "ring": [f.ring.tolist() for f in finds],
            "slope_low": [f.slopes[0] for f in finds],
            "slope_high": [f.slopes[1] for f in finds],
        }
    )
    # Scenes may store their values in different types, a bank has one.
    kind = np.result_type(*(f.patch.image.dtype for f in finds)) if finds else np.uint8
    patches = tuple(f.patch._replace(image=f.patch.image.astype(kind, copy=False)) for f in finds)
    follows = followed(patches, [f.klass for f in finds], rows, len(catalog.bands), options.ring)
    return ObjectBank(
        frame, catalog.bands, contacts, plausible, follows, whole, tuple(int(c) for c in classes), patches
    )
