"""`ObjectBank`: objects of rare classes with all that placing them needs, kept as one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raremap.balance.cut import Patch, plausibility
from raremap.errors import CatalogError, reason
from raremap.files import written

_KEY = b"raremap.objects"
_ARRAYS = ["contacts", "plausible", "follows", "whole"]
_INTEGERS = ["klass", "row_off", "col_off", "height", "width", "area"]
COLUMNS = [
    "klass",
    "tile_id",
    "scene",
    "place",
    "date",
    "resolution",
    "row_off",
    "col_off",
    "height",
    "width",
    "area",
    "touches",
    "ring",
    "slope_low",
    "slope_high",
]


@dataclass(frozen=True)
class ObjectBank:
    """Objects of rare classes, cut from training places, with all that placing them needs.

    `table`, a row an object: `klass` (class index), `tile_id`, `scene`, `place`, `date`, `resolution`
    (metres a pixel, NaN where unknown), the patch's window in scene pixels (the object and up to
    `CopyPasteOptions.margin` pixels around it), `area` (pixels), `touches` (reaches the tile's border, where it
    may go on: never pasted), `ring` (shares of the K classes around it), `slope_low` and `slope_high`
    (degrees, NaN where unknown). `contacts` `[K, K]`: with which classes each one is in contact in the
    training tiles that hold one of `classes`; of these classes the rows are of all tiles. `plausible` `[K]`: how usual the surroundings must be at least (`cut.plausibility`),
    0 where a class has no object. `follows` `[C]`: how far objects go along with the light of their ring
    (`light.followed`). `whole` `[K]`: the share of a class's ground, without specks too small to count, that
    lies in whole objects of the areas asked for. `classes`: the class indices that were looked for.
    """

    table: pd.DataFrame
    bands: tuple[str, ...]
    contacts: np.ndarray
    plausible: np.ndarray
    follows: np.ndarray
    whole: np.ndarray
    classes: tuple[int, ...]
    patches: tuple[Patch, ...]

    def __len__(self) -> int:
        return len(self.table)

    def patch(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image `[C, h, w]` as stored, validity and the object itself, bool `[h, w]`."""
        return self.patches[index][:3]

    def labels(self, index: int) -> np.ndarray:
        """Class index uint8 `[h, w]` of everything in the patch."""
        return self.patches[index].labels

    def klass(self, index: int) -> int:
        """Class index of an object."""
        return self._classes[index]

    def extent(self, index: int) -> tuple[int, int]:
        """Height and width of the object itself, pixels."""
        mask = self.patches[index].mask
        return int(mask.any(1).sum()), int(mask.any(0).sum())

    @cached_property
    def slopes(self) -> np.ndarray:
        """Lowest and highest slope at home, degrees `[N, 2]`."""
        return self.table[["slope_low", "slope_high"]].to_numpy(float)

    @cached_property
    def _classes(self) -> list[int]:
        return self.table["klass"].tolist()

    @cached_property
    def pastable(self) -> np.ndarray:
        """Indices of the objects that are whole."""
        return np.flatnonzero(~self.table["touches"].to_numpy(bool))

    @cached_property
    def at_home(self) -> np.ndarray:
        """Those of them whose surroundings at home are usual for their class, or unknown."""
        rings = self.table["ring"].to_list()
        usual = [
            plausibility(np.array(rings[i]), self.contacts, self.klass(i)) for i in self.pastable.tolist()
        ]
        least = self.plausible[[self.klass(i) for i in self.pastable.tolist()]]
        return self.pastable[~(np.array(usual) < least)]

    def save(self, path: str | Path) -> Path:
        """Write everything as one Parquet table; pixels are binary columns, the matrices are metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        frame = self.table.drop(columns="ring")
        table = pa.Table.from_pandas(frame, preserve_index=False)
        k = len(self.plausible)
        flat = np.array(self.table["ring"].tolist(), np.float64).reshape(-1, k).ravel()
        table = table.append_column("ring", pa.FixedSizeListArray.from_arrays(pa.array(flat), k))
        for name in Patch._fields:
            parts = [getattr(p, name) for p in self.patches]
            packed = [np.packbits(p) if p.dtype == bool else np.ascontiguousarray(p) for p in parts]
            table = table.append_column(name, pa.array([p.tobytes() for p in packed], pa.large_binary()))
        meta = {
            "format": 1,
            "bands": self.bands,
            "dtype": str(self.patches[0].image.dtype) if self.patches else "uint8",
            **{name: getattr(self, name).tolist() for name in _ARRAYS},
            "classes": self.classes,
        }
        # Without what pandas would add: the same bank is the same bytes.
        table = table.replace_schema_metadata({_KEY: json.dumps(meta).encode()})
        with written(path) as fresh:
            pq.write_table(table, fresh, compression="zstd")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> ObjectBank:
        """Read a bank; raises `CatalogError` where the file is missing, damaged or something else."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        if not path.is_file():
            raise CatalogError(f"object bank {path} does not exist; make the plan again")
        try:
            table = pq.read_table(path)
            meta = json.loads((table.schema.metadata or {})[_KEY])
            arrays = {name: np.array(meta[name], float) for name in _ARRAYS}
            bands, classes = tuple(meta["bands"]), tuple(meta["classes"])
            frame = bank_table({c: table.column(c).to_pylist() for c in COLUMNS})
            columns = [table.column(name) for name in Patch._fields]
            patches = tuple(
                _unpacked([c[i].as_buffer() for c in columns], meta["dtype"], len(bands), h, w)
                for i, (h, w) in enumerate(zip(frame["height"], frame["width"], strict=True))
            )
            return cls(frame, bands, **arrays, classes=classes, patches=patches)
        except (pa.ArrowException, KeyError, ValueError, TypeError, OSError) as error:
            raise CatalogError(
                f"{path} is not an object bank ({reason(error)}); make the plan again"
            ) from None


def _unpacked(buffers: Sequence[Any], dtype: str, bands: int, height: int, width: int) -> Patch:
    image = np.frombuffer(buffers[0], dtype).reshape(bands, height, width)
    valid, mask = (
        np.unpackbits(np.frombuffer(b, np.uint8), count=height * width).reshape(height, width).astype(bool)
        for b in buffers[1:3]
    )
    return Patch(image, valid, mask, np.frombuffer(buffers[3], np.uint8).reshape(height, width))


def bank_table(columns: dict[str, Any]) -> pd.DataFrame:
    """The table of a bank with its types, empty or not."""
    frame = pd.DataFrame(columns, columns=COLUMNS)
    integers = dict.fromkeys(_INTEGERS, "int32")
    reals = dict.fromkeys(("resolution", "slope_low", "slope_high"), "float64")
    texts = dict.fromkeys(("tile_id", "scene", "place", "date"), object)
    frame = frame.astype({**integers, **reals, **texts, "touches": bool})
    frame["date"] = frame["date"].where(frame["date"].notna(), None)
    return frame
