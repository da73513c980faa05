"""HIALF while it trains: terms on their own scale, and weights that move.

`Hialf` in `losses` says what each weighting is, and where it comes from. Axes: T terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from raremap.errors import ConfigError

if TYPE_CHECKING:
    from raremap.measure.losses import Hialf, Part

# A term near 0 would be blown up by its own scale.
_LEAST_SCALE = 1e-2
_LIMIT = 4.0


class Hybrid(nn.Module):
    """Scale and weights of T terms, in buffers that a checkpoint saves. It moves in training mode only."""

    base: Tensor
    scale: Tensor
    known: Tensor
    lam: Tensor
    sums: Tensor
    means: Tensor
    first: Tensor

    def __init__(self, options: Hialf, parts: Sequence[Part], natural: np.ndarray | None) -> None:
        super().__init__()
        self._o, count = options, len(parts)
        factors = torch.tensor([p.factor for p in parts])
        self._total = float(factors.sum())
        self._ramped = torch.tensor([p.term.kind == "boundary" for p in parts])
        if options.weighting == "frequency":
            if natural is None:
                raise ConfigError("loss weighting 'frequency' follows from natural class shares; give them")
            factors = factors * _by_frequency(natural, [p.term.region for p in parts])
            factors = factors * self._total / factors.sum()
        self.register_buffer("base", factors)
        self.register_buffer("scale", torch.ones(count))
        self.register_buffer("known", torch.zeros(count, dtype=torch.bool))  # terms that have had a value
        self.register_buffer("lam", factors.clone())
        self.register_buffer("sums", torch.zeros(count))
        self.register_buffer("means", torch.full((2, count), float("nan")))  # the last and the one before
        self.register_buffer("first", torch.full((count,), float("nan")))
        self.uncertainty = nn.Parameter(torch.zeros(count)) if options.weighting == "uncertainty" else None
        self.done = 0.0
        self._seen = 0  # a plain number: asking a device for one every step would stall it

    def forward(
        self, values: Tensor, logits: Tensor, pool: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Terms `[T]`, weighed, and what else belongs to the loss by name; `pool` sums over shares of the batch."""
        if self.training:
            self._look(values.detach())
        if self.uncertainty is not None:
            s = self.uncertainty
            factors = self.base * self.ramp(values)
            return 0.5 * factors * torch.exp(-s) * values, {"uncertainty": 0.5 * (factors * s).sum()}
        scaled = self.scaled(values)
        if self.training and self._o.weighting == "gradnorm" and self._due() and logits.requires_grad:
            self._even_pull(scaled, logits, pool)
        return self.current().to(values.device) * scaled, {}

    def scaled(self, values: Tensor) -> Tensor:
        """Terms `[T]` on the scale that they are weighed on: their own, but that of `uncertainty` is theirs as they are."""
        return values if self.uncertainty is not None else values / self.scale

    @property
    def follows_outer(self) -> bool:
        """Whether λ is for the outer loop to set."""
        return self._o.weighting == "outer"

    @property
    def weights(self) -> Tensor:
        """λ `[T]` as it is now, but for the ramp."""
        if self.uncertainty is None:
            return self.lam
        return 0.5 * self.base * torch.exp(-self.uncertainty.detach().clamp(-_LIMIT, _LIMIT))

    def current(self) -> Tensor:
        """λ `[T]` as it is now, the ramp included."""
        return self.weights * self.ramp(self.lam)

    def set(self, weights: Tensor) -> None:
        """Take λ `[T]` from outside (the outer loop); they are brought to the sum of the factors."""
        self.lam.copy_(weights * self._total / weights.sum())

    def get_extra_state(self) -> dict[str, int]:
        """Batches seen."""
        return {"seen": self._seen}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Back to what `get_extra_state` gave."""
        self._seen = int(state["seen"])

    def ramp(self, like: Tensor) -> Tensor:
        """How far each term has grown in, `[T]` from 0 to 1."""
        grown = 1.0 if self._o.ramp == 0 else min(1.0, self.done / self._o.ramp)
        return torch.where(self._ramped.to(like.device), grown, 1.0)

    def _look(self, values: Tensor) -> None:
        """Follow the scale of the terms, and what the weighting goes by."""
        values = torch.nan_to_num(values)
        if self.uncertainty is not None:
            # Here and not in the loss: beyond a bound s would have no slope to come back by.
            with torch.no_grad():
                self.uncertainty.clamp_(-_LIMIT, _LIMIT)
        # All are exactly 0 where a batch has no label, and one until its classes come up: that is no scale.
        spoke = values != 0
        keep = torch.where(self.known, self._o.momentum, 0.0)
        moved = (keep * self.scale + (1 - keep) * values.abs()).clamp(min=_LEAST_SCALE)
        self.scale.copy_(torch.where(spoke | (self.known & spoke.any()), moved, self.scale))
        self.known |= spoke
        self._seen += 1
        self.sums += values
        if self._due():
            self.means.copy_(torch.stack([self.sums / self._o.every, self.means[0]]))
            self.sums.zero_()
            if self.first.isnan().any():
                self.first.copy_(self.means[0])
            if self._o.weighting == "dwa" and not self.means.isnan().any():
                ratio = _ratio(self.means[0], self.means[1]).clamp(0, _LIMIT)
                share = torch.softmax(ratio / self._o.temperature, 0)
                self.set(self.base * share)

    def _due(self) -> bool:
        return self._seen > 0 and self._seen % self._o.every == 0

    def _even_pull(
        self, scaled: Tensor, logits: Tensor, pool: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Move λ halfway to where every term's gradient at the logits has the size that its lag asks for."""
        pull = torch.stack(
            [
                torch.linalg.vector_norm(torch.autograd.grad(one, logits, retain_graph=True)[0].float())
                for one in scaled.unbind()
            ]
        ).detach()
        pull = pull if pool is None else pool(pull.square()).sqrt()
        lag = _ratio(self.means[0], self.first).clamp(1e-3, 1e3)
        wanted = (lag / lag.mean()) ** self._o.alpha
        if not torch.isfinite(pull).all() or (pull <= 0).any():
            return  # a term without a pull now, such as a boundary that no crop holds, says nothing
        goal = self.base * wanted / pull
        goal = goal * self._total / goal.sum()
        low, high = self.base / _LIMIT, self.base * _LIMIT
        self.set((0.5 * self.lam + 0.5 * goal).clamp(low, high))


def _ratio(now: Tensor, before: Tensor) -> Tensor:
    """Values over earlier ones; of one that was negative, as boundary terms may be, it is below 1 too where it fell."""
    return 1 + (now - before) / before.abs().clamp(min=_LEAST_SCALE)


def _by_frequency(natural: np.ndarray, region: Sequence[bool]) -> Tensor:
    """2(1 − u) for pixel terms, 2u for region terms, u the unevenness of the natural shares."""
    present = natural[natural > 0] / natural.sum()
    k = len(natural)
    uneven = float((present * np.log(present * k)).sum() / np.log(k)) if k > 1 else 0.0
    uneven = min(max(uneven, 0.1), 0.9)
    return torch.tensor([2 * uneven if r else 2 * (1 - uneven) for r in region])
