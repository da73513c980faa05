"""The decision of a bundle, fitted on calibration places that nothing else has used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    rows = np.flatnonzero(uses == "calibration")
    _, number = np.unique(catalog.table["place"].to_numpy().astype(str), return_inverse=True)
    way: dict[str, Any] = {"window": bundle.predict.window, "overlap": bundle.predict.overlap}
    sample = PixelSample(bundle.scheme.num_classes, options.sample, seed)
    if options.kind != "argmax" and len(rows):
        network = bundle.network(device=device)
        with progress("calibrate", len(rows), quiet) as bar:
            for part in scored(bundle, network, catalog, rows, bar):
                labelled = part.truth != IGNORE
                sample.add(part.probs[:, labelled], part.truth[labelled], int(number[part.row]))
        way["precision"] = getattr(network, "precision", "float32")
    return fit_decision(*sample.arrays(), options, way, bundle.scheme.names)
