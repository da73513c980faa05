"""Heads: what comes after the features of a body, and the network of any size that both make.

Axes: B batch, C bands, D channels, K classes, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from raremap.models.blocks import conv_block, resized, up
from raremap.models.forward import padded
from raremap.models.outputs import Outputs


class Features(NamedTuple):
    """What a body gives: features `[B, D, H/r, W/r]` for the mask, and the deepest ones.

    `half` are features at half the image's size, where the body makes some on its way; `aux` logits
    `[B, K, h, w]` of a head of its own.
    """

    full: Tensor
    deep: Tensor
    half: Tensor | None = None
    aux: Tensor | None = None


class Body(Protocol):
    """A network without its last layer: image `[B, C, H, W]`, both sides multiples of `stride`, to features.

    `channels` of `full`, `deep` and `half` (0: there are none); `reduction` r is how many pixels a cell of
    `full` is wide.
    """

    stride: int
    reduction: int
    channels: tuple[int, int, int]

    def __call__(self, image: Tensor) -> Features:
        """The features of an image."""
        ...


class Headed(nn.Module):
    """A body and a head, for images of any size: padded by their edge, then cut back.

    In evaluation it gives logits `[B, K, H, W]`. In training it gives `Outputs` where the head or the body has
    more to say, else logits. `outputs` gives both, the image's classes too, in either mode.
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def outputs(self, image: Tensor) -> Outputs:
        """Everything that body and head give for an image `[B, C, H, W]`."""
        height, width = image.shape[-2:]
        wide = padded(image, self.body.stride)  # pyright: ignore[reportArgumentType]
        features: Features = self.body(wide)
        out: Outputs = self.head(features)
        aux = () if features.aux is None else (resized(features.aux, (wide.shape[-2], wide.shape[-1])),)

        def cut(logits: Tensor) -> Tensor:
            scale = logits.shape[-1] / wide.shape[-1]
            return logits[..., : math.ceil(height * scale), : math.ceil(width * scale)]

        return Outputs(
            cut(out.logits), tuple(map(cut, (*out.aux, *aux))), tuple(map(cut, out.scales)), out.image
        )

    def forward(self, image: Tensor) -> Tensor | Outputs:
        """Logits `[B, K, H, W]`; in training `Outputs`, where there is more."""
        out = self.outputs(image)
        if self.training:
            return out.logits if out.bare else out
        return out.fused()


class MaskHead(nn.Module):
    """One mask: a last layer on the features, brought to the image's size."""

    def __init__(self, body: Body, num_classes: int, last: nn.Module | None = None) -> None:
        super().__init__()
        self.last = last if last is not None else nn.Conv2d(body.channels[0], num_classes, 1)
        # A last layer that came along (of smp) brings its own upsampling.
        self.factor = 1 if last is not None else body.reduction

    def forward(self, features: Features) -> Outputs:
        """The logits alone."""
        return Outputs(_larger(self.last(features.full), self.factor))


class ImageHead(nn.Module):
    """A mask, and whether each class is somewhere in the image (the dual head of the landslide authors).

    Reconstructed: means of the deepest features, a linear layer, a logit a class. It is one more thing to learn: a
    prediction is the mask's, and no verb reports these logits (`Headed.outputs` gives them).
    """

    def __init__(self, body: Body, num_classes: int, last: nn.Module | None = None) -> None:
        super().__init__()
        self.mask = MaskHead(body, num_classes, last)
        self.image = nn.Linear(body.channels[1], num_classes)

    def forward(self, features: Features) -> Outputs:
        """The logits and the image's."""
        return self.mask(features)._replace(image=self.image(features.deep.mean((2, 3))))


class MultiResolutionHead(nn.Module):
    """Masks at half, one and two times the image's size, averaged at prediction (mask voting).

    Reconstructed (Le, Pham et al. 2023, arXiv 2312.16717): the half from the decoder's level before the last,
    or, where the body has none, from its last features averaged; the double from one more step up.
    """

    def __init__(self, body: Body, num_classes: int, last: nn.Module | None = None) -> None:
        super().__init__()
        full, _, half = body.channels
        self.mask = MaskHead(body, num_classes, last)
        self.coarse = nn.Conv2d(half or full, num_classes, 1)
        self.reduction = body.reduction
        inner = max(full // 2, 8)
        self.fine = nn.Sequential(up(full, inner), conv_block(inner, inner), nn.Conv2d(inner, num_classes, 1))

    def forward(self, features: Features) -> Outputs:
        """The logits, and those at half and twice the size."""
        coarse = features.full if features.half is None else features.half
        coarse = self.coarse(coarse)
        if features.half is None:
            coarse = F.avg_pool2d(coarse, 2) if self.reduction == 1 else _larger(coarse, self.reduction // 2)
        fine = _larger(self.fine(features.full), self.reduction)
        return self.mask(features)._replace(scales=(coarse, fine))


def _larger(logits: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return logits
    return F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)


HEADS: dict[str, Callable[..., nn.Module]] = {
    "mask": MaskHead,
    "image": ImageHead,
    "multiresolution": MultiResolutionHead,
}


def headed(body: nn.Module, head: str, num_classes: int, last: nn.Module | None = None) -> Headed:
    """The network of a body and the head of that name; `last` is a mask's last layer, where the body has its own."""
    return Headed(body, HEADS[head](body, num_classes, last))
