"""True class shares after a training on points: estimated on unlabelled ground, and put into the scores."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from raremap.errors import RaremapWarning
from raremap.jobs import tracked
from raremap.labels import IGNORE
from raremap.measure.shares import calibrated, estimate_shares
from raremap.tiles.reader import TileReader
from raremap.ways import predicting

if TYPE_CHECKING:
    from raremap.bundle import Bundle
    from raremap.tiles.catalog import Catalog

_TILES, _PIXELS = 256, 100_000


def with_true_shares(
    bundle: Bundle,
    seen: Catalog,
    uses: np.ndarray,
    tau: float | None,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = True,
) -> Bundle:
    """The bundle whose scores have the shares of the ground in the place of those of the points.

    The network was trained as if the points came in the true shares π. Those are estimated from its
    scores of unlabelled training pixels (`estimate_shares`), made honest by the labels of the monitor places
    (`calibrated`), for a network is surer or less sure than it should be. Its logits are moved by
    (1 − tau)·(log π − log π of the points). With `tau` null the scores stay as the stream made them. `info`
    of the bundle says what was found.
    """
    assert bundle.prior is not None
    if tau is None:
        return bundle
    old = np.array(bundle.prior)
    probs, _ = sampled_scores(bundle, seen, np.flatnonzero(uses == "train"), False, device, seed, quiet)
    if len(probs) == 0:
        return bundle
    labelled = sampled_scores(bundle, seen, np.flatnonzero(uses == "monitor"), True, device, seed, quiet)
    found = estimate_shares(calibrated(probs, *labelled, old), old)
    # A class that is nowhere in the sample is not proven to be nowhere.
    shares = np.where(old > 0, np.maximum(found.shares, 1 / len(probs)), 0.0)
    shares /= shares.sum()
    names = bundle.scheme.names
    info = {**bundle.info, "shares_estimated": dict(zip(names, map(float, shares), strict=True))}
    new = np.where(old > 0, np.where(old > 0, shares, 1.0) ** (1 - tau), 0.0)
    new /= new.sum()
    module = _shifted(bundle, np.log(np.where(old > 0, new / np.maximum(old, 1e-300), 1.0)))
    if module is None:
        warnings.warn(
            "the class shares of the ground were estimated, but this network's last layer has no bias to put them "
            "into: its scores have the shares of the points; give `predict --prior` the shares of model.json",
            RaremapWarning,
            stacklevel=2,
        )
        return replace(bundle, shares=tuple(map(float, shares)), info=info)
    return replace(
        bundle, module=module, prior=tuple(map(float, new)), shares=tuple(map(float, shares)), info=info
    )


def sampled_scores(
    bundle: Bundle,
    seen: Catalog,
    rows: np.ndarray,
    labelled: bool,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities `[n, K]` and class index `[n]` of pixels with, or without, a label, drawn alike.

    Of at most 256 tiles of `rows`, and of valid pixels alone.
    """
    rng = np.random.default_rng((seed, 0x5A2E))
    rows = np.sort(rng.permutation(rows)[:_TILES])
    ground = sum(seen.windows[r].height * seen.windows[r].width for r in rows)
    share = min(1.0, _PIXELS / max(ground, 1))
    probs, truth = [np.empty((0, bundle.scheme.num_classes), np.float32)], [np.empty(0, np.uint8)]
    if len(rows):
        network, reader = (
            predicting(bundle, tta=False, scales=(1.0,)).network(device=device),
            TileReader(seen, rows, memory=0),
        )
        for row in tracked(rows.tolist(), "class shares", len(rows), quiet):
            image, valid, mask = reader.whole(row)
            # Drawn for every pixel, so that the labels do not move the draw.
            drawn = valid & (rng.random(mask.shape) < share) & ((mask != IGNORE) == labelled)
            if drawn.any():
                probs.append(network(image[None], valid[None])[0][:, drawn].T)
                truth.append(mask[drawn])
    return np.concatenate(probs), np.concatenate(truth)


def _shifted(bundle: Bundle, shift: np.ndarray):
    import torch

    from raremap.models.shift import shift_logits

    module = copy.deepcopy(bundle.module)
    moved = shift_logits(module, torch.tensor(shift, dtype=torch.float32), len(bundle.bands))
    return module if moved else None
