"""What the runs of a comparison say: scores, paired differences with intervals, and the files that show them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.errors import CatalogError
from raremap.files import written
from raremap.measure.interval import Interval, interval
from raremap.measure.scores import HEADLINES, Metric, f_beta, headline
from raremap.measure.tally import FIELDS, Tally
from raremap.plain import plain
from raremap.tiles.holdout import times_used
from raremap.workflows.rare import rare_in
from raremap.workflows.runs import WAYS, Condition, Design, Run, RunTable

if TYPE_CHECKING:
    from raremap.config import Experiment
    from raremap.tiles.catalog import Catalog

_MEANS = ("boundary_f1", "object_recall", "false_alarms", "pr_auc", "calibration_error")
_REPLICATES = 2000


@dataclass(frozen=True)
class Entry:
    """A variant with one way of deciding, under one thinning, on the seeds and folds that all variants share.

    `scores` are means over seeds of pooled scores, `spread` their standard deviations over seeds;
    `differences` are to the baseline with the plain argmax (or with its decision), paired by place and seed. `imbalance` is the
    ratio that training really had (see `imbalance_of`).
    """

    variant: str
    way: str
    condition: Condition
    imbalance: float
    seeds: tuple[int, ...]
    folds: tuple[str, ...]
    places: int
    scores: dict[str, float]
    spread: dict[str, float]
    by_class: dict[str, dict[str, float]]
    differences: dict[str, Interval]
    class_differences: dict[str, Interval]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; NaN is null."""
        return {
            "variant": self.variant,
            "decision": self.way,
            "keep": self.condition[0],
            "imbalance": self.condition[1] or None,
            "points": self.condition[2] or None,
            "imbalance_realised": plain(self.imbalance),
            "seeds": list(self.seeds),
            "folds": list(self.folds),
            "places": self.places,
            "scores": plain(self.scores),
            "spread_over_seeds": plain(self.spread),
            "by_class": plain(self.by_class),
            "differences": {k: v.to_dict() for k, v in self.differences.items()},
            "class_differences": {k: v.to_dict() for k, v in self.class_differences.items()},
            "seconds_per_run": self.seconds,
        }


@dataclass(frozen=True)
class Comparison:
    """The entries of a comparison, what it was made of, and what is missing of it."""

    entries: tuple[Entry, ...]
    baseline: str
    fitted_baseline: bool
    names: tuple[str, ...]
    rare: tuple[str, ...]
    palette: dict[str, str]
    holding: dict[str, int]
    planned: int
    done: int
    facts: dict[str, Any]
    failed: dict[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @classmethod
    def of(
        cls,
        table: RunTable,
        design: Design,
        catalog: Catalog,
        experiment: Experiment,
        failed: dict[Run, str] | None = None,
    ) -> Comparison:
        """What a table of runs says about a design; runs that are not there are counted and left out.

        Raises `CatalogError` where the runs were tested on different places.
        """
        names = catalog.scheme.names
        rare = rare_in(catalog)
        runs, done = design.runs(), table.done()
        entries: list[Entry] = []
        held: dict[str, int] = {}
        for condition in design.conditions:
            shared = _shared(design, condition, set(done))
            stacks = _stacks(table, shared, len(names))
            reference = stacks.get((design.baseline, "decision" if design.fitted_baseline else "argmax"))
            for (variant, way), stack in stacks.items():
                runs_shown = shared[variant]
                facts = {
                    "folds": tuple(dict.fromkeys(r.fold for r in runs_shown)),
                    "seconds": table.mean("seconds", runs_shown),
                    "imbalance": table.mean("imbalance_realised", runs_shown),
                }
                entries.append(_entry(variant, way, condition, stack, reference, names, rare, facts))
                held = held or dict(zip(names, stack.holding.tolist(), strict=True))
        return cls(
            entries=tuple(entries),
            baseline=design.baseline,
            fitted_baseline=design.fitted_baseline,
            names=names,
            rare=rare,
            palette=dict(zip(names, catalog.scheme.palette, strict=True)),
            holding=held,
            planned=len(runs),
            done=sum(run in done for run in runs),
            facts=_facts(design, catalog, experiment, table.path.parent),
            failed={str(run): text for run, text in (failed or {}).items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "baseline": self.baseline,
            "fitted_baseline": self.fitted_baseline,
            "classes": list(self.names),
            "rare": list(self.rare),
            "colors": self.palette,
            "places_with": self.holding,
            "runs": {"planned": self.planned, "done": self.done, "failed": self.failed},
            **self.facts,
            "entries": [e.to_dict() for e in self.entries],
            "files": [str(f) for f in self.files],
        }

    def __str__(self) -> str:
        from raremap.reports.comparison import markdown_table

        lines = [markdown_table(self.to_dict())]
        if self.done < self.planned:
            lines.append(
                f"{self.planned - self.done} of {self.planned} runs are missing; start it again to go on"
            )
        lines += [f"failed: {run}: {text}" for run, text in self.failed.items()]
        return "\n".join([*lines, *map(str, self.files)])

    def write(self, folder: Path) -> Comparison:
        """Write comparison.json, comparison.md and comparison.html; gives the comparison with its files."""
        from raremap.reports.comparison import write_markdown, write_page

        paths = tuple(folder / f"comparison.{kind}" for kind in ("json", "md", "html"))
        result = replace(self, files=(*paths, folder / "runs.parquet"))
        data = result.to_dict()
        with written(paths[0]) as fresh:
            fresh.write_text(json.dumps(data, indent=1, allow_nan=False), encoding="utf-8")
        write_markdown(paths[1], data)
        write_page(paths[2], data)
        return result


def _shared(design: Design, condition: Condition, done: set[Run]) -> dict[str, list[Run]]:
    """The runs to show of each variant: the same seeds and folds of all, as many as they share.

    A variant is shown if it has a seed with every fold (or, where none has, as many folds as the best).
    """

    def has(variant: str, seed: int) -> frozenset[str]:
        return frozenset(f for f in design.folds if Run(variant, seed, f, *condition) in done)

    most = max(len(has(v, s)) for v in design.variants for s in design.seeds)
    shown = [v for v in design.variants if most and max(len(has(v, s)) for s in design.seeds) == most]
    by_seed = {s: frozenset.intersection(*(has(v, s) for v in shown)) for s in design.seeds} if shown else {}

    def seeds_with(folds: frozenset[str]) -> list[int]:
        return [s for s, there in by_seed.items() if folds <= there]

    chosen = max(
        by_seed.values(), key=lambda folds: (len(folds) * len(seeds_with(folds)), len(folds)), default=()
    )
    if not chosen:
        return {}
    folds = [f for f in design.folds if f in chosen]
    return {v: [Run(v, s, f, *condition) for s in seeds_with(frozenset(folds)) for f in folds] for v in shown}


@dataclass(frozen=True)
class _Stack:
    """Tallies `[S, P, …]` of some seeds, and the places, sorted."""

    seeds: tuple[int, ...]
    places: np.ndarray
    tallies: tuple[Tally, ...]

    @property
    def matrices(self) -> np.ndarray:
        return np.stack([t.matrices for t in self.tallies])

    @property
    def holding(self) -> np.ndarray:
        """Places that hold each class."""
        return (self.tallies[0].matrices.sum(2) > 0).sum(0)


def _stacks(table: RunTable, shared: dict[str, list[Run]], num_classes: int) -> dict[tuple[str, str], _Stack]:
    """A stack for each variant and way of deciding."""
    out: dict[tuple[str, str], _Stack] = {}
    places: np.ndarray | None = None
    for variant, runs in shared.items():
        seeds = tuple(dict.fromkeys(run.seed for run in runs))
        for way in WAYS:
            tallies = []
            for seed in seeds:
                parts = [table.tally(run, way, num_classes) for run in runs if run.seed == seed]
                names = np.concatenate([p for p, _ in parts])
                order = np.argsort(names, kind="stable")
                joined = [np.concatenate([getattr(t, f) for _, t in parts])[order] for f in FIELDS]
                tallies.append(Tally(*joined))
                places = names[order] if places is None else places
                if not np.array_equal(names[order], places):
                    raise CatalogError(
                        f"{table.path}: '{variant}' with seed {seed} was tested on other places than the runs "
                        "before it; remove the file, or choose another -o"
                    )
            assert places is not None
            out[variant, way] = _Stack(seeds, places, tuple(tallies))
    return out


def _entry(
    variant: str,
    way: str,
    condition: Condition,
    stack: _Stack,
    reference: _Stack | None,
    names: tuple[str, ...],
    rare: tuple[str, ...],
    facts: dict[str, Any],
) -> Entry:
    is_rare = np.isin(names, rare)
    dicts = [t.to_dict(names, rare) for t in stack.tallies]

    def over_seeds(get: Callable[[dict[str, Any]], float | None], how: Callable[..., Any] = np.mean) -> float:
        values = [v for v in map(get, dicts) if v is not None]
        return float(how(values)) if values else float("nan")

    keys = (*HEADLINES, *_MEANS)
    by_class_keys = ("f1", "iou", "precision", "recall", "area_ratio", *_MEANS)
    differences, class_differences = {}, {}
    if reference is not None:
        both, holding = (stack, reference), reference.holding
        present = holding > 0
        groups = {
            "macro_f1": present,
            "miou": present,
            "rare_f1": present & is_rare,
            "common_f1": present & ~is_rare,
        }
        for key in HEADLINES[:5]:
            chosen = groups.get(key)
            fewest = (
                len(stack.places) if chosen is None else int(holding[chosen].min(initial=len(stack.places)))
            )
            differences[key] = _difference(both, fewest, _headline(key, is_rare))
        for k, name in enumerate(names):
            if present[k]:
                class_differences[name] = _difference(both, int(holding[k]), _f1_of(k))
    return Entry(
        variant=variant,
        way=way,
        condition=condition,
        seeds=stack.seeds,
        places=len(stack.places),
        scores={key: over_seeds(lambda d, k=key: d[k]) for key in keys},
        spread={
            key: over_seeds(lambda d, k=key: d[k], lambda v: np.std(v, ddof=1) if len(v) > 1 else np.nan)
            for key in keys
        },
        by_class={
            n: {key: over_seeds(lambda d, n=n, k=key: d["by_class"][n][k]) for key in by_class_keys}
            for n in names
        },
        differences=differences,
        class_differences=class_differences,
        **facts,
    )


def _headline(key: str, rare: np.ndarray) -> Metric:
    return lambda matrices: headline(key, matrices, rare)


def _f1_of(k: int) -> Metric:
    return lambda matrices: f_beta(matrices)[..., k]


def _difference(both: tuple[_Stack, _Stack], holding: int, metric: Metric) -> Interval:
    # The same draws for every entry and every start: what is compared sees the same places.
    rng = np.random.default_rng(0)
    return interval(
        metric, both[0].matrices, both[1].matrices, holding=holding, rng=rng, replicates=_REPLICATES
    )


def _facts(design: Design, catalog: Catalog, experiment: Experiment, folder: Path) -> dict[str, Any]:
    import platform
    from importlib import metadata

    train, final = experiment.train, design.folds == ("holdout",)
    models = {name: experiment.changed(dict(keys)).model for name, keys in design.variants.items()}
    return {
        "design": {
            "variants": design.variants,
            "seeds": list(design.seeds),
            "folds": list(design.folds),
            "final": final,
            "holdout_uses": times_used(experiment.split, folder) if final else None,
            "thin": experiment.thin.model_dump(mode="json"),
            "steps": train.steps,
            "crops": train.steps * train.batch_size,
            "crop": train.crop,
            "models": {name: model.model_dump(mode="json") for name, model in models.items()},
            "decision": experiment.decision.model_dump(mode="json"),
        },
        "catalog": catalog.fingerprint,
        "versions": {n: metadata.version(n) for n in ("raremap", "torch", "numpy")}
        | {"python": platform.python_version()},
    }
