"""FESTA: a regulariser for sparse labels, from what is near and what is far, in features and in the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from raremap.options import Options

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Pairs of pixels that are compared at a time: all pairs of a crop of 512² at 1 % would be 2.7 GB, twice.
_PAIRS = 1 << 24


class Festa(Options):
    """Features like those of the nearest, unlike those of the farthest (Hua et al. 2021, eq. 2 to 5).

    Of a sampled pixel i with features x: α·d(i, f) + β·d(i, s) + γ·cos(i, u), times λ (`weight`), where d is the
    squared Euclidean distance, f the pixel of the image nearest in features, s the nearest in features of the 8
    neighbours, u the pixel with the least cosine similarity, cos. Mean over `share` of each image's pixels.

    Ours: a pixel at the image's edge has the neighbours that it has. The authors' code multiplies distances
    by a mask of the neighbours before it takes their minimum, which makes the β term 0 everywhere; ours is
    the formula. Features are the class probabilities where a training calls it (theirs: what the network
    puts out): bounded, so that λ means the same for every network.
    """

    weight: float = Field(default=0.1, gt=0)
    alpha: float = Field(default=0.5, ge=0)
    beta: float = Field(default=1.5, ge=0)
    gamma: float = Field(default=1.0, ge=0)
    share: float = Field(default=0.01, gt=0, le=1)

    def __call__(
        self,
        features: Tensor,
        valid: Tensor | None = None,
        generator: torch.Generator | None = None,
        sample: Tensor | None = None,
    ) -> Tensor:
        """The regulariser of features `[B, D, H, W]`, in float32 at least; labels do not enter.

        Where `valid` `[B, H, W]` is false a pixel is neither drawn nor anyone's neighbour. `sample` `[B, n]`
        names the pixels, as flat positions, instead of drawing them.
        """
        import torch

        x = features.to(torch.promote_types(features.dtype, torch.float32)).flatten(2).transpose(1, 2)
        there = (
            torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid.flatten(1)
        )
        parts = []
        with torch.autocast(x.device.type, enabled=False):
            for b in range(len(x)):
                at = self._drawn(there[b], generator) if sample is None else sample[b]
                # Fewer than two pixels have no neighbour to be like.
                if len(at) and int(there[b].sum()) > 1:
                    parts.append(self._costs(x[b], there[b], at, features.shape[-1]))
        if not parts:
            return (features * 0).sum()
        return self.weight * torch.cat(parts).mean()

    def _drawn(self, there: Tensor, generator: torch.Generator | None) -> Tensor:
        """Positions of a share of the pixels that are there, one at least."""
        import torch

        at = torch.nonzero(there).squeeze(1)
        device = at.device if generator is None else generator.device
        keys = torch.rand(len(at), generator=generator, device=device).to(at.device)
        return at[keys.argsort()[: max(1, round(self.share * len(at)))]]

    def _costs(self, x: Tensor, there: Tensor, at: Tensor, width: int) -> Tensor:
        """What each sampled pixel of one image `[H·W, D]` costs."""
        import torch

        own = x[at]
        beside, known = _neighbours(at, there, width)
        with torch.no_grad():  # the minimum's gradient is that of its place: only these pixels need one
            unit = torch.nn.functional.normalize(x, dim=1)
            parts = (part.split(max(1, _PAIRS // len(x))) for part in (at, beside, known))
            found = [_partners(x, unit, there, *part) for part in zip(*parts, strict=True)]
            near, side, far = (torch.cat(places) for places in zip(*found, strict=True))

        def apart(other: Tensor) -> Tensor:
            return (own - x[other]).square().sum(1)

        similar = torch.nn.functional.cosine_similarity(own, x[far], dim=1)
        return self.alpha * apart(near) + self.beta * apart(side) * known.any(1) + self.gamma * similar


def _partners(
    x: Tensor, unit: Tensor, there: Tensor, at: Tensor, beside: Tensor, known: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of pixels `at` `[n]` the nearest in features of all, the nearest of the neighbours, and the least similar."""
    import torch

    distance = torch.cdist(x[at], x, compute_mode="donot_use_mm_for_euclid_dist")
    distance[:, ~there] = float("inf")
    distance[torch.arange(len(at), device=at.device), at] = float("inf")
    around = distance.gather(1, beside).masked_fill(~known, float("inf"))
    side = beside.gather(1, around.argmin(1, keepdim=True)).squeeze(1)
    likeness = (unit[at] @ unit.T).masked_fill_(~there, float("inf"))
    return distance.argmin(1), side, likeness.argmin(1)


def _neighbours(at: Tensor, there: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Positions `[n, 8]` of the pixels around each, and which of them exist and are there."""
    import torch

    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    down, right = torch.tensor(steps, device=at.device).T
    r, c = at[:, None] // width + down, at[:, None] % width + right
    known = (r >= 0) & (r < len(there) // width) & (c >= 0) & (c < width)
    flat = torch.where(known, r * width + c, 0)
    return flat, known & there[flat]
