"""The hypergradient: how a validation loss changes with the numbers that weigh the training loss.

One step of training is looked ahead, θ' = θ − r·g with the gradient g of L(θ, h), and the validation loss V(θ') differentiated by h:

    dV/dh = −⟨∂/∂h ∇L(θ, h), r·∇V(θ')⟩ ≈ −∂/∂h [L(θ + εu, h) − L(θ − εu, h)] / 2ε,    u = r·∇V(θ')

so that two forward passes give the whole vector, however many numbers there are (DARTS, Liu et al. 2019,
eq. 8; there r is one rate, here that of each weight, so that Adam's step is looked ahead and not SGD's). The
network is not differentiated a second time, and L not by θ: only by h, at logits that are given. Where L is linear in h
this is ⟨∇ℓ_k, u⟩ for each of its parts ℓ_k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raremap.measure.terms.wide import wide

EPSILON = 0.003
"""Length of the step ±εu. At 0.1 the result bends (most with batch norms); below 0.0003 it drowns in float32."""


# Of the root mean square of all gradients: below it a parameter's gradient is rounding, as that of a bias
# before a batch norm. Adam walks at random there, a million times as fast per unit of gradient.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Ahead:
    """The optimizer's next step: its parameters, how far each moves per unit of gradient, and how far it will move."""

    parameters: list[Tensor]
    rates: list[Tensor]
    moves: list[Tensor]


def look_ahead(optimizer: torch.optim.Optimizer) -> Ahead:
    """The step that the optimizer would make next by what it holds, over the parameters that have a gradient.

    Rates are lr/(√v̂ + eps) where it keeps v, a mean or sum of squared gradients (Adam and its kin, RMSprop, Adagrad), and
    lr elsewhere (SGD). √v̂ is at least a ten-thousandth of its root mean square. It moves by rate times its mean gradient:
    that is at hand, costs no pass, and is less noisy than the gradient of one batch, which alone would carry
    Adam several times too far. Weight decay is left out; it does not depend on the loss.
    """
    owned = [(p, group) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    squares = [_mean_square(optimizer.state[p], group) for p, group in owned]
    known = [s for s in squares if s is not None]
    least = 0.0
    if known:
        total = float(torch.stack([s.to(wide(s.device)).sum() for s in known]).sum())
        least = _ROUNDING * (total / sum(s.numel() for s in known)) ** 0.5
    rates = [
        torch.full_like(p, float(group["lr"]))
        if square is None
        else float(group["lr"]) / (square.sqrt().clamp(min=least) + group["eps"])
        for (p, group), square in zip(owned, squares, strict=True)
    ]
    moves = [_move_of(p, optimizer.state[p], group, r) for (p, group), r in zip(owned, rates, strict=True)]
    return Ahead([p for p, _ in owned], rates, moves)


def _mean_square(kept: dict[str, Any], group: dict[str, Any]) -> Tensor | None:
    """Adam's v̂ of a parameter, RMSprop's v or Adagrad's sum, or None where the optimizer keeps none."""
    square = kept.get("max_exp_avg_sq", kept.get("exp_avg_sq"))
    if square is None:
        return kept.get("square_avg", kept.get("sum"))
    return square / (1 - group["betas"][1] ** float(kept["step"]))


def _move_of(p: Tensor, kept: dict[str, Any], group: dict[str, Any], rate: Tensor) -> Tensor:
    """The rate times the mean gradient that the optimizer goes by: Adam's m̂, SGD's momentum, else the last gradient."""
    if "exp_avg" in kept:
        return rate * (kept["exp_avg"] / (1 - group["betas"][0] ** float(kept["step"])))
    found = kept.get("momentum_buffer")
    if found is not None:
        return (
            float(group["lr"]) * found
        )  # RMSprop's has been divided by the root already, and SGD's has none
    assert p.grad is not None
    return rate * p.grad


def hypergradient(
    network: nn.Module,
    ahead: Ahead,
    validation: Callable[[], Iterable[Tensor]],
    forward: Callable[[], Tensor],
    inner: Callable[[Tensor, Tensor], Tensor],
    hyper: Tensor,
    epsilon: float = EPSILON,
) -> Tensor:
    """dV/dh, as long as `hyper`, for the step `ahead` of a training on the batch of `forward()`.

    `forward()` runs that batch through the network; `inner(logits, h)` is the training loss of its logits, differentiable
    by h. `validation()` gives V in pieces, which are summed and freed one after the other. The passes at θ ± εu are in
    float32. In all passes dropout is off, and batch norms that train use the batch's own statistics: with the
    running ones V would seem to gain by shifts of activations that they undo. Parameters, their gradients and
    running statistics are as before afterwards. It may not be finite where the losses are not.
    """
    parameters, rates = ahead.parameters, ahead.rates
    kept = [p.detach().clone() for p in parameters]
    device = parameters[0].device.type
    try:
        _move(parameters, kept, ahead.moves, -1.0)
        with _traceless(network):
            slope = _gradient(parameters, validation())
        direction = [r * s for r, s in zip(rates, slope, strict=True)]
        norm = float(torch.stack([d.to(wide(d.device)).square().sum() for d in direction]).sum().sqrt())
        if norm == 0:
            return torch.zeros_like(hyper)
        values = []
        with _traceless(network), torch.autocast(device, enabled=False):
            for sign in (1.0, -1.0):
                _move(parameters, kept, direction, sign * epsilon / norm)
                with torch.no_grad():
                    logits = forward()
                values.append(_by(inner, logits, hyper))
    finally:
        _move(parameters, kept, kept, 0.0)
    return -(values[0] - values[1]) * (norm / (2 * epsilon))


def _by(inner: Callable[[Tensor, Tensor], Tensor], logits: Tensor, hyper: Tensor) -> Tensor:
    """The inner loss's derivative by the numbers that weigh it."""
    h = hyper.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = inner(logits, h)
    if not value.requires_grad:  # nothing in this batch is weighed
        return torch.zeros_like(h)
    return torch.autograd.grad(value, h)[0]


def _gradient(parameters: Sequence[Tensor], pieces: Iterable[Tensor]) -> list[Tensor]:
    """Sum over the pieces of their gradient; `.grad` is not touched."""
    total = [torch.zeros_like(p) for p in parameters]
    for piece in pieces:
        found = torch.autograd.grad(piece, parameters, allow_unused=True)
        for t, g in zip(total, found, strict=True):
            if g is not None:
                t += g
    return total


@torch.no_grad()
def _move(
    parameters: Sequence[Tensor], start: Sequence[Tensor], direction: Sequence[Tensor], by: float
) -> None:
    """Set the parameters to start + by·direction; exactly to start where `by` is 0."""
    for p, s, d in zip(parameters, start, direction, strict=True):
        p.copy_(s if by == 0 else s + by * d)


@contextmanager
def _traceless(network: nn.Module) -> Iterator[None]:
    """Passes without dropout, and without moving the running statistics of batch norms that train."""
    modes = [(m, m.training) for m in network.modules()]
    norms = [m for m, trains in modes if trains and isinstance(m, _BatchNorm) and m.track_running_stats]
    try:
        network.eval()
        for module, trains in modes:
            if isinstance(module, _BatchNorm):
                module.training = trains
        for norm in norms:
            norm.track_running_stats = False  # torch then takes the batch's, and keeps nothing
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for module, trains in modes:
            module.training = trains
