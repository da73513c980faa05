"""A tuning (the content of tune.json) as a table and a figure: each option's values beside the scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raremap.files import written
from raremap.reports.figures import axes_of, svg_of

# What is shown beside the score that trials are judged by: how it is called, and how written.
_FURTHER = {
    "macro_f1": ("macro-F1", ".3f"),
    "miou": ("mIoU", ".3f"),
    "rare_f1": ("F1 rare", ".3f"),
    "overall_accuracy": ("accuracy", ".3f"),
    "loss": ("training loss", ".4f"),
    "seconds_100": ("s / 100 steps", ".1f"),
}
_STATES = (("stopped", "#B8B8B8", "o"), ("done", "#2C7FB8", "o"))
_BEST = "#D95F0E"


def write_markdown(path: Path, data: dict[str, Any], figure: Path | None) -> Path:
    """Write what was tuned, the best values, and a row for each trial, the best first."""
    keys = list(data["tune"]["space"])
    trials = data["trials"]
    further = {
        key: how
        for key, how in _FURTHER.items()
        if key != data["metric"] and any(t[key] is not None for t in trials)
    }
    titles = [title for title, _ in further.values()]
    head = ["trial", *keys, data["metric"], *titles, "best step", "steps", "ended", "minutes"]
    order = {"done": 0, "stopped": 1, "failed": 2}
    rows = [
        [
            f"**{t['number']}**" if t["number"] == data["best"]["number"] else str(t["number"]),
            *(text_of(t["values"][key]) for key in keys),
            "–" if t["score"] is None else f"{t['score']:.3f}",
            *("–" if t[key] is None else format(t[key], how) for key, (_, how) in further.items()),
            str(t["best_step"]),
            str(t["steps"]),
            {"done": "", "stopped": "early", "failed": f"failed: {t['error']}"}[t["state"]],
            f"{t['seconds'] / 60:.1f}",
        ]
        for t in sorted(trials, key=lambda t: (order[t["state"]], -(t["score"] or 0), t["number"]))
    ]
    parts = [
        "# Tuning",
        _about(data),
        *([f"![Score of each trial beside its values]({figure.name})"] if figure else []),
        "\n".join(_row(cells) for cells in [head, ["---"] * len(head), *rows]),
    ]
    with written(path) as fresh:
        fresh.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def write_figure(path: Path, data: dict[str, Any]) -> Path | None:
    """Write one panel an option: its values across, the score up; trials that ended early are grey."""
    scored = [t for t in data["trials"] if t["score"] is not None]
    space = data["tune"]["space"]
    if not scored:
        return None
    with axes_of(2.6 * len(space) + 0.8, 2.8, len(space)) as (figure, axes):
        panels = [axes] if len(space) == 1 else list(axes)
        for panel, (key, dimension) in zip(panels, space.items(), strict=True):
            at = _positions(panel, key, dimension, scored)
            for state, color, marker in _STATES:
                shown = [t for t in scored if t["state"] == state]
                panel.plot(
                    [at[t["number"]] for t in shown],
                    [t["score"] for t in shown],
                    marker,
                    color=color,
                    ms=5,
                    alpha=0.85,
                    label={"stopped": "ended early", "done": "to the end"}[state] if shown else None,
                )
            best = data["best"]
            panel.plot(
                at[best["number"]], best["score"], "o", ms=10, mfc="none", mec=_BEST, mew=1.8, label="best"
            )
            panel.set_xlabel(key)
        panels[0].set_ylabel(data["metric"])
        panels[0].legend(frameon=False, loc="best", fontsize=8)
        # A file of its own takes no colour from a page.
        svg = svg_of(figure, "tune").replace("currentColor", "#444444")
    with written(path) as fresh:
        fresh.write_text(svg, encoding="utf-8")
    return path


def text_of(value: Any) -> str:
    """A value in a few characters.

    >>> [text_of(v) for v in (0.0123, 8, {"kind": "ce"}, None)]
    ['0.0123', '8', '{kind: ce}', 'null']
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, ensure_ascii=False).replace('"', "")


def _positions(
    panel: Any, key: str, dimension: dict[str, Any], trials: list[dict[str, Any]]
) -> dict[int, float]:
    """Where each trial stands on an option's axis, which is set up for it."""
    values = {t["number"]: t["values"][key] for t in trials}
    if dimension["kind"] == "choice":
        of = dimension["of"]
        words = [text_of(v)[:24] for v in of]
        wide = sum(map(len, words)) > 24
        panel.set_xticks(range(len(of)), words, rotation=20 if wide else 0, ha="right" if wide else "center")
        panel.set_xlim(-0.5, len(of) - 0.5)
        # Side by side, where several trials have one choice.
        return {n: of.index(v) + 0.3 * ((i * 0.618) % 1 - 0.5) for i, (n, v) in enumerate(values.items())}
    if dimension["kind"] == "log":
        panel.set_xscale("log")
    return values


def _about(data: dict[str, Any]) -> str:
    base, tune, trials = data["base"], data["tune"], data["trials"]
    states = [t["state"] for t in trials]
    best = ", ".join(f"{k} {text_of(v)}" for k, v in data["best"]["values"].items())
    early = f", {states.count('stopped')} ended early by ASHA" if tune["scheduler"] == "asha" else ""
    failed = f", {states.count('failed')} failed" if "failed" in states else ""
    return (
        f"{len(trials)} of {data['planned']} trials ({tune['sampler']}{early}{failed}) of {base['steps']} steps, "
        f"batches of {base['batch_size']}, crops of {base['crop']}², seed {base['seed']}, unless tuned. "
        f"Judged by {data['metric']} on {data['monitor_places']} monitor place"
        f"{'s' * (data['monitor_places'] != 1)} with the plain argmax, of the weights with the best macro-F1 there, "
        "and so are the scores beside it; the best of many is better than it will be elsewhere. "
        f"Best: trial {data['best']['number']}, {best}: {data['best']['score']:.3f} (`best.yaml`)."
    )


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"
