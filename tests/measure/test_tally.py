"""A tally: parts add up, groups are kept apart, and its scores come from all of its counts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from raremap.labels import IGNORE
from raremap.measure.tally import FIELDS, Tally

NAMES = ("meadow", "forest", "water")


def tile(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, (20, 25), p=(0.7, 0.25, 0.05)).astype(np.uint8)
    scores = rng.normal(size=(3, 20, 25)) + 2 * (truth == np.arange(3)[:, None, None])
    truth[rng.random(truth.shape) < 0.1] = IGNORE
    probs = np.exp(scores)
    return truth, (probs / probs.sum(0)).astype(np.float32)


def tallied(n: int) -> Tally:
    out = Tally.empty(n, 3)
    for i in range(n):
        truth, probs = tile(i)
        out.add_map(i, truth, probs.argmax(0).astype(np.uint8), [2])
        out.add_probs(i, truth[:7], probs[:, :7])
        out.add_probs(i, truth[7:], probs[:, 7:])
    return out


def test_scores_are_those_of_all_tiles_together() -> None:
    tiles = [tile(i) for i in range(4)]
    truth = np.concatenate([t[t != IGNORE] for t, _ in tiles])
    probs = np.concatenate([p[:, t != IGNORE] for t, p in tiles], 1)
    found = tallied(4).to_dict(NAMES, ("water",))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, probs.argmax(0), average="macro"))
    for c, name in enumerate(NAMES):
        expected = average_precision_score(truth == c, probs[c])
        assert found["by_class"][name]["pr_auc"] == pytest.approx(expected, abs=0.01)
    assert found["by_class"]["meadow"]["object_recall"] is None  # objects of rare classes only
    assert 0 < found["by_class"]["water"]["object_recall"] <= 1
    assert found["object_recall"] == found["by_class"]["water"]["object_recall"]


def test_groups_are_sorted_sums() -> None:
    whole = tallied(4)
    names, parts = whole.summed_by(np.array(["b", "a", "b", "a"]))
    assert names.tolist() == ["a", "b"]
    for field in FIELDS:
        each = getattr(whole, field)
        np.testing.assert_array_equal(getattr(parts, field), [each[1] + each[3], each[0] + each[2]])
