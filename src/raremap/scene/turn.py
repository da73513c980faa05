"""The eight flips and quarter turns of an array, and what they do to its axes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

TURNS = tuple(range(8))


def dihedral(array: np.ndarray, code: int) -> np.ndarray:
    """One of the eight flips and quarter turns of the last two axes, a view; code 0 changes nothing.

    `np.rot90` of the last two axes by `code % 4`, then, from 4 on, left and right change sides.
    """
    if code % 4 == 1:
        array = array[..., ::-1].swapaxes(-2, -1)
    elif code % 4 == 2:
        array = array[..., ::-1, ::-1]
    elif code % 4 == 3:
        array = array.swapaxes(-2, -1)[..., ::-1]
    return array[..., ::-1] if code >= 4 else array


def undone(code: int) -> int:
    """The turn that takes a turn back.

    >>> array = np.arange(6).reshape(2, 3)
    >>> all((dihedral(dihedral(array, c), undone(c)) == array).all() for c in TURNS)
    True
    """
    return code if code >= 4 else -code % 4


@lru_cache
def axes(code: int) -> np.ndarray:
    """`[2, 2]`: the step (column, row) in the array that a step of one column, or of one row, in its turned form is.

    >>> axes(1)  # a quarter turn: one column further on is one row further down in the array
    array([[ 0., -1.],
           [ 1.,  0.]])
    """
    row, col = dihedral(np.indices((2, 2)), code)
    right, down = (
        (col[0, 1] - col[0, 0], row[0, 1] - row[0, 0]),
        (col[1, 0] - col[0, 0], row[1, 0] - row[0, 0]),
    )
    return np.array([right, down], float).T
