"""Uses: every place is for training, monitoring, calibration or test, and no ground is in two of them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from raremap.errors import RaremapWarning, SplitError
from raremap.tiles.ground import outlines
from raremap.tiles.holdout import held_out, listed
from raremap.tiles.options import USES, SplitOptions

if TYPE_CHECKING:
    from raremap.tiles.catalog import Catalog

SHARED = "shares ground with another use"
NEAR = "nearer to another use than the buffer"


def uses(catalog: Catalog, split: SplitOptions | None = None, warn: bool = True) -> np.ndarray:
    """The use of each tile, `[N]` of "train", "monitor", "calibration", "test", "holdout" or "dropped".

    Whole places go to one use; a tile that shares ground with a tile of another use, or lies within the
    buffer around it, is dropped, from training first. With fewer than three places besides the test there is no calibration, and the
    decision stays at the argmax. Raises `SplitError` where a use would hold no labelled pixel or a place is
    listed for two; warns of classes without a pixel in training.
    """
    split = split or catalog.split
    use = _of_places(catalog, split)
    use[np.logical_or.reduce(list(_at_borders(catalog, use, split).values()))] = "dropped"
    _check(catalog, use, warn)
    return use


def dropped_at_borders(catalog: Catalog, split: SplitOptions | None = None) -> dict[str, int]:
    """How many tiles `uses` drops, by reason."""
    split = split or catalog.split
    found = _at_borders(catalog, _of_places(catalog, split), split)
    return {reason: int(which.sum()) for reason, which in found.items()}


def _of_places(catalog: Catalog, split: SplitOptions) -> np.ndarray:
    """The use of each tile's place."""
    names, inverse = np.unique(catalog.table["place"].to_numpy().astype(str), return_inverse=True)
    content = np.zeros((len(names), catalog.scheme.num_classes))
    np.add.at(content, inverse, catalog.counts)
    place_use = np.full(len(names), "train", dtype=object)
    fold = np.zeros(len(names), int)
    fold[inverse] = catalog.table["fold"].to_numpy()
    for use, key, wanted in (
        ("test" if split.fold == "holdout" else "holdout", "holdout", held_out(split)),
        ("test", "test", split.test if split.fold != "holdout" else None),
        ("monitor", "monitor_places", split.monitor_places),
        ("calibration", "calibration_places", split.calibration_places),
    ):
        at = listed(names, wanted or (), f"split.{key}")
        twice = at & (place_use != "train")
        if twice.any():
            raise SplitError(
                f"split.{key} lists the place '{names[twice][0]}', which is listed for another use "
                f"({place_use[twice][0]}) too; give each place one"
            )
        place_use[at] = use
    if split.fold != "holdout" and split.test is None:
        place_use[(fold == split.fold) & (place_use == "train")] = "test"
    _set_aside(place_use, content, split)
    return place_use[inverse]


def _set_aside(place_use: np.ndarray, content: np.ndarray, split: SplitOptions) -> None:
    """Give the monitor and the calibration their shares of the places that are left for training."""
    left = int((place_use == "train").sum())
    wanted = {}
    if split.monitor_places is None:
        wanted["monitor"] = max(1, round(split.monitor * left))
    if split.calibration_places is None and split.calibration > 0 and left >= 3:
        wanted["calibration"] = max(1, round(split.calibration * left))
    if sum(wanted.values()) >= left:
        raise SplitError(
            f"{left} place(s) are left besides the test, too few to train and to monitor; "
            "make smaller places (split.within, split.block_m, split.block_px or split.block_files)"
        )
    shares = content / np.maximum(content.sum(0), 1)
    for use, count in wanted.items():
        for _ in range(count):
            place_use[_best(place_use, shares, use, getattr(split, use))] = use


def _best(place_use: np.ndarray, shares: np.ndarray, use: str, target: float) -> int:
    """The training place whose change of use brings every class nearest to its target share.

    A place that holds the last training pixels of a class stays in training if another can go.
    """
    free = np.flatnonzero(place_use == "train")
    train = shares[free].sum(0)
    already = shares[place_use == use].sum(0)
    goal = target * (train + already)
    misfit = ((already + shares[free] - goal) ** 2).sum(1)
    last = ((train - shares[free] <= 1e-12) & (shares[free] > 0)).any(1)
    return int(free[np.lexsort((misfit, last))[0]])


def _at_borders(catalog: Catalog, use: np.ndarray, split: SplitOptions) -> dict[str, np.ndarray]:
    """Tiles to drop, bool `[N]` by reason, for what they share with another use; those of smaller uses are kept."""
    rank = {"holdout": 0, "test": 1, "calibration": 2, "monitor": 3, "train": 4}
    order = np.array([rank[u] for u in use])
    meets, near = np.zeros(len(use), bool), np.zeros(len(use), bool)
    for group in outlines(catalog):
        meets[group.rows] = group.meeting(order[group.rows])
    if split.buffer_m is None and split.buffer_px is None:
        return {SHARED: meets}
    for group in outlines(catalog, in_metres=split.buffer_m is not None):
        reach = split.buffer_px * group.pixel if split.buffer_px else (split.buffer_m or 0.0) * group.metre
        if np.isnan(reach).any():
            raise SplitError(
                f"scene {catalog.scene_names[group.rows[0]]} has no CRS, so split.buffer_m has no meaning; "
                "use split.buffer_px"
            )
        near[group.rows] = group.within(reach, order[group.rows])
    return {SHARED: meets, NEAR: near & ~meets}


def _check(catalog: Catalog, use: np.ndarray, warn: bool) -> None:
    for name in USES:
        here = use == name
        needed = name != "calibration"
        if needed and catalog.counts[here].sum() == 0:
            raise SplitError(
                f"no labelled pixel is in the use '{name}' ({int(here.sum())} tiles); "
                "choose another fold, smaller places, or name the places outright"
            )
    if not warn:
        return
    absent = [
        n for n, c in zip(catalog.scheme.names, catalog.counts[use == "train"].sum(0), strict=True) if c == 0
    ]
    if absent:
        warnings.warn(
            f"no training pixel of {', '.join(repr(n) for n in absent)}; it cannot be learned from this split",
            RaremapWarning,
            stacklevel=3,
        )
    if not (use == "calibration").any():
        warnings.warn(
            "too few places for a calibration use; the decision stays at the argmax",
            RaremapWarning,
            stacklevel=3,
        )
