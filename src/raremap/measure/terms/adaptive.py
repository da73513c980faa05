"""Terms that weigh errors by how the classes have fared: seesaw and recall.

Called as they are they look at the batch alone. `build` makes a module that keeps the statistic over batches,
and in its state for a training that goes on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raremap.measure.terms.term import Term

if TYPE_CHECKING:
    from torch import Tensor

    from raremap.measure.terms.running import RunningRecall, RunningSeesaw
    from raremap.measure.terms.view import View


class Seesaw(Term):
    """Cross-entropy that spares rare classes the push of common ones (Wang et al. 2021, eqs. 4 to 7).

    At a pixel of class i the exponential of class j's logit is multiplied by M·C: M = min(1, N_j/N_i)^p,
    N the pixels seen so far; C = max(1, p_j/p_i)^q, which pushes back where j wins by mistake. Ours: N_j/N_i
    is kept above 1/`cap`, for pixels of common classes outnumber those of rare ones by thousands where
    their objects do not. No prior's offset: M is a prior of its own.
    """

    hard: ClassVar[bool] = True
    kind: Literal["seesaw"] = "seesaw"
    p: float = Field(default=0.8, ge=0)
    q: float = Field(default=2.0, ge=0)
    cap: float = Field(default=100.0, ge=1)
    least: float = Field(default=0.01, gt=0)

    def of(self, view: View, weight: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
        """The term of a batch, with pixels seen so far `[K]`, this batch's included (else only this batch's)."""
        import torch

        view.need_hard(self.kind)
        weight = self._weight(view, weight)
        counts = view.seen if counts is None else counts.to(view.logits)
        ratio = (counts[None, :] / counts[:, None].clamp(min=1)).clamp(min=1 / self.cap, max=1)
        with torch.no_grad():
            own = view.own(view.log_probs).unsqueeze(1).clamp(min=math.log(self.least))
            gain = self.q * (view.log_probs - own).clamp(min=0)
            gain += (self.p * ratio.log())[view.index].movedim(-1, 1)
            # The pixel's own class stays as it is.
            gain.scatter_(1, view.index.unsqueeze(1), 0)
        costs = -view.own(torch.log_softmax(view.logits + gain, 1))
        return view.mean(costs, view.pixel_weights(weight))

    def build(self, num_classes: int) -> RunningSeesaw:
        """The term with counts over all batches."""
        from raremap.measure.terms.running import RunningSeesaw

        return RunningSeesaw(self, num_classes)


class Recall(Term):
    """Cross-entropy where a pixel weighs its class's share of omissions, 1 − recall (Tian et al. 2021).

    Recall of the plain argmax, of the batch; a built term's is a moving mean over batches with `momentum`,
    which the authors have not: a rare class's few pixels make a batch's own a lottery. Divided by the
    number of pixels (times class weights), not by the sum of shares, as theirs: it fades as recall rises. Their
    code counts ignored pixels as a class; ours leaves them out.
    """

    hard: ClassVar[bool] = True
    kind: Literal["recall"] = "recall"
    momentum: float = Field(default=0.9, ge=0, lt=1)

    def of(self, view: View, weight: Tensor | None = None, recall: Tensor | None = None) -> Tensor:
        """The term of a batch, with each class's recall so far `[K]` (else the batch's own)."""
        view.need_hard(self.kind)
        weight = self._weight(view, weight)
        recall = batch_recall(view) if recall is None else recall.to(view.logits)
        costs = -view.own_score(weight) * (1 - recall)[view.index]
        return view.mean(costs, view.pixel_weights(weight))

    def build(self, num_classes: int) -> RunningRecall:
        """The term with a moving mean of recall."""
        from raremap.measure.terms.running import RunningRecall

        return RunningRecall(self, num_classes)


def batch_recall(view: View) -> Tensor:
    """Recall `[K]` of the plain argmax on a batch; 0 for a class that is absent."""
    import torch

    # torch's argmax is six times slower than the index that comes with its max.
    right = (view.logits.detach().max(1).indices == view.index) & view.labelled
    if view.uniform:
        found = torch.bincount(view.index[right], minlength=view.num_classes)
    else:
        found = view.by_class(view.ones * right)
    return view.total(found) / view.seen.clamp(min=1)
