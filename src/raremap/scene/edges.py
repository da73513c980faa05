"""Where classes meet in a class index."""

from __future__ import annotations

import numpy as np


def class_edges(index: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Labelled pixels with one of their four neighbours labelled and of another class, bool `[h, w]`.

    The edge of the array and of unlabelled ground is none.

    >>> class_edges(np.array([[0, 0, 1, 9, 2]]), np.array([[True, True, True, False, True]])).tolist()
    [[False, True, True, False, False]]
    """
    out = np.zeros(index.shape, bool)
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = (index[a] != index[b]) & labelled[a] & labelled[b]
        out[a] |= differ
        out[b] |= differ
    return out
