"""What the folds of an experiment say: pooled over all their test places, and each by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import CatalogError
from raremap.files import written
from raremap.measure.decision import Decision
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
    known of its training, `mean` and `spread` their mean and standard deviation, of the scores over classes and of each
    class's F1 ("f1/NAME"). Of two classes the decision is a threshold: each fold says its own, on the probability of the rarer
    one, `threshold_of`. `ensemble` says where all bundles lie as one.
    """

    names: tuple[str, ...]
    rare: tuple[str, ...]
    palette: dict[str, str]
    holding: dict[str, int]
    places: int
    pooled: dict[str, dict[str, Any]]
    intervals: dict[str, dict[str, Any]]
    folds: tuple[dict[str, Any], ...]
    mean: dict[str, dict[str, float | None]]
    spread: dict[str, dict[str, float | None]]
    planned: int
    facts: dict[str, Any]
    threshold_of: str | None = None
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
        threshold_of = None
        if len(names) == 2:
            support = pooled["argmax"].matrices.sum((0, 2))
            k = 0 if support[0] < support[1] else 1
            threshold_of = names[k]
            for fold in folds:
                decision = Decision(tuple(fold["bias"].values()), temperature=fold["temperature"])
                fold["threshold"] = decision.threshold(k)
        by_fold = {way: [_flat(f[way]) for f in folds] for way in WAYS}
        return cls(
            names=names,
            rare=rare,
            palette=dict(zip(names, catalog.scheme.palette, strict=True)),
            holding=dict(zip(names, holding.tolist(), strict=True)),
            places=len(tested),
            pooled={way: tally.to_dict(names, rare) for way, tally in pooled.items()},
            intervals={way: _intervals(tally.matrices, names, rare) for way, tally in pooled.items()},
            folds=tuple(folds),
            mean={way: _over(each, _mean) for way, each in by_fold.items()},
            spread={way: _over(each, _spread) for way, each in by_fold.items()},
            planned=experiment.split.folds,
            facts=_facts(catalog, experiment),
            threshold_of=threshold_of,
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
            "mean_over_folds": self.mean,
            "spread_over_folds": self.spread,
            "threshold_of": self.threshold_of,
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
        lines += self._thresholds()
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

    def _thresholds(self) -> list[str]:
        """Of two classes: each fold's threshold, and what it scores beside the argmax, which is 0.5."""
        if self.threshold_of is None:
            return []
        keys = {f"f1/{self.threshold_of}": "F1", "miou": "mIoU"}
        ways = {"argmax": "at 0.5", "decision": "fitted"}

        def cells(of: Callable[[str, str], str]) -> str:
            return "".join(f"{of(way, key):>16}" for key in keys for way in ways)

        def mean(way: str, key: str) -> str:
            value, spread = self.mean[way][key], self.spread[way][key]
            text = "–" if value is None else f"{value:.3f}"
            return text if spread is None else f"{text} ± {spread:.3f}"

        lines = ["", f"threshold on the probability of {self.threshold_of}"]
        lines.append(f"{'':<16}{'threshold':>10}" + cells(lambda way, key: f"{keys[key]} {ways[way]}"))
        for fold in self.folds:
            flat = {way: _flat(fold[way]) for way in ways}
            told = cells(lambda way, key, of=flat: "–" if of[way][key] is None else f"{of[way][key]:.3f}")
            lines.append(f"{'fold ' + fold['fold']:<16}{fold['threshold']:>10.3f}{told}")
        return [*lines, f"{'mean ± std':<26}{cells(mean)}"]

    def write(self, folder: Path) -> KFold:
        """Write kfold.json and kfold.html; gives the same with its files."""
        from raremap.reports.kfold import write_page

        result = replace(self, files=(folder / "kfold.json", folder / "kfold.html", folder / "runs.parquet"))
        data = result.to_dict()
        with written(result.files[0]) as fresh:
            fresh.write_text(json.dumps(data, indent=1, allow_nan=False), encoding="utf-8")
        write_page(result.files[1], data)
        return result


def _flat(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """The scores over classes and each class's F1, of `Tally.to_dict`."""
    return {k: scores[k] for k in HEADLINES} | {f"f1/{n}": c["f1"] for n, c in scores["by_class"].items()}


def _over(
    folds: Sequence[Mapping[str, float | None]], of: Callable[[Sequence[float | None]], float | None]
) -> dict[str, float | None]:
    return {key: of([fold[key] for fold in folds]) for key in folds[0]}


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean over the folds that have the score; None of none."""
    there = [v for v in values if v is not None]
    return float(np.mean(there)) if there else None


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
