"""What the networks are made of: convolution blocks, and attention that keeps the shape of its input.

Axes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm(into: int, out: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (but for its stride), and batch norm."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(into, out, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


def conv_block(into: int, out: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return conv_norm(into, out, kernel, stride=stride, dilation=dilation).append(nn.ReLU(inplace=True))


def resized(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Features or logits at another size, bilinear between pixel centres."""
    if tuple(features.shape[-2:]) == tuple(size):
        return features
    return F.interpolate(features, size, mode="bilinear", align_corners=False)


class PlainBlock(nn.Sequential):
    """Two 3×3 convolutions with batch norm and ReLU, and attention on what comes out."""

    def __init__(self, into: int, out: int, attention: nn.Module | None = None) -> None:
        super().__init__(conv_block(into, out), conv_block(out, out))
        if attention is not None:
            self.append(attention)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a 1×1 projection (He et al. 2016), summed before the last ReLU.

    `after` is attention on what comes out; `inside` attention on the branch, before the sum.
    """

    def __init__(
        self, into: int, out: int, after: nn.Module | None = None, inside: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.branch = conv_block(into, out).extend(conv_norm(out, out))
        if inside is not None:
            self.branch.append(inside)
        self.project = conv_norm(into, out, 1) if into != out else nn.Identity()
        self.after = after if after is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Features `[B, out, H, W]`."""
        return self.after(F.relu(self.branch(x).add_(self.project(x)), inplace=True))


class SqueezeExcite(nn.Module):
    """Channels weighed by what the whole image holds of them (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        inner = max(channels // reduction, 4)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, inner, 1), nn.ReLU(inplace=True), nn.Conv2d(inner, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        return x * self.gate(x.mean((2, 3), keepdim=True))


class Cbam(nn.Module):
    """Channels, then pixels weighed by means and maxima (Woo et al. 2018); a reduction of 8, theirs is 16."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        inner = max(channels // reduction, 4)
        self.channels = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 1, bias=False),
        )
        self.pixels = conv_norm(2, 1, 7)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        mean, peak = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(self.channels(mean) + self.channels(peak))
        return x * torch.sigmoid(
            self.pixels(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))
        )


class AxisAttention(nn.Module):
    """Attention among rows, among columns and among pixels, each on the mean over the remaining axis.

    Reconstructed: the landslide authors average features over each axis to `[H, C]`, `[W, C]` and `[H, W]`,
    run multi-head attention on each and multiply the results back (Le, Pham et al. 2023, arXiv 2312.16717;
    the layer of Pham et al. 2022, arXiv 2206.13392); heads and sizes are not published, and their weights
    depend on the image's size. Here they do not: rows and columns share one attention with channels as features,
    and `[H, W]` is carried along by the same row and column weights. As the weights are shared, an image
    turned on its side gives the same features turned. Gates are 2σ(·), 1 at the start.
    """

    def __init__(self, channels: int, reduction: int = 16, head: int = 16) -> None:
        super().__init__()
        inner = max(channels // reduction, 8)
        self.heads = max(inner // head, 1)
        inner -= inner % self.heads
        self.norm = nn.LayerNorm(channels)
        self.queries, self.keys, self.values = (nn.Linear(channels, inner) for _ in range(3))
        self.out = nn.Linear(inner, channels)
        self.pixel = nn.Linear(1, 1)
        for layer in (self.out, self.pixel):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        rows, row_weights = self._attend(x.mean(3).transpose(1, 2))
        columns, column_weights = self._attend(x.mean(2).transpose(1, 2))
        carried = row_weights @ x.mean(1) @ column_weights.transpose(1, 2)
        gates = _gate(rows.transpose(1, 2).unsqueeze(3)) * _gate(columns.transpose(1, 2).unsqueeze(2))
        return x * gates * _gate(self.pixel(carried.unsqueeze(3)).movedim(3, 1))

    def _attend(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What the tokens `[B, N, C]` say to each other, and how much each listens to each, `[B, N, N]`."""
        b, n, _ = tokens.shape
        tokens = self.norm(tokens)
        q, k, v = (
            f(tokens).view(b, n, self.heads, -1).transpose(1, 2)
            for f in (self.queries, self.keys, self.values)
        )
        weights = torch.softmax(q @ k.transpose(2, 3) * q.shape[3] ** -0.5, 3)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, -1)), weights.mean(1).to(tokens.dtype)


def _gate(x: Tensor) -> Tensor:
    return 2 * torch.sigmoid(x)


class Fire(nn.Module):
    """Squeeze to few channels, then expand by 1×1 and 3×3 side by side (Iandola et al. 2016, SqueezeNet)."""

    def __init__(self, into: int, squeezed: int, out: int) -> None:
        super().__init__()
        self.squeeze = conv_block(into, squeezed, 1)
        self.point, self.around = conv_block(squeezed, out // 2, 1), conv_block(squeezed, out - out // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Features `[B, out, H, W]`."""
        x = self.squeeze(x)
        return torch.cat([self.point(x), self.around(x)], 1)


def up(into: int, out: int) -> nn.ConvTranspose2d:
    """Twice the size by a transposed convolution."""
    return nn.ConvTranspose2d(into, out, 2, stride=2)


ATTENTION: dict[str, Callable[[int], nn.Module]] = {
    "se": SqueezeExcite,
    "cbam": Cbam,
    "axis": AxisAttention,
}
