"""`raremap table train`: a table with labels to a model of it, with a report on rows that it has not seen."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import RaremapWarning, TableError, nearest
from raremap.files import written
from raremap.jobs import progress
from raremap.plain import plain

if TYPE_CHECKING:
    import numpy as np

    from raremap.tabular.columns import Columns, Found
    from raremap.tabular.crossval import CrossValidated
    from raremap.tabular.folds import Places
    from raremap.tabular.model import TableModel
    from raremap.tabular.options import TableOptions
    from raremap.tabular.read import Source


@dataclass(frozen=True)
class TableTraining:
    """What a training on a table made: the model, its bundle and report, and all that was measured."""

    model: TableModel
    folder: Path
    evaluation: dict[str, Any]

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.folder / "bundle"

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary."""
        return {"bundle": str(self.bundle), "report": str(self.report), **self.evaluation}

    def __str__(self) -> str:
        e = self.evaluation
        m = e["texts"]
        return "\n".join(
            [
                f"{self.bundle}  ({e['rows']:,} rows, {e['positives']:,} positive; {e['folds']['text']})",
                f"  average precision  {m['average_precision']}",
                f"  AUC                {m['auc']}",
                f"  F1                 {m['f1']}  from a probability of {e['least']:.3g} on",
                f"  calibration error  {e['calibration']['before']['error']:.4f} before, "
                f"{e['calibration']['after']['error']:.4f} after",
                f"{self.report}",
            ]
        )


def table_train(
    table: str | Path,
    out: str | Path,
    options: TableOptions | None = None,
    quiet: bool = False,
    **settings: Any,
) -> TableTraining:
    """Train a model of a table (CSV, Parquet or GeoPackage) that tells rows of one class from the rest.

    `options`, or `settings` as its keys (`label="landslide", model="forest"`; see `TableOptions`). Under `out` stand
    the bundle, report.html, evaluation.json, and scores.csv: each row's probability by a model that has not seen it.
    Raises `TableError`, `LabelError` or `SplitError` in one line.
    """
    from raremap.tabular.columns import Faults, find_columns
    from raremap.tabular.crossval import choose, cross_validate
    from raremap.tabular.fitting import fit
    from raremap.tabular.labels import read_truth
    from raremap.tabular.read import coordinates, read_table

    options = options if options is not None else options_of(**settings)
    where = str(table)
    source = read_table(table, options.layer)
    for name in options.drop:
        if name not in source.table.column_names:
            raise TableError(
                f"{where} has no column '{name}' to leave out; {nearest(name, source.table.column_names)}"
            )
    truth = read_truth(source.table, options.label, options.positive, where)
    source, used = coordinates(source, options.x, options.y)
    aside = [options.label, *options.drop, *used, *([options.group] if options.group else [])]
    kept = source.table.filter(truth.labelled)
    xy = source.xy[truth.labelled] if source.xy is not None else None
    found = find_columns(kept, options.categorical, aside, where)
    faults = Faults()
    values = found.columns.values(kept, faults, where)
    found, values = _without_empty(found, values)
    y = truth.positive
    notes = [*truth.notes, *faults.lines(), *found.notes]
    notes += [f"column '{n}' was left out: {why}" for n, why in found.left_out.items()]
    if used:
        notes.append(f"columns '{used[0]}' and '{used[1]}' are taken as coordinates, and not as attributes")
    places, told = _places(kept, xy, source, options, y)
    notes += told
    with progress("table", options.folds + 1, quiet) as bar:
        checked = cross_validate(values, y, found.columns, places, options, bar)
        chosen, trials = choose(values, y, found.columns, places, options)
        fitted = fit(values, y, found.columns, chosen, options.balance, options.seed)
        bar.advance()
    notes += _doubled(values, checked.fold, options)
    for note in notes:
        warnings.warn(note, RaremapWarning, stacklevel=2)
    model, evaluation = _measured(source, found, values, y, places, checked, fitted, options, truth.name)
    evaluation |= {"notes": notes, "chosen": chosen.model_dump(mode="json"), "table": where}
    evaluation["tuning"] = {
        "final": _trials(trials), "folds": [_trials(t) for t in checked.trials], "metric": options.metric,
    }  # fmt: skip
    return _written(Path(out), model, evaluation, found, values, y, xy, checked)


def options_of(**settings: Any) -> TableOptions:
    """The options of keys; `model` may be a name. Raises `ConfigError` in one line."""
    from pydantic import ValidationError

    from raremap.errors import ConfigError
    from raremap.tabular.options import MODELS, TableOptions

    model = settings.get("model")
    if isinstance(model, str):
        if model not in MODELS:
            raise ConfigError(f"there is no model '{model}'; {nearest(model, MODELS)}")
        settings["model"] = MODELS[model]()
    try:
        return TableOptions(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        raise ConfigError(
            f"{key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from None


def _without_empty(found: Found, values: np.ndarray) -> tuple[Found, np.ndarray]:
    """Without columns in which nothing is left once infinite values are taken away."""
    import numpy as np

    from raremap.tabular.columns import Columns
    from raremap.tabular.columns import Found as Kept

    empty: np.ndarray = np.isnan(values).all(axis=0, keepdims=True)[0]
    if not empty.any():
        return found, values
    left = dict(found.left_out)
    left |= {
        c.name: "all its values are missing or infinite"
        for c, e in zip(found.columns, empty, strict=True)
        if e
    }
    columns = Columns(tuple(c for c, e in zip(found.columns, empty, strict=True) if not e))
    if not len(columns):
        raise TableError("all attributes are missing or infinite in every row")
    return Kept(columns, found.notes, left), values[:, ~empty]


def _places(
    kept: Any, xy: np.ndarray | None, source: Source, options: TableOptions, truth: np.ndarray
) -> tuple[Places, list[str]]:
    import numpy as np

    from raremap.tabular.folds import by_block, by_group, by_row

    if options.group is not None:
        if options.group not in kept.column_names:
            raise TableError(
                f"{source.path} has no column '{options.group}' to group by; {nearest(options.group, kept.column_names)}"
            )
        values = kept[options.group]
        if values.null_count:
            raise TableError(
                f"{source.path}: {values.null_count:,} rows have no group in column '{options.group}'"
            )
        return by_group(np.array(values.to_pylist())), []
    if options.block_m is not None:
        if xy is None:
            raise TableError(
                f"{source.path} has no geometry and no coordinates for --block-m; name them with --x and --y, or use --group"
            )
        return by_block(xy, options.block_m, source.degrees), []
    hint = (
        "its rows have coordinates: --block-m makes blocks of ground"
        if xy is not None
        else "--group keeps a column's rows together"
    )
    return by_row(len(truth)), [
        f"folds are random: neighbours stand on both sides, and scores are better than they will be elsewhere; {hint}"
    ]


def _doubled(values: np.ndarray, fold: np.ndarray, options: TableOptions) -> list[str]:
    from raremap.tabular.folds import repeated

    count = repeated(values, fold)
    if not count:
        return []
    hint = "" if options.group else "; drop repeated rows, or keep them together with --group"
    return [
        f"{count:,} rows have the same attributes as a row of another fold, which flatters the scores{hint}"
    ]


def _trials(trials: Any) -> list[dict[str, Any]]:
    return [{**t.options.model_dump(mode="json"), "score": t.score} for t in trials]


def _measured(
    source: Source,
    found: Found,
    values: np.ndarray,
    y: np.ndarray,
    places: Places,
    checked: CrossValidated,
    fitted: Any,
    options: TableOptions,
    positive: str,
) -> tuple[TableModel, dict[str, Any]]:
    """The model with its figures, and all that is told of it."""
    import numpy as np

    from raremap.tabular import measures
    from raremap.tabular.calibration import log_odds
    from raremap.tabular.model import TableModel

    share = float(y.mean())
    serves = options.prior if options.prior is not None else share
    weight = np.where(y, serves / share, (1 - serves) / (1 - share))
    # The threshold of each row comes from the other folds, as its calibration does.
    called = np.zeros(len(y), bool)
    for k in range(options.folds):
        own = checked.fold == k
        cut = measures.best_threshold(checked.calibrated[~own], y[~own], weight[~own])
        called[own] = checked.calibrated[own] >= cut
    threshold = measures.best_threshold(checked.calibration(checked.logits), y, weight)
    scores = measures.intervals(checked.calibrated, y, called, places.index, options.replicates, options.seed)
    texts = {k: str(v) for k, v in scores.items()}
    folds = f"{options.folds} {'random folds' if places.kind == 'row' else f'folds of {places.count:,} {places.kind}s'}"
    model = TableModel.of(
        fitted, found.columns, checked.calibration, prior=share, serves=serves, threshold=threshold,
        positive=positive, metrics=texts,
        info={"name": Path(source.path).stem, "label": options.label, "rows": len(y), "folds": folds, "balance": options.balance},
    )  # fmt: skip
    steps = {"raw": checked.unshifted, "before": checked.logits, "after": checked.calibrated}
    calibration = {
        name: {
            "error": measures.calibration_error(z, y),
            "brier": measures.brier(z, y),
            "log_loss": measures.log_loss(z, y),
            "mean": float(np.mean(1 / (1 + np.exp(-np.clip(z, -500, 500))))),
            "curve": _reliability(z, y),
        }
        for name, z in steps.items()
    }
    by_fold = [
        {
            "fold": k,
            "rows": int((own := checked.fold == k).sum()),
            "positives": int(y[own].sum()),
            "places": len(np.unique(places.index[own])),
            "average_precision": measures.average_precision(checked.calibrated[own], y[own]),
            "auc": measures.auc(checked.calibrated[own], y[own]),
            "settings": {
                a: b for a, b in checked.models[k].options.model_dump(mode="json").items() if a != "kind"
            },
        }
        for k in range(options.folds)
    ]
    return model, {
        "rows": len(y),
        "positives": int(y.sum()),
        "share": share,
        "serves": serves,
        "moved": log_odds(serves) - log_odds(share),
        "label": options.label,
        "positive": positive,
        "least": model.least(),
        "folds": {"text": folds, "kind": places.kind, "places": places.count, "each": by_fold},
        "intervals": {k: v.to_dict() for k, v in scores.items()},
        "texts": texts,
        "calibration": calibration,
        "curve": _precision_recall(checked.calibrated, y),
        "called": int(called.sum()),
        "right": int((called & y).sum()),
        "options": options.model_dump(mode="json"),
        "versions": {n: version(n) for n in ("scikit-learn", "onnxruntime")}
        | {"raremap": version("raremap")},
    }


def _reliability(logits: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    """Mean probability and share of positives in cells of equally many rows."""
    import numpy as np

    from raremap.tabular.calibration import sigmoid

    order = np.argsort(logits, kind="stable")
    cells = max(2, min(10, int(truth.sum()) // 5))
    parts = zip(
        np.array_split(sigmoid(logits)[order], cells), np.array_split(truth[order], cells), strict=True
    )
    return [{"claimed": float(p.mean()), "share": float(t.mean()), "rows": len(t)} for p, t in parts]


def _precision_recall(logits: np.ndarray, truth: np.ndarray) -> list[list[float]]:
    """Recall and precision at each distinct score, thinned to what a figure shows."""
    import numpy as np

    from raremap.tabular.measures import Ranked

    hits, misses = Ranked(logits, truth).counts(np.ones(len(truth)))
    found, given = hits[0].cumsum(), (hits + misses)[0].cumsum()
    at = np.unique(np.linspace(0, len(found) - 1, 400).astype(int))
    at = np.unique(np.r_[np.arange(min(60, len(found))), at])
    return [[float(found[i] / found[-1]), float(found[i] / given[i])] for i in at]


def _written(
    out: Path,
    model: TableModel,
    evaluation: dict[str, Any],
    found: Found,
    values: np.ndarray,
    y: np.ndarray,
    xy: np.ndarray | None,
    checked: CrossValidated,
) -> TableTraining:
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv

    from raremap.reports.table import Rows, write_table_report
    from raremap.tabular.calibration import sigmoid
    from raremap.tabular.explain import dependence, importances

    rng = np.random.default_rng((evaluation["options"]["seed"], 0xE4B1))
    ranked = sorted(importances(values, y, found.columns, checked, rng), key=lambda i: -i.loss)
    evaluation["importance"] = [{"name": i.name, "loss": i.loss, "spread": i.spread} for i in ranked]
    names = found.columns.names
    evaluation["dependence"] = [
        {k: getattr(d, k) for k in d.__dataclass_fields__}
        for d in (dependence(values, model, names.index(i.name), rng) for i in ranked[:6])
    ]
    evaluation["columns"] = _described(found.columns, values, y)
    evaluation = plain(evaluation)
    probability = sigmoid(checked.calibrated)
    model.save(out / "bundle")
    with written(out / "evaluation.json") as fresh:
        fresh.write_text(json.dumps(evaluation, indent=1, ensure_ascii=False), encoding="utf-8")
    places = {} if xy is None else {"x": xy[:, 0], "y": xy[:, 1]}
    with written(out / "scores.csv") as fresh:
        csv.write_csv(
            pa.table({"truth": y.astype(int), "fold": checked.fold, **places, "probability": probability}),
            fresh,
        )
    rows = Rows(
        values, y, probability, xy, [c.kind for c in found.columns], [c.categories for c in found.columns]
    )
    write_table_report(out / "report.html", evaluation, rows)
    return TableTraining(model, out, evaluation)


def _described(columns: Columns, values: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    import numpy as np

    out = []
    for i, column in enumerate(columns):
        v = values[:, i]
        gone = np.isnan(v)
        number = column.kind == "numeric" and not gone.all()
        out.append(
            {
                "name": column.name,
                "kind": column.kind,
                "distinct": len(np.unique(v[~gone])),
                "missing": [float(gone[~y].mean()), float(gone[y].mean())],
                "middle": [
                    float(np.median(s)) if number and len(s := v[side & ~gone]) else None for side in (~y, y)
                ],
                "range": [float(v[~gone].min()), float(v[~gone].max())] if number else None,
                "categories": list(column.categories),
            }
        )
    return out
