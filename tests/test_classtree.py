"""Class trees, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from raremap.classtree import depth, level
from raremap.errors import LabelError
from raremap.labels import LabelScheme
from raremap.measure.tally import Tally
from raremap.workflows.levels import level_scores

TREE = LabelScheme(
    {10: "house", 20: "road", 30: "forest", 40: "grass", 50: "water"},
    parents={"house": "built", "road": "built", "forest": "green", "grass": "green", "built": "land", "green": "land"},
    colors={"built": "#FF0000", "forest": "#00FF00"},
    rare=("house", "road"),
)  # fmt: skip


def test_a_level_merges_classes_into_their_groups():
    assert depth(TREE) == 2
    up = level(TREE, 1)
    assert up.scheme.classes == {10: "built", 30: "green", 50: "water"}
    assert up.groups == (0, 0, 1, 1, 2)
    assert up.scheme.palette[:2] == ("#FF0000", "#00FF00")
    assert up.scheme.rare == ("built",)
    top = level(TREE, 2)
    assert top.scheme.classes == {10: "land", 50: "water"}
    assert level(up.scheme, 1).scheme.classes == top.scheme.classes
    assert level(TREE, 0).scheme.names == TREE.names


def test_probabilities_and_confusion_are_summed_over_groups():
    up = level(TREE, 1)
    probs = np.array([0.1, 0.2, 0.3, 0.15, 0.25]).reshape(5, 1, 1)
    assert up.summed(probs).ravel() == pytest.approx([0.3, 0.45, 0.25])
    matrix = np.array([[5, 2, 1, 0, 0], [3, 9, 0, 1, 0], [0, 1, 20, 6, 2], [1, 0, 4, 8, 0], [0, 0, 0, 0, 7]])
    assert up.confusion(matrix).tolist() == [[19, 2, 0], [2, 38, 2], [0, 0, 7]]
    tally = Tally.empty(2, 5)
    tally.matrices[0] = matrix
    tally.matrices[1, 0, 0] = 3
    first, second = level_scores(TREE, tally, tally)
    assert first["classes"] == ["built", "green", "water"]
    assert first["decision"]["by_class"]["built"]["f1"] == pytest.approx(2 * 22 / (2 * 22 + 2 + 2))
    assert first["argmax"]["overall_accuracy"] == pytest.approx(67 / 73)
    assert second["decision"]["confusion"] == [[64, 2], [0, 7]]


def test_a_class_may_be_a_group_and_a_class_without_parent_stays():
    scheme = LabelScheme({0: "tree", 1: "conifer", 2: "rock"}, parents={"conifer": "tree"})
    up = level(scheme, 1)
    assert up.scheme.classes == {0: "tree", 2: "rock"}
    assert up.groups == (0, 0, 1)


def test_wrong_trees_are_told():
    with pytest.raises(ValidationError, match="parents go in a circle: a in b in a"):
        LabelScheme({0: "a", 1: "b"}, parents={"a": "b", "b": "a"})
    with pytest.raises(ValidationError, match="'c' is not a class"):
        LabelScheme({0: "a", 1: "b"}, parents={"c": "b"})
    with pytest.raises(LabelError, match="no level 3 of the classes: its tree has 2"):
        level(TREE, 3)
    with pytest.raises(LabelError, match="no level 1 of the classes: its classes have no parents"):
        level(LabelScheme({0: "a", 1: "b"}), 1)
    flat = LabelScheme({0: "a", 1: "b"}, parents={"a": "all", "b": "all"})
    with pytest.raises(LabelError, match="at level 1 all classes are 'all'"):
        level(flat, 1)
    assert level_scores(flat, Tally.empty(1, 2), Tally.empty(1, 2)) == []
