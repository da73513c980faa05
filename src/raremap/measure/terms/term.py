"""`Term`: what every term of a loss has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raremap.errors import TrainingError
from raremap.labels import IGNORE
from raremap.measure.weights import Weights
from raremap.options import Options

if TYPE_CHECKING:
    from torch import Tensor

    from raremap.measure.terms.prior import Prior
    from raremap.measure.terms.view import View


class Term(Options):
    """A term of the loss: an options object that is called on logits and truth, and gives a number.

    `weights` by class. Explicit ones are taken as they are; all others follow from class shares, which a
    term does not know: it is given them as `weight` `[K]`, from `class_weights`. `maps` names what must come
    with the batch beside the mask; `region` says that the term looks at whole regions and not pixel by pixel;
    `pools` that it is made of sums, which several processes can share; `hard` that it has no meaning on class
    fractions.
    """

    maps: ClassVar[tuple[str, ...]] = ()
    region: ClassVar[bool] = False
    pools: ClassVar[bool] = True
    hard: ClassVar[bool] = False
    weights: Weights = "none"

    def __call__(
        self,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        ignore: int = IGNORE,
        prior: Prior | None = None,
        distance: Tensor | None = None,
        edge: Tensor | None = None,
        center: Tensor | None = None,
    ) -> Tensor:
        """The term of logits `[B, K, H, W]` and class index `[B, H, W]` or fractions `[B, K, H, W]`: see `View`.

        0, with a gradient of 0, where nothing is labelled. Several terms on one batch share its softmax
        when they are called through `of` with one `View`.
        """
        from raremap.measure.terms.view import View

        return self.of(
            View(logits, target, ignore=ignore, prior=prior, distance=distance, edge=edge, center=center),
            weight,
        )

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch, with class weights `[K]`."""
        raise NotImplementedError

    def build(self, num_classes: int) -> Any:
        """What is called in a training: the term itself, or, where it keeps a statistic, one that does."""
        return self

    @property
    def _named(self) -> str:
        return f"the loss term '{type(self).model_fields['kind'].default}'"

    def _weight(self, view: View, weight: Tensor | None) -> Tensor | None:
        """Class weights `[K]`: those given, or the explicit ones of the options."""
        if isinstance(self.weights, tuple):
            if len(self.weights) != view.num_classes:
                raise TrainingError(
                    f"{self._named} has {len(self.weights)} weights for {view.num_classes} classes"
                )
            return view.logits.new_tensor(self.weights)
        if weight is None and self.weights != "none":
            raise TrainingError(
                f"{self._named} has weights '{self.weights}' and was called without them; "
                "pass weight=class_weights(...) of the training's class shares"
            )
        return None if weight is None else weight.to(view.logits)


Classes = Literal["present", "all", "cover"]
"""Which classes a mean over classes is of; a class is absent where the batch holds no labelled pixel of it.

- present: those present. An absent class is not looked at, false alarms of it neither.
- all: all K, an absent one with a loss of 0 and no gradient. The same gradients as `present`, smaller by the
  share of classes present (as smp has it).
- cover: all K, an absent one judged by its complement: pixels rightly left alone take the place of hits,
  so that 1 − IoU is the share of labelled ground that it falsely claims. 0 where nothing is claimed, and each
  claim costs.
"""


def class_mean(losses: Tensor, present: Tensor, weight: Tensor | None, classes: Classes) -> Tensor:
    """Mean of losses `[K]` over classes, by weights `[K]`; 0 where no class is present."""
    import torch

    every = torch.ones_like(losses) if weight is None else weight
    counted = every * present
    top = every * present.any() if classes == "cover" else counted
    return (losses * top).sum() / (counted if classes == "present" else every).sum().clamp(min=1e-12)
