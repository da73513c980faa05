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
    it, with no gradient. `only` are the classes whose maps these are, in their order; all where it is
    null. `clip` is for the making of the maps (`signed_distance`); the authors' have none. Class weights make it a
    weighted mean of the classes. It says where a boundary lies, not whether
    a region exists: it is meant beside a region term, with a small weight that grows.
    """

    maps: ClassVar[tuple[str, ...]] = ("distance",)
    regional: ClassVar[bool] = True
    kind: Literal["boundary"] = "boundary"
    only: tuple[int, ...] | None = None
    clip: float | None = Field(default=20.0, gt=0)

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        view.need_hard(self.kind)
        distance = view.need_map(self.kind, "distance")
        probs = view.probs if self.only is None else view.probs[:, list(self.only)]
        if distance.shape != probs.shape:
            raise TrainingError(
                f"the map 'distance' is {tuple(distance.shape)}; the boundary term expects {tuple(probs.shape)}, "
                "a map for each of its classes"
            )
        by_class = (probs * (distance * view.labelled.unsqueeze(1))).sum((0, 2, 3))
        by_class = by_class / view.labelled.sum().clamp(min=1)
        weight = self._weight(view, weight)
        if weight is None:
            return by_class.mean()
        if self.only is not None:
            weight = weight[list(self.only)]
        return (by_class * weight).sum() / weight.sum().clamp(min=1e-12)
