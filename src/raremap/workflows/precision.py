"""In which precision a trained bundle computes, settled once: on places that training did not see."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from raremap.workflows.scoring import scored

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.tiles.catalog import Catalog


def with_precision(bundle: Bundle, catalog: Catalog, uses: np.ndarray, device: str = "auto") -> Bundle:
    """The bundle whose `info` says what "auto" is from now on, where the device leaves a choice; else the same.

    Chosen on the first tiles with a valid pixel of the calibration places, else the monitor's, else training's.
    """
    if bundle.torch_network(device).precision != "auto":
        return bundle
    network = bundle.network(device)
    rows = np.concatenate([np.flatnonzero(uses == use) for use in ("calibration", "monitor", "train")])
    with closing(scored(bundle, network, catalog, rows)) as parts:
        for _ in parts:
            if (found := getattr(network, "precision", "auto")) != "auto":
                return replace(bundle, info={**bundle.info, "precision": found})
    return bundle
