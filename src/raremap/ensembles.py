"""`Ensemble`: several bundles of folds or seeds as one, as a folder that holds them all.

    ensemble.json   the members and their checksums, the decision, the way of predicting, figures
    members/…       a bundle each
    README.md       the model card; free to edit

It is used wherever a bundle is: `predict`, `evaluate` and `calibrate` take either. Nothing in it is a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.bundle import ENSEMBLE, FORMAT, ITEM, Bundle, class_table
from raremap.errors import BundleError
from raremap.files import digest_of, read_item, written_folder
from raremap.labels import LabelScheme
from raremap.maps.options import PredictOptions
from raremap.measure.decision import Decision

if TYPE_CHECKING:
    from torch import nn

    from raremap.maps.stream import Network
    from raremap.scene.raster import Image, ImageReader


@dataclass(frozen=True)
class Ensemble:
    """The mean of the probabilities of its members, with a decision of its own.

    Members have the same classes and bands; each has its own features, normalisation and network. `prior` is the mean
    of theirs, None where one does not tell: what a member says is moved from its own to that before it is averaged,
    since folds and seeds may have learned other class shares. Their decisions and temperatures are left aside: they belong to the members alone.
    """

    members: tuple[Bundle, ...]
    prior: tuple[float, ...] | None = None
    decision: Decision | None = None
    predict: PredictOptions = field(default_factory=PredictOptions)
    metrics: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()

    @classmethod
    def of(cls, members: Sequence[Bundle], name: str = "") -> Ensemble:
        """An ensemble that predicts in the first member's way, with the plain argmax until a decision is fitted.

        Raises `BundleError` where there are fewer than two members, or their classes, bands or nodata differ.
        """
        members = tuple(members)
        if len(members) < 2:
            raise BundleError(f"an ensemble needs two bundles at least, {len(members)} given")
        first = members[0]
        for i, other in enumerate(members):
            if not isinstance(other, Bundle):
                raise BundleError(
                    f"member {i + 1} is no bundle but {type(other).__name__}; give single bundles"
                )
            for what, a, b in (
                ("classes", _classes(first), _classes(other)),
                ("bands", first.bands, other.bands),
                ("nodata", (first.nodata,), (other.nodata,)),
            ):
                if a != b:
                    raise BundleError(
                        f"member {i + 1} ({other.name}) has the {what} {_listed(b)}, the first ({first.name}) "
                        f"has {_listed(a)}; an ensemble needs the same of all"
                    )
        shared = {
            k: v
            for k, v in first.info.items()
            if k not in ("name", "members") and all(k in m.info and m.info[k] == v for m in members)
        }
        info = {"name": name or f"{first.name}-ensemble", **shared, "members": [m.name for m in members]}
        prior = _mean([m.prior for m in members])
        return cls(members, prior, predict=first.predict, info=info)

    @property
    def shares(self) -> tuple[float, ...] | None:
        """Class shares of the ground of the trainings, their mean; None where a member does not know them."""
        return _mean([m.shares for m in self.members])

    def alone(self, member: int) -> Ensemble:
        """One member as the ensemble hears it: moved to the ensemble's class shares."""
        return replace(self, members=(self.members[member],))

    @property
    def scheme(self) -> LabelScheme:
        """The classes."""
        return self.members[0].scheme

    @property
    def bands(self) -> tuple[str, ...]:
        """The bands that a scene must have."""
        return self.members[0].bands

    @property
    def nodata(self) -> float | None:
        """What marks no data in scenes whose files name no such value."""
        return self.members[0].nodata

    @property
    def name(self) -> str:
        """A short name for cards and logs."""
        return str(self.info.get("name", "raremap-ensemble"))

    def with_decision(self, decision: Decision | None) -> Ensemble:
        """The same ensemble with another decision."""
        return replace(self, decision=decision)

    def with_metrics(self, metrics: dict[str, Any]) -> Ensemble:
        """The same ensemble with other figures on its card."""
        return replace(self, metrics=metrics)

    def network(self, device: str = "auto", precision: str = "auto", compiled: bool = False) -> Network:
        """All networks as one: the channels of `opened` and validity in, mean probabilities out.

        Each is on the device once.
        """
        from raremap.maps.average import Voice, averaged

        voices = [
            Voice(m.torch_network(device, precision, compiled), m.features, moving(m.prior, self.prior))
            for m in self.members
        ]
        return averaged(voices, self.bands, self.predict)

    def opened(self, image: ImageReader) -> Image:
        """An image of the bands with the features of all members; raises `SceneError` where it has no such."""
        from raremap.scene.features.views import viewed

        return viewed(image, [m.features for m in self.members], self.predict.turns)

    def save(self, folder: str | Path) -> Path:
        """Write the ensemble with all its members; an older one there is replaced when the new one is complete.

        Raises `OutputError` where the folder cannot be written or holds something else.
        """
        folder = Path(folder)
        with written_folder(folder, "bundle", (ENSEMBLE, ITEM)) as fresh:
            listed = []
            for i, member in enumerate(self.members):
                path = member.save(fresh / "members" / f"{i}")
                own = json.loads((path / ITEM).read_text(encoding="utf-8"))["properties"]
                checks = {k: own[f"raremap:{k}"] for k in ("digest", "weights_sha256")}
                listed.append({"folder": f"members/{i}", "name": member.name, **checks})
            own = {
                "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
                "raremap:format": FORMAT,
                "raremap:members": listed,
                "raremap:prior": self.prior and list(self.prior),
                "raremap:decision": self.decision.to_dict() if self.decision else None,
                "raremap:decisions": [d.to_dict() for d in self.decisions],
                "raremap:predict": self.predict.model_dump(mode="json"),
                "raremap:metrics": self.metrics,
                "raremap:info": self.info,
            }
            item = {"id": self.name, "properties": own}
            own["raremap:digest"] = digest_of(item)
            (fresh / ENSEMBLE).write_text(json.dumps(item, indent=2, ensure_ascii=False), encoding="utf-8")
            (fresh / "README.md").write_text(_card(self), encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path, modules: Sequence[nn.Module] | None = None) -> Ensemble:
        """Read an ensemble; `modules` are the networks to fill where raremap did not build them.

        Raises `BundleError` naming the file that is missing, altered or of a newer format.
        """
        folder = Path(folder)
        own = described(folder)
        members = []
        for i, entry in enumerate(own["raremap:members"]):
            path = folder / entry["folder"]
            member = Bundle.load(path, module=modules[i] if modules is not None else None)
            found = json.loads((path / ITEM).read_text(encoding="utf-8"))["properties"]["raremap:digest"]
            if found != entry["digest"]:
                raise BundleError(
                    f"{path} is not the member that {folder / ENSEMBLE} was written with; "
                    "copy the whole folder again, or make the ensemble anew"
                )
            members.append(member)
        decision, prior = own.get("raremap:decision"), own.get("raremap:prior")
        return cls(
            members=tuple(members),
            prior=tuple(prior) if prior else None,
            decision=Decision.from_dict(decision) if decision else None,
            predict=PredictOptions(**own["raremap:predict"]),
            metrics=own.get("raremap:metrics", {}),
            info=own.get("raremap:info", {}),
            decisions=tuple(map(Decision.from_dict, own.get("raremap:decisions", ()))),
        )


def load_bundle(folder: str | Path) -> Bundle | Ensemble:
    """Read a folder that holds a bundle or an ensemble; raises `BundleError` where it is neither."""
    return Ensemble.load(folder) if (Path(folder) / ENSEMBLE).is_file() else Bundle.load(folder)


def described(folder: Path) -> dict[str, Any]:
    """What the ensemble's file says, looked at; raises `BundleError`."""
    path = folder / ENSEMBLE
    if not path.is_file():
        raise BundleError(f"{folder} is no ensemble: there is no {ENSEMBLE}; give the folder of one")
    return read_item(path, "an ensemble", FORMAT)["properties"]


def moving(old: Sequence[float] | None, new: Sequence[float] | None) -> np.ndarray | None:
    """What probabilities with the class shares `old` are multiplied by, to have the shares `new` (Saerens et al. 2002).

    A class without a share in `old` stays as it is. None where nothing is to be moved, or a share is not known.
    """
    if old is None or new is None or np.allclose(old, new, rtol=1e-6, atol=0):
        return None
    before, after = np.asarray(old, np.float64), np.asarray(new, np.float64)
    ratio = np.divide(after, before, out=np.ones_like(before), where=before > 0)
    return ratio.astype(np.float32)


def _mean(shares: Sequence[Sequence[float] | None]) -> tuple[float, ...] | None:
    known = [s for s in shares if s is not None]
    return tuple(np.mean(known, axis=0).tolist()) if len(known) == len(shares) else None


def _classes(bundle: Bundle) -> tuple[str, ...]:
    return tuple(f"{v} {n}" for v, n in zip(bundle.scheme.values, bundle.scheme.names, strict=True))


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _card(ensemble: Ensemble) -> str:
    """The model card in Markdown."""
    decision = ensemble.decision
    told = "plain argmax" if decision is None or not decision.fitted else "fitted bias on the class scores"
    return "\n".join(
        [
            "---",
            "library_name: raremap",
            "pipeline_tag: image-segmentation",
            "tags: [remote-sensing, semantic-segmentation, class-imbalance, ensemble]",
            "---",
            f"# {ensemble.name}",
            "",
            f"The mean of {len(ensemble.members)} networks ({_listed([m.name for m in ensemble.members])}); "
            f"bands in order: {_listed(ensemble.bands)}. Decision: {told}.",
            "",
            *class_table(ensemble),
            "",
            "```",
            "raremap predict THIS_FOLDER scene.tif -o map.tif",
            "```",
            "",
        ]
    )
