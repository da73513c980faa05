"""Scores at each level of a class tree."""

from __future__ import annotations

from typing import Any

from raremap.classtree import depth, level
from raremap.errors import LabelError
from raremap.labels import LabelScheme
from raremap.measure.scores import Scores
from raremap.measure.tally import Tally


def level_scores(scheme: LabelScheme, decided: Tally, plain: Tally) -> list[dict[str, Any]]:
    """One entry for each level above the classes, JSON-ready: its classes, and the scores of decision and argmax.

    Two classes of one group that are taken for each other are no error at its level. A level of a
    single group has no scores and is left out.
    """
    out = []
    for steps in range(1, depth(scheme) + 1):
        try:
            up = level(scheme, steps)
        except LabelError:  # all is one class
            continue
        scores = {
            key: Scores(up.confusion(tally.matrices.sum(0)), up.scheme.names).to_dict()
            for key, tally in (("decision", decided), ("argmax", plain))
        }
        out.append({"level": steps, "classes": list(up.scheme.names), **scores})
    return out
