"""Imagery beside truth beside prediction, for the tiles that show most of the rare classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raremap.labels import IGNORE
from raremap.measure.decision import most_likely
from raremap.measure.scores import Scores
from raremap.reports.pictures import Panel, true_color
from raremap.workflows.scoring import scored

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.ensembles import Ensemble
    from raremap.exported import Exported
    from raremap.maps.stream import Network
    from raremap.tiles.catalog import Catalog
    from raremap.workflows.evaluate import Evaluation


def panels(
    bundle: Bundle | Ensemble | Exported,
    network: Network,
    catalog: Catalog,
    evaluation: Evaluation,
    most: int = 6,
) -> list[Panel]:
    """The best, the median and the worst tiles among those that hold most of the rare classes."""
    decide = bundle.decision.apply if bundle.decision is not None else most_likely
    out = []
    for at, word, score in choose(evaluation, most):
        row = int(evaluation.rows[at])
        window = catalog.windows[row]
        predicted = np.full((window.height, window.width), IGNORE, np.uint8)
        truth = predicted.copy()
        for part in scored(bundle, network, catalog, np.array([row])):
            inside = part.window.slices(within=window)
            predicted[inside], truth[inside] = decide(part.probs), part.truth
        with catalog.open_image(str(catalog.scene_names[row])) as image:
            pixels, valid = image.read(window)
            picture = true_color(pixels, valid, image.bands)
        predicted[~valid] = IGNORE
        where = f"{catalog.table['tile_id'].iloc[row]} (place {evaluation.places[at]})"
        out.append(Panel(word, f"F1 {score:.2f} · {where}", picture, truth, predicted))
    return out


def choose(evaluation: Evaluation, most: int) -> list[tuple[int, str, float]]:
    """Tiles to show, by position: each with a word and its score.

    Of the third of the tiles that is richest in rare classes (each class counts by its own share), those
    with the highest, the middle and the lowest mean F1 of the rare classes that they hold. Without rare
    classes it is all classes.
    """
    names = evaluation.names
    rare = np.array([n in evaluation.rare for n in names])
    support = evaluation.decided.matrices.sum(2).astype(float)
    rare = rare if support[:, rare].any() else np.ones(len(names), bool)
    shares = support / np.maximum(support.sum(0), 1)
    richness = shares[:, rare].sum(1)
    shown = tuple(n for n, r in zip(names, rare, strict=True) if r)
    holds = np.flatnonzero(richness > 0)
    rich = holds[np.argsort(-richness[holds], kind="stable")][: max(most, len(holds) // 3)]
    f1 = np.array([Scores(evaluation.decided.matrices[i], names, shown).rare_f1 for i in rich])
    order = np.argsort(-f1, kind="stable")
    third = max(1, most // 3)
    if len(order) <= most:
        between = [f"{i} of {len(order)}" for i in range(2, len(order))]
        words = ["best", *between, "worst"][: len(order)]
        picks = list(zip(order, words, strict=True))
    else:
        middle = (len(order) - third) // 2
        parts = (
            ("best", order[:third]),
            ("median", order[middle : middle + third]),
            ("worst", order[-third:]),
        )
        picks = [(i, word) for word, part in parts for i in part]
    return [(int(rich[i]), word, float(f1[i])) for i, word in picks]
