"""Optimizers and their schedules, by name."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from raremap.learn.options import OptimizerOptions


class Schedule:
    """An optimizer's learning rate from step to step: `after_step` each step, `monitored` after each score."""

    def __init__(self, optimizer: torch.optim.Optimizer, options: OptimizerOptions, steps: int) -> None:
        self._steps, self._stepped = steps, 0
        self._optimizer, self._peak, self._rise = optimizer, options.lr, 0
        rates = torch.optim.lr_scheduler
        self._by_step: Any = None
        self._by_score: Any = None
        if options.schedule == "onecycle":
            low, high = _swing(options)
            self._by_step = rates.OneCycleLR(
                optimizer,
                max_lr=options.lr,
                total_steps=max(2, steps),
                pct_start=options.rise,
                cycle_momentum=high > 0,
                base_momentum=low,
                max_momentum=high,
            )
        elif options.schedule == "plateau":
            self._by_score = rates.ReduceLROnPlateau(
                optimizer, mode="max", factor=options.factor, patience=options.patience
            )
            self._rise = round(options.rise * steps)
            self._warm()
        else:
            self._by_step = rates.LambdaLR(optimizer, lambda step: _factor(options, step, steps))

    def after_step(self) -> None:
        """Move the rate; one-cycle refuses to be asked beyond its end."""
        self._stepped += 1
        self._warm()
        if self._by_step is not None and self._stepped < self._steps:
            self._by_step.step()

    def monitored(self, score: float) -> None:
        """Tell a plateau the latest score; while the rate still rises it does not ask."""
        if self._by_score is not None and self._stepped >= self._rise:
            self._by_score.step(score)

    def _warm(self) -> None:
        """The rate of a plateau while it rises; at its end the peak."""
        if self._stepped < self._rise:
            for group in self._optimizer.param_groups:
                group["lr"] = self._peak * (self._stepped + 1) / self._rise

    def state_dict(self) -> dict[str, Any]:
        """What the next rate depends on."""
        of = self._by_step or self._by_score
        return {"stepped": self._stepped, "of": None if of is None else of.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to a `state_dict`."""
        self._stepped = state["stepped"]
        of = self._by_step or self._by_score
        if of is not None:
            of.load_state_dict(state["of"])


def make_optimizer(options: OptimizerOptions, network: nn.Module, loss: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a network and of what its loss learns; that has no weight decay."""
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if of_loss := list(loss.parameters()):
        groups.append({"params": of_loss, "weight_decay": 0.0})
    o = options
    make = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "nadam": torch.optim.NAdam,
        "adagrad": torch.optim.Adagrad,
        "rmsprop": torch.optim.RMSprop,
        "sgd": torch.optim.SGD,
    }[o.kind]
    more: dict[str, Any] = {} if o.inertia is None else {"momentum": o.inertia}
    # One pass over all weights: a tenth of a small network's step is saved. Lightning does not clip in bf16 with it.
    here = all(p.device.type in ("cpu", "cuda") for p in network.parameters())
    if o.kind in ("adamw", "adam", "sgd") and o.clip is None and here:
        more["fused"] = True
    return make(groups, lr=o.lr, weight_decay=o.decay, **more)


def _swing(options: OptimizerOptions) -> tuple[float, float]:
    """Between what one-cycle moves the momentum, or Adam's first beta; zeros where there is none to move.

    Torch's 0.85 to 0.95 is 0.9 ± 0.05: so around any other. Above 0.99 it would hardly move the weights any more.
    """
    if options.kind == "adagrad" or options.inertia == 0:
        return 0.0, 0.0
    middle = 0.9 if options.inertia is None else options.inertia
    return max(0.0, middle - 0.05), max(middle, min(0.99, middle + 0.05))


def _factor(options: OptimizerOptions, step: int, steps: int) -> float:
    """The rate at a step, as a share of the peak: up in a straight line, then down to 0 or level."""
    rise = max(1, round(options.rise * steps))
    if step < rise:
        return (step + 1) / rise
    if options.schedule == "constant":
        return 1.0
    done = (step - rise) / max(1, steps - rise)
    if options.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return (1 - done) ** options.power
