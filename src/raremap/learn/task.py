"""The only LightningModule: one training step, and what has to happen between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from raremap.errors import TrainingError
from raremap.labels import IGNORE
from raremap.learn.options import OptimizerOptions
from raremap.measure.objective import Objective

# What comes with a batch for the loss beside its mask.
_MAPS = ("distance", "edge", "center", "worth")


class SegmentationTask(lightning.LightningModule):
    """A network, its loss and its optimizer; `after_step(step)` runs after each optimizer step.

    `delivered` counts the labelled pixels of each class that the loss has received.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Objective,
        optimizer: OptimizerOptions,
        steps: int,
        num_classes: int,
        after_step: Callable[[int], None],
    ) -> None:
        super().__init__()
        self.network, self.loss, self._options, self._steps = network, loss, optimizer, steps
        self._after_step = after_step
        self.step = 0
        self.delivered: Tensor
        self.register_buffer("delivered", torch.zeros(num_classes, dtype=torch.int64))
        # Sums since the last report, kept on the device: reading a number every step would stall a GPU.
        self._sums: dict[str, Tensor] = {}
        self._summed = 0
        self.optimizer, self.scheduler = self._make_optimizer()

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The loss of one batch."""
        mask = batch["mask"]
        logits = self.network(batch["image"].contiguous(memory_format=torch.channels_last))
        self.loss.advance(self.step / self._steps)
        maps = {name: batch[name] for name in _MAPS if name in batch}
        terms = self.loss(logits, mask, batch["prior"].mean(0), **maps)
        total = torch.stack(list(terms.values())).sum()
        k = len(self.delivered)
        self.delivered += torch.bincount(mask[mask != IGNORE], minlength=k)[:k]
        for name, value in {"loss": total, **(terms if len(terms) > 1 else {})}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._summed += 1
        return total

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the step, move the rate, and hand over to `after_step`."""
        self.step += 1
        if isinstance(self.scheduler, torch.optim.lr_scheduler.OneCycleLR) and self.step < self._steps:
            self.scheduler.step()
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

    def monitored(self, macro_f1: float) -> None:
        """Tell a plateau schedule the latest score."""
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(macro_f1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer; its schedule is moved by `on_train_batch_end`."""
        return self.optimizer

    def _make_optimizer(self) -> tuple[torch.optim.Optimizer, Any]:
        o = self._options
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[o.kind]
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        if of_loss := list(self.loss.parameters()):
            groups.append({"params": of_loss, "weight_decay": 0.0})
        optimizer = kind(groups, lr=o.lr, weight_decay=o.weight_decay)
        if o.schedule == "onecycle":
            # One step more than is taken: the schedule refuses to be asked beyond its end.
            scheduler = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, max_lr=o.lr, total_steps=max(2, self._steps), pct_start=o.warmup
            )
        elif o.schedule == "plateau":
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, mode="max", factor=o.factor, patience=o.patience
            )
        else:
            scheduler = None
        return optimizer, scheduler

    def progress_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
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
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        self.delivered.copy_(state["delivered"])
        self._sums, self._summed = state["sums"], state["summed"]
