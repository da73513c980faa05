"""U-Nets from shared blocks: plain or residual, with attention or without (Ronneberger et al. 2015).

Axes: B batch, C bands, D channels, H W pixels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raremap.models.blocks import ATTENTION, Fire, PlainBlock, ResidualBlock, conv_block, conv_norm, up
from raremap.models.heads import Features

Block = Literal["plain", "residual"]
Attention = Literal["none", "se", "cbam", "axis"]
Place = Literal["after", "inside"]


class UNet(nn.Module):
    """Encoder and decoder of `depth` halvings, `width` channels at the top and twice as many at each level below.

    With 64 and 4 the traditional one: two 3×3 convolutions with batch norm at each level, transposed
    convolutions up, and skips that are concatenated. `attention` follows each block, or stands `inside` the
    branch of a residual one.
    """

    def __init__(
        self,
        bands: int,
        width: int = 64,
        depth: int = 4,
        block: Block = "plain",
        attention: Attention = "none",
        place: Place = "after",
    ) -> None:
        super().__init__()

        def level(into: int, out: int) -> nn.Module:
            gate = None if attention == "none" else ATTENTION[attention](out)
            if block == "plain":
                return PlainBlock(into, out, gate)
            return ResidualBlock(into, out, **{place: gate})

        widths = [width * 2**i for i in range(depth + 1)]
        self.encoder = nn.ModuleList(level(a, b) for a, b in zip([bands, *widths[:-1]], widths, strict=True))
        down = list(reversed(widths))
        self.ups = nn.ModuleList(up(a, b) for a, b in pairwise(down))
        self.decoder = nn.ModuleList(level(2 * b, b) for b in down[1:])
        self.stride, self.reduction = 2**depth, 1
        self.channels = (width, widths[-1], widths[1])

    def forward(self, image: Tensor) -> Features:
        """Features at the image's size and half of it, and the deepest."""
        skips = [self.encoder[0](image)]
        for level in self.encoder[1:]:
            skips.append(level(F.max_pool2d(skips[-1], 2)))
        ups = [deep := skips.pop()]
        for rise, level in zip(self.ups, self.decoder, strict=True):
            ups.append(level(torch.cat([skips.pop(), rise(ups[-1])], 1)))
        return Features(ups[-1], deep, half=ups[-2])


class SqueezeUNet(nn.Module):
    """A U-Net of fire modules (Beheshti and Johnsson 2020), about a twelfth of the traditional one.

    Reconstructed from the paper's description; the input's size is kept at the top, where theirs is halved by the
    first convolution, so that objects of a few pixels have a skip of their own. `width` 64 is the paper's.
    """

    def __init__(self, bands: int, width: int = 64) -> None:
        super().__init__()
        w = width
        self.stem = conv_block(bands, w)
        fires = [(w, w // 4, 2 * w), (2 * w, w // 2, 4 * w), (4 * w, 3 * w // 4, 6 * w), (6 * w, w, 8 * w)]
        self.encoder = nn.ModuleList(nn.Sequential(Fire(a, s, b), Fire(b, s, b)) for a, s, b in fires)
        rises = [
            (8 * w, 6 * w, 3 * w // 4),
            (6 * w, 4 * w, w // 2),
            (4 * w, 2 * w, w // 4),
            (2 * w, w, w // 4),
        ]
        self.ups = nn.ModuleList(up(a, b) for a, b, _ in rises)
        self.decoder = nn.ModuleList(nn.Sequential(Fire(2 * b, s, b), Fire(b, s, b)) for _, b, s in rises)
        self.stride, self.reduction = 16, 1
        self.channels = (w, 8 * w, 2 * w)

    def forward(self, image: Tensor) -> Features:
        """Features at the image's size and half of it, and the deepest."""
        skips = [self.stem(image)]
        for level in self.encoder:
            skips.append(level(F.max_pool2d(skips[-1], 2)))
        ups = [deep := skips.pop()]
        for rise, level in zip(self.ups, self.decoder, strict=True):
            ups.append(level(torch.cat([skips.pop(), rise(ups[-1])], 1)))
        return Features(ups[-1], deep, half=ups[-2])


class _Stage(nn.Module):
    """Convolutions of V-Net's stages, and their sum with what came in."""

    def __init__(self, into: int, out: int, convolutions: int, kernel: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(convolutions):
            a = into if i == 0 else out
            layers += conv_norm(a, out, kernel)
            layers += [nn.PReLU(out)] if i < convolutions - 1 else []
        self.branch, self.activation = nn.Sequential(*layers), nn.PReLU(out)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return self.activation(self.branch(x) + shortcut)


class VNet(nn.Module):
    """V-Net in two dimensions (Milletari et al. 2016): 5×5 convolutions in residual stages, strided ones between.

    Reconstructed for images: theirs is of volumes. Batch norm is ours; `width` 16 is the paper's.
    """

    def __init__(self, bands: int, width: int = 16, kernel: int = 5) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(5)]
        self.project = nn.Conv2d(bands, width, 1, bias=False)
        self.top = _Stage(bands, width, 1, kernel)
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 2, stride=2, bias=False), nn.BatchNorm2d(b), nn.PReLU(b))
            for a, b in pairwise(widths)
        )
        self.encoder = nn.ModuleList(
            _Stage(b, b, n, kernel) for b, n in zip(widths[1:], (2, 3, 3, 3), strict=True)
        )
        rises = list(zip(reversed(widths[1:]), reversed(widths[:-1]), (3, 3, 2, 1), strict=True))
        self.ups = nn.ModuleList(up(a, b) for a, b, _ in rises)
        self.decoder = nn.ModuleList(_Stage(2 * b, b, n, kernel) for _, b, n in rises)
        self.stride, self.reduction = 16, 1
        self.channels = (width, widths[-1], widths[1])

    def forward(self, image: Tensor) -> Features:
        """Features at the image's size and half of it, and the deepest."""
        skips = [self.top(image, self.project(image))]
        for down, level in zip(self.downs, self.encoder, strict=True):
            x = down(skips[-1])
            skips.append(level(x, x))
        ups = [deep := skips.pop()]
        for rise, level in zip(self.ups, self.decoder, strict=True):
            x = rise(ups[-1])
            ups.append(level(torch.cat([x, skips.pop()], 1), x))
        return Features(ups[-1], deep, half=ups[-2])
