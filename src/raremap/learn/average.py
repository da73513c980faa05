"""The exponential moving average of a network: what is scored and kept, or a teacher."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class MovingAverage:
    """A copy of a network that keeps `decay` of itself at each update, and less of it at the start.

    Weights and the batch norms' statistics move alike; whole numbers, such as the norms' counts, are copied. The
    copy is in eval mode and takes no gradient.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network as it is now."""
        self.updates += 1
        # What it started from is noise: the first updates keep less of it.
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        theirs = network.state_dict()
        for name, own in self.network.state_dict().items():
            if own.is_floating_point():
                own.lerp_(theirs[name].to(own), 1 - keep)
            else:
                own.copy_(theirs[name])

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"network": self.network.state_dict(), "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `state`."""
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]
