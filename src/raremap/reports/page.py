"""`report.html`: one page without outside requests, in light and dark, for a screen or a phone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from raremap.files import written
from raremap.reports import figures
from raremap.reports.pictures import Panel, class_picture, png_uri


def write_report(
    path: Path,
    *,
    evaluation: dict[str, Any],
    palette: dict[str, str],
    counts: dict[str, np.ndarray],
    metrics: Path,
    panels: Sequence[Panel],
) -> Path:
    """Write the report of an `evaluation` (as in evaluation.json).

    `palette` maps class to colour, `counts` use to pixels by class, `metrics` is the training's
    metrics.csv (left out where it is missing), `panels` are shown in their order.
    """
    import jinja2

    names = evaluation["classes"]
    decision, argmax = evaluation["decision"], evaluation["argmax"]
    rgb = np.array([[int(palette[n][i : i + 2], 16) for i in (1, 3, 5)] for n in names], np.uint8)
    text = (resources.files("raremap.reports") / "report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["score"] = lambda v: "–" if v is None else f"{v:.3f}"
    environment.filters["points"] = lambda v: f"{100 * v:+.1f}"
    total = sum(c["support"] for c in decision["by_class"].values()) or 1
    page = environment.from_string(text).render(
        e=evaluation,
        decision=decision,
        argmax=argmax,
        palette=palette,
        rare=set(evaluation["rare"]),
        order=sorted(names, key=lambda n: decision["by_class"][n]["support"]),
        total=total,
        headlines=_headlines(decision, argmax),
        shares=figures.class_shares(counts, names, palette),
        curves=figures.curves(metrics),
        confusion=figures.confusion_picture(np.array(decision["confusion"]), names),
        bars=figures.scores_by_rarity(decision, argmax, palette),
        panels=[_panel(p, rgb) for p in panels],
    )
    with written(path) as fresh:
        fresh.write_text(page, encoding="utf-8")
    return path


def _headlines(decision: dict[str, Any], argmax: dict[str, Any]) -> list[dict[str, Any]]:
    labels = {
        "macro_f1": "macro-F1",
        "miou": "mIoU",
        "rare_f1": "F1 of the rare classes",
        "common_f1": "F1 of the common classes",
        "overall_accuracy": "overall accuracy",
    }
    return [
        {"label": t, "value": decision[k], "argmax": argmax[k]}
        for k, t in labels.items()
        if decision[k] is not None
    ]


def _panel(panel: Panel, rgb: np.ndarray) -> dict[str, str]:
    wrong = (panel.truth < len(rgb)) & (panel.truth != panel.predicted)
    grey = np.where(
        wrong[..., None], np.array([214, 39, 40], np.uint8), (panel.picture // 2 + 120).astype(np.uint8)
    )
    views = {
        "imagery": panel.picture,
        "truth": class_picture(panel.truth, rgb),
        "prediction": class_picture(panel.predicted, rgb),
        "where they differ": grey,
    }
    return {"title": panel.title, "views": {k: png_uri(v, 256) for k, v in views.items()}}  # type: ignore[dict-item]
