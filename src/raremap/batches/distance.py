"""Maps of distances to true boundaries, made beside the samples in the workers, for the terms that ask for them.

Ignored pixels are neither a class nor its surroundings: distances run through them, their own values are 0,
and where labels merely end there is no boundary. A crop's edge is none either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raremap.labels import IGNORE
from raremap.scene.edges import class_edges


@dataclass(frozen=True)
class BoundaryMaps:
    """Which maps a sample gets, made of its mask `[h, w]` by calling this on it (after augmentation).

    `wanted` names them: "distance" (`signed_distance` of the classes `only`, or all), "edge"
    (`edge_distance`) and "center" (`centrality`).
    """

    num_classes: int
    wanted: tuple[str, ...] = ("distance",)
    only: tuple[int, ...] | None = None
    clip: float | None = 20.0

    def __call__(self, mask: np.ndarray) -> dict[str, np.ndarray]:
        """The maps by name, `[n, h, w]` or `[h, w]`."""
        classes = tuple(range(self.num_classes)) if self.only is None else self.only
        makers = {
            "distance": lambda: signed_distance(mask, classes, self.clip),
            "edge": lambda: edge_distance(mask),
            "center": lambda: centrality(mask),
        }
        return {name: makers[name]() for name in self.wanted}


def signed_distance(mask: np.ndarray, classes: tuple[int, ...], clip: float | None = 20.0) -> np.ndarray:
    """Signed distance to each class in a class index `[h, w]`: `[n, h, w]`, one map for each of `classes`.

    Outside, the distance in pixels to the nearest pixel of the class; inside, minus that to the nearest
    one of another class, less 1: 0 on the rim, as `one_hot2dist` of Kervadec et al. (2019). All 0 where the
    class, or anything but the class, is absent. With `clip` it ends at ± that many pixels and is divided by it, in
    float16 from −1 to 1: without, far corners of a crop outweigh all boundaries (float32, in pixels).

    >>> signed_distance(np.array([[0, 0, 1, 1, 1]]), (1,), clip=None)
    array([[[ 2.,  1.,  0., -1., -2.]]], dtype=float32)
    """
    labelled = mask != IGNORE
    out = np.zeros((len(classes), *mask.shape), np.float32)
    for i, c in enumerate(classes):
        inside = mask == c
        outside = labelled & ~inside
        if inside.any() and outside.any():
            out[i] = np.where(inside, 1 - _distance_to(outside), np.where(outside, _distance_to(inside), 0))
    return out if clip is None else (out.clip(-clip, clip) / clip).astype(np.float16)


def edge_distance(mask: np.ndarray) -> np.ndarray:
    """Distance in pixels to the nearest boundary pixel of a class index, float16 `[h, w]`; 0 on it.

    A boundary pixel has one of its four neighbours in another class. Where there is none, all are as far
    as the crop is wide.
    """
    labelled = mask != IGNORE
    edges = class_edges(mask, labelled)
    far = float(np.hypot(*mask.shape))
    distance = _distance_to(edges) if edges.any() else np.full(mask.shape, far)
    return np.where(labelled, distance, 0).astype(np.float16)


def centrality(mask: np.ndarray) -> np.ndarray:
    """How far inside its object a pixel lies, float16 `[h, w]` from above 0 at the rim to 1 at the innermost.

    Distance to the nearest pixel of another class, over the largest such distance in the object (pixels of
    one class that touch, by eight neighbours). 0 all over where the crop holds one class only.
    """
    import cv2

    labelled = mask != IGNORE
    out = np.zeros(mask.shape, np.float32)
    for c in np.unique(mask[labelled]):
        inside = mask == c
        outside = labelled & ~inside
        if outside.any():
            depth = np.where(inside, _distance_to(outside), 0)
            count, objects = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)
            deepest = np.zeros(count, np.float32)
            np.maximum.at(deepest, objects.ravel(), depth.ravel())
            np.divide(depth, deepest[objects], out=out, where=inside)
    return out.astype(np.float16)


def _distance_to(pixels: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest of some, exact, float32."""
    import cv2

    return cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
