"""Curves of a training, as SVG that follows the page's colours and is legible on a phone."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Text and axes take the page's colour, so that one picture serves light and dark.
INK = "#123456"
_SCORES = (("macro_f1", "#2C7FB8", "macro-F1"), ("miou", "#D95F0E", "mIoU"))
_LOSS = "#7A8791"
_TERMS = ("#2C7FB8", "#D95F0E", "#1B7837", "#7B3294", "#B8860B", "#666666")


def curves(path: Path, palette: dict[str, str]) -> list[dict[str, str]]:
    """Loss and monitor scores over steps from metrics.csv: title and SVG of each; none where it has no rows.

    Columns that are missing or empty are left out.
    """
    rows = _rows(path)
    out = []
    loss = _column(rows, "loss")
    if loss:
        with axes_of() as (figure, axes):
            axes.plot(*zip(*loss, strict=True), color=_LOSS, lw=1.8)
            axes.set_xlabel("step")
            axes.set_ylim(0, None)
            out.append({"title": "training loss", "svg": svg_of(figure, "loss")})
    scores = [(_column(rows, name), color, label) for name, color, label in _SCORES]
    if any(column for column, _, _ in scores):
        with axes_of() as (figure, axes):
            for column, color, label in scores:
                if column:
                    axes.plot(*zip(*column, strict=True), "o-", color=color, lw=2, ms=3, label=label)
            axes.set_xlabel("step")
            axes.set_ylim(0, 1)
            axes.legend(frameon=False, ncols=2, loc="best")
            out.append({"title": "macro-F1 and mIoU of the monitor places", "svg": svg_of(figure, "scores")})
    by_class = {name: _column(rows, f"f1/{name}") for name in palette}
    if any(by_class.values()):
        with axes_of() as (figure, axes):
            for name, column in by_class.items():
                if column:
                    # The rim keeps colours like the page's apart from it, light or dark.
                    axes.plot(*zip(*column, strict=True), color=INK, lw=3, alpha=0.25)
                    axes.plot(*zip(*column, strict=True), color=palette[name], lw=2.2)
            axes.set_xlabel("step")
            axes.set_ylim(0, 1)
            out.append({"title": "F1 of each class, in its colour", "svg": svg_of(figure, "classes")})
    return out + _weighed(rows) + _followed(rows, palette)


def _weighed(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The weights of the loss's terms, where they are more than numbers of the experiment."""
    lines = (
        {c.removeprefix("lambda/"): _column(rows, c) for c in rows[0] if c.startswith("lambda/")}
        if rows
        else {}
    )
    if not any(lines.values()):
        return []
    with axes_of() as (figure, axes):
        for (name, line), color in zip(lines.items(), itertools.cycle(_TERMS)):
            axes.plot(*zip(*line, strict=True), "o-", color=color, lw=2, ms=3, label=name)
        axes.set_xlabel("step")
        axes.set_ylim(0, None)
        axes.legend(frameon=False, ncols=2, loc="best")
        return [{"title": "weights of the loss's terms", "svg": svg_of(figure, "lambda")}]


def _followed(rows: list[dict[str, str]], palette: dict[str, str]) -> list[dict[str, str]]:
    """How target and stream moved, where dynamic sampling logged them."""
    out = []
    for part, title in (
        ("target", "target shares of the classes"),
        ("stream", "shares that the stream delivers"),
    ):
        # A logarithm has no place for a share of 0.
        lines = {n: [(x, y) for x, y in _column(rows, f"{part}/{n}") if y > 0] for n in palette}
        if not any(lines.values()):
            continue
        with axes_of() as (figure, axes):
            for name, line in lines.items():
                if line:
                    axes.plot(*zip(*line, strict=True), color=INK, lw=2.8, alpha=0.25)
                    axes.plot(*zip(*line, strict=True), color=palette[name], lw=2)
            axes.set_xlabel("step")
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
            axes.yaxis.set_minor_formatter("")
            out.append({"title": title, "svg": svg_of(figure, part)})
    return out


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _column(rows: list[dict[str, str]], name: str) -> list[tuple[float, float]]:
    """Steps and values where both are finite numbers."""
    out = []
    for row in rows:
        try:
            pair = float(row["step"]), float(row[name])
        except (KeyError, TypeError, ValueError):
            continue
        if pair[1] - pair[1] == 0:
            out.append(pair)
    return out


@contextmanager
def axes_of(width: float = 3.6, height: float = 2.6, columns: int = 1) -> Iterator[tuple[Any, Any]]:
    """A figure (inches) and its axes, which share the vertical one where there are several columns."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "axes.grid": True,
        "grid.color": INK,
        "grid.alpha": 0.13,
        "grid.linewidth": 0.6,
        **dict.fromkeys(inked, INK),
    }
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(
            1, columns, figsize=(width, height), sharey=True, layout="constrained", squeeze=True
        )
        try:
            yield figure, axes
        finally:
            pyplot.close(figure)


def svg_of(figure: Any, name: str) -> str:
    """The figure as SVG in the page's colour; `name` keeps its ids apart from those of other figures."""
    import matplotlib

    buffer = io.StringIO()
    # The salt keeps the ids of several figures on one page apart, and the same from run to run.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
