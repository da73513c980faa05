"""Objects, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from raremap.labels import IGNORE
from raremap.measure.objects import count_pieces, false_alarms, object_counts, object_recall


def picture(text: str) -> np.ndarray:
    lines = text.split()
    return np.array([[IGNORE if c == "?" else int(c) for c in line] for line in lines], np.uint8)


TRUTH = picture("""
    1100001
    1100010
    0000100
    0000000
    1?00011
    ??00011
""")
PREDICTED = picture("""
    1100000
    0000000
    0010100
    0000000
    0100001
    1000000
""")


def test_found_missed_and_false_ones_as_counted_by_hand() -> None:
    # True: a square (two of four found), a diagonal (one of three), a pixel (missed), a square (one of four).
    # Predicted: a bar (right), a pixel (wrong), a pixel on the diagonal (right), a pixel in the last square
    # (right); those on ignored ground do not count.
    counts = object_counts(TRUTH, PREDICTED, [1], 2)
    assert counts.tolist() == [[0, 0, 0, 0], [4, 1, 4, 3]]
    assert object_recall(counts)[1] == 0.25
    assert false_alarms(counts)[1] == 0.25
    assert np.isnan(object_recall(counts)[0])


def test_the_overlap_that_is_asked_for_decides() -> None:
    assert object_counts(TRUTH, PREDICTED, [1], 2, overlap=0.25)[1].tolist() == [4, 3, 4, 3]
    assert object_counts(TRUTH, PREDICTED, [1], 2, overlap=1.0)[1].tolist() == [4, 0, 4, 3]


@pytest.mark.parametrize(("shape", "expected"), [((32, 32), 1), ((33, 32), 2), ((64, 65), 6), ((5, 7), 1)])
def test_an_object_that_fills_the_image_is_as_many_pieces_as_cells(
    shape: tuple[int, int], expected: int
) -> None:
    assert count_pieces(np.zeros(shape, np.uint8), 2).tolist() == [expected, 0]


def test_pieces_of_neighbouring_cells_stay_apart_also_where_they_touch_by_a_corner() -> None:
    truth = np.full((64, 64), IGNORE, np.uint8)
    truth[31, 31] = truth[32, 32] = 1
    truth[0, 0] = truth[1, 1] = 1
    assert count_pieces(truth, 2).tolist() == [0, 3]
