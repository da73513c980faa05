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
    from raremap.tiles.catalog import Catalog
    from raremap.workflows.evaluate import Evaluation


def panels(
    bundle: Bundle, catalog: Catalog, evaluation: Evaluation, device: str, most: int = 6
) -> list[Panel]:
    """The best, the median and the worst tiles among those that hold most of the rare classes."""
    chosen = _choose(evaluation, most)
    network = bundle.network(device=device)
    decide = bundle.decision.apply if bundle.decision is not None else most_likely
    out = []
    for at, label in chosen:
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
        f1 = Scores(evaluation.matrices[at], evaluation.names).macro_f1
        tile = str(catalog.table["tile_id"].iloc[row])
        out.append(Panel(f"{label}: {tile}, macro-F1 {f1:.2f}", picture, truth, predicted))
    return out


def _choose(evaluation: Evaluation, most: int) -> list[tuple[int, str]]:
    """Positions of tiles with a word for each: of the third richest in rare classes, by macro-F1."""
    support = evaluation.matrices.sum(2).astype(float)
    shares = support / np.maximum(support.sum(0), 1)
    rare = [n in evaluation.rare for n in evaluation.names]
    richness = shares[:, rare].sum(1) if any(rare) else shares.sum(1)
    count = max(most, len(richness) // 3)
    rich = np.argsort(-richness, kind="stable")[:count]
    f1 = np.array([Scores(evaluation.matrices[i], evaluation.names).macro_f1 for i in rich])
    order = rich[np.argsort(-f1, kind="stable")]
    third = max(1, most // 3)
    if len(order) <= most:
        words = ["best", *["between"] * (len(order) - 2), "worst"][: len(order)]
        return [(int(i), w) for i, w in zip(order, words, strict=True)]
    middle = (len(order) - third) // 2
    groups = (("best", order[:third]), ("median", order[middle : middle + third]), ("worst", order[-third:]))
    return [(int(i), word) for word, group in groups for i in group]
