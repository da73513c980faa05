"""Terms that keep a statistic over batches, in buffers that a checkpoint saves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raremap.measure.terms.adaptive import Recall, Seesaw, batch_recall
from raremap.measure.terms.view import View


class RunningSeesaw(nn.Module):
    """Seesaw with the labelled pixels of all batches so far; in eval mode it does not count."""

    counts: Tensor

    def __init__(self, term: Seesaw, num_classes: int) -> None:
        super().__init__()
        self.term = term
        # float32, which every device has: what rounding takes of a sum is far below what a step adds to it.
        self.register_buffer("counts", torch.zeros(num_classes))

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """Count a batch, and the term of it."""
        if self.training:
            self.counts += view.seen
        return self.term.of(view, weight, self.counts)


class RunningRecall(nn.Module):
    """Recall loss with a moving mean of each class's recall over the batches that hold the class."""

    recall: Tensor
    known: Tensor

    def __init__(self, term: Recall, num_classes: int) -> None:
        super().__init__()
        self.term = term
        self.register_buffer("recall", torch.zeros(num_classes))
        self.register_buffer("known", torch.zeros(num_classes, dtype=torch.bool))

    def of(self, view: View, weight: Tensor | None = None) -> Tensor:
        """Look at a batch, and the term of it."""
        if self.training:
            view.need_hard(self.term.kind)
            keep = torch.where(self.known, self.term.momentum, 0.0)
            moved = keep * self.recall + (1 - keep) * batch_recall(view)
            self.recall.copy_(torch.where(view.present, moved, self.recall))
            self.known |= view.present
        return self.term.of(view, weight, self.recall)
