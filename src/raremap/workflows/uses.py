"""What a bundle, or the members of an ensemble, have used each tile of a catalog for."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from raremap.tiles.holdout import among

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.exported import Exported
    from raremap.tiles.catalog import Catalog

# What one member has done with a tile counts more than what another has left alone.
_FIRST = ("train", "monitor", "calibration", "dropped", "holdout", "test")


def uses_for(bundle: Bundle | Ensemble | Exported, catalog: Catalog) -> tuple[np.ndarray, list[str]]:
    """The use of each tile, `[N]`, and remarks.

    Of an ensemble a tile is for training if any member was trained on it, then for monitoring if any was monitored
    on it, and so on: the test is what no member has used for anything. On another catalog than that of the training
    the uses are those of places by name, and what is not known is for the test.
    """
    found = [_of_one(member, catalog) for member in members_of(bundle)]
    remarks = list(dict.fromkeys(r for _, told in found for r in told))
    if len(found) == 1:
        return found[0][0], remarks
    rank = {use: i for i, use in enumerate(_FIRST)}
    ranks = np.array([[rank[u] for u in use] for use, _ in found]).min(0)
    return np.array(_FIRST, object)[ranks], remarks


def members_of(bundle: Bundle | Ensemble | Exported) -> tuple[Bundle | Exported, ...]:
    """The members of an ensemble; a bundle or an exported one by itself."""
    return getattr(bundle, "members", None) or (cast("Bundle | Exported", bundle),)


def _of_one(bundle: Bundle | Exported, catalog: Catalog) -> tuple[np.ndarray, list[str]]:
    from raremap.tiles.options import SplitOptions
    from raremap.tiles.splits import uses as uses_of

    if bundle.info.get("catalog") == catalog.fingerprint:
        return uses_of(catalog, SplitOptions(**bundle.info["split"]), warn=False), []
    known = {
        p: use
        for use in ("train", "monitor", "calibration")
        for p in bundle.info.get("places", {}).get(use, ())
    }
    places, split = catalog.table["place"].to_numpy().astype(str), bundle.info.get("split", {})
    uses = np.array([known.get(p, "test") for p in places], object)
    if split.get("fold") != "holdout":
        uses[among(places, split.get("holdout") or ()) | (catalog.table["fold"].to_numpy() < 0)] = "holdout"
    return uses, ["not the catalog of the training: every place whose name it did not use counts as test"]
