"""Loss terms on logits `[B, K, H, W]` and class index `[B, H, W]`, exact where pixels are ignored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raremap.labels import IGNORE


def prior_offset(prior: Tensor, natural: Tensor, tau: float, weight: Tensor | None = None) -> Tensor:
    """What is added to logits so that the stream does not move the map: `log π̂ − (1 − τ)·log π`, `[K]`.

    π̂ `prior` `[K]` are the class shares of the stream, times the class weights; π `natural` those of the
    training places. Logits trained with it are `log p(x|y) + (1 − τ)·log π` up to a constant, whatever the
    stream: τ 0 leaves the natural posterior, τ 1 balanced scores (after Menon et al. 2021, with the stream's
    prior in the place of the data's). A class without a training pixel gets 0.
    """
    delivered = prior if weight is None else prior * weight / (prior * weight).sum()
    known = (delivered > 0) & (natural > 0)
    logs = [torch.where(known, p, 1.0).log() for p in (delivered, natural)]
    return logs[0] - (1 - tau) * logs[1]


def cross_entropy(
    logits: Tensor, mask: Tensor, weight: Tensor | None = None, offset: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy over the batch's labelled pixels; 0, with a gradient of 0, where there is none.

    With class weights `[K]` it is the weighted mean: divided by the sum of the pixels' weights. `offset`
    `[K]` is added to the logits (`prior_offset`). torch's own mean is NaN on a batch where every pixel is
    ignored.
    """
    labelled = mask != IGNORE
    logits = logits.float() if offset is None else logits.float() + offset.view(1, -1, 1, 1)
    total = F.cross_entropy(logits, mask, weight, ignore_index=IGNORE, reduction="sum")
    size = labelled.sum() if weight is None else (weight[torch.where(labelled, mask, 0)] * labelled).sum()
    return total / size.clamp(min=1 if weight is None else 1e-12)


def dice(logits: Tensor, mask: Tensor, worth: Tensor | None = None) -> Tensor:
    """One minus the Dice coefficient 2I / (Σp + Σ1), pooled over the batch, mean of the classes present.

    Sums run in float32 over labelled pixels (Milletari et al. 2016, with I = Σ p·1 and plain sums below,
    not sums of squares). A class without a pixel in the batch is left out of the mean. 0 where no pixel is
    labelled. With `worth` `[K]` each pixel counts as much as its class says: natural over stream shares make
    it the Dice of natural ground, which has more false alarms to fear than a stream full of rare classes.

    >>> logits = torch.tensor([[[[20.0, -20.0]], [[-20.0, 20.0]]]])
    >>> round(float(dice(logits, torch.tensor([[[0, 1]]]))), 6)
    0.0
    """
    k = logits.shape[1]
    labelled = mask != IGNORE
    index = torch.where(labelled, mask, 0)
    probs = torch.softmax(logits.float(), 1)
    counts = labelled.float() if worth is None else labelled * worth[index]
    own = probs.gather(1, index.unsqueeze(1)).squeeze(1) * counts
    hits = torch.zeros(k, device=logits.device).index_add(0, index.flatten(), own.flatten())
    claimed = torch.einsum("bkhw,bhw->k", probs, counts)
    truth = torch.zeros(k, device=logits.device).index_add(0, index.flatten(), counts.flatten())
    present = truth > 0
    loss = 1 - 2 * hits / (claimed + truth).clamp(min=1e-12)
    return (loss * present).sum() / present.sum().clamp(min=1)
