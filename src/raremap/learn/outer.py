"""The outer loop: class offsets φ and term weights λ, learned on monitor places while a network trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raremap.labels import IGNORE
from raremap.learn.hypergradient import hypergradient, look_ahead
from raremap.learn.options import OuterOptions
from raremap.measure.objective import truth_of
from raremap.models.outputs import Outputs

Batch = dict[str, Tensor]
Inner = Callable[[Tensor, Batch, Tensor, Tensor], Tensor]
"""The training loss of logits, batch, class weights `[K]` and term weights `[T]`, differentiable by both weights.

It must keep no statistic of what it is given: it is called twice an update at parameters that training never has.
"""

# Memory of each half's mean, and of the squares that give the steps their scale.
_MEAN, _SQUARE = 0.8, 0.99


class Outer:
    """φ and λ, moved every few steps down the gradient of class-balanced cross-entropy on monitor places.

    Both are factors of what the options say, in logarithms and 0 at first. φ has the mean 0 over the classes; the
    weights λ keep their sum: what is learned is what counts more than what, not the rate of the network.
    Each stays within 1/`bound` and `bound`, and of a class's offset n/(n + `shrink`) is in force, n its
    `objects` in the monitor places.

    `monitor(update)` gives the crops of an update, in batches of "image" and "mask": of one half of the
    monitor's places at even updates, of the other at odd ones (`halves_of`). It must depend on nothing but
    `update`, so that a resumed training sees the same. Each half keeps a mean gradient of its own, and a
    step is as large as they agree: (m₁ + m₂)/2 · max(0, 2·m₁·m₂/(m₁² + m₂²)), over the root of the mean
    square as in Adam. A number that only one half has spoken of moves half as far, and a class that the update's
    crops or the training's batch do not hold not at all: that it should count less is all they could say.
    """

    def __init__(
        self,
        options: OuterOptions,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        inner: Inner,
        monitor: Callable[[int], Sequence[Batch]],
        num_classes: int,
        steps: int,
        terms: Sequence[float] = (1.0,),
        objects: np.ndarray | None = None,
        bf16: bool = False,
    ) -> None:
        """`terms` are the weights λ starts from, `steps` the length of the training.

        With `bf16` the monitor crops go through the network in it; the perturbed passes never do.
        """
        self._options, self._network, self._optimizer = options, network, optimizer
        self._inner, self._monitor, self.bf16 = inner, monitor, bf16
        self._classes, self._steps = num_classes, steps
        self._terms = torch.tensor(tuple(terms), dtype=torch.float64)
        reach = np.ones(num_classes)
        if objects is not None and options.shrink:
            reach = np.asarray(objects, np.float64) / (np.asarray(objects, np.float64) + options.shrink)
        self._reach = torch.from_numpy(reach)
        learned = [options.classes != "none"] * num_classes
        learned += [options.terms and int((self._terms > 0).sum()) > 1] * len(self._terms)
        self._learned = torch.tensor(learned) & torch.cat([self._reach > 0, self._terms > 0])
        size = len(self._learned)
        self._free = torch.zeros(size, dtype=torch.float64)
        self._mean, self._spoke = torch.zeros(2, size, dtype=torch.float64), torch.zeros(2, size).double()
        self._square = torch.zeros(size, dtype=torch.float64)
        self.updates, self.skipped, self.seconds = 0, 0, 0.0

    # --- what is in force

    @property
    def offsets(self) -> np.ndarray:
        """φ of the stream's target, float64 `[K]`: what `target_shares` takes as `offsets`."""
        return (self._phi * (1 - self._of_loss)).numpy()

    @property
    def class_weights(self) -> Tensor:
        """Factors of the loss's class weights, float32 `[K]` with mean 1."""
        return self._weights(self._free)[0].float()

    @property
    def term_weights(self) -> Tensor:
        """λ, float32 `[T]` with the sum that the terms had at first."""
        return self._weights(self._free)[1].float()

    @property
    def _phi(self) -> Tensor:
        return self._free[: self._classes] * self._reach

    @property
    def _of_loss(self) -> float:
        """How much of φ is class weights; the stream has the rest, so that nothing counts twice."""
        return {"weights": 1.0, "both": 0.5, "stream": 0.0, "none": 1.0}[self._options.classes]

    def _weights(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Class weights `[K]` and term weights `[T]`, differentiable.

        The part of φ that is in the stream has the derivative of a class weight too: to show a class more
        and to count it more move the mean gradient alike.
        """
        phi = free[: self._classes] * self._reach
        classes = (phi - (1 - self._of_loss) * phi.detach()).exp()
        terms = self._terms * free[self._classes :].exp()
        return classes / classes.mean(), terms * (self._terms.sum() / terms.sum().clamp(min=1e-12))

    # --- an update

    def due(self, step: int) -> bool:
        """Whether there is an update after this step (1 is the first)."""
        o = self._options
        return o.warmup * self._steps <= step < self._steps and step % o.every == 0

    def step(self, step: int, batch: Batch) -> bool:
        """Move φ and λ where that is due; True where they were moved.

        To be called after the optimizer's step on `batch`: what the optimizer holds of the gradients is the
        look-ahead, and no further pass is made for it. An update without a labelled pixel, or with a loss that is not a number, is skipped
        and counted in `skipped`.
        """
        if not self.due(step) or not bool(self._learned.any()):
            return False
        started = time.perf_counter()
        crops = self._monitor(self.updates)
        counts = sum((_counts(c["mask"], self._classes) for c in crops), torch.zeros(self._classes).double())
        found = self._hypergradient(batch, crops, counts) if bool((counts > 0).any()) else None
        moved = found is not None and bool(found.isfinite().all())
        if found is not None and moved:
            self._descend(found, (counts > 0) & (_counts(truth_of(batch), self._classes) > 0))
        self.skipped += not moved
        self.updates += 1
        self.seconds += time.perf_counter() - started
        return moved

    def _hypergradient(self, batch: Batch, crops: Sequence[Batch], counts: Tensor) -> Tensor:
        ahead = look_ahead(self._optimizer)
        assert ahead.parameters, "the outer loop needs the gradients of the step before it"
        device = ahead.parameters[0].device

        def inner(logits: Tensor, free: Tensor) -> Tensor:
            classes, terms = (w.float().to(device) for w in self._weights(free))
            return self._inner(logits, batch, classes, terms)

        return hypergradient(
            self._network,
            ahead,
            lambda: self._objective(crops, counts, device),
            lambda: self._logits(batch, device),
            inner,
            self._free,
        )

    def _objective(self, crops: Sequence[Batch], counts: Tensor, device: torch.device) -> Iterator[Tensor]:
        """Class-balanced cross-entropy of raw logits: the mean over the classes present of each class's mean."""
        weight = torch.where(counts > 0, 1 / (counts * (counts > 0).sum()).clamp(min=1e-12), 0.0)
        weight = weight.float().to(device)  # not every device has float64
        for crop in crops:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
                logits = self._logits(crop, device)
            mask = crop["mask"].to(device)
            yield F.cross_entropy(logits.float(), mask, weight, ignore_index=IGNORE, reduction="sum")

    def _logits(self, batch: Batch, device: torch.device) -> Tensor:
        image = batch["image"].to(device).contiguous(memory_format=torch.channels_last)
        return Outputs.of(self._network(image)).logits

    def _descend(self, gradient: Tensor, present: Tensor) -> None:
        """One step of the rule that the class describes."""
        speaks = self._learned & (gradient != 0)
        # One class alone has nothing to be weighed against: its gradient is rounding.
        speaks[: self._classes] &= present & (present.sum() > 1)
        half = self.updates % 2
        self._spoke[half] += speaks
        for kept, new, memory in (
            (self._mean[half], gradient, _MEAN),
            (self._square, gradient.square(), _SQUARE),
        ):
            kept.copy_(torch.where(speaks, memory * kept + (1 - memory) * new, kept))
        # Corrected as in Adam; a half that has not spoken stays 0.
        mean = self._mean / (1 - _MEAN**self._spoke).clamp(min=1e-12)
        scale = (self._square / (1 - _SQUARE ** self._spoke.sum(0)).clamp(min=1e-12)).sqrt()
        both = (self._spoke > 0).all(0)
        together = torch.where(both, mean.mean(0), mean.sum(0))
        alike = 2 * mean.prod(0) / mean.square().sum(0).clamp(min=1e-300)
        agreement = torch.where(both, alike.clamp(min=0), 0.5)
        by = self._options.lr * agreement * together / scale.clamp(min=1e-150)
        self._free -= torch.where(speaks, by, 0.0)
        for part in (slice(self._classes), slice(self._classes, None)):
            learned = self._learned[part]
            if bool(learned.any()):
                # Only differences count; a common drift would only use up the bounds.
                middle = self._free[part][learned].mean()
                self._free[part] = torch.where(learned, self._free[part] - middle, 0.0)
        self._free.clamp_(-np.log(self._options.bound), np.log(self._options.bound))

    # --- a training that goes on

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        kept = {name: getattr(self, f"_{name}").tolist() for name in ("free", "mean", "spoke", "square")}
        return {**kept, "updates": self.updates, "skipped": self.skipped, "seconds": self.seconds}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `state`."""
        for name in ("free", "mean", "spoke", "square"):
            setattr(self, f"_{name}", torch.tensor(state[name], dtype=torch.float64))
        self.updates, self.skipped = int(state["updates"]), int(state["skipped"])
        self.seconds = float(state["seconds"])


def linear(parts: Callable[[Tensor, Batch], Tensor], terms: int = 1) -> Inner:
    """The inner loss Σ w_k ℓ_k of parts `[K + T']`: each class's share of the cross-entropy, then further terms.

    The class parts sum to the mean cross-entropy of the batch; their sum by class weight is the first of the
    `terms`, the others are those that follow.
    """

    def inner(logits: Tensor, batch: Batch, classes: Tensor, weights: Tensor) -> Tensor:
        found = parts(logits, batch)
        k = len(classes)
        if len(found) != k + terms - 1:
            raise ValueError(f"parts are {len(found)}; expected {k} classes and {terms - 1} further terms")
        return weights[0] * (classes * found[:k]).sum() + (weights[1:] * found[k:]).sum()

    return inner


def halves_of(places: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the two halves of the monitor tiles, for their places `[N]` and class counts `[N, K]`.

    A place is in one half. Those that hold most of a class are dealt first, each to the half that has less of what it
    holds, so that both hold as many classes as can be. A single place with labels is both halves.
    """
    names, of = np.unique(places, return_inverse=True)
    held = np.zeros((len(names), counts.shape[1]))
    np.add.at(held, of, counts)
    if (held.sum(1) > 0).sum() < 2:
        return np.arange(len(places)), np.arange(len(places))
    held /= np.maximum(held.sum(0), 1e-12)
    has = np.zeros((2, counts.shape[1]))
    half = np.zeros(len(names), np.int64)
    for place in np.argsort(-held.max(1), kind="stable"):
        # Equal in what it holds (a class of its own): the half with less in all.
        half[place] = min((0, 1), key=lambda h: (has[h] @ held[place], has[h].sum()))
        has[half[place]] += held[place]
    return np.flatnonzero(half[of] == 0), np.flatnonzero(half[of] == 1)


def _counts(mask: Tensor, num_classes: int) -> Tensor:
    """Labelled pixels, or area, of each class, float64 `[K]` on the CPU."""
    if mask.is_floating_point():
        return mask.nan_to_num(0.0).sum((0, 2, 3)).cpu().double()
    return torch.bincount(mask[mask != IGNORE].flatten().cpu(), minlength=num_classes)[:num_classes].double()
