"""Arrays of class indices: which type holds them, and which value stands for none."""

from __future__ import annotations

import numpy as np


def index_type(classes: int) -> np.dtype:
    """The smallest type that holds the indices of so many classes and, as its last value, none.

    >>> index_type(255), index_type(256)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.dtype(np.uint8 if classes < 256 else np.uint16)


def none_of(kind: np.dtype) -> np.integer:
    """The value of a pixel without a class, in the type itself.

    >>> int(none_of(index_type(9))), int(none_of(index_type(900)))
    (255, 65535)
    """
    return kind.type(np.iinfo(kind).max)
