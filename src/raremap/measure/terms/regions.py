"""Terms of whole regions: Dice, IoU, Tversky and what is made of them, on sums over the batch.

Sums run over all labelled pixels of the batch, not by image, in float32; a class of few pixels in
many images is one region. Every index here is one formula, Tversky's: TP / (TP + α·FN + β·FP) with TP = Σ p·1,
FN = Σ 1 − TP, FP = Σ p − TP. α weighs FALSE NEGATIVES (Salehi et al. 2017, and smp, have it the other way
round). With α = β = ½ it is Dice, with 1 IoU. With a prior in the view a pixel counts as its class does on
natural ground, which has more false alarms to fear than a stream full of rare classes.

A mean over classes can be weighted by class; `classes` says of which (`raremap.measure.terms.Classes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raremap.measure.terms.pixelwise import log_cosh
from raremap.measure.terms.term import Classes, Term, class_mean

if TYPE_CHECKING:
    from torch import Tensor

    from raremap.measure.terms.view import View

_SMALL = 1e-12


class _Region(Term):
    """A term that is a mean over classes."""

    region: ClassVar[bool] = True
    classes: Classes = "present"

    def _mean(self, view: View, weight: Tensor | None, losses: Tensor) -> Tensor:
        return class_mean(losses, view.present, self._weight(view, weight), self.classes)

    def _index(self, view: View, alpha: float, beta: float) -> Tensor:
        return tversky_index(view, alpha, beta, cover=self.classes == "cover")


class Dice(_Region):
    """One minus the Dice coefficient 2·Σ p·1 / (Σ p + Σ 1) (Milletari et al. 2016, with plain sums below).

    smp's is this with `classes: all`: absent classes are 0 in it, and in the number that it divides by.

    >>> import torch
    >>> logits = torch.tensor([[[[20.0, -20.0]], [[-20.0, 20.0]]]])
    >>> round(float(Dice()(logits, torch.tensor([[[0, 1]]]))), 6)
    0.0
    """

    kind: Literal["dice"] = "dice"

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        return self._mean(view, weight, 1 - self._index(view, 0.5, 0.5))


class IoU(_Region):
    """One minus the intersection over union, or with `log` its negative logarithm (never below 1e-7 in it).

    The landslide document writes log(1 − IoU), which falls to −∞ as the map gets better; −log IoU is meant.
    """

    kind: Literal["iou"] = "iou"
    log: bool = False

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        index = self._index(view, 1.0, 1.0)
        return self._mean(view, weight, -index.clamp(min=1e-7).log() if self.log else 1 - index)


class Tversky(_Region):
    """One minus the Tversky index; `alpha` weighs false negatives (omissions), `beta` false positives.

    `beta` is 1 − alpha unless it is given. In smp and in Salehi et al. (2017) alpha weighs false positives.
    """

    kind: Literal["tversky"] = "tversky"
    alpha: float = Field(default=0.7, ge=0)
    beta: float | None = Field(default=None, ge=0)

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        beta = max(0.0, 1 - self.alpha) if self.beta is None else self.beta
        return self._mean(view, weight, 1 - self._index(view, self.alpha, beta))


class FocalTversky(_Region):
    """(1 − Tversky index)^(1/γ), mean over classes (Abraham and Khan 2019: α .7 on omissions, γ 4/3).

    smp raises the mean of the classes to γ instead.
    """

    kind: Literal["focal_tversky"] = "focal_tversky"
    alpha: float = Field(default=0.7, ge=0)
    beta: float | None = Field(default=None, ge=0)
    gamma: float = Field(default=4 / 3, gt=0)

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        beta = max(0.0, 1 - self.alpha) if self.beta is None else self.beta
        missing = 1 - self._index(view, self.alpha, beta)
        return self._mean(view, weight, _power(missing, 1 / self.gamma))


class LogCoshDice(_Region):
    """log cosh of the Dice loss (Jadon 2020): flat where Dice is near perfect, 0.43 at worst."""

    kind: Literal["log_cosh_dice"] = "log_cosh_dice"

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        return log_cosh(self._mean(view, weight, 1 - self._index(view, 0.5, 0.5)))


class GeneralisedDice(_Region):
    """One minus 2·Σ w·hits / Σ w·(claimed + truth) over classes, w = 1/truth² (Sudre et al. 2017).

    The smallest class of the batch rules it, and it jumps as that one comes and goes; `power` 1 is calmer.
    Absent classes are left out of the sums, with `all` as with `present`; with `cover` they come in with the
    largest w of those present (as MONAI has it). Class weights multiply w.
    """

    kind: Literal["generalised_dice"] = "generalised_dice"
    power: float = Field(default=2.0, ge=0)

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        import torch

        sums, present = view.sums, view.present
        w = torch.where(present, sums.truth.clamp(min=_SMALL) ** -self.power, 0)
        if self.classes == "cover":
            w = torch.where(present, w, w.max())
        weight = self._weight(view, weight)
        if weight is not None:
            w = w * weight
        w = w / w.sum().clamp(min=_SMALL**3)  # squares of counts leave float32 otherwise
        score = 2 * (w * sums.hits).sum() / (w * (sums.claimed + sums.truth)).sum().clamp(min=_SMALL)
        return (1 - score) * present.any()


class UnifiedFocal(_Region):
    """Asymmetric unified focal loss (Yeung et al. 2022): a focal CE and a focal Tversky, `share` of the latter.

    `delta` weighs omissions of the foreground, in both. The focal power suppresses easy pixels of class `background`
    only (exponent `gamma` on 1 − p) and enhances hard foreground classes only (1 − TI to 1 − `gamma`). The
    authors' and MONAI's for K = 2 and background 0; for more classes every other one is foreground. Their CE is
    a mean over all pixels, ignored ones too; ours over labelled ones.
    """

    hard: ClassVar[bool] = True
    kind: Literal["unified_focal"] = "unified_focal"
    share: float = Field(default=0.5, ge=0, le=1)
    delta: float = Field(default=0.6, ge=0, le=1)
    gamma: float = Field(default=0.5, ge=0, lt=1)
    background: int = Field(default=0, ge=0)

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        import torch

        view.need_hard(self.kind)
        own = view.own_log_probs
        easy = view.index == self.background
        damped = (1 - self.delta) * _power(-torch.expm1(own), self.gamma)
        costs = -own * torch.where(easy, damped, self.delta)
        pixels = view.mean(costs, view.ground_weights(self._weight(view, weight)))
        missing = 1 - self._index(view, self.delta, 1 - self.delta)
        behind = torch.arange(view.num_classes, device=missing.device) == self.background
        regions = self._mean(view, weight, torch.where(behind, missing, _power(missing, 1 - self.gamma)))
        return self.share * regions + (1 - self.share) * pixels


def tversky_index(view: View, alpha: float, beta: float, cover: bool = False) -> Tensor:
    """TP / (TP + alpha·FN + beta·FP) by class, `[K]`.

    0 for a class that is absent; with `cover` it is the index of its complement, TN / (TN + beta·FP).
    """
    import torch

    hits, claimed, truth, total = view.sums
    below = alpha * truth + beta * claimed + (1 - alpha - beta) * hits
    if cover:
        alone = (total - claimed).clamp(min=0)
        hits = torch.where(view.present, hits, alone)
        below = torch.where(view.present, below, alone + beta * claimed)
    return hits / below.clamp(min=_SMALL)


def _power(x: Tensor, exponent: float) -> Tensor:
    """x to a power, for x from 0 up; its slope at 0 stays finite."""
    return x.clamp(min=_SMALL) ** exponent
