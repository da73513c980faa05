"""The boundary loss: probabilities times their signed distance from the true boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raremap.errors import TrainingError
from raremap.measure.terms.term import Term

if TYPE_CHECKING:
    from torch import Tensor

    from raremap.measure.terms.view import View


class Boundary(Term):
    """Mean of p_c·φ_c over labelled pixels and classes (Kervadec et al. 2019); it may be negative.

    φ is the map `distance`: outside a class the distance to it, inside minus the distance to its rim, 0 all
    over where the class is absent from a crop. Such a class still counts in the mean, as the authors have
    it, with no gradient. `only` are the classes whose maps these are, in their order; all where it is null. An
    experiment may name them, or say `rare`: numbers take their place when the loss is built. `clip` is for
    the making of the maps (`signed_distance`); the authors' have none. Class weights make it a weighted mean
    of the classes. With a prior in the view a pixel counts by its worth. It says where a boundary lies, not whether a region exists: it is meant beside a region
    term, with a small weight that grows.
    """

    maps: ClassVar[tuple[str, ...]] = ("distance",)
    region: ClassVar[bool] = True
    hard: ClassVar[bool] = True
    kind: Literal["boundary"] = "boundary"
    only: Literal["rare"] | tuple[int | str, ...] | None = None
    clip: float | None = Field(default=20.0, gt=0)

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        view.need_hard(self.kind)
        distance = view.need_map(self.kind, "distance")
        only = None if self.numbers is None else list(self.numbers)
        probs = view.probs if only is None else view.probs[:, only]
        if distance.shape != probs.shape:
            raise TrainingError(
                f"the map 'distance' is {tuple(distance.shape)}; the boundary term expects {tuple(probs.shape)}, "
                "a map for each of its classes"
            )
        by_class = (probs * (distance * view.on_ground.unsqueeze(1))).sum((0, 2, 3))
        by_class = view.ratio(by_class, view.on_ground.sum())
        weight = self._weight(view, weight)
        if weight is None:
            return by_class.mean()
        if only is not None:
            weight = weight[only]
        return (by_class * weight).sum() / weight.sum().clamp(min=1e-12)

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """`only` as class numbers; raises `TrainingError` while it is of names."""
        numbers = None if self.only is None else tuple(c for c in self.only if isinstance(c, int))
        if numbers is not None and (isinstance(self.only, str) or len(numbers) < len(self.only or ())):
            raise TrainingError(
                f"the loss term 'boundary' is of the classes {self.only}; called by itself it expects numbers"
            )
        return numbers
