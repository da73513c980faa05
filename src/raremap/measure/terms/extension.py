"""The Lovász extension of the Jaccard loss, with its gradient, which comes with the value.

Sorting is all its cost. On a processor NumPy sorts integers of 64 bits several times faster than torch
sorts floats with their order: error, truth and position of a pixel travel in one such integer.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from raremap.measure.terms.wide import wide

_TRUE, _POSITION = np.uint64(1 << 31), np.uint64((1 << 31) - 1)
_HIGH = 1 if sys.byteorder == "little" else 0


def lovasz_extension(
    probs: Tensor, index: Tensor, labelled: Tensor, wanted: Tensor, worth: Tensor | None = None
) -> Tensor:
    """Lovász extension of 1 − IoU for each class, `[K]`; 0 for those not `wanted` `[K]`.

    Of probabilities `[B, K, H, W]`, class index and labelled pixels `[B, H, W]`. With `worth` `[B, H, W]` a pixel
    counts that much in intersection and union.
    """
    return _Extension.apply(probs, index, labelled, wanted, worth)[0]  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]


class _Extension(torch.autograd.Function):
    @staticmethod
    def forward(
        probs: Tensor, index: Tensor, labelled: Tensor, wanted: Tensor, worth: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        classes = torch.nonzero(wanted).flatten().tolist()
        packs = probs.device.type == "cpu" and probs.dtype == torch.float32 and index.numel() <= _POSITION
        return (_by_numpy if packs else _by_torch)(probs, index, labelled, classes, worth)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        # Piecewise linear in p: the saved gradient is a constant, and a second derivative is right with it.
        (grad,) = ctx.saved_tensors
        return grads[0].view(1, -1, 1, 1) * grad, None, None, None, None


def _by_torch(
    probs: Tensor, index: Tensor, labelled: Tensor, classes: list[int], worth: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Losses `[K]` and their gradients by p, `[B, K, H, W]`."""
    losses = probs.new_zeros(probs.shape[1])
    grad = torch.zeros_like(probs, memory_format=torch.contiguous_format)
    chosen = torch.nonzero(labelled.flatten()).squeeze(1)
    truth = index.flatten()[chosen]
    for c in classes:
        own = (truth == c).to(probs.dtype)
        errors, order = (probs[:, c].flatten()[chosen] - own).abs().sort(descending=True)
        own = own[order].to(wide(own.device))
        mass = torch.ones_like(own) if worth is None else worth.to(own).flatten()[chosen][order]
        hits = (own * mass).cumsum(0)
        union = hits[-1] + mass.cumsum(0) - hits
        jaccard = 1 - (hits[-1] - hits) / union.clamp(min=1e-12)
        growth = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
        losses[c] = torch.dot(errors.to(growth), growth)
        plane = probs.new_zeros(labelled.numel())
        plane[chosen[order]] = (growth * (1 - 2 * own)).to(probs.dtype)
        grad[:, c] = plane.view_as(labelled)
    return losses, grad


def _by_numpy(
    probs: Tensor, index: Tensor, labelled: Tensor, classes: list[int], worth: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same for float32 on a processor, classes side by side in torch's threads."""
    p = probs.numpy()
    losses, grad = np.zeros(p.shape[1], np.float32), np.zeros(p.shape, np.float32)
    chosen = np.flatnonzero(labelled.numpy())
    flat = index.numpy().ravel()
    truth, place = flat[chosen], chosen.astype(np.uint32)
    mass = np.empty(0) if worth is None else worth.double().numpy().ravel()

    def one(c: int) -> None:
        own = truth == c
        packed = _pack(np.abs(p[:, c].reshape(-1)[chosen] - own.astype(np.float32)), own, place)
        packed.sort()
        plane = np.zeros(labelled.numel(), np.float32)
        losses[c] = _walk(packed, mass, plane)
        grad[:, c] = plane.reshape(labelled.shape)

    if len(chosen):
        with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(classes)))) as pool:
            list(pool.map(one, classes))
    return torch.from_numpy(losses), torch.from_numpy(grad)


def _pack(error: np.ndarray, own: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Error, truth and position in one integer; the largest errors are the smallest integers."""
    packed = np.empty(len(error), np.uint64)
    # The bits of floats from 0 up are ordered as the floats are.
    packed.view(np.uint32)[_HIGH::2] = ~error.view(np.uint32)
    packed.view(np.uint32)[1 - _HIGH :: 2] = place | (own.astype(np.uint32) << np.uint32(31))
    return packed


@numba.njit(cache=True, nogil=True)
def _walk(packed: np.ndarray, mass: np.ndarray, slopes: np.ndarray) -> float:
    """Add up error times growth of the Jaccard loss in this order, and leave the slopes by p at their positions."""
    total = 0.0
    for i in range(len(packed)):
        if packed[i] & _TRUE:
            total += mass[np.int64(packed[i] & _POSITION)] if len(mass) else 1.0
    error = np.empty(1, np.float32)
    bits = error.view(np.uint32)
    hits, others, before, loss = 0.0, 0.0, 0.0, 0.0
    for i in range(len(packed)):
        at = np.int64(packed[i] & _POSITION)
        bits[0] = ~np.uint32(packed[i] >> np.uint64(32))
        own = packed[i] & _TRUE != 0
        step = mass[at] if len(mass) else 1.0
        if own:
            hits += step
        else:
            others += step
        union = total + others
        jaccard = 1 - (total - hits) / union if union > 0 else 0.0
        growth = jaccard - before
        before = jaccard
        loss += error[0] * growth
        slopes[at] = -growth if own else growth
    return loss
