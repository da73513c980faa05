"""`raremap change`: the differences of two maps, and, where there is a reference sample, the areas of change."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import OutputError
from raremap.files import written
from raremap.jobs import progress
from raremap.plain import plain

if TYPE_CHECKING:
    from raremap.maps.change import Differences
    from raremap.workflows.area import AreaEstimate

_SHOWN = 20


@dataclass(frozen=True)
class Change:
    """Differences of two maps by class before and after; `estimated` are areas of change from a reference sample."""

    path: Path
    table: Path
    found: Differences
    estimated: AreaEstimate | None = None

    @property
    def _rows(self) -> list[dict[str, Any]]:
        """From–to, the largest first."""
        f = self.found
        rows, cols = f.pixels.nonzero()
        out = [
            {
                "from": f.names[i],
                "to": f.names[j],
                "pixels": int(f.pixels[i, j]),
                "hectares": None if f.ground is None else float(f.ground[i, j]) / 1e4,
            }
            for i, j in zip(rows.tolist(), cols.tolist(), strict=True)
        ]
        return sorted(out, key=lambda r: (r["from"] == r["to"], -r["pixels"]))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return plain(
            {
                "change_map": str(self.path),
                "table": str(self.table),
                "what": "differences of maps, not estimated change",
                "differences": self._rows,
                "missing_pixels": self.found.missing,
                "estimated": None if self.estimated is None else self.estimated.to_dict(),
            }
        )

    def __str__(self) -> str:
        rows = [r for r in self._rows if r["from"] != r["to"]]
        same = sum(r["pixels"] for r in self._rows if r["from"] == r["to"])
        total = same + sum(r["pixels"] for r in rows)
        lines = [
            f"{self.path}: the maps differ in {(total - same) / max(total, 1):.2%} of {total:,} pixels",
            "  differences of maps, not estimated change: the errors of both maps are among them",
        ]
        for r in rows[:_SHOWN]:
            size = "" if r["hectares"] is None else f"{r['hectares']:14,.2f} ha"
            lines.append(f"  {r['from'] + ' → ' + r['to']:<44} {r['pixels']:12,} pixels{size}")
        if len(rows) > _SHOWN:
            lines.append(f"  … and {len(rows) - _SHOWN} more in {self.table}")
        if self.found.missing:
            lines.append(f"  {self.found.missing:,} pixels have no class in one of the maps")
        if self.estimated is None:
            lines.append(
                f"for areas of change: `raremap sample {self.path} -o points.gpkg`, label, and give it with --sample"
            )
        else:
            lines += ["estimated from the reference sample:", str(self.estimated)]
        return "\n".join(lines)


def change(
    before: str | Path,
    after: str | Path,
    out: str | Path,
    sample: str | Path | None = None,
    random_within_classes: bool = False,
    quiet: bool = False,
) -> Change:
    """Write the raster from class to class of two maps, `OUT.csv` of its areas beside it, and a QGIS style.

    Codes are K · class before + class after (by order of the legend), with their names in the tags; ground that
    either map has no class for is nodata. These are differences of maps. With `sample`, the labelled points that
    `raremap sample OUT` drew, areas of change are estimated, with intervals, as `raremap area` does (which also says
    what `random_within_classes` means).

    Raises `SceneError` where the maps have no legend, other grids or other classes, `OutputError` where `out` is no
    name of a GeoTIFF, or one of the maps.
    """
    from raremap.maps.change import check_alike, differences, write_change
    from raremap.maps.classmap import open_classmap
    from raremap.scene.cog import check_name
    from raremap.workflows.area import area

    check_name(out)
    out = Path(out)
    table = out.with_suffix(".csv")
    for given in (before, after):
        if out.exists() and Path(given).exists() and out.samefile(given):
            raise OutputError(f"the change map {out} would overwrite the map {given}; choose another -o")
    with open_classmap(before) as one, open_classmap(after) as other:
        check_alike(one, other)
        with progress("change", one.grid.height * one.grid.width, quiet) as bar:
            found = differences(one, other)
            tags = {"raremap_before": Path(before).name, "raremap_after": Path(after).name}
            write_change(out, one, other, found, tags, bar)
    result = Change(out, table, found)
    with written(table) as fresh, fresh.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["from", "to", "pixels", "hectares"])
        writer.writeheader()
        writer.writerows(result._rows)
    return (
        result
        if sample is None
        else Change(out, table, found, area(out, sample, random_within_classes=random_within_classes))
    )
