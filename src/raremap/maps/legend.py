"""A class map written like the one it was made from: its legend, nodata, tags and style."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raremap.errors import LabelError
from raremap.maps.classmap import ClassMap
from raremap.scene.cog import CogWriter
from raremap.scene.grid import Grid


@dataclass(frozen=True)
class Legend:
    """Stored values, names and colours `#RRGGBB` by class index, and the value of no data."""

    values: tuple[int, ...]
    names: tuple[str, ...]
    colors: tuple[str, ...]
    nodata: int

    @classmethod
    def of(cls, source: ClassMap) -> Legend:
        """That of a map; raises `LabelError` where its values do not fit a byte beside a nodata value."""
        if max(source.values) > 255 or len(source.values) > 254:
            raise LabelError(
                f"{source.path} has class value {max(source.values)}, and {len(source.values)} classes; a map holds 254 classes of values below 256"
            )
        nodata = source.nodata
        if nodata is None or not (0 <= nodata <= 255) or int(nodata) in source.values:
            nodata = next(v for v in range(255, -1, -1) if v not in source.values)
        return cls(source.values, source.names, source.colors, int(nodata))

    def index(self, name: str, what: str) -> int:
        """The index of a class; raises `LabelError` with the nearest known name, `what` saying who asks."""
        from raremap.errors import nearest

        if name not in self.names:
            raise LabelError(f"{what} names '{name}', which is not a class; {nearest(name, self.names)}")
        return self.names.index(name)

    def stored(self, index: np.ndarray) -> np.ndarray:
        """The values uint8 of class index uint8; 255 becomes nodata."""
        table = np.full(256, self.nodata, np.uint8)
        table[: len(self.values)] = self.values
        return table[index]

    def writer(self, path: Path, grid: Grid, tags: Mapping[str, str]) -> CogWriter:
        """A COG with these classes as its colour table and tags, and `tags` besides."""
        rgb = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in self.colors]
        named = {f"class_{v}": name for v, name in zip(self.values, self.names, strict=True)}
        kept = {k: v for k, v in tags.items() if not k.startswith("class_") and k != "AREA_OR_POINT"}
        return CogWriter(
            path, grid, "uint8", bands=("class",), nodata=self.nodata,
            colors=dict(zip(self.values, rgb, strict=True)), tags={**kept, **named},  # type: ignore[arg-type]
        )  # fmt: skip
