"""Options of losses and of the decision; torch is loaded only when a loss is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from raremap.measure.weights import WeightKind
from raremap.options import Options

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy(Options):
    """Cross-entropy, the mean over labelled pixels of the whole batch; `weights` by class from the training shares."""

    kind: Literal["ce"] = "ce"
    weights: WeightKind = "none"

    def __call__(self, logits: Tensor, mask: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Terms of logits `[B, K, H, W]` and class index `[B, H, W]`, with class weights `[K]`; their sum is the loss."""
        from raremap.measure.losses import cross_entropy

        return {"ce": cross_entropy(logits, mask, weight)}


class CeDice(Options):
    """Cross-entropy plus Dice, each times its weight; `weights` are those of classes in the cross-entropy."""

    kind: Literal["ce_dice"] = "ce_dice"
    ce: float = Field(default=1.0, ge=0)
    dice: float = Field(default=1.0, ge=0)
    weights: WeightKind = "none"

    def __call__(self, logits: Tensor, mask: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Terms of logits `[B, K, H, W]` and class index `[B, H, W]`, with class weights `[K]`; their sum is the loss."""
        from raremap.measure.losses import cross_entropy, dice

        return {"ce": self.ce * cross_entropy(logits, mask, weight), "dice": self.dice * dice(logits, mask)}


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
