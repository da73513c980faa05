"""`Objective`: the loss of one training, with all that it keeps from batch to batch.

Axes: B batch, K classes, T terms, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raremap.labels import IGNORE
from raremap.measure.hialf import Hybrid
from raremap.measure.losses import Part
from raremap.measure.terms import Boundary, Prior
from raremap.measure.terms.view import View


class Objective(nn.Module):
    """Terms by name, each with its class weights, summed plainly or by what `balance` makes of them.

    `maps` are the names of what must come with a batch beside its mask. With a `pool` each process sees a share of
    the batch, and the terms are those of the whole (`raremap.measure.terms.pool`).
    """

    pool: Callable[[Tensor], Tensor] | None = None

    def __init__(
        self,
        parts: Mapping[str, Part],
        num_classes: int,
        weights: Mapping[str, np.ndarray | None],
        tau: float | None,
        natural: np.ndarray | None,
        balance: Hybrid | None,
        counted: np.ndarray | None = None,
    ) -> None:
        """`natural` class shares `[K]` of the ground; `counted` those of its labels, where they are others."""
        super().__init__()
        self.names, self.num_classes, self.tau = tuple(parts), num_classes, tau
        self.options = {name: part.term for name, part in parts.items()}
        self.factors: Tensor
        self.class_factors: Tensor
        self.register_buffer("factors", torch.tensor([part.factor for part in parts.values()]))
        self.register_buffer("class_factors", torch.ones(num_classes))
        self._classes_moved = False
        built = {name: part.term.build(num_classes) for name, part in parts.items()}
        self._terms = built
        self.kept = nn.ModuleDict({name: term for name, term in built.items() if isinstance(term, nn.Module)})
        self.balance = balance
        self._weighted = [name for name in self.names if weights[name] is not None]
        for name in self._weighted:
            self.register_buffer(f"weights_{name}", _tensor(weights[name]), persistent=False)
        self.natural: Tensor | None
        self.register_buffer("natural", None if natural is None else _tensor(natural), persistent=False)
        self.counted: Tensor | None
        counted = natural if counted is None else counted
        self.register_buffer("counted", None if counted is None else _tensor(counted), persistent=False)

    @property
    def maps(self) -> tuple[str, ...]:
        """Maps that the terms ask for: `distance`, `edge`, `center`."""
        return tuple(dict.fromkeys(m for term in self.options.values() for m in term.maps))

    @property
    def boundary(self) -> Boundary:
        """The options that distance maps are made by: those of the boundary term, or its defaults."""
        return next((t for t in self.options.values() if isinstance(t, Boundary)), Boundary())

    def class_weights(self, name: str, factors: Tensor | None = None) -> Tensor | None:
        """Class weights `[K]` of a term; None where it has none.

        Those of the options, times `factors` `[K]` (those in force) in terms that are means over pixels.
        """
        weight = getattr(self, f"weights_{name}") if name in self._weighted else None
        if factors is None and self._classes_moved:
            factors = self.class_factors
        if factors is None or self.options[name].region:
            return weight
        return factors if weight is None else weight * factors

    def view(self, logits: Tensor, target: Tensor, prior: Tensor | None = None, **maps: Tensor) -> View:
        """A batch as the terms see it, with the class shares `[K]` of its stream."""
        of = self._prior(prior, self.natural)
        shared = len({term.region for term in self.options.values()}) == 2
        return View(logits, target, prior=of, pool=self.pool, shared=shared, **maps)  # pyright: ignore[reportArgumentType]

    def _prior(self, stream: Tensor | None, natural: Tensor | None) -> Prior | None:
        known = self.tau is not None and stream is not None and natural is not None
        return Prior(stream, natural, self.tau) if known else None  # pyright: ignore[reportArgumentType]

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        prior: Tensor | None = None,
        regions: Tensor | None = None,
        **maps: Tensor,
    ) -> dict[str, Tensor]:
        """The terms of a batch by name, weighed; their sum is the loss.

        Logits `[B, K, H, W]`; target a class index `[B, H, W]` or fractions `[B, K, H, W]`. Terms of regions look at
        `regions` instead where it is given.
        """
        return self._weighed(self._views(logits, target, prior, regions, maps), logits)

    def aside(
        self,
        logits: Tensor,
        target: Tensor,
        prior: Tensor | None = None,
        regions: Tensor | None = None,
        **maps: Tensor,
    ) -> dict[str, Tensor]:
        """The same of a further output of the network, without keeping any statistic of it.

        Where the truth are fractions, as that of a coarser output, terms that have no meaning on them
        meet the largest class of each cell; it counts as much as there is labelled of the cell.
        """
        training = self.training
        self.eval()
        try:
            views = self._views(logits, target, prior, regions, maps)
            hard = {n: v for n, v in views.items() if self.options[n].hard and not v.hard}
            whole = {v: _whole(v) for v in set(hard.values())}  # terms of one view share its softmax
            return self._weighed(views | {n: whole[v] for n, v in hard.items()}, logits)
        finally:
            self.train(training)

    def _views(
        self,
        logits: Tensor,
        target: Tensor,
        prior: Tensor | None,
        regions: Tensor | None,
        maps: Mapping[str, Tensor],
    ) -> dict[str, View]:
        """What each term looks at, by name.

        Ground that was filled counts 1 where labels have weights. The shares that points come in say nothing of it, so
        that what a stream shows more of is told by labels alone: those of the stream beside all that there are.
        """
        view = filled = self.view(logits, target, prior, **maps)
        if regions is not None:
            worth = maps.get("worth")
            if worth is not None:
                labelled = target != IGNORE if target.ndim == 3 else target.nan_to_num(0).sum(1) > 0
                worth = worth.where(labelled, 1)
            of = self._prior(prior, self.counted)
            filled = View(logits, regions, prior=of, pool=self.pool, worth=worth)
        return {n: filled if term.region else view for n, term in self.options.items()}

    def _weighed(self, views: Mapping[str, View], logits: Tensor) -> dict[str, Tensor]:
        """The terms by name, each of what it looks at, weighed."""
        values = torch.stack([self._terms[n].of(views[n], self.class_weights(n)) for n in self.names])
        if self.balance is not None:
            weighed, more = self.balance(values, logits, self.pool)
            return dict(zip(self.names, weighed.unbind(), strict=True)) | more
        return dict(zip(self.names, (self.factors * values).unbind(), strict=True))

    def inner(
        self,
        logits: Tensor,
        target: Tensor,
        prior: Tensor | None,
        classes: Tensor,
        terms: Tensor,
        regions: Tensor | None = None,
        **maps: Tensor,
    ) -> Tensor:
        """The loss with other class factors `[K]` and term weights `[T]`, differentiable by them; it changes nothing here."""
        training = self.training
        self.eval()
        try:
            views = self._views(logits, target, prior, regions, maps)
            values = torch.stack(
                [self._terms[n].of(views[n], self.class_weights(n, classes)) for n in self.names]
            )
            if self.balance is not None:
                values = self.balance.scaled(values) * self.balance.ramp(values)
            return (values * terms).sum()
        finally:
            self.train(training)

    @property
    def term_weights(self) -> Tensor:
        """What the terms are multiplied by now, `[T]`, beside their scale and a ramp."""
        return self.factors if self.balance is None else self.balance.weights

    @property
    def learns_terms(self) -> bool:
        """Whether the outer loop may set the weights of the terms: nothing else moves them."""
        return len(self.names) > 1 and (self.balance is None or self.balance.follows_outer)

    def set(self, classes: Tensor, terms: Tensor | None = None) -> None:
        """Take class factors `[K]` and term weights `[T]` from the outer loop."""
        self.class_factors.copy_(classes)
        self._classes_moved = bool((self.class_factors != 1).any())
        if terms is not None and self.balance is not None:
            self.balance.set(terms)
        elif terms is not None:
            self.factors.copy_(terms)

    def get_extra_state(self) -> dict[str, bool]:
        """Whether class factors are in force."""
        return {"classes_moved": self._classes_moved}

    def set_extra_state(self, state: dict[str, bool]) -> None:
        """Back to what `get_extra_state` gave."""
        self._classes_moved = state["classes_moved"]

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
        it is these, times the class weights of the first term of pixels that has some: those of regions are of a
        mean over classes, and move no score by themselves.
        """
        if self.tau is None:
            pixelwise = (self.class_weights(n) for n in self.names if not self.options[n].region)
            first = next((w for w in pixelwise if w is not None), None)
            shares = delivered if first is None else delivered * first.double().cpu().numpy()
        else:
            shares = np.where(natural > 0, np.where(natural > 0, natural, 1.0) ** (1 - self.tau), 0.0)
        return shares / max(shares.sum(), 1e-12)


def truth_of(batch: dict[str, Tensor], filled: Tensor | None = None) -> Tensor:
    """What the loss compares with: a batch's class index `[B, H, W]`, or its class fractions `[B, K, H, W]`.

    `filled` is a class index with labels where the batch has none, as a teacher gives them: such a pixel is of its
    class all over, and one that is ignored in it is ignored.
    """
    mask, fractions = batch["mask"], batch.get("fractions")
    if fractions is None:
        return mask if filled is None else filled
    if filled is None:
        return fractions
    found = (mask == IGNORE) & (filled != IGNORE)
    more = F.one_hot(torch.where(found, filled, 0), fractions.shape[1]).movedim(-1, 1)
    return torch.where(found.unsqueeze(1), more.to(fractions), fractions * (filled != IGNORE).unsqueeze(1))


def maps_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What came with a batch for the loss beside its mask."""
    return {name: batch[name] for name in ("distance", "edge", "center", "worth") if name in batch}


def _tensor(values: np.ndarray | None) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def _whole(view: View) -> View:
    """A view of fractions as one of the largest class of each cell."""
    share, index = view.fractions.sum(1), view.fractions.max(1).indices
    return View(
        view.logits,
        index.where(share > 0, IGNORE),
        prior=view.prior,
        distance=view.distance,
        edge=view.edge,
        center=view.center,
        worth=share,
        pool=view.pool,
    )
