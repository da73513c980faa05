"""`raremap calibrate`: the decision of a way of predicting, fitted on calibration places that nothing else has used."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import RaremapWarning
from raremap.jobs import Progress, progress
from raremap.labels import IGNORE
from raremap.measure.decision import Decision
from raremap.measure.fitting import fit_decision
from raremap.measure.objects import count_pieces
from raremap.measure.options import DecisionOptions
from raremap.measure.sample import Kept, keep_pixels
from raremap.workflows.scoring import WholeTiles, check_fits, scored
from raremap.workflows.uses import uses_for

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.tiles.catalog import Catalog

MEMBERS = "members"
"""`fitted_on` in the way of a decision that rests on the scores of an ensemble's members, not on their mean."""


@dataclass(frozen=True)
class Calibration:
    """The decision that was fitted, the bundle that holds it now, and where it was saved."""

    bundle: Bundle | Ensemble
    decision: Decision
    path: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary."""
        return {"bundle": str(self.path) if self.path else None, "decision": self.decision.to_dict()}

    def __str__(self) -> str:
        d, names = self.decision, self.bundle.scheme.names
        way = ", ".join(f"{k} {v}" for k, v in d.way.items())
        lines = [f"decision: {d.note}", f"way of predicting: {way}", f"temperature: {d.temperature:.3f}"]
        if d.fitted:
            lines.append("bias: " + ", ".join(f"{n} {b:+.3f}" for n, b in zip(names, d.bias, strict=True)))
        if scarce := d.scarce(names):
            lines.append(f"note: {scarce}")
        return "\n".join([*lines, *([f"bundle: {self.path}"] if self.path else [])])


def calibrate(
    bundle: Bundle | Ensemble | str | Path,
    catalog: Catalog | str | Path,
    tta: str | bool | None = None,
    scales: Sequence[float] | None = None,
    window: int | None = None,
    overlap: float | None = None,
    options: DecisionOptions | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Calibration:
    """Fit the decision of a bundle again, for its own way of predicting or for another, and keep it in the bundle.

    A bundle holds one decision for each way (flips and quarter turns, resolutions, window, overlap): `predict` takes
    the one that belongs to what is asked. `options` are those of the training where they are None. A bundle that is
    given by its folder is saved there. Raises `BundleError` where the catalog does not fit.

    For an ensemble only calibration places are taken that no member was trained or monitored on. Where there are
    fewer than two, as with folds, every member is asked about its own calibration places, and the decision is fitted
    to what they say, all together: cross-fitted, but for scores of single members and not for their mean.
    """
    from raremap.ensembles import Ensemble, load_bundle
    from raremap.tiles.catalog import Catalog
    from raremap.ways import keeping, predicting

    folder = Path(bundle) if isinstance(bundle, (str, Path)) else None
    own = load_bundle(bundle) if isinstance(bundle, (str, Path)) else bundle
    catalog = Catalog.load(catalog) if isinstance(catalog, (str, Path)) else catalog
    catalog.check_sources()
    check_fits(own, catalog)
    asked = predicting(own, window, overlap, tta, scales)
    options = options or DecisionOptions(**own.info.get("decision", {}))
    seed = int(own.info.get("seed", 0))
    uses, remarks = uses_for(own, catalog)
    for remark in remarks:
        warnings.warn(remark, RaremapWarning, stacklevel=2)
    if isinstance(asked, Ensemble):
        decision = fit_for_ensemble(asked, catalog, uses, options, device, seed, quiet)
    else:
        decision = fit_decision_for(asked, catalog, uses, options, device, seed, quiet)
    own = keeping(own, decision, asked.predict)
    return Calibration(own, decision, own.save(folder) if folder is not None else None)


def fit_decision_for(
    bundle: Bundle | Ensemble,
    catalog: Catalog,
    uses: np.ndarray,
    options: DecisionOptions,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
) -> Decision:
    """The decision for the bundle's own way of predicting; the plain argmax where nothing can be fitted."""
    rows = np.flatnonzero(uses == "calibration")
    calibration = _Pixels(catalog, bundle.scheme.num_classes, options, seed)
    if options.kind != "argmax" and len(rows):
        with progress("calibrate", len(rows), quiet) as bar:
            calibration.add(bundle, rows, device, bar)
    return calibration.fitted(options, bundle)


def fit_for_ensemble(
    ensemble: Ensemble,
    catalog: Catalog,
    uses: np.ndarray,
    options: DecisionOptions,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
) -> Decision:
    """The decision for an ensemble's own way of predicting; see `calibrate`."""
    places = catalog.table["place"].to_numpy().astype(str)
    if options.kind == "argmax" or len(set(places[uses == "calibration"])) >= 2:
        return fit_decision_for(ensemble, catalog, uses, options, device, seed, quiet)
    calibration = _Pixels(catalog, ensemble.scheme.num_classes, options, seed)
    rows = [np.flatnonzero(uses_for(m, catalog)[0] == "calibration") for m in ensemble.members]
    with progress("calibrate", sum(map(len, rows)), quiet) as bar:
        for i, here in enumerate(rows):
            calibration.add(ensemble.alone(i), here, device, bar)
    decision = calibration.fitted(options, ensemble)
    note = f"{decision.note}; on each member's own calibration places, for fewer than two are unseen by all members"
    return replace(decision, note=note, way={**decision.way, "fitted_on": MEMBERS})


class _Pixels:
    """The pixels of calibration places with their probabilities, as many as are kept."""

    def __init__(self, catalog: Catalog, num_classes: int, options: DecisionOptions, seed: int) -> None:
        self._catalog = catalog
        _, self._number = np.unique(catalog.table["place"].to_numpy().astype(str), return_inverse=True)
        self._kept: Kept = keep_pixels(num_classes, options.sample, seed)
        self._objects = np.zeros(num_classes, np.int64)
        self._precision: dict[str, str] = {}

    def add(self, bundle: Bundle | Ensemble, rows: np.ndarray, device: str, bar: Progress) -> None:
        """Ask a bundle about the tiles `rows`."""
        network, tiles = bundle.network(device=device), WholeTiles(self._catalog, layers=1)
        for part in scored(bundle, network, self._catalog, rows, bar):
            labelled = part.truth != IGNORE
            self._kept.add(part.probs[:, labelled], part.truth[labelled], int(self._number[part.row]))
            for (truth,) in tiles.add(part, [part.truth]):
                self._objects += count_pieces(truth, len(self._objects))
        self._precision = {"precision": getattr(network, "precision", "float32")}

    def fitted(self, options: DecisionOptions, bundle: Bundle | Ensemble) -> Decision:
        """The decision for the bundle's way of predicting."""
        way = {**bundle.predict.way(), **self._precision}
        names = bundle.scheme.names
        return fit_decision(*self._kept.arrays(), options, way, names, self._objects.tolist())
