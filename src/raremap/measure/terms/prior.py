"""What the stream's class shares do to a loss: an offset of logits, and what a pixel is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Prior:
    """Class shares `[K]` of the stream (π̂) and of natural ground (π), and how balanced the scores shall be.

    `tau` 0 learns the natural posterior whatever the stream is, 1 balanced scores.
    """

    stream: Tensor
    natural: Tensor
    tau: float = 0.0

    def offset(self, weight: Tensor | None = None) -> Tensor:
        """What cross-entropy adds to its logits, `[K]`: see `prior_offset`."""
        return prior_offset(self.stream, self.natural, self.tau, weight)

    @property
    def worth(self) -> Tensor:
        """What a pixel of each class counts in region terms, `[K]`: natural over stream shares."""
        return self.natural / self.stream.clamp(min=1e-9)


def prior_offset(prior: Tensor, natural: Tensor, tau: float, weight: Tensor | None = None) -> Tensor:
    """What is added to logits so that the stream does not move the map: `log π̂ − (1 − τ)·log π`, `[K]`.

    π̂ `prior` `[K]` are the class shares of the stream, times the class weights; π `natural` those of the
    training places. Logits trained with it are `log p(x|y) + (1 − τ)·log π` up to a constant, whatever the
    stream: τ 0 leaves the natural posterior, τ 1 balanced scores (after Menon et al. 2021, with the stream's
    prior in the place of the data's). A class without a training pixel gets 0.
    """
    import torch

    delivered = prior if weight is None else prior * weight / (prior * weight).sum()
    known = (delivered > 0) & (natural > 0)
    logs = [torch.where(known, p, 1.0).log() for p in (delivered, natural)]
    return logs[0] - (1 - tau) * logs[1]
