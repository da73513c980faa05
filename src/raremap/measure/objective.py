"""`Objective`: the loss of one training, with all that it keeps from batch to batch.

Axes: B batch, K classes, T terms, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from raremap.measure.hialf import Hybrid
from raremap.measure.losses import Part
from raremap.measure.terms import Boundary, Prior
from raremap.measure.terms.view import View


class Objective(nn.Module):
    """Terms by name, each with its class weights, summed plainly or by what `balance` makes of them.

    `maps` are the names of what must come with a batch beside its mask.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        num_classes: int,
        weights: Mapping[str, np.ndarray | None],
        tau: float | None,
        natural: np.ndarray | None,
        balance: Hybrid | None,
    ) -> None:
        super().__init__()
        self.names, self.num_classes, self.tau = tuple(parts), num_classes, tau
        self.options = {name: part.term for name, part in parts.items()}
        self._factors = [part.factor for part in parts.values()]
        built = {name: part.term.build(num_classes) for name, part in parts.items()}
        self._terms = built
        self.kept = nn.ModuleDict({name: term for name, term in built.items() if isinstance(term, nn.Module)})
        self.balance = balance
        self._weighted = [name for name in self.names if weights[name] is not None]
        for name in self._weighted:
            self.register_buffer(f"weights_{name}", _tensor(weights[name]), persistent=False)
        self.natural: Tensor | None
        self.register_buffer("natural", None if natural is None else _tensor(natural), persistent=False)

    @property
    def maps(self) -> tuple[str, ...]:
        """Maps that the terms ask for: `distance`, `edge`, `center`."""
        return tuple(dict.fromkeys(m for term in self.options.values() for m in term.maps))

    @property
    def boundary(self) -> Boundary:
        """The options that distance maps are made by: those of the boundary term, or its defaults."""
        return next((t for t in self.options.values() if isinstance(t, Boundary)), Boundary())

    def class_weights(self, name: str) -> Tensor | None:
        """Class weights `[K]` of a term; None where it has none."""
        return getattr(self, f"weights_{name}") if name in self._weighted else None

    def view(self, logits: Tensor, target: Tensor, prior: Tensor | None = None, **maps: Tensor) -> View:
        """A batch as the terms see it, with the class shares `[K]` of its stream."""
        known = self.tau is not None and prior is not None and self.natural is not None
        of = Prior(prior, self.natural, self.tau) if known else None  # pyright: ignore[reportArgumentType]
        return View(logits, target, prior=of, **maps)  # pyright: ignore[reportArgumentType]

    def values(self, view: View) -> Tensor:
        """The terms as they are, `[T]`, without factors."""
        return torch.stack([self._terms[name].of(view, self.class_weights(name)) for name in self.names])

    def forward(
        self, logits: Tensor, target: Tensor, prior: Tensor | None = None, **maps: Tensor
    ) -> dict[str, Tensor]:
        """The terms of a batch by name, weighed; their sum is the loss.

        Logits `[B, K, H, W]`; target a class index `[B, H, W]` or fractions `[B, K, H, W]`.
        """
        values = self.values(self.view(logits, target, prior, **maps))
        if self.balance is not None:
            weighed, more = self.balance(values, logits)
            return dict(zip(self.names, weighed.unbind(), strict=True)) | more
        return {n: f * v for n, f, v in zip(self.names, self._factors, values.unbind(), strict=True)}

    def advance(self, share: float) -> None:
        """Say how much of the training is done, from 0 to 1."""
        if self.balance is not None:
            self.balance.done = share

    @property
    def logged_names(self) -> list[str]:
        """Columns of a training's log: the terms as they entered the loss, and their weights."""
        more = ["uncertainty"] if self.balance is not None and self.balance.uncertainty is not None else []
        return [*self.names, *more, *self.logged()]

    def logged(self) -> dict[str, float]:
        """Present weights of the terms, as `lambda/NAME`; empty for a plain sum."""
        if self.balance is None:
            return {}
        return {f"lambda/{n}": float(x) for n, x in zip(self.names, self.balance.current(), strict=True)}

    def learned_prior(self, natural: np.ndarray, delivered: np.ndarray) -> np.ndarray:
        """The class shares `[K]` that the scores take for granted.

        Of natural class shares, and of those of the pixels that the loss received: without a prior in the loss
        it is these, times the class weights of the first term that has some.
        """
        if self.tau is None:
            first = next((self.class_weights(n) for n in self._weighted), None)
            shares = delivered if first is None else delivered * first.double().cpu().numpy()
        else:
            shares = np.where(natural > 0, np.where(natural > 0, natural, 1.0) ** (1 - self.tau), 0.0)
        return shares / max(shares.sum(), 1e-12)


def _tensor(values: np.ndarray | None) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)
