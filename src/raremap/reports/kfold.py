"""The folds of an experiment (the content of kfold.json) as a page with figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from raremap.files import written
from raremap.measure.interval import Interval
from raremap.reports.figures import INK, axes_of, svg_of
from raremap.reports.page import confusion_cells, render, share_axis

_TITLES = {
    "macro_f1": "macro-F1",
    "miou": "mIoU",
    "rare_f1": "F1, rare classes",
    "common_f1": "F1, common classes",
    "overall_accuracy": "overall accuracy",
    "balanced_accuracy": "balanced accuracy",
}
_MORE = {
    "boundary_f1": "boundary F1",
    "object_recall": "rare objects found",
    "false_alarms": "rare objects false",
    "pr_auc": "PR-AUC",
    "calibration_error": "calibration error",
}


def write_page(path: Path, data: dict[str, Any]) -> Path:
    """Write kfold.html: pooled scores with intervals, each class with a dot a fold, the folds, what is taken for what."""
    pooled = data["pooled"]["decision"]
    order = sorted(
        (n for n in data["classes"] if pooled["by_class"][n]["support"]),
        key=lambda n: pooled["by_class"][n]["support"],
    )
    fitted = any(any(f["bias"].values()) for f in data["folds"])
    page = render(
        "kfold.html.j2",
        d=data,
        pooled=pooled,
        argmax=data["pooled"]["argmax"],
        fitted=fitted,
        order=order,
        total=sum(pooled["by_class"][n]["support"] for n in data["classes"]) or 1,
        titles={k: t for k, t in _TITLES.items() if pooled[k] is not None},
        more=_MORE,
        figure=_classes(data, order),
        confusion=confusion_cells(np.array(pooled["confusion"], float)),
        shares=share_axis(
            {f"fold {f['fold']}": _support(f["decision"], data["classes"]) for f in data["folds"]}
        ),
        bounds=_bounds,
        settings=_settings(data),
    )
    with written(path) as fresh:
        fresh.write_text(page, encoding="utf-8")
    return path


def _bounds(interval: dict[str, Any] | None) -> str:
    """The bounds of a score; nothing where too few places hold a class."""
    if interval is None or interval["value"] is None or interval["few"]:
        return ""
    return Interval.from_dict(interval).text().partition(" ")[2]


def _support(scores: dict[str, Any], names: list[str]) -> dict[str, float]:
    return {n: scores["by_class"][n]["support"] for n in names}


def _classes(data: dict[str, Any], order: list[str]) -> str:
    """F1 of each class: a dot a fold, and the pooled figure with its interval."""
    bounds = data["intervals"]["decision"]["classes"]
    with axes_of(7.4, 0.8 + 0.42 * len(order)) as (figure, axes):
        for y, name in enumerate(reversed(order)):
            color, one = data["colors"][name], bounds.get(name)
            if one and one["low"] is not None:
                style = ":" if one["few"] else "-"
                axes.plot([one["low"], one["high"]], [y, y], color=INK, lw=1.6, ls=style)
            values = [f["decision"]["by_class"][name]["f1"] for f in data["folds"]]
            there = [v for v in values if v is not None]
            axes.plot(there, [y + 0.2] * len(there), "o", color=color, ms=5, mec=INK, mew=0.5, alpha=0.85)
            axes.plot(
                data["pooled"]["decision"]["by_class"][name]["f1"],
                y,
                "D",
                color=color,
                ms=8,
                mec=INK,
                mew=0.9,
            )
        axes.set_yticks(range(len(order)), [n.replace("_", " ") for n in reversed(order)])
        axes.set_ylim(-0.5, len(order) - 0.4)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("F1")
        return svg_of(figure, "folds")


def _settings(data: dict[str, Any]) -> dict[str, str]:
    """The experiment's sections in words."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{k} {text(v)}" for k, v in value.items() if v not in (None, {}, []))
        if isinstance(value, (list, tuple)):
            return ", ".join(map(text, value))
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    sections = {k: v for k, v in data["experiment"].items() if v not in (None, {}, [])}
    return {
        k: text(v) for k, v in {**sections, "versions": data["versions"], "catalog": data["catalog"]}.items()
    }
