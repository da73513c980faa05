"""Batch-norm statistics of the natural ground, in the place of those of the stream."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def natural_tiles(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Up to `count` of the rows, drawn alike, in order."""
    rng = np.random.default_rng((seed, 0xB47C))
    return np.sort(rng.permutation(rows)[:count])


def settle(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Take the running mean and variance of every batch norm anew: the mean over these batches.

    While a network trains they follow the last few batches of the stream: crops, oversampled and changed. A
    network that predicts whole tiles of natural ground needs theirs. Only the running statistics change.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    batches = iter(batches)
    first = next(batches, None)
    if not norms or first is None:
        return
    momenta = [norm.momentum for norm in norms]
    training = network.training
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
        network.eval()
        for norm in norms:
            norm.train()  # dropout and stochastic depth stay off
        with torch.no_grad():
            network(first)
            for batch in batches:
                network(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.train(training)
