"""`raremap ensemble`: bundles of folds or seeds as one bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import BundleError

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.tiles.catalog import Catalog


@dataclass(frozen=True)
class Combined:
    """The ensemble, and where it was saved."""

    ensemble: Ensemble
    path: Path

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary."""
        decision = self.ensemble.decision
        return {
            "bundle": str(self.path),
            "members": [m.name for m in self.ensemble.members],
            "decision": decision.to_dict() if decision else None,
        }

    def __str__(self) -> str:
        decision, members = self.ensemble.decision, ", ".join(m.name for m in self.ensemble.members)
        told = decision.note if decision else "argmax; `raremap calibrate` fits one"
        return f"{len(self.ensemble.members)} members: {members}\ndecision: {told}\nbundle: {self.path}"


def ensemble(
    bundles: Sequence[Bundle | str | Path],
    out: str | Path,
    catalog: Catalog | str | Path | None = None,
    name: str = "",
    device: str = "auto",
    quiet: bool = False,
) -> Combined:
    """Write bundles as one ensemble, which `predict`, `evaluate` and `calibrate` take as they take a bundle.

    With a `catalog` its decision is fitted there (see `calibrate`); without, it is the plain argmax. Raises
    `BundleError` where there are fewer than two, or their classes, bands or nodata differ.
    """
    from raremap.ensembles import Ensemble, load_bundle
    from raremap.workflows.calibrate import calibrate

    members: list[Bundle] = []
    for given in bundles:
        found = load_bundle(given) if isinstance(given, (str, Path)) else given
        if isinstance(found, Ensemble):
            raise BundleError(f"{given} is an ensemble itself; give its members, {given}/members/0 and so on")
        members.append(found)
    made = Ensemble.of(members, name or Path(out).stem)
    if catalog is not None:
        made = calibrate(made, catalog, device=device, quiet=quiet).bundle
        assert isinstance(made, Ensemble)
    return Combined(made, made.save(out))
