"""Loss terms on logits `[B, K, H, W]` and class index `[B, H, W]`, exact where pixels are ignored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raremap.labels import IGNORE


def cross_entropy(logits: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the batch's labelled pixels; 0, with a gradient of 0, where there is none.

    With class weights `[K]` it is the weighted mean: divided by the sum of the pixels' weights. torch's own
    mean is NaN on a batch where every pixel is ignored.
    """
    labelled = mask != IGNORE
    total = F.cross_entropy(logits.float(), mask, weight, ignore_index=IGNORE, reduction="sum")
    size = labelled.sum() if weight is None else (weight[torch.where(labelled, mask, 0)] * labelled).sum()
    return total / size.clamp(min=1 if weight is None else 1e-12)


def dice(logits: Tensor, mask: Tensor) -> Tensor:
    """One minus the Dice coefficient 2I / (Σp + Σ1), pooled over the batch, mean of the classes present.

    Sums run in float32 over labelled pixels (Milletari et al. 2016, with I = Σ p·1 and plain sums below,
    not sums of squares). A class without a pixel in the batch is left out of the mean. 0 where no pixel is
    labelled.

    >>> logits = torch.tensor([[[[20.0, -20.0]], [[-20.0, 20.0]]]])
    >>> round(float(dice(logits, torch.tensor([[[0, 1]]]))), 6)
    0.0
    """
    k = logits.shape[1]
    labelled = mask != IGNORE
    index = torch.where(labelled, mask, 0)
    probs = torch.softmax(logits.float(), 1)
    own = probs.gather(1, index.unsqueeze(1)).squeeze(1) * labelled
    hits = torch.zeros(k, device=logits.device).index_add(0, index.flatten(), own.flatten())
    claimed = torch.einsum("bkhw,bhw->k", probs, labelled.float())
    truth = torch.zeros(k, device=logits.device).index_add(0, index.flatten(), labelled.flatten().float())
    present = truth > 0
    loss = 1 - 2 * hits / (claimed + truth).clamp(min=1e-12)
    return (loss * present).sum() / present.sum().clamp(min=1)
