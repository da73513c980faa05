"""The decision of a bundle, fitted on calibration places that nothing else has used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.jobs import progress
from raremap.labels import IGNORE
from raremap.measure.decision import Decision
from raremap.measure.fitting import fit_decision
from raremap.measure.objects import count_pieces
from raremap.measure.options import DecisionOptions
from raremap.measure.sample import keep_pixels
from raremap.workflows.scoring import WholeTiles, scored

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.tiles.catalog import Catalog


def fit_decision_for(
    bundle: Bundle,
    catalog: Catalog,
    uses: np.ndarray,
    options: DecisionOptions,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
) -> Decision:
    """The decision for the bundle's own way of predicting; the plain argmax where nothing can be fitted."""
    rows = np.flatnonzero(uses == "calibration")
    _, number = np.unique(catalog.table["place"].to_numpy().astype(str), return_inverse=True)
    way: dict[str, Any] = {"window": bundle.predict.window, "overlap": bundle.predict.overlap}
    k = bundle.scheme.num_classes
    kept, objects = keep_pixels(k, options.sample, seed), np.zeros(k, np.int64)
    if options.kind != "argmax" and len(rows):
        network, tiles = bundle.network(device=device), WholeTiles(catalog, layers=1)
        with progress("calibrate", len(rows), quiet) as bar:
            for part in scored(bundle, network, catalog, rows, bar):
                labelled = part.truth != IGNORE
                kept.add(part.probs[:, labelled], part.truth[labelled], int(number[part.row]))
                for (truth,) in tiles.add(part, [part.truth]):
                    objects += count_pieces(truth, k)
        way["precision"] = getattr(network, "precision", "float32")
    return fit_decision(*kept.arrays(), options, way, bundle.scheme.names, objects.tolist())
