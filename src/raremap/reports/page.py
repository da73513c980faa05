"""`report.html`: one page without outside requests, in light and dark, for a screen or a phone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from raremap.files import written
from raremap.reports.figures import curves
from raremap.reports.pictures import Panel, class_uri, difference_picture, photo_uri

_USES = ("train", "monitor", "calibration", "test")
_HEADLINES = {
    "macro_f1": "macro-F1",
    "miou": "mIoU",
    "rare_f1": "F1, rare classes",
    "common_f1": "F1, common classes",
    "balanced_accuracy": "balanced accuracy",
    "overall_accuracy": "overall accuracy",
}


def write_report(
    path: Path, evaluation: dict[str, Any], metrics: Path | None = None, panels: Sequence[Panel] = ()
) -> Path:
    """Write the page of an `evaluation` (the content of evaluation.json).

    `metrics` is the training's metrics.csv (left out where it is missing); `panels` are shown in their
    order. Raises `OutputError` where it cannot be written.
    """
    names, decision = evaluation["classes"], evaluation["decision"]
    palette = evaluation["colors"]
    support = {n: decision["by_class"][n]["support"] for n in names}
    page = render(
        "report.html.j2",
        e=evaluation,
        decision=decision,
        argmax=evaluation["argmax"],
        fitted=bool(evaluation["fitted_decision"]) and any(evaluation["fitted_decision"]["bias"]),
        palette=palette,
        rare=set(evaluation["rare"]),
        order=sorted((n for n in names if support[n]), key=lambda n: support[n]),
        total=sum(support.values()) or 1,
        headlines=[(k, t) for k, t in _HEADLINES.items() if decision[k] is not None],
        confusion=confusion_cells(np.array(decision["confusion"], float)),
        shares=share_axis(
            {u: evaluation["pixels_by_use"][u] for u in _USES if u in evaluation["pixels_by_use"]}
        ),
        curves=curves(metrics, palette) if metrics else [],
        panels=[_panel(p, palette, names) for p in panels],
        settings=_settings(evaluation),
    )
    with written(path) as fresh:
        fresh.write_text(page, encoding="utf-8")
    return path


def render(template: str, **values: Any) -> str:
    """A page from one of our templates, with the style that all of them share."""
    import jinja2
    from markupsafe import Markup

    files = resources.files("raremap.reports")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"score": _score, "share": _share, "points": lambda v: f"{100 * v:+.1f}"}
    style = Markup((files / "style.css").read_text(encoding="utf-8"))
    text = (files / template).read_text(encoding="utf-8")
    return environment.from_string(text).render(style=style, **values)


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    """A share as per cent, in as many digits as it needs.

    >>> [_share(v) for v in (0.5, 0.0123, 0.00042, 0.0)]
    ['50 %', '1.2 %', '0.042 %', '0 %']
    """
    if not value:
        return "–" if value is None else "0 %"
    digits = max(0, 1 - math.floor(math.log10(abs(100 * value)) + 1e-9))
    return f"{100 * value:.{digits}f} %"


def confusion_cells(matrix: np.ndarray) -> list[list[dict[str, Any]]]:
    """Cells of the matrix, each row (true class) adding up to one; `a` is the strength of its colour."""
    total = matrix.sum(1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    return [
        [
            {
                "text": f"{100 * v:.0f}" if v >= 0.005 or (r == c and total[r] > 0) else "",
                "a": f"{0.9 * v:.2f}",
                "hot": v > 0.55,
                "diagonal": r == c,
            }
            for c, v in enumerate(row)
        ]
        for r, row in enumerate(share.tolist())
    ]


def share_axis(pixels: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Class shares by use, with their place (per cent of the width) on a logarithmic axis."""
    uses = [u for u in pixels if sum(pixels[u].values()) > 0]
    shares = {u: {n: c / sum(pixels[u].values()) for n, c in pixels[u].items()} for u in uses}
    names = list(pixels[uses[0]]) if uses else []
    positive = [v for u in uses for v in shares[u].values() if v > 0]
    low = math.floor(math.log10(min(positive)) + 1e-9) if positive else -1
    low = min(low, -1)

    def at(share: float) -> float:
        return round(100 * (1 - math.log10(share) / low), 2)

    rows = []
    for name in sorted(names, key=lambda n: shares[uses[0]][n]):
        dots = [
            {"use": u, "at": at(shares[u][name]), "share": shares[u][name]} for u in uses if shares[u][name]
        ]
        ends = [d["at"] for d in dots]
        rows.append(
            {
                "name": name,
                "dots": dots,
                "from": min(ends, default=0),
                "width": max(ends, default=0) - min(ends, default=0),
                "missing": [u for u in uses if not shares[u][name]],
            }
        )
    ticks = [{"at": at(10.0**d), "text": f"{100 * 10.0**d:g} %"} for d in range(low, 1)]
    return {"uses": uses, "rows": rows, "ticks": ticks}


def _panel(panel: Panel, palette: dict[str, str], names: Sequence[str]) -> dict[str, Any]:
    rgb = np.array([[int(palette[n][i : i + 2], 16) for i in (1, 3, 5)] for n in names], np.uint8)
    views = {
        "imagery": photo_uri(panel.picture),
        "truth": class_uri(panel.truth, rgb),
        "prediction": class_uri(panel.predicted, rgb),
        "where they differ": photo_uri(difference_picture(panel)),
    }
    return {"word": panel.word, "caption": panel.caption, "views": views}


def _settings(e: dict[str, Any]) -> list[tuple[str, str]]:
    """What it was made with, in words."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{k} {text(v)}" for k, v in value.items() if v is not None)
        if isinstance(value, (list, tuple)):
            return ", ".join(map(text, value))
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    decision = e["fitted_decision"] or {}
    bias = dict(zip(e["classes"], decision.get("bias", ()), strict=False))
    rows = {
        "bands": e["bands"],
        "model": e["model"],
        **{k.replace("_", " "): v for k, v in e["training"].items()},
        "decision, bias by class": bias if any(bias.values()) else None,
        "way of predicting": e["predict"],
        "versions": e["versions"],
        "catalog": e["catalog"],
    }
    return [(k, text(v)) for k, v in rows.items() if v not in (None, {}, [])]
