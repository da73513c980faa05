"""AIAS-Net's network: HRNet branches, aggregated by attention at each pixel, with object context if asked for.

Axes: B batch, C bands, D channels, K classes, N regions, H W pixels, R branches.
"""

from __future__ import annotations

from typing import Literal

import timm
import torch
from torch import Tensor, nn

from raremap.models.blocks import conv_block, resized
from raremap.models.heads import Features

Size = Literal["w18_small", "w18", "w30", "w32", "w40", "w44", "w48", "w64"]
STEM_STRIDES: dict[int, tuple[int, int]] = {1: (1, 1), 2: (2, 1), 4: (2, 2)}


class AttentionAggregation(nn.Module):
    """Branches brought to one size and summed with weights that each pixel chooses; at the start it means them.

    Reconstructed: AIAS-Net names "multi-scale feature fusion with attention" and no more. Each branch is
    projected to `dim` channels; at each pixel the weights over branches are a softmax of a small network
    on what the branches hold there and, on average, in the whole image.
    """

    def __init__(self, branches: list[int], dim: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(conv_block(c, dim, 1) for c in branches)
        r = len(branches)
        self.local = nn.Conv2d(r * dim, dim, 1)
        self.whole = nn.Conv2d(r * dim, dim, 1)
        self.choose = nn.Conv2d(dim, r, 1)
        nn.init.zeros_(self.choose.weight)
        nn.init.zeros_(self.choose.bias)  # type: ignore[arg-type]
        self.channels = dim

    def forward(self, branches: list[Tensor]) -> Tensor:
        """Features `[B, dim, H, W]` at the size of the first branch."""
        size = (branches[0].shape[-2], branches[0].shape[-1])
        parts = [resized(p(b), size) for p, b in zip(self.project, branches, strict=True)]
        both = torch.cat(parts, 1)
        hidden = torch.relu(self.local(both) + self.whole(both.mean((2, 3), keepdim=True)))
        weights = torch.softmax(self.choose(hidden), 1)
        return torch.stack([w.unsqueeze(1) * p for w, p in zip(weights.unbind(1), parts, strict=True)]).sum(0)


class Concatenation(nn.Module):
    """Branches brought to one size and concatenated: HRNetV2 (Wang et al. 2020)."""

    def __init__(self, branches: list[int], dim: int) -> None:
        super().__init__()
        self.channels = sum(branches)
        self.mix = conv_block(self.channels, self.channels, 1)

    def forward(self, branches: list[Tensor]) -> Tensor:
        """Features `[B, 15·width, H, W]` at the size of the first branch."""
        size = (branches[0].shape[-2], branches[0].shape[-1])
        return self.mix(torch.cat([resized(b, size) for b in branches], 1))


class ObjectContext(nn.Module):
    """Each pixel beside what the regions of the classes look like (Yuan, Chen and Wang 2020, OCR).

    Soft regions are the classes of an auxiliary head; a region's features f_k = Σ_x M_kx f_x, M the softmax
    over pixels of its logits; a pixel attends to the regions, and both are concatenated. Channels follow
    `dim`, where the paper has 512 and 256.
    """

    def __init__(self, channels: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.regions = nn.Sequential(conv_block(channels, dim), nn.Conv2d(dim, num_classes, 1))
        self.pixels = conv_block(channels, dim)
        inner = max(dim // 2, 16)
        self.query = nn.Sequential(conv_block(dim, inner, 1), conv_block(inner, inner, 1))
        self.key = nn.Sequential(nn.Linear(dim, inner), nn.ReLU(), nn.Linear(inner, inner), nn.ReLU())
        self.value = nn.Sequential(nn.Linear(dim, inner), nn.ReLU())
        self.out = conv_block(inner, dim, 1)
        self.mix = conv_block(2 * dim, dim, 1)
        self.channels = dim

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, dim, H, W]`, and the auxiliary logits `[B, K, H, W]`."""
        aux, pixels = self.regions(features), self.pixels(features)
        shares = torch.softmax(aux.flatten(2), 2)
        regions = shares @ pixels.flatten(2).transpose(1, 2)  # [B, K, dim]
        query, key = self.query(pixels), self.key(regions)
        weights = torch.softmax(
            query.flatten(2).transpose(1, 2) @ key.transpose(1, 2) * key.shape[2] ** -0.5, 2
        )
        context = (weights @ self.value(regions)).transpose(1, 2).unflatten(2, pixels.shape[2:])
        return self.mix(torch.cat([self.out(context), pixels], 1)), aux


def backbone(name: str, bands: int, pretrained: bool = False) -> nn.Module:
    """timm's HRNet without its classifier: the four branches of an image."""
    return timm.create_model(
        name, pretrained=pretrained, in_chans=bands, features_only=True, feature_location="", out_indices=(1, 2, 3, 4)
    )  # fmt: skip


class HRNet(nn.Module):
    """timm's HRNet, its branches aggregated to `dim` channels.

    `stem_stride` 4 is the paper's; with 2 or 1 the stem keeps more pixels, the branches are 2 or 4 times as
    wide and high, and so is the work 4 or 16 times: an object of one pixel keeps a cell of its own.
    """

    def __init__(
        self,
        bands: int,
        num_classes: int,
        size: Size = "w18",
        aggregation: Literal["attention", "concat"] = "attention",
        dim: int = 64,
        ocr: bool = False,
        stem_stride: int = 4,
    ) -> None:
        super().__init__()
        self.backbone = backbone(f"hrnet_{size}", bands)
        for conv, stride in zip(
            (self.backbone.conv1, self.backbone.conv2), STEM_STRIDES[stem_stride], strict=True
        ):
            conv.stride = (stride, stride)  # type: ignore[union-attr]
        branches: list[int] = self.backbone.feature_info.channels()  # type: ignore[union-attr,operator]
        fuse = AttentionAggregation if aggregation == "attention" else Concatenation
        self.fuse = fuse(branches, dim)
        self.context = ObjectContext(self.fuse.channels, dim, num_classes) if ocr else None
        last = self.context.channels if self.context else self.fuse.channels
        self.stride, self.reduction = 8 * stem_stride, stem_stride
        self.channels = (last, branches[-1], 0)

    def forward(self, image: Tensor) -> Features:
        """Features at a `stem_stride`-th of the image's size, the deepest branch, and logits of the context's head."""
        branches = self.backbone(image)
        full, aux = self.fuse(branches), None
        if self.context is not None:
            full, aux = self.context(full)
        return Features(full, branches[-1], aux=aux if self.training else None)
