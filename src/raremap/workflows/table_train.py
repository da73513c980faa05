"""`raremap table train`: a table with labels to a model of it, with a report on rows that it has not seen."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.errors import RaremapWarning, SplitError, TableError, nearest
from raremap.files import written
from raremap.jobs import progress
from raremap.plain import plain

if TYPE_CHECKING:
    import numpy as np

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
        m, weighted = e["texts"], e["serves"] != e["share"]
        return "\n".join(
            [
                f"{self.bundle}  ({e['rows']:,} rows, {e['positives']:,} positive; {e['folds']['text']})",
                *(
                    [f"  figures are for a share of {e['serves']:.4g}, to which rows are weighted"]
                    if weighted
                    else []
                ),
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
    the bundle, report.html, evaluation.json, and scores.csv: each row's probability by a model that has not seen it, with
    the number of the row in the table, the first being 1.
    Raises `TableError`, `LabelError` or `SplitError` in one line.
    """
    import numpy as np

    from raremap.tabular.columns import Faults, find_columns
    from raremap.tabular.crossval import cross_validate
    from raremap.tabular.evaluation import evaluate, explain, trials
    from raremap.tabular.fitting import fit
    from raremap.tabular.labels import read_truth
    from raremap.tabular.read import coordinates, crs_name, read_table

    options = options if options is not None else options_of(**settings)
    where = str(table)
    source = read_table(table, options.layer, options.missing)
    for name in options.drop:
        if name not in source.table.column_names:
            raise TableError(
                f"{where} has no column '{name}' to leave out; {nearest(name, source.table.column_names)}"
            )
    truth = read_truth(source.table, options.label, options.positive, where)
    source, used = coordinates(source, options.x, options.y)
    aside = [options.label, *options.drop, *used, *([options.group] if options.group else [])]
    kept, rows = source.table.filter(truth.labelled), np.flatnonzero(truth.labelled) + 1
    xy = source.xy[truth.labelled] if source.xy is not None else None
    found = find_columns(kept, options.categorical, aside, where, rows)
    found = replace(found, columns=replace(found.columns, missing=options.missing))
    faults = Faults()
    values = found.columns.values(kept, faults, where)
    found, values = found.without_empty(values)
    y = truth.positive
    notes = [*truth.notes, *faults.lines(), *found.notes]
    notes += [f"column '{n}' was left out: {why}" for n, why in found.left_out.items()]
    if used:
        notes.append(f"columns '{used[0]}' and '{used[1]}' are taken as coordinates, and not as attributes")
    places, told = _places(kept, xy, source, options, y)
    notes += told
    with progress("table", options.folds + 1, quiet) as bar:
        checked = cross_validate(values, y, found.columns, places, options, bar)
        chosen = checked.chosen.options
        fitted = fit(values, y, found.columns, chosen, options.balance, options.seed)
        bar.advance()
    notes += _doubled(values, checked.fold, options)
    for note in notes:
        warnings.warn(note, RaremapWarning, stacklevel=2)
    model, evaluation = evaluate(
        values, y, places, found.columns.ranged(values), checked, fitted, options, truth.name, source.path
    )
    evaluation["ground"] = {
        "crs": crs_name(source.crs), "degrees": source.degrees, "unit_m": source.unit_m,
    }  # fmt: skip
    evaluation |= {"notes": notes, "chosen": chosen.model_dump(mode="json"), "table": where}
    evaluation["tuning"] = {
        "final": trials(checked.chosen.trials), "folds": [trials(t) for t in checked.trials], "metric": options.metric,
    }  # fmt: skip
    evaluation |= explain(values, y, model, checked, options)
    return _written(Path(out), model, plain(evaluation), values, y, xy, checked, rows)


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
        places = by_block(xy, options.block_m, source.degrees, source.unit_m)
        if not source.unsure:
            return places, []
        looks = "the coordinates are taken as metres and look like degrees; call their columns lon and lat if they are"
        if places.count < options.folds:
            raise SplitError(
                f"{source.path}: all rows lie in {places.count} block{'s' * (places.count > 1)} of {options.block_m:g} m, "
                f"too few for {options.folds} folds; {looks}"
            )
        return places, [looks]
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


def _written(
    out: Path,
    model: TableModel,
    evaluation: dict[str, Any],
    values: np.ndarray,
    y: np.ndarray,
    xy: np.ndarray | None,
    checked: CrossValidated,
    numbers: np.ndarray,
) -> TableTraining:
    import pyarrow as pa
    from pyarrow import csv

    from raremap.reports.table import Rows, write_table_report
    from raremap.tabular.calibration import sigmoid

    calibrated = checked.calibrated
    model.save(out / "bundle")
    with written(out / "evaluation.json") as fresh:
        fresh.write_text(json.dumps(evaluation, indent=1, ensure_ascii=False), encoding="utf-8")
    places = {} if xy is None else {"x": xy[:, 0], "y": xy[:, 1]}
    scores = {"row": numbers, "truth": y.astype(int), "fold": checked.fold, **places}
    with written(out / "scores.csv") as fresh:
        csv.write_csv(pa.table({**scores, "probability": sigmoid(calibrated + evaluation["moved"])}), fresh)
    rows = Rows(
        values,
        y,
        sigmoid(calibrated),
        xy,
        [c.kind for c in model.columns],
        [c.categories for c in model.columns],
    )
    write_table_report(out / "report.html", evaluation, rows)
    return TableTraining(model, out, evaluation)
