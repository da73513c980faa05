"""`Outputs`: what a network may give in training, and which loss meets which of it.

Axes: B batch, K classes, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from raremap.labels import IGNORE

# A network of cross-entropy and an auxiliary head (Yuan, Chen and Wang 2020, OCR; also Zhao et al. 2017).
AUXILIARY = 0.4


class Outputs(NamedTuple):
    """The logits of a network `[B, K, H, W]`, and what else it gives while it is trained.

    `aux`: logits `[B, K, H, W]` of auxiliary heads; `scales`: logits of further heads at other resolutions,
    `[B, K, h, w]`, h and w rounded up; `image`: `[B, K]`, a logit for each class being somewhere in the image.
    """

    logits: Tensor
    aux: tuple[Tensor, ...] = ()
    scales: tuple[Tensor, ...] = ()
    image: Tensor | None = None

    @classmethod
    def of(cls, result: Tensor | Outputs) -> Outputs:
        """What any network returned, plain logits too."""
        return result if isinstance(result, Outputs) else cls(result)

    @property
    def bare(self) -> bool:
        """Whether there is nothing but the logits."""
        return not self.aux and not self.scales and self.image is None

    def fused(self) -> Tensor:
        """Logits `[B, K, H, W]` for a map: of several resolutions the logarithm of their mean probabilities."""
        if not self.scales:
            return self.logits
        size = self.logits.shape[-2:]
        probs = torch.softmax(self.logits.float(), 1)
        for coarse in self.scales:
            probs = probs + at_size(torch.softmax(coarse.float(), 1), size)
        return torch.log((probs / (1 + len(self.scales))).clamp(min=1e-12)).to(self.logits.dtype)


def losses_of(
    result: Tensor | Outputs,
    loss: Callable[..., Mapping[str, Tensor]],
    mask: Tensor,
    *,
    maps: Mapping[str, Tensor] | None = None,
    aside: Callable[..., Mapping[str, Tensor]] | None = None,
    auxiliary: float = AUXILIARY,
    image: float = 1.0,
    pool: Callable[[Tensor], Tensor] | None = None,
    regions: Tensor | None = None,
    **given: Any,
) -> dict[str, Tensor]:
    """Terms whose sum is the loss of everything that a network returned, by name.

    `loss(logits, mask, **maps, **given)` gives the terms of one pair. The logits meet the mask; auxiliary
    heads meet it too, times `auxiliary`; each further resolution meets the truth at its own size, as class
    fractions where it is coarser, so that a pixel of a rare class is kept as its share of the cell. The
    image-level head meets the classes that the mask holds, by binary cross-entropy, times `image`.
    `mask` is a class index `[B, H, W]` or fractions `[B, K, H, W]`; `maps` are those of
    `raremap.batches.distance`. With `aside` that is the loss of all but the logits themselves: one that keeps
    no statistic of what it is given. `regions` is a truth of its own for terms of regions, which the losses are given at
    each size beside the other. `pool` sums over the shares of a batch, as the loss may do by itself.
    """
    out, maps = Outputs.of(result), dict(maps or {})
    aside = aside or loss
    filled = {} if regions is None else {"regions": regions}
    terms = dict(loss(out.logits, mask, **maps, **filled, **given))
    for i, logits in enumerate(out.aux):
        more = aside(logits, mask, **maps, **filled, **given)
        terms |= {f"aux{_nth(i)}_{name}": auxiliary * value for name, value in more.items()}
    for logits in out.scales:
        size = (logits.shape[-2], logits.shape[-1])
        scale = 2.0 ** round(math.log2(logits.shape[-1] / mask.shape[-1]))
        truth = truth_at(mask, size, logits.shape[1])
        around = {name: _map_at(name, values, size, scale) for name, values in maps.items()}
        around |= {name: truth_at(values, size, logits.shape[1]) for name, values in filled.items()}
        terms |= {f"x{scale:g}_{name}": v for name, v in aside(logits, truth, **around, **given).items()}
    if out.image is not None:
        terms["image"] = image * image_loss(out.image, mask, pool)
    return terms


def _nth(i: int) -> str:
    return "" if i == 0 else str(i + 1)


def truth_at(mask: Tensor, size: tuple[int, int], num_classes: int) -> Tensor:
    """The truth at another resolution: finer by repeating pixels, coarser as class fractions `[B, K, h, w]`.

    A coarse cell's fractions sum to its share of labelled pixels, so that a loss counts it as much.
    """
    height, width = mask.shape[-2:]
    fine = mask.is_floating_point()
    if size == (height, width):
        return mask
    if size[0] >= height and size[1] >= width:
        values = mask if fine else mask.unsqueeze(1).to(torch.float32)
        values = F.interpolate(values, scale_factor=_factor(size, (height, width)), mode="nearest")
        values = values[..., : size[0], : size[1]]
        return values if fine else values.squeeze(1).to(mask.dtype)
    if fine:
        shares = torch.where(mask.isnan().any(1, keepdim=True), 0, mask)
    else:
        labelled = mask != IGNORE
        shares = F.one_hot(torch.where(labelled, mask, 0).long(), num_classes).movedim(-1, 1)
        shares = shares * labelled.unsqueeze(1)
    return pooled(shares.to(torch.float32), _factor((height, width), size), size)


def pooled(values: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Means over cells of `factor` pixels a side; what a border cell has beyond the image counts as 0."""
    below, right = size[0] * factor - values.shape[-2], size[1] * factor - values.shape[-1]
    return F.avg_pool2d(F.pad(values, (0, right, 0, below)), factor)


def at_size(values: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Probabilities `[B, K, h, w]` of another resolution at this size: finer ones averaged, coarser ones interpolated."""
    if values.shape[-1] > size[-1]:
        return F.avg_pool2d(values, _factor((values.shape[-2], values.shape[-1]), (size[-2], size[-1])))
    factor = _factor((size[-2], size[-1]), (values.shape[-2], values.shape[-1]))
    up = F.interpolate(values, scale_factor=factor, mode="bilinear", align_corners=False)
    return up[..., : size[-2], : size[-1]]


def _factor(larger: tuple[int, int], smaller: tuple[int, int]) -> int:
    """The whole number of small pixels in a large one, where the last large one may be cut."""
    # A tracer's sizes are tensors, and a factor has to be a number.
    return max(-(-int(large) // int(small)) for large, small in zip(larger, smaller, strict=True))


def _map_at(name: str, values: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """A map of the batch at another resolution; those of distances are in its pixels."""
    flat = values.unsqueeze(1) if values.ndim == 3 else values
    flat = F.interpolate(flat.to(torch.float32), size, mode="nearest" if scale > 1 else "area")
    flat = flat if name in ("center", "worth") else flat * scale
    return flat.squeeze(1) if values.ndim == 3 else flat


def image_loss(logits: Tensor, mask: Tensor, pool: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Binary cross-entropy of which classes an image holds, `[B, K]` against its mask.

    A class that is seen counts fully. That a class is absent is known of the labelled part only, so it
    counts as much as that part's share; an image without labels counts nothing.
    """
    shares = _shares(mask, logits.shape[1])
    present = (shares > 0).to(torch.float32)
    weight = torch.maximum(present, shares.sum(1, keepdim=True).clamp(max=1))
    costs = F.binary_cross_entropy_with_logits(logits.float(), present, reduction="none")
    sums = torch.stack([(costs * weight).sum(), weight.sum()])
    above, below = sums if pool is None else pool(sums)
    return above / below.clamp(min=1e-12)


def _shares(mask: Tensor, num_classes: int) -> Tensor:
    """The share of each image that is labelled with each class, `[B, K]`."""
    if mask.is_floating_point():
        return torch.where(mask.isnan().any(1, keepdim=True), 0, mask).float().mean((2, 3))
    index = torch.where(mask == IGNORE, num_classes, mask).long().flatten(1)
    counts = index.new_zeros(len(index), num_classes + 1).scatter_add_(1, index, torch.ones_like(index))
    return counts[:, :num_classes].to(torch.float32) / index.shape[1]
