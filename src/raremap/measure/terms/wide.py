"""The widest floats of a device: sums over a batch's pixels run in them."""

from __future__ import annotations

import torch

# Apple's GPUs have no float64: to ask for one there is an error.
_WITHOUT_FLOAT64 = frozenset({"mps"})


def wide(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no wider ones."""
    return torch.float32 if device.type in _WITHOUT_FLOAT64 else torch.float64
