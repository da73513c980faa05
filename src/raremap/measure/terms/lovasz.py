"""Lovász-softmax: the IoU loss of a hard map, made continuous."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from raremap.measure.terms.term import Classes, Term, class_mean

if TYPE_CHECKING:
    from torch import Tensor

    from raremap.measure.terms.view import View


class Lovasz(Term):
    """Lovász-softmax (Berman, Triki and Blaschko 2018, algorithm 1), pooled over the batch.

    Errors |1[y = c] − p_c| in falling order, times the growth of the Jaccard loss as each pixel joins the
    wrong ones. `present` is the authors' and smp's. `cover` is the authors' "all": the loss of an absent class
    is its largest probability. Slow to learn from scratch: it is meant beside cross-entropy. With a
    prior in the view pixels count by their worth.
    """

    region: ClassVar[bool] = True
    pools: ClassVar[bool] = False  # it sorts the pixels of a batch
    hard: ClassVar[bool] = True
    kind: Literal["lovasz"] = "lovasz"
    classes: Classes = "present"

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """The term of a batch."""
        from raremap.measure.terms.extension import lovasz_extension

        view.need_hard(self.kind)
        wanted = view.present | (
            view.labelled.any() if self.classes == "cover" else view.labelled.new_zeros(())
        )
        worth = None if view.uniform and view.prior is None else view.on_ground
        losses = lovasz_extension(view.probs, view.index, view.labelled, wanted, worth)
        return class_mean(losses, view.present, self._weight(view, weight), self.classes)
