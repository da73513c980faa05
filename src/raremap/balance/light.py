"""How far objects follow the light of their surroundings, learned from the objects themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raremap.balance.cut import Patch
from raremap.balance.paste import halo
from raremap.labels import IGNORE

# Ring pixels of one class that make a mean.
_ENOUGH = 8


def followed(
    patches: Sequence[Patch], klass: Sequence[int], tiles: Sequence[int], bands: int, ring: int
) -> np.ndarray:
    """The share of its ring's change of brightness that an object goes along with, by band `[C]`, 0 to 1.

    The slope b of relative object means on relative ring means, among objects of one class (`klass`) in
    rings of one class, shrunk by its error: b · max(0, 1 − var b / b²), objects of one of the `tiles` counting
    as one. It is near 1 where scenes differ by light and haze, and near 0 where the ground itself
    differs: objects that then took the brightness of their new ring would be of colours they never have.
    0 where values are not positive.
    """
    groups: dict[tuple[int, int], list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for patch, c, tile in zip(patches, klass, tiles, strict=True):
        around, ring_mean, own_mean = _means(patch, c, ring)
        if around != IGNORE:
            groups.setdefault((c, around), []).append((tile, ring_mean, own_mean))
    deviations = [_relative(group) for group in groups.values() if len(group) > 1]
    n = len({tile for group in groups.values() if len(group) > 1 for tile, *_ in group}) - 1
    if n < 2:
        return np.zeros(bands)
    x, y = (np.concatenate([d[i] for d in deviations]) for i in (0, 1))
    spread = (x * x).sum(0)
    known = spread > 0
    slope = np.divide((x * y).sum(0), spread, out=np.zeros(bands), where=known)
    # The variance of a slope, as if the objects of a tile were one.
    residual = ((y - slope * x) ** 2).sum(0) / n
    error = np.divide(residual, spread, out=np.zeros(bands), where=known)
    doubt = np.divide(error, slope**2, out=np.ones(bands), where=slope != 0)
    return np.clip(slope, 0, 1) * np.maximum(0, 1 - doubt)


def _relative(group: list[tuple[int, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Deviations of ring and object means from those of the group, as shares of them `[n, C]`; 0 if not positive."""
    x, y = np.array([g[1] for g in group]), np.array([g[2] for g in group])
    means = x.mean(0), y.mean(0)
    positive = (means[0] > 0) & (means[1] > 0)
    x, y = (
        np.divide(v - m, m, out=np.zeros_like(v), where=np.broadcast_to(positive, v.shape))
        for v, m in zip((x, y), means, strict=True)
    )
    return x, y


def _means(patch: Patch, klass: int, ring: int) -> tuple[int, np.ndarray, np.ndarray]:
    """The commonest other class around an object (`IGNORE`: too few pixels), its mean `[C]`, and the object's."""
    near = halo(patch.mask, ring) & ~patch.mask & patch.valid & (patch.labels != klass)
    near &= patch.labels != IGNORE
    counts = np.bincount(patch.labels[near], minlength=1)
    own = patch.image[:, patch.mask].mean(1, dtype=float)
    common = int(counts.argmax())
    if counts[common] < _ENOUGH:
        return IGNORE, own, own
    return common, patch.image[:, near & (patch.labels == common)].mean(1, dtype=float), own
