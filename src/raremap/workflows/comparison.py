"""What the runs of a comparison say: scores, paired differences with intervals, and the files that show them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.files import written
from raremap.measure.interval import Interval, interval
from raremap.measure.scores import HEADLINES, Metric, f_beta, headline
from raremap.measure.tally import FIELDS, Tally
from raremap.workflows.runs import WAYS, Design, Run, RunTable

if TYPE_CHECKING:
    from raremap.config import Experiment
    from raremap.tiles.catalog import Catalog

_MEANS = ("boundary_f1", "object_recall", "false_alarms", "pr_auc", "calibration_error")
_REPLICATES = 2000


@dataclass(frozen=True)
class Entry:
    """A variant with one way of deciding, under one thinning, over the seeds and places that it has in full.

    `scores` are means over seeds of pooled scores, `spread` their standard deviations over seeds;
    `differences` are to the baseline with the plain argmax, paired by place and seed.
    """

    variant: str
    way: str
    condition: tuple[float, float]
    seeds: tuple[int, ...]
    places: int
    scores: dict[str, float]
    spread: dict[str, float]
    by_class: dict[str, dict[str, float]]
    differences: dict[str, Interval]
    class_differences: dict[str, Interval]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; NaN is null."""

        def plain(values: dict[str, float]) -> dict[str, float | None]:
            return {k: None if np.isnan(v) else float(v) for k, v in values.items()}

        return {
            "variant": self.variant,
            "decision": self.way,
            "keep": self.condition[0],
            "imbalance": self.condition[1] or None,
            "seeds": list(self.seeds),
            "places": self.places,
            "scores": plain(self.scores),
            "spread_over_seeds": plain(self.spread),
            "by_class": {n: plain(v) for n, v in self.by_class.items()},
            "differences": {k: v.to_dict() for k, v in self.differences.items()},
            "class_differences": {k: v.to_dict() for k, v in self.class_differences.items()},
            "seconds_per_run": self.seconds,
        }


@dataclass(frozen=True)
class Comparison:
    """The entries of a comparison, what it was made of, and what is missing of it."""

    entries: tuple[Entry, ...]
    baseline: str
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
        """What a table of runs says about a design; runs that are not there are counted and left out."""
        names = catalog.scheme.names
        rare = rare_in(catalog, experiment)
        runs, done = design.runs(), table.done()
        entries: list[Entry] = []
        held: dict[str, int] = {}
        for condition in design.conditions:
            stacks = {
                variant: _stacks(table, design, variant, condition, len(names), set(done))
                for variant in design.variants
            }
            reference = stacks[design.baseline]["argmax"]
            for variant, by_way in stacks.items():
                for way, stack in by_way.items():
                    if stack is not None:
                        seconds = table.mean_seconds(variant, condition)
                        entries.append(
                            _entry(variant, way, condition, stack, reference, names, rare, seconds)
                        )
            if reference is not None and not held:
                held = dict(zip(names, reference.holding.tolist(), strict=True))
        return cls(
            entries=tuple(entries),
            baseline=design.baseline,
            names=names,
            rare=rare,
            palette=dict(zip(names, catalog.scheme.palette, strict=True)),
            holding=held,
            planned=len(runs),
            done=sum(run in done for run in runs),
            facts=_facts(design, catalog, experiment),
            failed={str(run): text for run, text in (failed or {}).items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "baseline": self.baseline,
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


def rare_in(catalog: Catalog, experiment: Experiment) -> tuple[str, ...]:
    """The rare classes, one list for all folds: by the shares over all places that are not held out."""
    from raremap.balance.census import rare_classes, shares

    fold = catalog.table["fold"].to_numpy()
    counts = catalog.counts[fold >= 0] if (fold >= 0).any() else catalog.counts
    return rare_classes(shares(counts.sum(0)), catalog.scheme.names, experiment.labels.rare)


@dataclass(frozen=True)
class _Stack:
    """Tallies `[S, P, …]` of the seeds that have every fold, and the places, sorted."""

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

    def only(self, seeds: set[int]) -> _Stack:
        kept = [i for i, s in enumerate(self.seeds) if s in seeds]
        return _Stack(tuple(self.seeds[i] for i in kept), self.places, tuple(self.tallies[i] for i in kept))


def _stacks(
    table: RunTable,
    design: Design,
    variant: str,
    condition: tuple[float, float],
    num_classes: int,
    done: set[Run],
) -> dict[str, _Stack | None]:
    out: dict[str, _Stack | None] = {}
    whole = [s for s in design.seeds if all(Run(variant, s, f, *condition) in done for f in design.folds)]
    for way in WAYS:
        tallies, names = [], np.empty(0, str)
        for seed in whole:
            parts = [table.tally(Run(variant, seed, f, *condition), way, num_classes) for f in design.folds]
            names = np.concatenate([p for p, _ in parts])
            order = np.argsort(names, kind="stable")
            joined = [np.concatenate([getattr(t, f) for _, t in parts])[order] for f in FIELDS]
            tallies.append(Tally(*joined))
            names = names[order]
        out[way] = _Stack(tuple(whole), names, tuple(tallies)) if tallies else None
    return out


def _entry(
    variant: str,
    way: str,
    condition: tuple[float, float],
    stack: _Stack,
    reference: _Stack | None,
    names: tuple[str, ...],
    rare: tuple[str, ...],
    seconds: float,
) -> Entry:
    is_rare = np.isin(names, rare)
    dicts = [t.to_dict(names, rare) for t in stack.tallies]

    def over_seeds(get: Callable[[dict[str, Any]], float | None], how: Callable[..., Any] = np.mean) -> float:
        values = [v for v in map(get, dicts) if v is not None]
        return float(how(values)) if values else float("nan")

    keys = (*HEADLINES, *_MEANS)
    by_class_keys = ("f1", "iou", "precision", "recall", "area_ratio", *_MEANS)
    both = None
    if reference is not None:
        shared = set(stack.seeds) & set(reference.seeds)
        if shared and np.array_equal(stack.places, reference.places):
            both = stack.only(shared), reference.only(shared)
    differences, class_differences = {}, {}
    if both is not None:
        holding = both[1].holding
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
        seconds=seconds,
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


def _facts(design: Design, catalog: Catalog, experiment: Experiment) -> dict[str, Any]:
    import platform
    from importlib import metadata

    train = experiment.train
    return {
        "design": {
            "variants": design.variants,
            "seeds": list(design.seeds),
            "folds": list(design.folds),
            "final": design.folds == ("holdout",),
            "steps": train.steps,
            "crops": train.steps * train.batch_size,
            "crop": train.crop,
            "model": experiment.model.model_dump(mode="json"),
            "decision": experiment.decision.model_dump(mode="json"),
        },
        "catalog": catalog.fingerprint,
        "versions": {n: metadata.version(n) for n in ("raremap", "torch", "numpy")}
        | {"python": platform.python_version()},
    }
