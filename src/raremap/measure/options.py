"""Options of losses and of the decision; torch is loaded only when a loss is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from raremap.measure import terms
from raremap.measure.terms import Prior
from raremap.options import Options

if TYPE_CHECKING:
    from torch import Tensor

    from raremap.measure.terms import View


class _Loss(Options):
    """`weights` by class in the cross-entropy, from the stream's shares; `tau` of its prior.

    Cross-entropy works on `logits + log π̂ − (1 − tau)·log π`, π̂ the class shares that it receives (those of
    the stream times the weights) and π the natural ones: 0 learns the natural posterior whatever the stream
    and the weights are, 1 balanced scores. With null it works on plain logits, and the stream moves the map.
    """

    weights: Literal["none", "ins", "sqrt_ins"] = "none"
    tau: float | None = Field(default=0.0, ge=0, le=1)

    def __call__(
        self,
        logits: Tensor,
        mask: Tensor,
        weight: Tensor | None = None,
        prior: Tensor | None = None,
        natural: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Terms, whose sum is the loss, of logits `[B, K, H, W]` and class index `[B, H, W]`.

        Class weights, the stream's and the natural class shares are `[K]`.
        """
        from raremap.measure.terms import View

        if self.tau is None or prior is None or natural is None:
            return self._terms(View(logits, mask), weight)
        return self._terms(View(logits, mask, prior=Prior(prior, natural, self.tau)), weight)

    def _terms(self, view: View, weight: Tensor | None) -> dict[str, Tensor]:
        raise NotImplementedError


class CrossEntropy(_Loss):
    """Cross-entropy, the mean over labelled pixels of the whole batch."""

    kind: Literal["ce"] = "ce"

    def _terms(self, view: View, weight: Tensor | None) -> dict[str, Tensor]:
        return {"ce": terms.CrossEntropy().of(view, weight)}


class CeDice(_Loss):
    """Cross-entropy plus Dice, each times its weight.

    Dice works on plain logits, with each pixel counting as its class does on natural ground (natural over
    stream shares) unless `tau` is null.
    """

    kind: Literal["ce_dice"] = "ce_dice"
    ce: float = Field(default=1.0, ge=0)
    dice: float = Field(default=1.0, ge=0)

    def _terms(self, view: View, weight: Tensor | None) -> dict[str, Tensor]:
        return {
            "ce": self.ce * terms.CrossEntropy().of(view, weight),
            "dice": self.dice * terms.Dice().of(view),
        }


LossOptions = Annotated[CrossEntropy | CeDice, Field(discriminator="kind")]


class DecisionOptions(Options):
    """How classes are decided from probabilities: a `bias` on their logarithms, or plain `argmax`.

    The bias maximises `metric` on calibration places; it stays zero unless its cross-fitted gain exceeds
    its standard error. "f_beta" is the F-score of the class `of`: `beta` above 1 asks for fewer
    omissions, below 1 for fewer false alarms. At most `sample` pixels are kept for the fit. `shrink` is the
    number of objects at which half of a class's bias is kept; 0 keeps all of it.
    """

    kind: Literal["bias", "argmax"] = "bias"
    metric: Literal["macro_f1", "miou", "balanced_accuracy", "f_beta"] = "macro_f1"
    of: str | None = None
    beta: float = Field(default=1.0, gt=0)
    sample: int = Field(default=400_000, ge=1000)
    shrink: float = Field(default=20.0, ge=0)

    @model_validator(mode="after")
    def _one_class(self) -> DecisionOptions:
        if (self.metric == "f_beta") != (self.of is not None):
            raise ValueError("decision.of names the class of decision.metric: f_beta; give both or neither")
        return self
