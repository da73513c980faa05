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

JOB = "raremap_job"
"""The tag of a map that says which job of `predict` has made it, and its pixels by class; of no map that was made from it."""


@dataclass(frozen=True)
class Legend:
    """Stored values, names and colours `#RRGGBB` by class index, the value of no data, and the type that holds them."""

    values: tuple[int, ...]
    names: tuple[str, ...]
    colors: tuple[str, ...]
    nodata: int
    dtype: str = "uint8"

    @classmethod
    def of(cls, source: ClassMap) -> Legend:
        """That of a map: bytes where it has them or they hold its classes and a nodata value, else numbers of 16 bits.

        Raises `LabelError` where those have no room for a nodata value either.
        """
        taken = set(source.values)
        wide = source.file.dtype == np.uint16 or max(taken) > 255 or len(taken) > 255
        most, nodata = 65535 if wide else 255, source.nodata
        if len(taken) > most:
            raise LabelError(f"{source.path} has {len(taken)} classes, which leave no value for no data")
        if nodata is None or not (0 <= nodata <= most) or int(nodata) in taken:
            nodata = next(v for v in range(most, -1, -1) if v not in taken)
        return cls(source.values, source.names, source.colors, int(nodata), "uint16" if wide else "uint8")

    def index(self, name: str, what: str) -> int:
        """The index of a class; raises `LabelError` with the nearest known name, `what` saying who asks."""
        from raremap.errors import nearest

        if name not in self.names:
            raise LabelError(f"{what} names '{name}', which is not a class; {nearest(name, self.names)}")
        return self.names.index(name)

    def stored(self, index: np.ndarray) -> np.ndarray:
        """The values of class index in its `index_type`, whose last one becomes nodata."""
        table = np.full(np.iinfo(index.dtype).max + 1, self.nodata, self.dtype)
        table[: len(self.values)] = self.values
        return table[index]

    def writer(self, path: Path, grid: Grid, tags: Mapping[str, str]) -> CogWriter:
        """A COG with these classes as its colour table and tags, and `tags` besides."""
        rgb = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in self.colors]
        named = {f"class_{v}": name for v, name in zip(self.values, self.names, strict=True)}
        kept = {
            k: v for k, v in tags.items() if not k.startswith("class_") and k not in ("AREA_OR_POINT", JOB)
        }
        return CogWriter(
            path, grid, self.dtype, bands=("class",), nodata=self.nodata,
            colors=dict(zip(self.values, rgb, strict=True)), tags={**kept, **named},  # type: ignore[arg-type]
        )  # fmt: skip
