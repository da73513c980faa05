"""What a training step may add to the loss beside the terms on labels: an `Extra`; and the teacher's pseudo-labels.

extra = PseudoLabels(options, network, num_classes, seed)
extra.filled(batch)                         # the mask for terms of regions
terms |= extra(network, batch, logits)      # in the step, after the forward pass
extra.after_step(network)                   # after the optimizer's
checkpoint["extra"] = extra.state()         # extra.restore(...) goes on with the same numbers
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raremap.labels import IGNORE
from raremap.learn.average import MovingAverage
from raremap.learn.options import PseudoOptions
from raremap.measure.terms.festa import Festa
from raremap.models.outputs import Outputs


class Extra(Protocol):
    """Terms that a training step adds to its loss, with a state of their own."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the terms."""
        ...

    def __call__(self, network: nn.Module, batch: dict[str, Tensor], logits: Tensor) -> dict[str, Tensor]:
        """Terms by name, of the batch (`image`, `mask`, perhaps `valid`) and the network's logits of it."""
        ...

    def filled(self, batch: dict[str, Tensor]) -> Tensor | None:
        """A mask for terms of regions, where it is not the batch's own."""
        ...

    def after_step(self, network: nn.Module) -> None:
        """Follow the network after an optimizer's step."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `state`."""
        ...


def valid_pixels(batch: dict[str, Tensor]) -> Tensor:
    """Pixels `[B, H, W]` with imagery: `valid` of the batch, or else those that are not 0 in every band."""
    valid = batch.get("valid")
    # A normalised pixel is 0 in every band where it was invalid or beyond the tile, and nowhere else.
    return (batch["image"] != 0).any(1) if valid is None else valid.bool()


class PseudoLabels:
    """An `Extra`: cross-entropy on what a moving average of the network says of unlabelled ground.

    The term `pseudo` is the sum over pseudo-labelled pixels divided by all unlabelled valid ones, so that
    it grows as the teacher becomes sure (as in FixMatch). It works on plain logits, as the teacher's scores do:
    both have the prior that the network learns. `thresholds` after FlexMatch (Zhang et al. 2021), with the
    mean probability of the pixels that the teacher gives to a class in the place of their number above
    the threshold: in a number a rare class is always behind, however well it is known.
    """

    names = ("pseudo",)

    def __init__(self, options: PseudoOptions, network: nn.Module, num_classes: int, seed: int = 0) -> None:
        self.options = options
        self.teacher = MovingAverage(network, options.decay)
        device = next(network.parameters()).device
        self.sureness = torch.zeros(num_classes, device=device)
        self._known = torch.zeros(num_classes, dtype=torch.bool, device=device)
        self._steps = 0
        self._last: tuple[Tensor, Tensor] | None = None
        # On the processor: the same numbers for every device.
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def thresholds(self) -> Tensor:
        """What the teacher's probability of each class has to reach, `[K]`; the full one of a class it never saw."""
        best = self.sureness.max().clamp(min=1e-12)
        share = torch.where(self._known, self.sureness / best, 1.0)
        return (self.options.threshold * share).clamp(min=self.options.floor)

    def pseudo(self, mask: Tensor, probs: Tensor, valid: Tensor | None = None) -> Tensor:
        """The mask `[B, H, W]` with the teacher's classes where it is sure of them; labels stay as they are.

        `probs` are the teacher's `[B, K, H, W]`. Invalid pixels stay `IGNORE`.
        """
        top, index = probs.max(1)
        free = mask == IGNORE if valid is None else (mask == IGNORE) & valid
        return torch.where(free & (top >= self.thresholds.to(top)[index]), index, mask)

    @torch.no_grad()
    def filled(self, batch: dict[str, Tensor]) -> Tensor:
        """The batch's mask with the teacher's pseudo-labels: what region terms work on; nothing before step `start`."""
        if self._steps < self.options.start:
            return torch.full_like(batch["mask"], IGNORE)
        return self.pseudo(batch["mask"], self._scores(batch), valid_pixels(batch))

    def __call__(self, network: nn.Module, batch: dict[str, Tensor], logits: Tensor) -> dict[str, Tensor]:
        """The term `pseudo`; 0 before step `start`. The teacher looks at the batch and its `sureness` moves."""
        free = (batch["mask"] == IGNORE) & valid_pixels(batch)
        with torch.no_grad():
            probs = self._scores(batch)
            self._look(probs, free)
            found = self.pseudo(batch["mask"], probs, free)
            found = found.masked_fill(~free, IGNORE)
        if self._steps < self.options.start:
            return {"pseudo": (logits * 0).sum()}
        seen = Outputs.of(network(self._changed(batch))).logits if self.options.strong else logits
        costs = F.cross_entropy(seen.float(), found, ignore_index=IGNORE, reduction="sum")
        return {"pseudo": self.options.weight * costs / free.sum().clamp(min=1)}

    def after_step(self, network: nn.Module) -> None:
        """Move the teacher."""
        self._steps += 1
        self._last = None
        self.teacher.update(network)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "teacher": self.teacher.state(),
            "sureness": self.sureness,
            "known": self._known,
            "steps": self._steps,
            "generator": self._generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `state`."""
        self.teacher.restore(state["teacher"])
        self.sureness.copy_(state["sureness"])
        self._known.copy_(state["known"])
        self._steps = state["steps"]
        self._generator.set_state(state["generator"])

    def _scores(self, batch: dict[str, Tensor]) -> Tensor:
        """The teacher's probabilities, once for each batch."""
        if self._last is None or self._last[0] is not batch["image"]:
            self._last = (batch["image"], torch.softmax(self.teacher.network(batch["image"]).float(), 1))
        return self._last[1]

    def _look(self, probs: Tensor, free: Tensor) -> None:
        """Move the mean probability of the pixels that the teacher gives to each class."""
        top, index = (t[free] for t in probs.max(1))
        k = len(self.sureness)
        number = torch.bincount(index, minlength=k)
        mean = torch.zeros(k, device=top.device).index_add_(0, index, top) / number.clamp(min=1)
        keep = torch.where(self._known, self.options.momentum, 0.0)
        self.sureness = torch.where(number > 0, keep * self.sureness + (1 - keep) * mean, self.sureness)
        self._known = self._known | (number > 0)

    def _changed(self, batch: dict[str, Tensor]) -> Tensor:
        """The images with another gain and offset of each band, and noise; invalid pixels stay 0."""
        image, size = batch["image"], self.options.strong
        gain, offset = (torch.randn(2, *image.shape[:2], 1, 1, generator=self._generator) * size).to(image)
        noise = (torch.randn(image.shape, generator=self._generator) * size).to(image)
        out = (image * gain.exp() + offset + noise) * valid_pixels(batch).unsqueeze(1)
        return out.contiguous(memory_format=torch.channels_last)


class FestaExtra:
    """An `Extra`: FESTA on the class probabilities, with pixels drawn from a seed."""

    names = ("festa",)

    def __init__(self, options: Festa, seed: int = 0) -> None:
        self.options = options
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, network: nn.Module, batch: dict[str, Tensor], logits: Tensor) -> dict[str, Tensor]:
        """The term `festa`, of all valid pixels, labelled or not."""
        probs = torch.softmax(logits.float(), 1)
        return {"festa": self.options(probs, valid_pixels(batch), self._generator)}

    def filled(self, batch: dict[str, Tensor]) -> None:
        """Regions are those of the labels."""

    def after_step(self, network: nn.Module) -> None:
        """Nothing moves."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"generator": self._generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `state`."""
        self._generator.set_state(state["generator"])


class Together:
    """Several extras as one."""

    def __init__(self, extras: dict[str, Extra]) -> None:
        self.extras = extras

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the terms of all."""
        return tuple(name for extra in self.extras.values() for name in extra.names)

    def __call__(self, network: nn.Module, batch: dict[str, Tensor], logits: Tensor) -> dict[str, Tensor]:
        """The terms of all."""
        return {k: v for extra in self.extras.values() for k, v in extra(network, batch, logits).items()}

    def filled(self, batch: dict[str, Tensor]) -> Tensor | None:
        """The mask of the first that has one."""
        masks = (extra.filled(batch) for extra in self.extras.values())
        return next((mask for mask in masks if mask is not None), None)

    def after_step(self, network: nn.Module) -> None:
        """Tell all."""
        for extra in self.extras.values():
            extra.after_step(network)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: extra.state() for name, extra in self.extras.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `state`."""
        for name, extra in self.extras.items():
            extra.restore(state[name])


def extra_of(
    pseudo: PseudoOptions | None, festa: Festa | None, network: nn.Module, num_classes: int, seed: int
) -> Extra | None:
    """The extra that an experiment asks for; None where it asks for none."""
    chosen: dict[str, Extra] = {}
    if pseudo is not None:
        chosen["pseudo"] = PseudoLabels(pseudo, network, num_classes, seed)
    if festa is not None:
        chosen["festa"] = FestaExtra(festa, seed)
    return Together(chosen) if chosen else None
