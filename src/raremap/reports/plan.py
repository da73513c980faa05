"""`plan.html`: a sampling plan as a page: what was done, shares before and after, repeats, composites, crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raremap.balance.diagnosis import LABELS, counted
from raremap.balance.options import (
    BalanceOptions,
    Copies,
    Diao,
    InverseFrequency,
    Mixture,
    RareClass,
    RepeatFactor,
    TargetOptions,
)
from raremap.files import written
from raremap.reports.figures import INK, axes_of, svg_of
from raremap.reports.page import render, share_axis
from raremap.reports.pictures import class_uri, photo_uri

if TYPE_CHECKING:
    from raremap.balance.diagnosis import Diagnosis
    from raremap.balance.plan import SamplingPlan
    from raremap.balance.sources import Sources

_TILES, _COMPOSITES = "#2C7FB8", "#D95F0E"
# A line of more points is no finer on a page.
_POINTS = 400


@dataclass(frozen=True)
class Picture:
    """A word, a caption, and views by name: uint8 `[h, w, 3]`, or class index `[h, w]`."""

    word: str
    caption: str
    views: dict[str, np.ndarray]


@dataclass(frozen=True)
class PlanViews:
    """Pictures of a plan: its most repeated tiles, composites, and tiles with their aimed crops."""

    repeated: Sequence[Picture] = ()
    composites: Sequence[Picture] = ()
    aimed: Sequence[Picture] = ()


def write_plan_page(
    path: Path,
    plan: SamplingPlan,
    diagnosis: Diagnosis,
    views: PlanViews,
    palette: dict[str, str],
    title: str,
    crop: int,
) -> Path:
    """Write the page of a plan; `palette` is the colour of each class, `crop` the side of a training crop.

    Raises `OutputError` where it cannot be written.
    """
    d = diagnosis
    rgb = np.array([[int(palette[n][i : i + 2], 16) for i in (1, 3, 5)] for n in d.names], np.uint8)
    shares = {"natural": d.natural, "target": d.target, "stream": d.stream}
    before, after = asdict(d.before), asdict(d.after)
    page = render(
        "plan.html.j2",
        d=d,
        title=title,
        said=sentences(plan, d, crop),
        cards=_cards(d),
        palette=palette,
        rare=set(d.rare),
        shares=share_axis({u: dict(zip(d.names, s.tolist(), strict=True)) for u, s in shares.items()}),
        figures=[f for f in (_path_figure(plan), _repeats_figure(plan)) if f is not None],
        rows=[_row(d, i) for i in np.argsort(d.natural, kind="stable")],
        figures_of=[(LABELS[k], _text(before[k], 3), _text(after[k], 3)) for k in LABELS],
        repeated=[_shown(p, rgb) for p in views.repeated],
        composites=[_shown(p, rgb) for p in views.composites],
        aimed=[_shown(p, rgb) for p in views.aimed],
    )
    with written(path) as fresh:
        fresh.write_text(page, encoding="utf-8")
    return path


def sentences(plan: SamplingPlan, d: Diagnosis, crop: int) -> list[str]:
    """What was done, in words."""
    options = plan.options
    solver = _solver(options, d.tiles)
    out = [f"{solver} Done: {plan.note}." if plan.note else solver]
    if isinstance(options, Diao | Mixture):
        out.append(_target(options.target))
        if options.copy_paste is not None:
            out.append(_composites(plan, d))
    if plan.grid is not None:
        part = "" if options.aim == 1 else f"{options.aim:.0%} of the "
        rest = "" if options.aim == 1 else "; the others lie anywhere"
        out.append(
            f"{part or 'All '}crops of {plan.grid.size} × {plan.grid.size} are aimed: their position inside a tile is drawn "
            f"by the same target{rest}."
        )
    else:
        middle = (
            ""
            if plan.cropped is None
            else ", so the middle of a tile is seen more often than its border: the stream's shares are those of crops"
        )
        out.append(
            f"A crop of {crop} × {crop} lies anywhere in its tile, each position as likely as another{middle}."
        )
    return out


def _solver(options: BalanceOptions, tiles: int) -> str:
    match options:
        case Diao():
            by = (
                "lowers KL(target ‖ stream) most"
                if options.score == "gain"
                else "has the highest density score"
            )
            return (
                "DIAO: beside each tile once, whole repeats of tiles were added one by one, each time the one "
                f"that {by}: at most {counted(round(options.budget * tiles), 'repeat')}, "
                f"and no tile more than {int(options.max_repeats)} times in all."
            )
        case Mixture():
            near = f" + {options.rho:g}·KL(weights ‖ even)" if options.rho else ""
            return (
                f"Mixture: the tile weights that minimise KL(target ‖ stream){near}; none above "
                f"{options.max_repeats:g} times the natural one."
            )
        case RepeatFactor():
            return f"Repeat factors (LVIS), threshold {options.threshold:g}: tiles with a class that few tiles hold come more often."
        case RareClass():
            return f"Rare-class sampling (DAFormer), temperature {options.temperature:g}: first a class, the rare ones more often, then a tile that holds it."
        case Copies():
            which = "a rare class" if options.classes is None else f"one of {', '.join(options.classes)}"
            return f"Copies: {options.copies} further copies of each tile in which {which} holds over {options.share:.0%}."
        case InverseFrequency():
            return (
                f"Inverse frequency, power {options.power:g}: a tile's weight is the mean of 1/share^power over its "
                f"pixels, at most {options.max_repeats:g} times the natural one."
            )
        case _:
            return "Every training tile is drawn alike: the natural stream."


def _target(t: TargetOptions) -> str:
    if t.a == 0:
        text = "The target: every class alike"
    elif t.a == 1:
        text = "The target: the natural shares"
    else:
        text = f"The target: natural shares to the power {t.a:g}"
    if t.shares:
        text += "; set by name: " + ", ".join(f"{n} {s:.3g}" for n, s in t.shares.items())
    if t.gamma > 0:
        text += f"; while training it follows the F1 of the monitor places (gamma {t.gamma:g})"
    return text + "."


def _composites(plan: SamplingPlan, d: Diagnosis) -> str:
    reasons = ", ".join(f"{reason} ({n:,})" for reason, n in d.refused.items())
    refused = f" Refused places and backgrounds, by reason: {reasons}." if reasons else ""
    if plan.bank is None or not d.composites:
        return f"Composites were asked for; none could be made, and the plan goes without.{refused}"
    return (
        f"{counted(d.composites, 'composite')} of {counted(len(plan.bank.pastable), 'whole object')} from training "
        f"places entered as further tiles; {d.composites_drawn:,} are drawn and make up {_percent(d.composite_share)} of "
        f"the stream.{refused}"
    )


def _cards(d: Diagnosis) -> list[tuple[str, str, str]]:
    """Title, figure, and what it was before."""
    cards = [
        ("KL(target ‖ stream), nats", _text(d.after.kl_target_from, 3), _text(d.before.kl_target_from, 3)),
        ("largest to smallest share", _text(d.after.imbalance_ratio, 1), _text(d.before.imbalance_ratio, 1)),
        ("effective tiles", _text(d.effective_tiles, 1), f"{d.tiles:,}"),
    ]
    if d.composites:
        cards.append(("composites in the stream", _percent(d.composite_share), "0 %"))
    return cards


def _row(d: Diagnosis, i: int) -> dict[str, Any]:
    return {
        "name": d.names[i],
        "shares": [float(d.natural[i]), float(d.target[i]), float(d.stream[i])],
        "places": _worth(d.places, i),
        "objects": _worth(d.objects, i),
    }


def _worth(sources: Sources, i: int) -> list[str]:
    return [_text(sources.number[i], 0), _text(sources.natural[i], 1), _text(sources.stream[i], 1)]


def _text(value: float, digits: int) -> str:
    if np.isnan(value):
        return "–"
    return "∞" if np.isinf(value) else f"{value:,.{digits}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _shown(picture: Picture, rgb: np.ndarray) -> dict[str, Any]:
    uris = {
        name: (photo_uri(v), True) if v.ndim == 3 else (class_uri(v, rgb), False)
        for name, v in picture.views.items()
    }
    return {"word": picture.word, "caption": picture.caption, "views": uris}


def _path_figure(plan: SamplingPlan) -> tuple[str, str] | None:
    """KL(target ‖ stream) over the repeats that were added."""
    path = plan.path
    if path is None or len(path) < 2:
        return None
    at = np.unique(np.linspace(0, len(path) - 1, _POINTS).round().astype(int))
    with axes_of(4.6, 2.7) as (figure, axes):
        axes.plot(at, path[at], color=_TILES, lw=2)
        axes.set_xlabel("repeats added")
        axes.set_ylabel("nats")
        axes.set_ylim(0, 1.06 * float(path.max()))
        tiles = "" if plan.cropped is None else ", of whole tiles"
        then = tiles if plan.grid is None else ", before crops are aimed"
        return f"KL(target ‖ stream) while repeats are added{then}", svg_of(figure, "path")


def _repeats_figure(plan: SamplingPlan) -> tuple[str, str]:
    """How many tiles and composites are drawn how often."""
    whole = np.allclose(plan.repeats, plan.repeats.round())
    top = float(plan.repeats.max())
    edges = np.arange(-0.5, round(top) + 1) if whole else np.linspace(0, top, 25)
    parts = [plan.repeats[~plan.composite], plan.repeats[plan.composite]]
    with axes_of(4.6, 2.7) as (figure, axes):
        axes.set_axisbelow(True)
        low = np.zeros(len(edges) - 1)
        for values, color, label in zip(parts, (_TILES, _COMPOSITES), ("tiles", "composites"), strict=True):
            if len(values):
                height = np.histogram(values, edges)[0]
                axes.bar(
                    (edges[:-1] + edges[1:]) / 2, height, np.diff(edges) * 0.86, low, color=color, label=label,
                    edgecolor=INK, linewidth=0.4,
                )  # fmt: skip
                low += height
        axes.set_xlabel("times drawn in a pass over the training tiles")
        if whole and top <= 12:
            axes.set_xticks(np.arange(round(top) + 1))
        if len(parts[1]):
            axes.legend(frameon=False)
        return "How often tiles are drawn", svg_of(figure, "repeats")
