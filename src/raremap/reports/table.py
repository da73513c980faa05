"""The page of a training on a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raremap.files import written
from raremap.reports.figures import INK, axes_of, svg_of
from raremap.reports.page import render

_NEGATIVE, _POSITIVE = "#7A8791", "#D95F0E"
_MOST_FIGURES = 24
_MOST_CATEGORIES = 15


@dataclass(frozen=True)
class Rows:
    """Rows `[n, p]` (categories as codes, NaN where missing), truth, places where known, and the probability out of fold
    at the table's share of positives."""

    values: np.ndarray
    truth: np.ndarray
    probability: np.ndarray
    xy: np.ndarray | None
    kinds: Sequence[str]
    categories: Sequence[Sequence[str]]


def write_table_report(path: Path, evaluation: dict[str, Any], rows: Rows) -> Path:
    """Write the page of an `evaluation` (the content of evaluation.json) and its rows."""
    names = [c["name"] for c in evaluation["columns"]]
    order = [names.index(i["name"]) for i in evaluation["importance"]]
    shown = order[:_MOST_FIGURES]
    page = render(
        "table.html.j2",
        e=evaluation,
        columns=[evaluation["columns"][i] for i in order],
        importance={i["name"]: i for i in evaluation["importance"]},
        settings=_settings(evaluation),
        tuning=_tuning(evaluation["tuning"]),
        figures={
            "curve": _curve(evaluation),
            "reliability": _reliability(evaluation),
            "importance": _importance(evaluation),
            "correlation": _correlation(rows, names, order),
            "residuals": _residuals(rows, evaluation["ground"]),
        },
        distributions=[{"title": names[i], "svg": _distribution(rows, i)} for i in shown],
        left=len(order) - len(shown),
        dependence=[
            {"title": d["name"], "svg": _dependence(d, evaluation["serves"])}
            for d in evaluation["dependence"]
        ],
        negative=_NEGATIVE,
        positive=_POSITIVE,
    )
    with written(path) as fresh:
        fresh.write_text(page, encoding="utf-8")
    return path


def _curve(e: dict[str, Any]) -> str:
    recall, precision = np.array(e["curve"]).T
    with axes_of() as (figure, axes):
        axes.axhline(e["serves"], color=INK, lw=0.8, ls=":")
        axes.step(recall, precision, color=_POSITIVE, lw=1.8, where="pre")
        if e["called"]:
            axes.plot(e["recall"], e["precision"], "o", color=INK, ms=5)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        return svg_of(figure, "curve")


def _reliability(e: dict[str, Any]) -> str:
    """Share against probability, on logarithmic axes where positives are rare."""
    curves = [e["calibration"][k]["curve"] for k in ("raw", "after")]
    rare = e["serves"] < 0.1
    # Below the share of a cell that holds one positive row
    least = min(1.0, e["weights"]["positive"] / e["weights"]["negative"]) / max(p["rows"] for p in curves[-1])
    floor = 0.3 * least if rare else 0.0
    with axes_of() as (figure, axes):
        for points, color, name in zip(
            curves, (_NEGATIVE, _POSITIVE), ("as the model says", "calibrated"), strict=True
        ):
            x = [max(p["claimed"], floor) for p in points]
            axes.plot(
                x, [max(p["share"], floor) for p in points], "o-", color=color, lw=1.6, ms=4, label=name
            )
        axes.plot([floor, 1], [floor, 1], color=INK, lw=0.8, ls=":")
        if rare:
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.set_xlabel("mean probability")
        axes.set_ylabel("share of positives")
        axes.legend(frameon=False, loc="upper left")
        return svg_of(figure, "reliability")


def _importance(e: dict[str, Any]) -> str:
    items = e["importance"][:30][::-1]
    with axes_of(7.4, 0.8 + 0.26 * len(items)) as (figure, axes):
        axes.barh(
            range(len(items)), [i["loss"] for i in items], xerr=[i["spread"] for i in items],
            color="#2C7FB8", ecolor=INK, height=0.65, error_kw={"lw": 0.9},
        )  # fmt: skip
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_yticks(range(len(items)), [_short(i["name"]) for i in items])
        axes.set_xlabel("average precision lost")
        axes.grid(axis="y", visible=False)
        return svg_of(figure, "importance")


def _correlation(rows: Rows, names: list[str], order: list[int]) -> str | None:
    """Spearman's rank correlations of numbers and the label, over the rows that have both."""
    numeric = [i for i in order if rows.kinds[i] == "numeric"][:_MOST_FIGURES]
    if not numeric:
        return None
    from scipy.stats import rankdata

    data = np.column_stack([rows.truth.astype(float), rows.values[:, numeric].astype(float)])
    n = data.shape[1]
    matrix = np.eye(n)
    for i in range(n):
        for j in range(i):
            both = ~(np.isnan(data[:, i]) | np.isnan(data[:, j]))
            a, b = (rankdata(data[both, k]) for k in (i, j))
            varied = both.sum() > 2 and a.std() > 0 and b.std() > 0
            matrix[i, j] = matrix[j, i] = np.corrcoef(a, b)[0, 1] if varied else np.nan
    labels = ["label", *(_short(names[i]) for i in numeric)]
    with axes_of(2.2 + 0.36 * n, 1.5 + 0.36 * n) as (figure, axes):
        axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        for i in range(n):
            for j in range(n):
                text = (
                    ""
                    if np.isnan(matrix[i, j])
                    else f"{matrix[i, j]:.1f}".replace("0.", ".").replace("-.0", ".0")
                )
                dark = abs(matrix[i, j]) > 0.6
                axes.text(
                    j, i, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "#222222"
                )
        axes.set_xticks(range(n), labels, rotation=60, ha="right")
        axes.set_yticks(range(n), labels)
        axes.grid(visible=False)
        return svg_of(figure, "correlation")


def _distribution(rows: Rows, i: int) -> str:
    """Of numbers, the shape within each class; of categories, the share of positives in each."""
    v, y = rows.values[:, i], rows.truth
    with axes_of(3.6, 2.1) as (figure, axes):
        if rows.kinds[i] == "numeric":
            there = v[~np.isnan(v)]
            low, high = np.quantile(there, [0.005, 0.995])
            edges = np.linspace(low, high if high > low else low + 1, 25)
            for side, color in ((~y, _NEGATIVE), (y, _POSITIVE)):
                part = np.clip(v[side & ~np.isnan(v)], edges[0], edges[-1])
                if len(part):
                    axes.hist(
                        part, edges, weights=np.full(len(part), 100 / len(part)), color=color, alpha=0.3
                    )
                    axes.hist(
                        part,
                        edges,
                        weights=np.full(len(part), 100 / len(part)),
                        color=color,
                        histtype="step",
                        lw=1.5,
                    )
            axes.locator_params(axis="x", nbins=5)
            axes.set_ylabel("% of class")
        else:
            codes = v[~np.isnan(v)].astype(int)
            count = np.bincount(codes, minlength=len(rows.categories[i]))
            hits = np.bincount(codes, weights=y[~np.isnan(v)], minlength=len(count))
            top = np.sort(np.argsort(-count, kind="stable")[:_MOST_CATEGORIES])
            top = top[count[top] > 0]
            axes.bar(range(len(top)), 100 * hits[top] / count[top], color=_POSITIVE, width=0.7)
            axes.axhline(100 * y.mean(), color=INK, lw=0.8, ls=":")
            turn: dict[str, Any] = (
                {"rotation": 60, "ha": "right"} if max(len(rows.categories[i][k]) for k in top) > 3 else {}
            )
            axes.set_xticks(
                range(len(top)), [_short(str(rows.categories[i][k]), 14) for k in top], fontsize=8, **turn
            )
            axes.set_ylabel("% positive")
        return svg_of(figure, f"distribution{i}")


def _dependence(d: dict[str, Any], share: float) -> str:
    with axes_of(3.6, 2.1) as (figure, axes):
        if d["kind"] == "numeric":
            axes.plot(d["at"], [100 * m for m in d["mean"]], "o-", color="#2C7FB8", lw=1.8, ms=3)
        else:
            most = slice(0, _MOST_CATEGORIES)
            axes.bar(
                range(len(d["ticks"][most])), [100 * m for m in d["mean"][most]], color="#2C7FB8", width=0.7
            )
            axes.set_xticks(
                range(len(d["ticks"][most])),
                [_short(t, 14) for t in d["ticks"][most]],
                rotation=60,
                ha="right",
                fontsize=8,
            )
        axes.axhline(100 * share, color=INK, lw=0.8, ls=":")
        axes.set_ylim(0, None)
        axes.set_ylabel("mean probability, %")
        return svg_of(figure, f"dependence-{d['name']}")


def _residuals(rows: Rows, ground: dict[str, Any]) -> str | None:
    """Truth less probability on the ground, smallest first so that the large ones are seen."""
    if rows.xy is None:
        return None
    there = np.flatnonzero(np.isfinite(rows.xy).all(1))
    if not len(there):
        return None
    middle = rows.xy[there].mean(0)
    x, y = (rows.xy[there] - middle).T * ground["unit_m"]
    # A degree of longitude is shorter than one of latitude
    stretch = 1 / max(np.cos(np.radians(middle[1])), 0.01) if ground["degrees"] else 1.0
    unit = ", degrees" if ground["degrees"] else ", m" if ground["crs"] else ""
    residual = rows.truth[there] - rows.probability[there]
    order = np.argsort(np.abs(residual), kind="stable")
    wide, high = max(np.ptp(x), 1e-9), max(stretch * np.ptp(y), 1e-9)
    with axes_of(7.4, float(np.clip(6.0 * high / wide, 2.5, 8))) as (figure, axes):
        dots = axes.scatter(
            x[order], y[order], c=residual[order], cmap="RdBu_r", vmin=-1, vmax=1,
            s=float(np.clip(20_000 / len(x), 3, 26)), linewidths=0.2, edgecolors=INK, rasterized=len(x) > 3000,
        )  # fmt: skip
        axes.set_aspect(stretch, adjustable="datalim")  # a box that gives way lies over its own label
        axes.set_xlabel(f"x from the middle of the rows{unit}")
        axes.set_ylabel(f"y{unit}")
        figure.colorbar(dots, ax=axes, shrink=0.8, label="truth less probability")
        return svg_of(figure, "residuals")


def _short(text: str, most: int = 22) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _tuning(tuning: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each setting: its score on the whole table's inner folds, and the folds that chose it."""
    out = []
    for trial in tuning["final"]:
        setting = {k: v for k, v in trial.items() if k != "score"}
        picked = 0
        for fold in tuning["folds"]:
            best = max(fold, key=lambda t: t["score"])
            picked += {k: v for k, v in best.items() if k != "score"} == setting
        text = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in setting.items() if k != "kind")
        out.append({"text": text, "score": trial["score"], "picked": picked})
    return out


def _settings(e: dict[str, Any]) -> dict[str, str]:
    options = {k: v for k, v in e["options"].items() if v not in (None, [], {})}
    rows = {**options, "chosen": e["chosen"], "versions": e["versions"]}
    return {
        k.replace("_", " "): ", ".join(f"{a} {b}" for a, b in v.items()) if isinstance(v, dict)
        else ", ".join(map(str, v)) if isinstance(v, list) else str(v)
        for k, v in rows.items()
    }  # fmt: skip
