"""Folds of rows: by group, by square blocks of ground, or at random; and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from raremap.errors import SplitError

_DEGREE_M = 111_195.0  # of latitude, on the sphere of the mean radius


@dataclass(frozen=True)
class Places:
    """The place of each row, int `[n]`: rows of one are never in two folds. `kind` says what places are."""

    kind: str
    index: np.ndarray

    @property
    def count(self) -> int:
        """Number of places."""
        return int(self.index.max()) + 1 if len(self.index) else 0

    def of(self, rows: np.ndarray) -> Places:
        """The places of some rows, counted anew."""
        return Places(self.kind, np.unique(self.index[rows], return_inverse=True)[1])


def by_group(values: np.ndarray) -> Places:
    """A place for each distinct value."""
    return Places("group", np.unique(values.astype(str), return_inverse=True)[1])


def by_block(xy: np.ndarray, block_m: float, degrees: bool, unit_m: float = 1.0) -> Places:
    """Square blocks of `block_m` metres; in degrees, rows of latitude divided by the length of a degree there.

    Other coordinates are in units of `unit_m` metres. Raises `SplitError` where coordinates are missing.
    """
    lost = int((~np.isfinite(xy).all(1)).sum())
    if lost:
        raise SplitError(f"{lost:,} rows have no coordinates, so that blocks cannot hold them; use --group")
    x, y = xy.T
    if degrees:
        row = np.floor(y * _DEGREE_M / block_m)
        col = np.floor(x * _DEGREE_M * np.cos(np.radians((row + 0.5) * block_m / _DEGREE_M)) / block_m)
    else:
        row, col = np.floor(y * unit_m / block_m), np.floor(x * unit_m / block_m)
    return Places("block", np.unique(np.column_stack([row, col]), axis=0, return_inverse=True)[1].reshape(-1))


def by_row(n: int) -> Places:
    """Every row a place of its own: random folds."""
    return Places("row", np.arange(n))


def deal(truth: np.ndarray, places: Places, folds: int, seed: int, what: str = "folds") -> np.ndarray:
    """Fold of each row int `[n]`, with positives spread as evenly as whole places allow.

    Raises `SplitError` where the positives or negatives lie in fewer places than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    for name, side in (("positive", truth), ("negative", ~truth)):
        holding = len(np.unique(places.index[side]))
        if holding < folds:
            raise SplitError(
                f"{name} rows lie in {holding} {places.kind}{'' if holding == 1 else 's'}, too few for {folds} {what}; "
                f"ask for fewer folds or smaller places{' (--block-m or --group)' if places.kind == 'scene' else ''}"
            )
    out = np.empty(len(truth), np.intp)
    if places.kind == "row":
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(truth, truth)
    else:
        parts = _quietly(StratifiedGroupKFold(folds, shuffle=True, random_state=seed), truth, places)
    for fold, (_, rows) in enumerate(parts):
        out[rows] = fold
    for fold in range(folds):
        if not truth[out != fold].any() or truth[out != fold].all():
            raise SplitError(f"all {what} but one are of one class; ask for fewer folds or smaller places")
    return out


def _quietly(splitter: object, truth: np.ndarray, places: Places) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """scikit-learn counts rows of a class, not places, and warns of what `deal` has checked."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield from splitter.split(truth, truth, places.index)  # type: ignore[attr-defined]


def repeated(values: np.ndarray, fold: np.ndarray) -> int:
    """Rows whose attributes stand in a row of another fold, too."""
    # Adding 0 makes -0 the same bytes as 0; NaN of one kind are the same bytes as they come from one place.
    rows = np.ascontiguousarray(np.where(np.isnan(values), np.float32(np.nan), values + 0.0), np.float32)
    same = np.unique(
        rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))), return_inverse=True
    )[1].reshape(-1)
    pairs = np.unique(np.column_stack([same, fold]), axis=0)
    shared = np.bincount(pairs[:, 0]) > 1
    return int(shared[same].sum())
