"""The only LightningModule: one training step, and what has to happen between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from raremap.errors import TrainingError
from raremap.labels import IGNORE
from raremap.learn.average import MovingAverage
from raremap.learn.optim import Schedule, make_optimizer
from raremap.learn.options import OptimizerOptions
from raremap.learn.outer import Outer
from raremap.learn.teacher import Extra
from raremap.learn.team import ALONE, Team
from raremap.measure.objective import Objective, maps_of, truth_of
from raremap.models.outputs import Outputs, losses_of
from raremap.scene.shares import STEPS


class SegmentationTask(lightning.LightningModule):
    """A network, its loss and its optimizer; `after_step(step)` runs after each optimizer step.

    `delivered` counts the labelled pixels of each class that the loss has received, from all of a team, or steps of
    their shares.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Objective,
        optimizer: OptimizerOptions,
        steps: int,
        num_classes: int,
        after_step: Callable[[int], None],
        ema: float | None = None,
        extra: Extra | None = None,
        team: Team = ALONE,
    ) -> None:
        super().__init__()
        self._team = team
        self.network, self.loss, self._steps = network, loss, steps
        self._after_step = after_step
        self.step = 0
        self.delivered: Tensor
        self.register_buffer("delivered", torch.zeros(num_classes, dtype=torch.int64))
        # Sums since the last report, kept on the device: reading a number every step would stall a GPU.
        self._sums: dict[str, Tensor] = {}
        self._summed = 0
        self.optimizer = make_optimizer(optimizer, network, loss)
        self.schedule = Schedule(self.optimizer, optimizer, steps)
        self.average = None if ema is None else MovingAverage(network, ema)
        self.extra = extra
        self.outer: Outer | None = None

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The loss of one batch."""
        mask, truth = batch["mask"], truth_of(batch)
        result = self.network(batch["image"].contiguous(memory_format=torch.channels_last))
        logits = Outputs.of(result).logits
        self.loss.advance(self.step / self._steps)
        regions = self.regions(batch)
        terms = losses_of(
            result,
            self.loss,
            truth,
            regions=regions,
            aside=self.loss.aside,
            maps=maps_of(batch),
            pool=self.loss.pool,
            prior=batch["prior"].mean(0),
        )
        if self.extra is not None:
            terms |= self.extra(self.network, batch, logits)
        total = torch.stack(list(terms.values())).sum()
        k = len(self.delivered)
        if truth.is_floating_point():
            delivered = (truth.sum((0, 2, 3)) * STEPS).round().long()
        else:
            delivered = torch.bincount(mask[mask != IGNORE], minlength=k)[:k]
        self.delivered += self._team.summed(delivered)
        for name, value in {"loss": total, **(terms if len(terms) > 1 else {})}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._summed += 1
        return total

    def regions(self, batch: dict[str, Tensor]) -> Tensor | None:
        """The truth of terms of regions, where it is not the batch's own."""
        filled = None if self.extra is None else self.extra.filled(batch)
        return None if filled is None else truth_of(batch, filled)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the step, move the rate, and hand over to `after_step`."""
        self.step += 1
        if self.outer is not None and self.outer.step(self.step, batch):
            self.loss.set(
                self.outer.class_weights, self.outer.term_weights if self.loss.learns_terms else None
            )
        self.schedule.after_step()
        if self.average is not None:
            self.average.update(self.network)
        if self.extra is not None:
            self.extra.after_step(self.network)
        self._after_step(self.step)

    def means(self) -> dict[str, float]:
        """Mean loss and terms since the last call; raises `TrainingError` where the loss is not a number."""
        values = {name: float(value) / self._summed for name, value in self._sums.items()}
        self._sums, self._summed = {}, 0
        if not all(abs(v) < float("inf") for v in values.values()):
            rate = self.optimizer.param_groups[0]["lr"]
            raise TrainingError(
                f"the loss is {values['loss']} by step {self.step} (learning rate {rate:.2g}); "
                "lower optimizer.lr, or check the bands for values out of range"
            )
        return values

    @property
    def scored(self) -> nn.Module:
        """The network that is scored and kept: the one that trains, or the average of its weights."""
        return self.network if self.average is None else self.average.network

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer; its schedule is moved by `on_train_batch_end`."""
        return self.optimizer

    def progress_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average and self.average.state(),
            "extra": self.extra and self.extra.state(),
            "outer": self.outer and self.outer.state(),
            "delivered": self.delivered,
            "sums": self._sums,
            "summed": self._summed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `progress_state`."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.restore(state["average"])
        if self.extra is not None:
            self.extra.restore(state["extra"])
        if self.outer is not None:
            self.outer.restore(state["outer"])
        self.delivered.copy_(state["delivered"])
        self._sums, self._summed = state["sums"], state["summed"]
