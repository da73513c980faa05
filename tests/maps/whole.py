"""Cleaning as it is meant, on whole small scenes: scipy's labels, and one component after the other by hand."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

EIGHT = np.ones((3, 3), bool)
FOUR = ndimage.generate_binary_structure(2, 1)


def components(index: np.ndarray, eight: bool) -> list[np.ndarray]:
    """Masks of the components of all classes but 255."""
    out = []
    for k in np.unique(index[index != 255]):
        labels, count = ndimage.label(index == k, EIGHT if eight else FOUR)
        out += [labels == i for i in range(1, count + 1)]
    return out


def borders(index: np.ndarray, part: np.ndarray, corners: bool) -> np.ndarray:
    """How often each class (`[256]`) is beside a component, by sides or by corners."""
    padded, inside = np.pad(index, 1, constant_values=255), np.pad(part, 1)
    steps = [(-1, -1), (-1, 1), (1, -1), (1, 1)] if corners else [(-1, 0), (1, 0), (0, -1), (0, 1)]
    count = np.zeros(256, int)
    for dy, dx in steps:
        beside, also = (np.roll(a, (-dy, -dx), (0, 1)) for a in (padded, inside))
        np.add.at(count, beside[inside & ~also], 1)
    count[255] = 0
    return count


def filled(index, areas, unit, eight, probs=None, doubtful=None, confidence=0.0):
    """The smallest component that is not settled goes to the class beside it or stays for good, until all are settled."""
    index = index.copy()
    areas = np.broadcast_to(areas, index.shape)
    settled = np.zeros(index.shape, bool)
    doubtful = np.zeros_like(unit) if doubtful is None else doubtful
    while True:
        todo = []
        for part in components(index, eight):
            k, area = index[part][0], areas[part].sum()
            if area < max(unit[k], doubtful[k]) and not settled[part].any():
                todo.append((area, np.flatnonzero(part)[0], k, part))
        if not todo:
            return index
        area, _, k, part = min(todo, key=lambda t: t[:2])
        count = borders(index, part, corners=False)
        if not count.any() and eight:
            count = borders(index, part, corners=True)
        beside = np.flatnonzero(count)
        sure = area >= unit[k] and (area >= doubtful[k] or probs[k][part].mean() >= confidence)
        if sure or not len(beside):
            settled |= part
            continue
        sums = np.zeros(256) if probs is None else np.array([p[part].sum() for p in probs])
        index[part] = max(beside, key=lambda k: (sums[k], count[k], -k))
