"""What the folds of an experiment say: pooled over all their test places, and each by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import CatalogError
from raremap.files import written
from raremap.measure.interval import FEW_PLACES, interval
from raremap.measure.scores import HEADLINES, Metric, f_beta, headline
from raremap.measure.tally import FIELDS, Tally
from raremap.plain import plain
from raremap.workflows.rare import rare_in
from raremap.workflows.runs import WAYS, Run, RunTable

if TYPE_CHECKING:
    from raremap.config import Experiment
    from raremap.ensembles import Ensemble
    from raremap.tiles.catalog import Catalog

_FACTS = ("steps", "best_step", "monitor_macro_f1", "seconds", "temperature", "note")
_SHOWN = HEADLINES[:6]


@dataclass(frozen=True)
class KFold:
    """Scores of k folds with their fitted decisions and with the plain argmax ("decision", "argmax").

    `pooled` are those of one confusion matrix over the test places of all folds, each predicted by the network that
    has not seen it; `intervals` are theirs, by a bootstrap over places. `folds` are those of each fold with what is
    known of its training, `spread` the standard deviation over folds. `ensemble` says where all bundles lie as one.
    """

    names: tuple[str, ...]
    rare: tuple[str, ...]
    palette: dict[str, str]
    holding: dict[str, int]
    places: int
    pooled: dict[str, dict[str, Any]]
    intervals: dict[str, dict[str, Any]]
    folds: tuple[dict[str, Any], ...]
    spread: dict[str, dict[str, float | None]]
    planned: int
    facts: dict[str, Any]
    failed: dict[str, str] = field(default_factory=dict)
    ensemble: dict[str, Any] | None = None
    files: tuple[Path, ...] = ()

    @classmethod
    def of(
        cls,
        table: RunTable,
        runs: Sequence[Run],
        catalog: Catalog,
        experiment: Experiment,
        folder: Path,
        failed: Mapping[Run, str] | None = None,
    ) -> KFold:
        """What the table says of the folds that are done; raises `CatalogError` where two tested one place, or none is."""
        names, rare = catalog.scheme.names, rare_in(catalog)
        told = {str(run): text for run, text in (failed or {}).items()}
        if not runs:
            why = "; ".join(f"{run}: {text}" for run, text in told.items())
            raise CatalogError(
                f"no fold was trained to its end{': ' + why if why else ''}; start it again to go on"
            )
        found = {way: [table.tally(run, way, len(names)) for run in runs] for way in WAYS}
        tested = np.concatenate([places for places, _ in found["argmax"]])
        once, times = np.unique(tested, return_counts=True)
        if (times > 1).any():
            raise CatalogError(
                f"{table.path}: the place '{once[times > 1][0]}' was tested in two folds; remove the file and start again"
            )
        pooled = {
            way: Tally(*(np.concatenate([getattr(t, f) for _, t in parts]) for f in FIELDS))
            for way, parts in found.items()
        }
        holding = (pooled["argmax"].matrices.sum(2) > 0).sum(0)
        rows = {str(row["fold"]): row for row in table.frame.drop_duplicates(["fold"]).to_dict("records")}
        folds = [
            {
                "fold": run.fold,
                "places": found["argmax"][i][0].tolist(),
                **{way: found[way][i][1].to_dict(names, rare) for way in WAYS},
                **{key: plain(rows[run.fold][key]) for key in _FACTS},
                "bias": dict(zip(names, plain(rows[run.fold]["bias"]), strict=True)),
                "bundle": str(folder / "runs" / run.folder / "bundle"),
            }
            for i, run in enumerate(runs)
        ]
        return cls(
            names=names,
            rare=rare,
            palette=dict(zip(names, catalog.scheme.palette, strict=True)),
            holding=dict(zip(names, holding.tolist(), strict=True)),
            places=len(tested),
            pooled={way: tally.to_dict(names, rare) for way, tally in pooled.items()},
            intervals={way: _intervals(tally.matrices, names, rare) for way, tally in pooled.items()},
            folds=tuple(folds),
            spread={way: {k: _spread([f[way][k] for f in folds]) for k in HEADLINES} for way in WAYS},
            planned=experiment.split.folds,
            facts=_facts(catalog, experiment),
            failed=told,
        )

    def with_ensemble(self, ensemble: Ensemble, path: Path) -> KFold:
        """The same, with the bundles of the folds as one."""
        decision = ensemble.decision.to_dict() if ensemble.decision else None
        facts = {"bundle": str(path), "members": len(ensemble.members), "decision": decision}
        return replace(self, ensemble=facts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "classes": list(self.names),
            "rare": list(self.rare),
            "colors": self.palette,
            "places": self.places,
            "places_with": self.holding,
            "folds_planned": self.planned,
            "pooled": self.pooled,
            "intervals": self.intervals,
            "spread_over_folds": self.spread,
            "folds": list(self.folds),
            "failed": self.failed,
            "ensemble": self.ensemble,
            **self.facts,
            "files": [str(f) for f in self.files],
        }

    def __str__(self) -> str:
        def shown(value: float | None, wide: int = 10) -> str:
            return f"{'–' if value is None else f'{value:.3f}':>{wide}}"

        heads = {"macro_f1": "macro-F1", "miou": "mIoU", "rare_f1": "F1 rare", "common_f1": "F1 common"}
        lines = [
            f"{len(self.folds)} of {self.planned} folds, {self.places} test places, with the fitted decision"
        ]
        lines.append(f"{'':<16}" + "".join(f"{t:>10}" for t in heads.values()))
        for fold in self.folds:
            lines.append(f"{'fold ' + fold['fold']:<16}" + "".join(shown(fold["decision"][k]) for k in heads))
        for title, scores in (
            ("spread", self.spread["decision"]),
            ("pooled", self.pooled["decision"]),
            ("pooled, argmax", self.pooled["argmax"]),
        ):
            lines.append(f"{title:<16}" + "".join(shown(scores[k]) for k in heads))
        lines += ["", f"{'class':<24}{'F1 pooled':>10}{'argmax':>10}   by fold"]
        by_class, argmax = (self.pooled[way]["by_class"] for way in ("decision", "argmax"))
        for name in sorted(self.names, key=lambda n: by_class[n]["support"]):
            each = " ".join(shown(f["decision"]["by_class"][name]["f1"], 6) for f in self.folds)
            mark = " *" if name in self.rare else ""
            lines.append(
                f"{name + mark:<24}{shown(by_class[name]['f1'])}{shown(argmax[name]['f1'])}   {each}"
            )
        lines.append("* rare" if self.rare else "no class is rare")
        lines += [f"failed: {run}: {text}" for run, text in self.failed.items()]
        if self.ensemble:
            decision = self.ensemble["decision"]
            lines.append(f"ensemble of {self.ensemble['members']}: {self.ensemble['bundle']}")
            lines.append(f"its decision: {decision['note'] if decision else 'argmax'}")
        return "\n".join([*lines, *map(str, self.files)])

    def write(self, folder: Path) -> KFold:
        """Write kfold.json and kfold.html; gives the same with its files."""
        from raremap.reports.kfold import write_page

        result = replace(self, files=(folder / "kfold.json", folder / "kfold.html", folder / "runs.parquet"))
        data = result.to_dict()
        with written(result.files[0]) as fresh:
            fresh.write_text(json.dumps(data, indent=1, allow_nan=False), encoding="utf-8")
        write_page(result.files[1], data)
        return result


def _spread(values: Sequence[float | None]) -> float | None:
    """Standard deviation over the folds that have the score; None of fewer than two."""
    there = [v for v in values if v is not None]
    return float(np.std(there, ddof=1)) if len(there) > 1 else None


def _intervals(matrices: np.ndarray, names: tuple[str, ...], rare: tuple[str, ...]) -> dict[str, Any]:
    """The pooled scores `[P, K, K]` with their bounds over places, as `Interval.to_dict`; classes by their name."""
    is_rare, holding = np.isin(names, rare), (matrices.sum(2) > 0).sum(0)
    present = holding > 0
    groups = {"rare_f1": present & is_rare, "common_f1": present & ~is_rare}

    def bounds(metric: Metric, fewest: int) -> dict[str, Any]:
        rng = np.random.default_rng(0)  # the same draws for every score
        return interval(metric, matrices[None], holding=fewest, rng=rng).to_dict()

    out: dict[str, Any] = {"classes": {}}
    for key in _SHOWN:
        chosen = groups.get(key, present)
        if not chosen.any():
            continue
        fewest = len(matrices) if key == "overall_accuracy" else int(holding[chosen].min())
        out[key] = bounds(lambda m, k=key: headline(k, m, is_rare), fewest)
    for k, name in enumerate(names):
        if present[k]:
            out["classes"][name] = bounds(lambda m, k=k: f_beta(m)[..., k], int(holding[k]))
    return out


def _facts(catalog: Catalog, experiment: Experiment) -> dict[str, Any]:
    import platform
    from importlib import metadata

    versions = {n: metadata.version(n) for n in ("raremap", "torch", "numpy")}
    return {
        "few_places": FEW_PLACES,
        "experiment": experiment.model_dump(mode="json"),
        "catalog": catalog.fingerprint,
        "versions": versions | {"python": platform.python_version()},
    }
