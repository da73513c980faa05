"""`Encoder`: rows of attributes as the dense numbers that a model reads; needs numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from raremap.tabular.columns import Columns


@dataclass(frozen=True)
class Encoder:
    """Fills, flags, scales and spreads the columns of rows `[n, p]`.

    Numbers first: where `medians` are given a missing one is its column's median; else it stays NaN, for models that
    read that. Then a flag for each column of `flagged`: 1 where it was missing. Then for each categorical column
    an indicator a category, all 0 where it is missing. `centre` and `scale` apply to the numbers.
    """

    categories: tuple[int, ...]  # number of categories, 0 for a numeric column
    medians: tuple[float, ...] | None
    flagged: tuple[int, ...]
    centre: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None

    @classmethod
    def fit(cls, values: np.ndarray, columns: Columns, fill: bool, standardise: bool) -> Encoder:
        """The encoder of these rows; categorical columns are flagged wherever they miss some."""
        counts = tuple(len(c.categories) for c in columns)
        numeric = [i for i, k in enumerate(counts) if not k]
        gaps = np.asarray(np.isnan(values).any(0))
        flagged = tuple(i for i in range(len(counts)) if gaps[i] and (fill or counts[i]))
        medians = None
        if fill:
            medians = tuple(_median(values[:, i]) for i in numeric)
        encoder = cls(counts, medians, flagged)
        if not standardise:
            return encoder
        numbers = encoder.fill(values)[:, numeric]
        spread = numbers.std(0, dtype=np.float64)
        return cls(
            counts, medians, flagged, tuple(numbers.mean(0, dtype=np.float64).tolist()),
            tuple(np.where(spread > 0, spread, 1.0).tolist()),
        )  # fmt: skip

    @property
    def numeric(self) -> list[int]:
        """The numeric columns."""
        return [i for i, k in enumerate(self.categories) if not k]

    @property
    def width(self) -> int:
        """Numbers a row that the model reads."""
        return len(self.numeric) + len(self.flagged) + sum(self.categories)

    def names(self, columns: Columns) -> list[str]:
        """A name for each of them."""
        out = [columns.columns[i].name for i in self.numeric]
        out += [f"{columns.columns[i].name} missing" for i in self.flagged]
        return out + [f"{c.name}={k}" for c in columns for k in c.categories]

    def fill(self, values: np.ndarray) -> np.ndarray:
        """`[n, p + flags]`: numbers filled, a missing category as the index after the last, then the flags."""
        out = np.empty((len(values), len(self.categories) + len(self.flagged)), np.float32)
        out[:, : len(self.categories)] = values
        for i, k in enumerate(self.categories):
            if k:
                out[np.isnan(values[:, i]), i] = k
        if self.medians is not None:
            for i, median in zip(self.numeric, self.medians, strict=True):
                out[np.isnan(values[:, i]), i] = median
        for j, i in enumerate(self.flagged, len(self.categories)):
            out[:, j] = np.isnan(values[:, i])
        return out

    def spread(self, filled: np.ndarray) -> np.ndarray:
        """`[n, width]` float32 of what `fill` gave."""
        numeric, p = self.numeric, len(self.categories)
        out = np.zeros((len(filled), self.width), np.float32)
        numbers = filled[:, numeric]
        if self.centre is not None and self.scale is not None:
            numbers = (numbers - np.array(self.centre, np.float32)) / np.array(self.scale, np.float32)
        out[:, : len(numeric)] = numbers
        at = len(numeric) + len(self.flagged)
        out[:, len(numeric) : at] = filled[:, p:]
        for i, k in enumerate(self.categories):
            if not k:
                continue
            code = filled[:, i].astype(np.intp)
            rows = np.flatnonzero(code < k)
            out[rows, at + code[rows]] = 1
            at += k
        return out

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Rows `[n, p]` as the model reads them, float32 `[n, width]`."""
        return self.spread(self.fill(values))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {k: getattr(self, k) for k in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Encoder:
        """What `to_dict` gave."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})


def _median(values: np.ndarray) -> float:
    """0 where a fold has no value at all: the flag is 1 in every row then."""
    there = values[~np.isnan(values)]
    return float(np.median(there)) if len(there) else 0.0
