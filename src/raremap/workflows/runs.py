"""Runs of a comparison as one Parquet table: a row a run, way of deciding and place, with all that was counted."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import CatalogError, reason
from raremap.files import written
from raremap.measure.tally import FIELDS, Tally

if TYPE_CHECKING:
    import pandas as pd

KEY = ["variant", "seed", "fold", "keep", "imbalance", "points"]
"""What names a run."""

WAYS = ("argmax", "decision")

Condition = tuple[float, float, str]
"""Share of the labels kept, imbalance ratio (0: as it is), points as text (none: dense labels)."""


@dataclass(frozen=True)
class Run:
    """One training of a comparison; `imbalance` is 0 where the rare classes were not thinned, `points` as they
    are written (see `points_text`), empty where labels are dense."""

    variant: str
    seed: int
    fold: str
    keep: float = 1.0
    imbalance: float = 0.0
    points: str = ""

    @property
    def condition(self) -> Condition:
        """How its training labels were thinned."""
        return self.keep, self.imbalance, self.points

    @property
    def folder(self) -> str:
        """The name of its folder."""
        name = str(replace(self, points="")).replace(" ", "-")
        return name + (f"-points-{re.sub(r'[^A-Za-z0-9_.=-]+', '-', self.points)}" if self.points else "")

    def __str__(self) -> str:
        thinned = f" keep {self.keep:g}" if self.keep < 1 else ""
        thinned += f" imbalance {self.imbalance:g}" if self.imbalance else ""
        thinned += f" points {self.points}" if self.points else ""
        return f"{self.variant} seed {self.seed} fold {self.fold}{thinned}"


@dataclass(frozen=True)
class Design:
    """What is compared: variants by name (keys on top of the experiment), on which seeds, folds and thinnings."""

    variants: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    folds: tuple[str, ...]
    conditions: tuple[Condition, ...]
    baseline: str
    fitted_baseline: bool = False

    def runs(self) -> list[Run]:
        """Every run, in the order in which they are made: whole seeds first."""
        return [
            Run(variant, seed, fold, *condition)
            for seed in self.seeds
            for condition in self.conditions
            for fold in self.folds
            for variant in self.variants
        ]


class RunTable:
    """The table `runs.parquet`, which grows by one run at a time and is whole at any moment."""

    def __init__(self, path: Path) -> None:
        import pandas as pd

        self.path = path
        self.frame: pd.DataFrame = pd.DataFrame()
        if path.exists():
            try:
                self.frame = pd.read_parquet(path)
                if "points" not in self.frame:  # tables of before there were points
                    self.frame["points"] = ""
                self.frame[[*KEY, "of", "decision", "place", *FIELDS]]
            except Exception as error:  # whatever damaged bytes make the readers raise
                raise CatalogError(
                    f"{path} is not a table of runs ({reason(error)}); remove it, or choose another -o"
                ) from None

    def done(self) -> dict[Run, str]:
        """Each run in the table, with the checksum of what it was made of."""
        if self.frame.empty:
            return {}
        rows = self.frame.drop_duplicates(KEY)
        return {Run(*(row[k] for k in KEY)): str(row["of"]) for row in rows.to_dict("records")}

    def add(
        self, run: Run, of: str, places: np.ndarray, ways: dict[str, Tally], facts: dict[str, Any]
    ) -> None:
        """Put a finished run into the table: tallies by place for each way of deciding, and what else is known of it."""
        import pandas as pd

        rows = []
        for way, tally in ways.items():
            for i, place in enumerate(places):
                counts = {f: _sparse(getattr(tally, f)[i]) for f in FIELDS}
                rows.append(
                    {**run.__dict__, "of": of, "decision": way, "place": str(place), **counts, **facts}
                )
        fresh = pd.DataFrame(rows)
        frame = fresh if self.frame.empty else pd.concat([self.frame, fresh], ignore_index=True)
        with written(self.path) as path:
            frame.to_parquet(path, compression="zstd", index=False)
        self.frame = frame

    def tally(self, run: Run, way: str, num_classes: int) -> tuple[np.ndarray, Tally]:
        """Places, sorted, and the tally of each."""
        at = self.frame["decision"] == way
        for key in KEY:
            at &= self.frame[key] == getattr(run, key)
        rows = self.frame.loc[at].to_dict("records")
        rows.sort(key=lambda row: row["place"])
        out = Tally.empty(len(rows), num_classes)
        for field in FIELDS:
            for target, row in zip(getattr(out, field), rows, strict=True):
                target.reshape(-1)[row[field]["at"]] = row[field]["count"]
        return np.array([row["place"] for row in rows], str), out

    def mean(self, column: str, runs: Collection[Run]) -> float:
        """Mean over some runs of what is known of each."""
        rows = self.frame.drop_duplicates(KEY).to_dict("records")
        return float(np.mean([row[column] for row in rows if Run(*(row[k] for k in KEY)) in runs]))


def _sparse(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Counts as flat positions and numbers, without the zeros that most of them are."""
    flat = counts.ravel()
    at = np.flatnonzero(flat)
    return {"at": at.astype(np.int32), "count": flat[at].astype(np.int64)}
