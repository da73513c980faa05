"""Pictures of a plan: tiles that are drawn most, composites beside their sources, where crops are aimed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raremap.balance.crops import even_chance, pixel_chances
from raremap.balance.paste import render
from raremap.balance.sources import owners
from raremap.reports.overlays import heat_picture, mosaic, outlined
from raremap.reports.pictures import true_color
from raremap.reports.plan import Picture, PlanViews
from raremap.tiles.reader import TileReader

if TYPE_CHECKING:
    from raremap.balance.bank import ObjectBank
    from raremap.balance.composites import Composites
    from raremap.balance.plan import SamplingPlan
    from raremap.tiles.catalog import Catalog

_REPEATED, _COMPOSITES, _AIMED = 6, 6, 3
# Of its home this many pixels are shown around an object, and this share of its own size.
_MARGIN, _AROUND = 10, 0.6


def views(plan: SamplingPlan, catalog: Catalog) -> PlanViews:
    """The pictures of a plan's page; tiles are read one by one."""
    rows = plan.rows(catalog)
    album = _Album(plan, catalog, rows, TileReader(catalog, rows, memory=0))
    repeated = [album.repeated(i) for i in most_repeated(plan, _REPEATED)]
    aimed = [album.aimed(i) for i in most_aimed(plan, _AIMED)]
    if plan.composites is None or plan.bank is None:
        return PlanViews(repeated, [], aimed)
    shown = some_composites(plan, plan.composites, plan.bank, _COMPOSITES)
    return PlanViews(repeated, [album.composite(m, plan.composites, plan.bank) for m in shown], aimed)


def most_repeated(plan: SamplingPlan, most: int) -> list[int]:
    """Tiles drawn most often, and more often than others; of equals those richest in what the target asks more of."""
    tiles = np.flatnonzero(~plan.composite)
    repeats = plan.repeats[tiles]
    if np.ptp(repeats) == 0:
        return []
    worth = np.divide(plan.target, plan.natural, out=np.zeros(len(plan.natural)), where=plan.natural > 0)
    rich = plan.counts[tiles] @ worth / plan.counts[tiles].sum(1)
    order = np.lexsort((-rich, -repeats))
    return [int(tiles[i]) for i in order[:most] if repeats[i] > repeats.min()]


def some_composites(plan: SamplingPlan, composites: Composites, bank: ObjectBank, most: int) -> list[int]:
    """Composites that are drawn, else those proposed: the first one of each class in turn, and so on; not the best."""
    drawn = np.flatnonzero(plan.weights[plan.composite] > 0)
    by_class: dict[int, list[int]] = {}
    for m in drawn if len(drawn) else np.arange(len(composites)):
        by_class.setdefault(bank.klass(int(composites.objects[m][0])), []).append(int(m))
    order = [
        queue[turn]
        for turn in range(max(map(len, by_class.values()), default=0))
        for _, queue in sorted(by_class.items())
        if turn < len(queue)
    ]
    return order[:most]


def most_aimed(plan: SamplingPlan, most: int) -> list[int]:
    """Tiles whose crops lie least evenly, by KL(chance ‖ even)."""
    grid = plan.grid
    if grid is None:
        return []
    even = even_chance(grid)
    some = (grid.chance > 0) & (even > 0)
    parts = np.zeros(len(even))
    parts[some] = grid.chance[some] * np.log(grid.chance[some] / even[some])
    uneven = np.where(plan.composite | (plan.weights == 0), 0.0, np.add.reduceat(parts, grid.first[:-1]))
    return [int(i) for i in np.argsort(-uneven, kind="stable")[:most] if uneven[i] > 0.01]


class _Album:
    """Pictures of single tiles."""

    def __init__(self, plan: SamplingPlan, catalog: Catalog, rows: np.ndarray, reader: TileReader) -> None:
        self._plan, self._catalog, self._rows, self._reader = plan, catalog, rows, reader
        self._rgb, self._bands = catalog.scheme.rgb, catalog.bands
        self._names = [n.replace("_", " ") for n in catalog.scheme.names]

    def repeated(self, entry: int) -> Picture:
        image, valid, mask = self._reader.whole(int(self._rows[entry]))
        held = self._plan.counts[entry] / self._plan.counts[entry].sum()
        rare = [f"{self._names[i]} {held[i]:.1%}" for i in np.flatnonzero(self._plan.rare & (held > 0))]
        views = {"imagery": true_color(image, valid, self._bands), "labels": mask}
        return Picture(
            f"× {self._plan.repeats[entry]:.3g}",
            f"{self._where(self._rows[entry])} · {', '.join(rare) or 'no rare class'}",
            views,
        )

    def composite(self, m: int, composites: Composites, bank: ObjectBank) -> Picture:
        row, pasted = int(composites.row[m]), composites.pasted(m)
        before, valid, mask = self._reader.whole(row)
        after = render(self._reader, row, pasted, bank, self._plan.copy_paste)[0]
        # One stretch for both, or the pasted object would change the colours of everything else.
        both = true_color(np.concatenate([before, after], axis=2), np.hstack([valid, valid]), self._bands)
        background, composite = both[:, : mask.shape[1]], both[:, mask.shape[1] :]
        owner = owners(mask, pasted, bank)
        colors = [self._rgb[bank.klass(p.object)] for p in pasted]
        outlines = [(owner == i + 1, color) for i, color in enumerate(colors)]
        homes = [self._home(p.object, bank) for p in pasted]
        entry = int((~self._plan.composite).sum()) + m
        classes = [bank.klass(p.object) for p in pasted]
        what = ", ".join(f"{classes.count(c)} {self._names[c]}" for c in dict.fromkeys(classes))
        return Picture(
            f"× {self._plan.repeats[entry]:.3g}",
            f"{self._where(row)} · pasted: {what}",
            {
                "background before": background,
                "composite": composite,
                "what was pasted": outlined(composite, outlines),
                "objects at home": mosaic(homes),
            },
        )

    def aimed(self, entry: int) -> Picture:
        grid = self._plan.grid
        assert grid is not None
        image, valid, mask = self._reader.whole(int(self._rows[entry]))
        chance = pixel_chances(grid, entry, mask.shape, grid.chance)
        even = pixel_chances(grid, entry, mask.shape, even_chance(grid))
        ratio = np.divide(chance, even, out=np.ones_like(chance), where=even > 0)
        picture = true_color(image, valid, self._bands)
        return Picture(
            f"up to × {ratio.max():.2g}",
            f"{self._where(self._rows[entry])} · {(ratio < 0.1).mean():.0%} of the ground less than a tenth as often",
            {"imagery": picture, "labels": mask, "how often it is seen": heat_picture(picture, ratio)},
        )

    def _home(self, index: int, bank: ObjectBank) -> np.ndarray:
        """The object where it was cut out, with its surroundings and its outline."""
        record = bank.table.iloc[index]
        row = int(self._rows[np.flatnonzero(self._plan.tile_ids == record["tile_id"])[0]])
        window, part = self._catalog.windows[row], bank.patch(index)[2]
        image, valid, mask = self._reader.whole(row)
        inside = np.zeros(mask.shape, bool)
        top, left = int(record["row_off"]) - window.row_off, int(record["col_off"]) - window.col_off
        inside[top : top + part.shape[0], left : left + part.shape[1]] = part
        r, c = np.nonzero(inside)
        middle = (int(r.min() + r.max()) // 2, int(c.min() + c.max()) // 2)
        half = int(max(np.ptp(r), np.ptp(c)) * (0.5 + _AROUND)) + _MARGIN
        cut = tuple(slice(max(0, m - half), m + half + 1) for m in middle)
        picture = true_color(image, valid, self._bands)
        # It is shown smaller than a tile, so the line is thicker.
        return outlined(picture[cut], [(inside[cut], self._rgb[bank.klass(index)])], width=7)

    def _where(self, row: int) -> str:
        record = self._catalog.table.iloc[int(row)]
        return f"{record['tile_id']} (place {record['place']})"
