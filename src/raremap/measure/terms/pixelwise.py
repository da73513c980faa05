"""Terms that are means over pixels: cross-entropy, its relatives, and those that weigh pixels by a map.

A mean with class weights is the weighted one, divided by the sum of the pixels' weights. Those that rest on
log-probabilities add the prior's offset to the logits where the view has a prior; it is exact for
cross-entropy and an approximation for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raremap.measure.terms.term import Term

if TYPE_CHECKING:
    from torch import Tensor

    from raremap.measure.terms.view import View


class CrossEntropy(Term):
    """Cross-entropy −log p_y; on fractions −Σ f log p.

    Equal to torch's, but 0 where torch's mean is NaN: on a batch without a labelled pixel.

    >>> import torch
    >>> logits = torch.zeros(1, 4, 2, 2)
    >>> round(float(CrossEntropy()(logits, torch.tensor([[[0, 1], [255, 255]]]))), 4)  # log 4
    1.3863
    """

    kind: Literal["ce"] = "ce"

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        import torch.nn.functional as F

        weight = self._weight(view, weight)
        if view.together or not (view.hard and view.uniform) or (weight is not None and weight.requires_grad):
            # torch's own cannot be differentiated by its weights, which the outer loop does.
            return _cost(view, weight, lambda log_p: log_p)
        total = F.nll_loss(view.scores(weight), view.mask, weight, ignore_index=view.ignore, reduction="sum")
        return view.ratio(total, view.pixel_weights(weight).sum())


class Focal(Term):
    """Focal loss −(1 − p_y)^γ log p_y of the softmax (Lin et al. 2017); its α are the class weights.

    With γ 0 it is cross-entropy, weights included. smp's of the same name is the sum of K one-against-rest
    sigmoid losses, divided by all pixels, ignored ones too.
    """

    kind: Literal["focal"] = "focal"
    gamma: float = Field(default=2.0, ge=0)

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        import torch

        def score(log_p: Tensor) -> Tensor:
            # Below 1 the power's slope at p = 1 is infinite, and infinite times log 1 is NaN.
            missing = -torch.expm1(log_p) if self.gamma >= 1 else (-torch.expm1(log_p)).clamp(min=1e-12)
            return missing**self.gamma * log_p

        return _cost(view, self._weight(view, weight), score)


class Poly(Term):
    """Poly-1: cross-entropy plus ε·(1 − p_y) (Leng et al. 2022, ε 1)."""

    kind: Literal["poly"] = "poly"
    epsilon: float = 1.0

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        import torch

        weight = self._weight(view, weight)
        return _cost(view, weight, lambda log_p: log_p + self.epsilon * torch.expm1(log_p))


class LogCosh(Term):
    """Σ log cosh(p_c − f_c) over the classes, mean over pixels; f is 1 for the pixel's class, or its fractions.

    It works on probabilities of plain logits and saturates where the network is sure and wrong. With a prior in the
    view a pixel counts by its worth, as in terms of regions.
    """

    kind: Literal["log_cosh"] = "log_cosh"

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        weight = self._weight(view, weight)
        if not view.hard:
            costs = log_cosh(
                view.probs - view.fractions / view.fractions.sum(1, keepdim=True).clamp(min=1e-12)
            )
            area = view.fractions if weight is None else view.fractions * weight.view(1, -1, 1, 1)
            if view.prior is not None:
                area = area * view.prior.worth.to(area).view(1, -1, 1, 1)
            return view.mean(costs.sum(1), area.sum(1))
        own = view.probs.gather(1, view.index.unsqueeze(1)).squeeze(1)
        # Of the pixel's own class 1 − p instead of p, and no one-hot mask.
        costs = log_cosh(view.probs).sum(1) + log_cosh(1 - own) - log_cosh(own)
        return view.mean(costs, view.ground_weights(weight))


class BoundaryCE(Term):
    """Cross-entropy where a pixel weighs 1 + w·exp(−d²/2σ²), d its distance to the next boundary in pixels.

    After U-Net (Ronneberger et al. 2015: w 10, σ 5), without its class weights and with one boundary for
    the two nearest. Divided by the sum of the weights. Needs the map `edge`.
    """

    maps: ClassVar[tuple[str, ...]] = ("edge",)
    hard: ClassVar[bool] = True
    kind: Literal["boundary_ce"] = "boundary_ce"
    w: float = Field(default=10.0, ge=0)
    sigma: float = Field(default=5.0, gt=0)

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        view.need_hard(self.kind)
        near = (-0.5 * (view.need_map(self.kind, "edge") / self.sigma) ** 2).exp()
        return _mapped(view, self._weight(view, weight), 1 + self.w * near)


class CenterCE(Term):
    """Cross-entropy where a pixel weighs 1 + w·c, c rising from an object's rim (0) to its centre (1).

    For objects whose outlines are uncertain. The formula is ours: the landslide report gives none. Divided by
    the sum of the weights. Needs the map `center`.
    """

    maps: ClassVar[tuple[str, ...]] = ("center",)
    hard: ClassVar[bool] = True
    kind: Literal["center_ce"] = "center_ce"
    w: float = Field(default=1.0, ge=0)

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        view.need_hard(self.kind)
        return _mapped(view, self._weight(view, weight), 1 + self.w * view.need_map(self.kind, "center"))


def log_cosh(x: Tensor) -> Tensor:
    """Logarithm of the hyperbolic cosine, for x of any size."""
    import torch.nn.functional as F

    x = x.abs()
    return x + F.softplus(-2 * x) - math.log(2)


def _cost(view: View, weight: Tensor | None, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Minus the mean over pixels of a score of log p_y, or over areas, of each class's log p; score(0) is 0."""
    if view.hard and weight is None and view.uniform:
        # Ignored pixels have log p 0: nothing to multiply them out of.
        return -view.ratio(score(view.own_score()).sum(), view.labelled.sum(), least=1)
    if view.hard:
        return -view.mean(score(view.own_score(weight)), view.pixel_weights(weight))
    area = view.fractions if weight is None else view.fractions * weight.view(1, -1, 1, 1)
    return -view.mean(score(view.scores(weight)), area)


def _mapped(view: View, weight: Tensor | None, pixel_weight: Tensor) -> Tensor:
    """Cross-entropy with weights by class and by pixel."""
    return view.mean(-view.own_score(weight), pixel_weight * view.pixel_weights(weight))
