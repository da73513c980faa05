"""`SamplingPlan`: how often each training tile is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raremap.errors import CatalogError, SplitError
from raremap.files import written

if TYPE_CHECKING:
    from raremap.tiles.catalog import Catalog


@dataclass(frozen=True)
class SamplingPlan:
    """Weights and repeats of tiles; `weights` sum to 1 over the tiles that are listed.

    `shares` are the class shares of the stream that the weights make: Σ w·d over tiles, d the tile's own
    shares of its labelled pixels.
    """

    tile_ids: np.ndarray
    weights: np.ndarray
    repeats: np.ndarray
    shares: np.ndarray

    @classmethod
    def uniform(cls, catalog: Catalog, chosen: np.ndarray) -> SamplingPlan:
        """Every chosen tile with a labelled pixel alike; `chosen` is bool `[N]`."""
        rows = np.flatnonzero(chosen & (catalog.counts.sum(1) > 0))
        if len(rows) == 0:
            raise SplitError("no training tile holds a labelled pixel; check the labels and the split")
        counts = catalog.counts[rows]
        weights = np.full(len(rows), 1 / len(rows))
        shares = weights @ (counts / counts.sum(1, keepdims=True))
        ids = catalog.table["tile_id"].to_numpy()[rows]
        return cls(ids, weights, np.ones(len(rows), np.int32), shares)

    @property
    def effective_size(self) -> float:
        """Effective number of tiles, 1 / Σ w²."""
        return float(1 / np.square(self.weights).sum())

    def rows(self, catalog: Catalog) -> np.ndarray:
        """Catalog rows of the plan's tiles; raises `CatalogError` where one is not there."""
        position = {t: i for i, t in enumerate(catalog.table["tile_id"])}
        missing = [t for t in self.tile_ids if t not in position]
        if missing:
            raise CatalogError(
                f"the plan names tile {missing[0]}, which is not in the catalog; make the plan again"
            )
        return np.array([position[t] for t in self.tile_ids], np.int64)

    def save(self, path: str | Path) -> Path:
        """Write the plan as Parquet."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(
            {"tile_id": pa.array(self.tile_ids.tolist()), "weight": self.weights, "repeats": self.repeats}
        ).replace_schema_metadata({b"shares": ",".join(map(repr, self.shares.tolist())).encode()})
        with written(path) as fresh:
            pq.write_table(table, fresh)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> SamplingPlan:
        """Read a plan; raises `CatalogError` where the file is missing or is none."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
            shares = np.array([float(v) for v in table.schema.metadata[b"shares"].decode().split(",")])
            ids, weights, repeats = (table.column(c).to_numpy() for c in ("tile_id", "weight", "repeats"))
        except (pa.ArrowException, OSError, KeyError, TypeError):
            raise CatalogError(f"{path} is not a sampling plan; make it again") from None
        return cls(ids, weights, repeats, shares)
