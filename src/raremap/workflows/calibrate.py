"""The decision of a bundle, fitted on calibration places that nothing else has used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raremap.jobs import progress
from raremap.labels import IGNORE
from raremap.measure.decision import Decision, PixelSample, fit_decision
from raremap.measure.options import DecisionOptions
from raremap.workflows.scoring import scored

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
    way = {"window": bundle.predict.window, "overlap": bundle.predict.overlap}
    rows = np.flatnonzero(uses == "calibration")
    k = bundle.scheme.num_classes
    if options.kind == "argmax" or len(rows) == 0:
        note = "argmax, as asked" if options.kind == "argmax" else "argmax: there are no calibration places"
        return Decision((0.0,) * k, options.metric, note=note, way=way)
    places, number = np.unique(catalog.table["place"].to_numpy().astype(str), return_inverse=True)
    sample = PixelSample(k, options.sample, seed)
    network = bundle.network(device=device)
    with progress("calibrate", len(rows), quiet) as bar:
        for part in scored(bundle, network, catalog, rows, bar):
            labelled = part.truth != IGNORE
            sample.add(part.probs[:, labelled], part.truth[labelled], int(number[part.row]))
    way["precision"] = network.precision
    return fit_decision(*sample.arrays(), options, way, bundle.scheme.names)
