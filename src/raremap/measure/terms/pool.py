"""Sums over the shares of one batch that several processes hold, with their gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def pooled(of_share: Tensor) -> Tensor:
    """The sum of a tensor over all processes of torch's default group, the same in each of them.

    Its gradient is that of the sum of the losses of all processes, which are one and the same number: it is for
    trainings that take the mean of the processes' gradients, as torch's DistributedDataParallel does. Then they
    take the step of one process with the whole batch.
    """
    return _Pooled.apply(of_share)  # pyright: ignore[reportReturnType]


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, of_share: Tensor) -> Tensor:
        whole = of_share.detach().clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # Every process makes the same of the sum, so their gradients by it are equal: nothing to send.
        return grads[0] * dist.get_world_size()
