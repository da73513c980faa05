"""Suspected label errors of a tile."""

from __future__ import annotations

import numpy as np
import pytest

from raremap.labels import IGNORE
from raremap.measure.faults import stored, suspects


def layers(truth: np.ndarray, called: np.ndarray, sure: float = 0.9) -> list[np.ndarray]:
    """A tile where the model gives `called` the probability `sure`, and the rest to the two other classes alike."""
    probs = np.full((3, *truth.shape), (1 - sure) / 2, np.float32)
    np.put_along_axis(probs, called[None], sure, 0)
    return stored(probs, truth)


def test_a_patch_has_its_classes_its_pixels_and_its_odds() -> None:
    truth = np.zeros((12, 14), np.uint8)
    called = np.zeros((12, 14), np.int64)
    called[2:5, 3:7] = 2
    (found,) = suspects(*layers(truth, called))
    assert (found.given, found.suspected, found.pixels, found.thickness) == (0, 2, 12, 2)
    assert found.confidence == pytest.approx(0.9)
    assert found.margin == pytest.approx(np.log(0.9 / 0.05), abs=0.05)  # 0.05 is kept as 12 of 250 steps
    assert {*zip(found.rows.tolist(), found.cols.tolist(), strict=True)} == {
        (r, c) for r in range(2, 5) for c in range(3, 7)
    }


def test_other_pairs_corners_and_small_patches_are_apart() -> None:
    truth, called = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.int64)
    called[0:2, 0:2], called[0:2, 2:4] = 1, 2  # neighbours of two suspicions
    called[5:7, 5:7] = called[7:9, 7:9] = 1  # which touch at a corner only
    called[9, 0] = 1  # one pixel
    found = list(suspects(*layers(truth, called)))
    assert sorted((f.suspected, f.pixels) for f in found) == [(1, 4), (1, 4), (1, 4), (2, 4)]
    assert len(list(suspects(*layers(truth, called), min_pixels=1))) == 5


def test_ignored_and_unsure_pixels_are_no_suspects() -> None:
    truth = np.full((8, 8), IGNORE, np.uint8)
    assert not list(suspects(*layers(truth, np.ones((8, 8), np.int64))))
    truth[:] = 0
    assert not list(suspects(*layers(truth, np.ones((8, 8), np.int64), sure=0.45)))
    assert list(suspects(*layers(truth, np.ones((8, 8), np.int64), sure=0.55)))


def test_the_most_that_is_said_against_a_label_goes_first() -> None:
    truth, called = np.zeros((30, 30), np.uint8), np.zeros((30, 30), np.int64)
    called[2, 1:26] = 1
    called[10:16, 10:15] = 1
    line, patch = sorted(suspects(*layers(truth, called)), key=lambda f: f.score)
    assert (line.pixels, patch.pixels) == (25, 30)
    assert (line.thickness, patch.thickness) == (1, 3)
    assert patch.score == pytest.approx(30 * patch.margin)
