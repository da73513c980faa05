"""`raremap evaluate`: a bundle scored on places it has not seen, as JSON and as a page."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import CatalogError, RaremapWarning
from raremap.files import written
from raremap.jobs import progress
from raremap.maps import lanes
from raremap.maps.options import PredictOptions
from raremap.measure.decision import Decision
from raremap.measure.interval import FEW_PLACES
from raremap.measure.scores import Scores
from raremap.measure.tally import Tally
from raremap.tiles.options import USES
from raremap.ways import differences
from raremap.workflows.levels import level_scores
from raremap.workflows.rare import rare_in
from raremap.workflows.scoring import check_fits, rows_of, tally
from raremap.workflows.uses import members_of, uses_for

if TYPE_CHECKING:
    import pandas as pd

    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.exported import Exported
    from raremap.labels import LabelScheme
    from raremap.maps.stream import Network
    from raremap.tiles.catalog import Catalog


@dataclass(frozen=True)
class Evaluation:
    """Scores with the fitted decision beside those of the plain argmax, and what they were taken from.

    `decided` (with the decision) and `plain` (argmax) count each of the catalog rows `rows`; `places` names
    the place of each. `under` is the confusion `[n, K, K]` of their clouded pixels, which are in no other
    score; None where the catalog does not know of clouds. `scheme` gives the tree of classes.
    """

    use: str
    names: tuple[str, ...]
    rare: tuple[str, ...]
    rows: np.ndarray
    places: np.ndarray
    decided: Tally
    plain: Tally
    remarks: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    under: np.ndarray | None = None
    scheme: LabelScheme | None = None

    @property
    def levels(self) -> list[dict[str, Any]]:
        """Scores at each level of the class tree above the classes: confusion pooled, then summed by groups."""
        return [] if self.scheme is None else level_scores(self.scheme, self.decided, self.plain)

    @property
    def clouded(self) -> Scores | None:
        """Scores of the pixels under cloud, with the decision; None where the catalog does not know of clouds."""
        return None if self.under is None else Scores(self.under.sum(0), self.names, self.rare)

    @property
    def scores(self) -> Scores:
        """Scores with the bundle's decision."""
        return self.decided.scores(self.names, self.rare)

    @property
    def argmax(self) -> Scores:
        """Scores of the plain argmax."""
        return self.plain.scores(self.names, self.rare)

    @property
    def by_class(self) -> pd.DataFrame:
        """A row a class, from rare to common: share, F1, IoU, precision, recall, area (predicted to true), pixels."""
        import pandas as pd

        scores = self.scores
        columns = ("f1", "iou", "precision", "recall", "area_ratio", "support")
        table = pd.DataFrame(
            {c: getattr(scores, c) for c in columns}, index=pd.Index(self.names, name="class")
        )
        table.insert(0, "share", table["support"] / max(1.0, table["support"].sum()))
        return table.astype({"support": int}).sort_values("support", kind="stable").round(4)

    def places_with(self) -> dict[str, int]:
        """Number of places that hold each class."""
        truth = self.plain.matrices.sum(2) > 0
        return {n: len(set(self.places[truth[:, k]])) for k, n in enumerate(self.names)}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, with the confusion matrix of every place."""
        places, decided = self.decided.summed_by(self.places)
        _, plain = self.plain.summed_by(self.places)
        return {
            "use": self.use,
            "classes": list(self.names),
            "rare": list(self.rare),
            "decision": self.decided.to_dict(self.names, self.rare),
            "argmax": self.plain.to_dict(self.names, self.rare),
            **({"clouded": self.clouded.to_dict()} if self.clouded is not None else {}),
            **({"levels": levels} if (levels := self.levels) else {}),
            "places_with": self.places_with(),
            "by_place": {
                str(p): {"decision": d.tolist(), "argmax": a.tolist()}
                for p, d, a in zip(places, decided.matrices, plain.matrices, strict=True)
            },
            "remarks": list(self.remarks),
            "tiles": len(self.rows),
            **self.facts,
            "files": [str(f) for f in self.files],
        }

    def __str__(self) -> str:
        s, a = self.scores, self.argmax
        head = f"{'':<24}{'decision':>10}{'argmax':>10}"
        rows = [
            ("macro-F1", s.macro_f1, a.macro_f1),
            ("mIoU", s.miou, a.miou),
            *([("F1 of rare classes", s.rare_f1, a.rare_f1)] if self.rare else []),
            ("F1 of common classes", s.common_f1, a.common_f1),
            ("overall accuracy", s.overall_accuracy, a.overall_accuracy),
            ("balanced accuracy", s.balanced_accuracy, a.balanced_accuracy),
            ("spread of class F1 (CV)", s.variation, a.variation),
        ]
        lines = [f"{self.use}: {len(self.rows)} tiles in {len(set(self.places))} places", head]
        lines += [f"{name:<24}{x:>10.3f}{y:>10.3f}" for name, x, y in rows]
        lines += ["", f"{'class':<24}{'F1':>10}{'IoU':>10}{'precision':>11}{'recall':>10}{'share':>10}"]
        total = max(1.0, s.support.sum())
        for k in np.argsort(s.support):
            mark = " *" if self.names[k] in self.rare else ""
            figures = (s.f1[k], s.iou[k], s.precision[k], s.recall[k])
            text = "".join(f"{v:>{w}.3f}" for v, w in zip(figures, (10, 10, 11, 10), strict=True))
            lines.append(f"{self.names[k] + mark:<24}{text}{s.support[k] / total:>10.3%}")
        lines.append("* rare" if self.rare else "no class is rare")
        if (c := self.clouded) is not None:
            under, clear = c.support.sum(), s.support.sum()
            lines.append(
                f"clouded, in no score above: {under / max(1.0, under + clear):.1%} of the labelled pixels"
                + (f", macro-F1 {c.macro_f1:.3f}, overall accuracy {c.overall_accuracy:.3f}" if under else "")
            )
        for each in self.levels:
            d, a = each["decision"], each["argmax"]
            lines.append(
                f"level {each['level']}, {len(each['classes'])} classes: macro-F1 {d['macro_f1'] or 0:.3f} "
                f"(argmax {a['macro_f1'] or 0:.3f}), overall accuracy {d['overall_accuracy'] or 0:.3f}"
            )
        lines += [f"note: {r}" for r in self.remarks]
        lines += [str(f) for f in self.files]
        return "\n".join(lines)


def evaluate(
    bundle: Bundle | Ensemble | Exported | str | Path,
    catalog: Catalog | str | Path,
    use: str = "test",
    out: str | Path | None = None,
    device: str = "auto",
    tta: str | bool | None = None,
    scales: Sequence[float] | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Score a bundle, an ensemble or an exported model on the tiles of a use ("train", "monitor", "calibration" or "test").

    Predictions are those of `predict`: whole scenes in windows, blended; each pixel of a scene counts once.
    `tta` and `scales` are those of `predict`, with the decision that belongs to them.
    With `out` (default: beside a bundle's folder) writes evaluation.json and report.html there, for other
    uses than the test, and for other turns and scales than the bundle's own, with those in their names. On another catalog than the bundle was trained on, the
    test is all places but those that training, monitor or calibration used, or that are held out. Raises
    `BundleError` where the catalog has other classes or lacks a band, `CatalogError` where its sources
    changed or the use has no tile. The scores on test places are kept in a bundle that is given
    by its folder, for its card. The test of an ensemble is what no member has used for anything. The files of an
    exported model have its name in theirs: it may lie beside the bundle.
    """
    from raremap.exported import Exported, load_model
    from raremap.tiles.catalog import Catalog
    from raremap.ways import predicting

    if use not in USES:
        raise CatalogError(
            f"'{use}' is not among the uses that are scored, {', '.join(USES)}; "
            "held-out places are scored by `raremap compare --final`, which counts it"
        )
    folder = Path(bundle) if isinstance(bundle, (str, Path)) else None
    if isinstance(bundle, (str, Path)):
        out = Path(bundle).resolve().parent if out is None else out
        bundle = load_model(bundle)
    if isinstance(catalog, (str, Path)):
        catalog = Catalog.load(catalog)
    catalog.check_sources()
    check_fits(bundle, catalog)
    own, bundle = bundle, predicting(bundle, tta=tta, scales=scales)
    uses, remarks = uses_for(bundle, catalog)
    for remark in remarks:
        warnings.warn(remark, RaremapWarning, stacklevel=2)
    rows = rows_of(uses, use, bundle)
    names = catalog.scheme.names
    network = bundle.network(device=device)
    rare = rare_in(catalog)
    clouds = any(catalog.scenes[s].clouds for s in set(catalog.scene_names[rows]))
    under = np.zeros((len(rows), len(names), len(names)), np.int64) if clouds else None
    with progress("evaluate", len(rows), quiet) as bar:
        decided, plain = tally(bundle, network, catalog, rows, [names.index(n) for n in rare], bar, under)
    result = Evaluation(
        use=use,
        names=names,
        rare=rare,
        rows=rows,
        places=catalog.table["place"].to_numpy().astype(str)[rows],
        decided=decided,
        plain=plain,
        facts=_facts(bundle, network, catalog, uses),
        under=under,
        scheme=catalog.scheme,
    )
    result = replace(result, remarks=(*remarks, *_remarks(result)))
    same_way = bundle.predict == own.predict
    if isinstance(own, Exported):
        which = f"-{own.path.stem}"
    else:
        which = ""
        if folder is not None and use == "test" and same_way and not remarks:
            own.with_metrics(_figures(result)).save(folder)
    which += ("" if use == "test" else f"-{use}") + ("" if same_way else _way_in_name(bundle.predict))
    return result if out is None else _write(result, bundle, network, catalog, Path(out), which)


def _way_in_name(options: PredictOptions) -> str:
    """Turns and scales as a part of a file's name.

    >>> _way_in_name(PredictOptions(tta="d4", scales=(1, 0.5)))
    '-d4-x1-x0.5'
    """
    scales = [] if options.scales == (1.0,) else [f"x{s:g}" for s in options.scales]
    return (
        "".join(f"-{part}" for part in [options.tta if options.tta != "none" else "", *scales] if part)
        or "-plain"
    )


def _figures(result: Evaluation) -> dict[str, Any]:
    """What a bundle's card says of its scores."""
    scores = result.decided.to_dict(result.names, result.rare)
    del scores["confusion"]
    return {"use": result.use, "places": len(set(result.places)), **scores}


def _facts(
    bundle: Bundle | Ensemble | Exported, network: Network, catalog: Catalog, uses: np.ndarray
) -> dict[str, Any]:
    """What was scored with what: everything that a report needs besides the scores."""
    places = catalog.table["place"].to_numpy().astype(str)
    here = [u for u in ("train", "monitor", "calibration", "test", "holdout", "dropped") if (uses == u).any()]
    names = catalog.scheme.names
    return {
        "bundle": bundle.name,
        "bands": list(bundle.bands),
        "model": _network_of(bundle),
        "training": {k: v for k, v in bundle.info.items() if k not in ("name", "places", "catalog")},
        "fitted_decision": bundle.decision.to_dict() if bundle.decision else None,
        "predict": {
            **bundle.predict.model_dump(mode="json"),
            "precision": getattr(network, "precision", "float32"),
            **lanes.told(network),
        },
        "what_saw_what": {u: sorted(set(places[uses == u])) for u in here},
        "tiles_by_use": {u: int((uses == u).sum()) for u in here},
        "pixels_by_use": {
            u: dict(zip(names, catalog.counts[uses == u].sum(0).tolist(), strict=True)) for u in here
        },
        "colors": dict(zip(names, catalog.scheme.palette, strict=True)),
        "catalog": catalog.fingerprint,
        "catalog_of_training": bundle.info.get("catalog") == catalog.fingerprint,
        "dropped": {**catalog.dropped, **_at_borders(bundle, catalog, uses)},
        "versions": _versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _network_of(bundle: Bundle | Ensemble | Exported) -> Any:
    """What the networks are: of an ensemble the first and their number."""
    members = members_of(bundle)
    one = members[0]
    found = one.options.model_dump(mode="json") if one.options else type(getattr(one, "module", one)).__name__
    return {"networks": len(members), "each": found} if len(members) > 1 else found


def _at_borders(bundle: Bundle | Ensemble | Exported, catalog: Catalog, uses: np.ndarray) -> dict[str, int]:
    from raremap.tiles.options import SplitOptions
    from raremap.tiles.splits import SHARED, dropped_at_borders

    if not (uses == "dropped").any() or "split" not in bundle.info:
        return {SHARED: 0}
    return dropped_at_borders(catalog, SplitOptions(**bundle.info["split"]))


def _versions() -> dict[str, str]:
    from importlib import metadata

    import raremap

    versions = {"raremap": raremap.__version__, "python": platform.python_version()}
    for name in ("torch", "segmentation-models-pytorch", "rasterio", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _remarks(e: Evaluation) -> list[str]:
    out = []
    if e.use != "test":
        out.append(
            f"these are {e.use} places, which the making of the bundle used; the scores may flatter it"
        )
    for name in e.scores.absent:
        given = int(e.scores.predicted[e.names.index(name)])
        out.append(
            f"'{name}' has no labelled pixel here, so it has no score; {given:,} labelled pixels were called it"
        )
    held = {n: c for n, c in e.places_with().items() if c}
    few = [f"{n} ({c})" for n, c in held.items() if c < FEW_PLACES]
    if few and len(few) < len(held):
        out.append(f"fewer than {FEW_PLACES} places hold {', '.join(few)}: too few for an interval")
    elif few:
        least = min(held, key=lambda n: held[n])
        out.append(
            f"no class is held by {FEW_PLACES} places, which an interval needs (the fewest: {least}, {held[least]})"
        )
    decision = e.facts["fitted_decision"]
    if decision and (scarce := Decision.from_dict(decision).scarce(e.names)):
        out.append(scarce)
    if decision:
        found = differences(Decision.from_dict(decision), e.facts["predict"])
        for key, (then, now) in found.items():
            out.append(f"the decision was fitted with {key} {then}, this was predicted with {now}")
    return out


def _write(
    result: Evaluation,
    bundle: Bundle | Ensemble | Exported,
    network: Network,
    catalog: Catalog,
    out: Path,
    which: str,
) -> Evaluation:
    from raremap.reports.page import write_report
    from raremap.workflows.panels import panels

    result = replace(result, files=(out / f"evaluation{which}.json", out / f"report{which}.html"))
    data = result.to_dict()
    with written(result.files[0]) as fresh:
        fresh.write_text(json.dumps(data, indent=1, allow_nan=False), encoding="utf-8")
    pictures = panels(bundle, network, catalog, result)
    write_report(result.files[1], data, metrics=out / "metrics.csv", panels=pictures)
    return result
