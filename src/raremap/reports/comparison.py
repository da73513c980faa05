"""A comparison (the content of comparison.json) as Markdown and as a page with figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raremap.files import written
from raremap.measure.interval import FEW_PLACES, Interval
from raremap.reports.figures import INK, axes_of, svg_of
from raremap.reports.page import render

_TITLES = {
    "macro_f1": "macro-F1",
    "miou": "mIoU",
    "rare_f1": "F1 rare",
    "common_f1": "F1 common",
    "overall_accuracy": "overall accuracy",
}
_MORE = {
    "balanced_accuracy": "balanced accuracy",
    "variation": "variation of class F1",
    "boundary_f1": "boundary F1",
    "object_recall": "rare objects found",
    "false_alarms": "rare objects false",
    "pr_auc": "PR-AUC",
    "calibration_error": "calibration error",
}
_WAYS = {"argmax": "argmax", "decision": "fitted"}
_COLORS = ("#2C7FB8", "#D95F0E", "#31A354", "#8856A7", "#C51B8A", "#636363", "#B8860B", "#1B9E77")


def write_markdown(path: Path, data: dict[str, Any]) -> Path:
    """Write all tables of a comparison."""
    runs = data["runs"]
    parts = [f"# {_title(data)}", _about(data), markdown_table(data), _more_table(data), _class_table(data)]
    if runs["done"] < runs["planned"]:
        parts.append(f"**{runs['planned'] - runs['done']} of {runs['planned']} runs are missing.**")
    parts += [f"Failed: {run}: {text}" for run, text in runs["failed"].items()]
    with written(path) as fresh:
        fresh.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def markdown_table(data: dict[str, Any]) -> str:
    """Scores over classes with their differences to the baseline, as a Markdown table."""
    thinned = len({_condition(e) for e in data["entries"]}) > 1
    head = ["variant", "decision", *(["training labels"] if thinned else [])]
    for title in _TITLES.values():
        head += [title, "difference"]
    rows = []
    for e in data["entries"]:
        row = [e["variant"], _WAYS[e["decision"]], *([_condition(e)] if thinned else [])]
        for key in _TITLES:
            row += [_number(e["scores"][key]), points(e["differences"].get(key), _is_baseline(data, e))]
        rows.append(row)
    return _table(head, rows)


def write_page(path: Path, data: dict[str, Any]) -> Path:
    """Write comparison.html: differences with intervals, gain of the rare beside the common, curves, tables."""
    entries = data["entries"]
    first = _condition(entries[0]) if entries else ""
    plain = [e for e in entries if _condition(e) == first]
    figures = []
    if any(e["differences"] and not _is_baseline(data, e) for e in plain):
        figures.append(("Differences to the baseline, in points", _differences(data, plain), True))
        if data["rare"]:
            caption = "What the rare classes gain, what the common ones lose"
            figures.append((caption, _trade(data, plain), False))
    for axis, title in (("keep", "share of training tiles that keep their labels"),
                        ("imbalance", "imbalance ratio that the training labels really have")):  # fmt: skip
        ways = (("macro_f1", "argmax"), ("miou", "argmax"), ("rare_f1", "argmax"), ("rare_f1", "decision"))
        for key, way in ways:
            curve = _robustness(data, axis, title, key, way)
            if curve:
                figures.append((f"{_TITLES[key]}, {_WAYS[way]}", curve, False))
    page = render(
        "comparison.html.j2",
        d=data,
        title=_title(data),
        about=_about(data),
        figures=figures,
        titles=_TITLES,
        more=_MORE,
        ways=_WAYS,
        order=_order(data),
        differ=points,
        number=_number,
        condition=_condition,
        thinned=len({_condition(e) for e in entries}) > 1,
        is_baseline=_is_baseline,
        words=_words,
        design=_design_words(data),
        rests_on=_rests_on,
    )
    with written(path) as fresh:
        fresh.write_text(page, encoding="utf-8")
    return path


def points(interval: dict[str, Any] | None, baseline: bool = False) -> str:
    """A difference (`Interval.to_dict`) in points with its interval, or why there is none.

    >>> points(Interval(0.021, 0.003, 0.04, 0.95, 60, 24, few=False, method="expanded", paired=True).to_dict())
    '+2.1 [+0.3, +4.0]'
    """
    if baseline:
        return "baseline"
    if interval is None or interval["value"] is None:
        return "–"
    return Interval.from_dict(interval).text(100, 1)


def _title(data: dict[str, Any]) -> str:
    d = data["design"]
    return f"Final figures, use {d['holdout_uses']} of the held-out places" if d["final"] else "Comparison"


def _about(data: dict[str, Any]) -> str:
    d, runs = data["design"], data["runs"]
    seeds, folds = len(d["seeds"]), len(d["folds"])
    places = max((e["places"] for e in data["entries"]), default=0)
    few = [f"{n} ({c})" for n, c in data["places_with"].items() if 0 < c < FEW_PLACES]
    models = {name: _words(m) for name, m in d["models"].items()}
    same = len(set(models.values())) == 1
    network = next(iter(models.values())) if same else "networks by variant (see the design)"
    return (
        f"{runs['done']} of {runs['planned']} runs: {len(d['variants'])} variants, {seeds} seed{'s' * (seeds != 1)}, "
        f"{folds} fold{'s' * (folds != 1)}, {places} test place{'s' * (places != 1)}. Every run: {d['steps']} steps, "
        f"{d['crops']:,} crops of {d['crop']}², {network}. "
        f"Scores are means over seeds of one pooled confusion matrix each. Differences are in points, to "
        f"{data['baseline']} with {'its decision' if data['fitted_baseline'] else 'the plain argmax'}, with 95 % intervals by a paired bootstrap over places and seeds. "
        f"Rare: {', '.join(data['rare']) or 'no class'}."
        + (f" Fewer than {FEW_PLACES} places hold {', '.join(few)}: too few for an interval, of a mean over "
           "classes too; it is told in how many of them the score is higher." if few else "")
    )  # fmt: skip


def _design_words(data: dict[str, Any]) -> dict[str, str]:
    """What each variant is; with its network where they differ."""
    d = data["design"]
    words = {name: _words(keys) or "the experiment as it is" for name, keys in d["variants"].items()}
    if len({_words(m) for m in d["models"].values()}) > 1:
        words = {name: f"{text}; network: {_words(d['models'][name])}" for name, text in words.items()}
    return words


def _rests_on(entry: dict[str, Any]) -> str:
    return f"{len(entry['seeds'])} × {len(entry['folds'])}"


def _words(options: Any) -> str:
    if isinstance(options, dict):
        return ", ".join(f"{k} {_words(v)}" for k, v in options.items() if v not in (None, {}, []))
    if isinstance(options, (list, tuple)):
        return "-".join(map(str, options))
    return f"{options}"


def _more_table(data: dict[str, Any]) -> str:
    head = ["variant", "decision", "training labels", *_MORE.values(), "seeds × folds", "seconds a run"]
    rows = [
        [
            e["variant"],
            _WAYS[e["decision"]],
            _condition(e),
            *(_number(e["scores"][k]) for k in _MORE),
            _rests_on(e),
            f"{e['seconds_per_run']:.0f}",
        ]
        for e in data["entries"]
    ]
    return "## Further scores\n\n" + _table(head, rows)


def _class_table(data: dict[str, Any]) -> str:
    names = _order(data)
    head = ["variant", "decision", "training labels"]
    held = data["places_with"]
    head += [f"{n}{' (rare)' * (n in data['rare'])}, {held[n]} place{'s' * (held[n] != 1)}" for n in names]
    rows = []
    for e in data["entries"]:
        cells = [
            f"{_number(e['by_class'][n]['f1'])} {points(e['class_differences'].get(n), _is_baseline(data, e))}"
            for n in names
        ]
        rows.append([e["variant"], _WAYS[e["decision"]], _condition(e), *cells])
    return "## F1 by class, from rare to common\n\n" + _table(head, rows)


def _order(data: dict[str, Any]) -> list[str]:
    """Classes that were tested, the rare first."""
    names = [n for n in data["classes"] if data["places_with"].get(n)]
    return sorted(names, key=lambda n: n not in data["rare"])


def _is_baseline(data: dict[str, Any], entry: dict[str, Any]) -> bool:
    way = "decision" if data["fitted_baseline"] else "argmax"
    return entry["variant"] == data["baseline"] and entry["decision"] == way


def _condition(entry: dict[str, Any]) -> str:
    kept = [f"{100 * entry['keep']:g} %"] if entry["keep"] < 1 else []
    if entry["imbalance"]:
        realised = entry["imbalance_realised"] or entry["imbalance"]
        kept.append(f"imbalance {realised:.3g} (asked: {entry['imbalance']:g})")
    if entry.get("points"):
        kept.append(f"points: {entry['points']}")
    return ", ".join(kept) or "all"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _differences(data: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    """Dots with intervals, a row an entry and a column a score."""
    shown = [e for e in entries if not _is_baseline(data, e)][::-1]
    colors = _color_of(data)
    with axes_of(11, 0.9 + 0.36 * len(shown), columns=len(_TITLES)) as (figure, columns):
        for axes, (key, title) in zip(columns, _TITLES.items(), strict=True):
            axes.axvline(0, color=INK, lw=0.8)
            for y, e in enumerate(shown):
                d = e["differences"].get(key)
                if d is None or d["value"] is None:
                    continue
                filled = e["decision"] == "decision"
                color = colors[e["variant"]]
                if d["low"] is not None:
                    style = ":" if d["few"] else "-"
                    axes.plot([100 * d["low"], 100 * d["high"]], [y, y], color=color, lw=1.8, ls=style)
                axes.plot(
                    100 * d["value"], y, "o", color=color, ms=6, mfc=color if filled else "none", mew=1.6
                )
            axes.set_title(title, fontsize=10)
            axes.set_ylim(-0.6, len(shown) - 0.4)
        columns[0].set_yticks(range(len(shown)), [f"{e['variant']}, {_WAYS[e['decision']]}" for e in shown])
        return svg_of(figure, "differences")


def _trade(data: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    """Each entry by what the common classes change (across) and what the rare ones do (up)."""
    colors = _color_of(data)
    with axes_of(5.4, 3.8) as (figure, axes):
        axes.axhline(0, color=INK, lw=0.8)
        axes.axvline(0, color=INK, lw=0.8)
        for e in entries:
            rare, common = (e["differences"].get(k) for k in ("rare_f1", "common_f1"))
            if not rare or not common or rare["value"] is None or common["value"] is None:
                continue
            color = colors[e["variant"]]
            filled = e["decision"] == "decision"
            axes.plot(
                100 * common["value"], 100 * rare["value"], "o", color=color, ms=8, mew=1.8,
                mfc=color if filled else "none", label=f"{e['variant']}, {_WAYS[e['decision']]}",
            )  # fmt: skip
        axes.set_xlabel("F1 of the common classes, points")
        axes.set_ylabel("F1 of the rare classes, points")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return svg_of(figure, "trade")


def _robustness(data: dict[str, Any], axis: str, title: str, key: str, way: str) -> str | None:
    """A score over thinned training labels, a line a variant; None where nothing was thinned."""
    other = "imbalance" if axis == "keep" else "keep"
    x = "keep" if axis == "keep" else "imbalance_realised"
    own = data["design"]["thin"][other]
    points = data["entries"][0].get("points") if data["entries"] else None
    alike = [e for e in data["entries"] if e["decision"] == way and e.get("points") == points]
    at = [e for e in alike if e[other] == own and e[x] is not None]
    if len({e[axis] for e in at}) < 2:
        return None
    with axes_of() as (figure, axes):
        for color, variant in zip(_COLORS * 9, dict.fromkeys(e["variant"] for e in at), strict=False):
            pairs = [(e[x], e["scores"][key]) for e in at if e["variant"] == variant]
            line = sorted(pair for pair in pairs if pair[1] is not None)
            if line:
                axes.plot(*zip(*line, strict=True), "o-", color=color, lw=1.8, ms=4, label=variant)
        axes.set_xscale("log")
        axes.set_xlabel(title)
        axes.set_ylim(0, 1)
        axes.legend(frameon=False, fontsize=8)
        return svg_of(figure, f"{axis}-{key}-{way}")


def _color_of(data: dict[str, Any]) -> dict[str, str]:
    variants = list(data["design"]["variants"])
    return dict(zip(variants, _COLORS * (1 + len(variants) // len(_COLORS)), strict=False))
