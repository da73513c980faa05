"""Figures of a report, as SVG that follows the page's colours."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# Text and axes take the page's colour, so that one picture serves light and dark.
_INK = "#123456"


@contextmanager
def _axes(width: float, height: float) -> Iterator[tuple[Any, Any]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
        ),
    }
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
        try:
            yield figure, axes
        finally:
            pyplot.close(figure)


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")


def class_shares(counts: dict[str, np.ndarray], names: list[str], palette: dict[str, str]) -> str:
    """Class shares by use, on a logarithmic axis: the rare ones are what matters."""
    uses = [u for u, c in counts.items() if c.sum() > 0]
    order = np.argsort(-counts[uses[0]])
    with _axes(8, 0.7 + 0.34 * len(names)) as (figure, axes):
        markers = dict(zip(("train", "monitor", "calibration", "test"), "o^sD", strict=True))
        for y, k in enumerate(order[::-1]):
            values = [counts[u][k] / counts[u].sum() for u in uses]
            positive = [v for v in values if v > 0]
            if positive:
                axes.plot(
                    [min(positive), max(positive)],
                    [y, y],
                    color=palette[names[k]],
                    lw=5,
                    alpha=0.5,
                    solid_capstyle="round",
                )
            for u, v in zip(uses, values, strict=True):
                if v > 0:
                    axes.plot(v, y, markers.get(u, "o"), color=palette[names[k]], mec=_INK, mew=0.8, ms=7)
        for u in uses:
            axes.plot([], [], markers.get(u, "o"), color="none", mec=_INK, label=u)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(
            lambda v, _: f"{v:.4%}".rstrip("0%").rstrip(".") + " %" if v < 0.0001 else f"{v * 100:g} %"
        )
        axes.set_yticks(range(len(names)), [names[k] for k in order[::-1]])
        axes.legend(
            ncols=4,
            frameon=False,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0,
            handletextpad=0.1,
        )
        return _svg(figure)


def curves(path: Path) -> str | None:
    """Loss and monitor scores over steps from metrics.csv; None where there is none."""
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return None

    def column(name: str) -> tuple[list[float], list[float]]:
        pairs = [(float(r["step"]), float(r[name])) for r in rows if r.get(name)]
        return [p[0] for p in pairs], [p[1] for p in pairs]

    with _axes(8, 3.1) as (figure, axes):
        axes.plot(*column("loss"), color="#888888", lw=1.6, label="training loss")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        right = axes.twinx()
        right.spines["right"].set_visible(True)
        for name, color, label in (
            ("macro_f1", "#2C7FB8", "macro-F1, monitor"),
            ("miou", "#1B7837", "mIoU, monitor"),
        ):
            right.plot(*column(name), "o-", color=color, lw=1.8, ms=3.5, label=label)
        right.set_ylim(0, 1)
        handles = [*axes.get_lines(), *right.get_lines()]
        axes.legend(
            handles,
            [h.get_label() for h in handles],
            frameon=False,
            ncols=3,
            loc="lower left",
            bbox_to_anchor=(0, 1),
        )
        return _svg(figure)


def confusion_picture(matrix: np.ndarray, names: list[str]) -> str:
    """The confusion matrix, each row (true class) adding up to 100 %."""
    total = matrix.sum(1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    n = len(names)
    with _axes(1.8 + 0.62 * n, 1.1 + 0.5 * n) as (figure, axes):
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (r, c), v in np.ndenumerate(share):
            if v >= 0.005:
                # Cells are coloured alike in light and dark, so their figures are, too.
                axes.text(
                    c,
                    r,
                    f"{100 * v:.0f}",
                    ha="center",
                    va="center",
                    color="#FFFFFF" if v > 0.55 else "#222222",
                    fontsize=9,
                )
        axes.set_xticks(range(n), names, rotation=35, ha="right")
        axes.set_yticks(range(n), names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true (each row 100 %)")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        return _svg(figure)


def scores_by_rarity(decision: dict[str, Any], argmax: dict[str, Any], palette: dict[str, str]) -> str:
    """F1 of each class from rare to common, with the decision (bars) and with the argmax (ticks)."""
    by_class, plain = decision["by_class"], argmax["by_class"]
    total = sum(c["support"] for c in by_class.values())
    names = sorted(
        (n for n in by_class if by_class[n]["f1"] is not None), key=lambda n: by_class[n]["support"]
    )
    with _axes(8, 0.8 + 0.36 * len(names)) as (figure, axes):
        for y, name in enumerate(names[::-1]):
            f1 = by_class[name]["f1"]
            axes.barh(y, f1, color=palette[name], height=0.72, edgecolor=_INK, linewidth=0.4)
            axes.plot([plain[name]["f1"]] * 2, [y - 0.44, y + 0.44], color=_INK, lw=2)
            axes.text(max(f1, plain[name]["f1"]) + 0.012, y, f"{f1:.2f}", va="center")
        labels = [f"{n}  ({by_class[n]['support'] / total:.2%})" for n in names[::-1]]
        axes.set_yticks(range(len(names)), labels)
        axes.set_xlim(0, 1.05)
        axes.set_xlabel("F1 (bar: with the decision; tick: plain argmax)")
        return _svg(figure)
