"""`View`: one batch as the terms of a loss see it. What several terms need is computed once and shared.

Axes: B batch, K classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from raremap.errors import TrainingError
from raremap.labels import IGNORE
from raremap.measure.terms.prior import Prior
from raremap.measure.terms.wide import wide


class Sums(NamedTuple):
    """Sums over the batch's labelled pixels, by class `[K]`, and `total`, of all classes.

    `hits` Σ p·1, `claimed` Σ p, `truth` Σ 1.
    """

    hits: Tensor
    claimed: Tensor
    truth: Tensor
    total: Tensor


class View:
    """Logits `[B, K, H, W]` beside their truth, ready for any number of terms.

    The truth is a class index `[B, H, W]`, where `ignore` marks pixels without a class, or `fractions`
    `[B, K, H, W]` (floats): the area of each class in a cell. A cell counts as much as its fractions sum to;
    where that is 0, or one of them is NaN, it is ignored.

    Everything is computed in float32, whatever autocast says (in float64 for logits in float64). With a
    `prior`, cross-entropy adds the offset to its logits and terms on plain logits count a pixel by its worth.
    `worth` `[B, H, W]` says what each pixel's label counts beside others, 1 for all without it.
    Maps that come with the batch (`raremap.batches.distance`): `distance` `[B, n, H, W]`, signed, of some
    classes; `edge` `[B, H, W]`, pixels to the next boundary; `center` `[B, H, W]`, from 0 at an object's rim
    to 1 at its innermost pixel. Raises `TrainingError` where shapes do not fit.

    `shared` says that terms of regions and others follow: the probabilities that those need are made together with
    the logarithms that these need, which is cheaper and changes no value.

    With a `pool` the batch is one share of a larger one: all sums over pixels go through it, and come back as
    those of the whole (`raremap.measure.terms.pool`).
    """

    def __init__(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        ignore: int = IGNORE,
        prior: Prior | None = None,
        distance: Tensor | None = None,
        edge: Tensor | None = None,
        center: Tensor | None = None,
        worth: Tensor | None = None,
        pool: Callable[[Tensor], Tensor] | None = None,
        shared: bool = False,
    ) -> None:
        self.hard = not target.is_floating_point()
        expected = (logits.shape[0], *logits.shape[2:]) if self.hard else tuple(logits.shape)
        if logits.ndim != 4 or tuple(target.shape) != expected:
            raise TrainingError(
                f"logits are {tuple(logits.shape)} and the truth is {tuple(target.shape)} ({target.dtype}); "
                "expected [B, K, H, W] with a class index [B, H, W] in integers, or fractions [B, K, H, W]"
            )
        if logits.shape[1] < 2:
            raise TrainingError(
                f"logits are {tuple(logits.shape)}, of one class, whose probability is 1 everywhere; two classes are "
                "K = 2: give the background logits of its own"
            )
        self.logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        self.prior, self.ignore = prior, ignore
        self.distance, self.edge, self.center = distance, edge, center
        self._worth, self.pool, self._shared = worth, pool, shared
        self._target = target

    @property
    def num_classes(self) -> int:
        """K."""
        return self.logits.shape[1]

    @cached_property
    def mask(self) -> Tensor:
        """Class index `[B, H, W]`, int64, with `ignore`."""
        return self._target.long()

    @cached_property
    def fractions(self) -> Tensor:
        """Area of each class in each cell, `[B, K, H, W]`; 0 where the cell is ignored."""
        if self.hard:
            return F.one_hot(self.index, self.num_classes).movedim(-1, 1) * self.ones[:, None]
        known = ~self._target.isnan().any(1, keepdim=True)
        fractions = torch.where(known, self._target, 0).to(self.logits)
        return fractions if self._worth is None else fractions * self._worth.to(self.logits).unsqueeze(1)

    @cached_property
    def labelled(self) -> Tensor:
        """Pixels that count, `[B, H, W]`."""
        if not self.hard:
            return self.fractions.sum(1) > 0
        labelled = self.mask != self.ignore
        return labelled if self._worth is None else labelled & (self._worth > 0)

    @cached_property
    def index(self) -> Tensor:
        """Class index `[B, H, W]` with 0 where it is ignored."""
        return torch.where(self.labelled, self.mask, 0)

    @cached_property
    def ones(self) -> Tensor:
        """What each pixel counts, `[B, H, W]`: 1 or its worth; 0 where it is ignored."""
        ones = self.labelled.to(self.logits.dtype)
        return ones if self._worth is None else ones * self._worth.to(self.logits)

    @cached_property
    def on_ground(self) -> Tensor:
        """What each pixel counts in terms on plain logits, `[B, H, W]`: `ones`, times its class's worth under the prior."""
        return self.ones if self.prior is None else self.ones * self.prior.worth.to(self.logits)[self.index]

    @property
    def uniform(self) -> bool:
        """Whether all labelled pixels count the same."""
        return self._worth is None

    @cached_property
    def seen(self) -> Tensor:
        """Labelled pixels, or area, of each class, `[K]`."""
        return self.total(self._seen())

    def _seen(self) -> Tensor:
        if not self.hard:
            return self.fractions.sum((0, 2, 3))
        if not self.uniform:
            return self.by_class(self.ones)
        counts = torch.bincount(self.index.flatten(), minlength=self.num_classes)
        counts[0] -= self.labelled.numel() - self.labelled.sum()
        return counts.to(self.logits.dtype)

    def by_class(self, counts: Tensor) -> Tensor:
        """What the pixels of each class count together, `[K]`, of what each counts, `[B, H, W]`; of this batch alone."""
        bins = self.logits.new_zeros(self.num_classes, dtype=wide(self.logits.device))
        return bins.index_add(0, self.index.flatten(), counts.flatten().to(bins)).to(self.logits)

    @property
    def present(self) -> Tensor:
        """Classes with a labelled pixel in the batch, bool `[K]`."""
        return self.seen > 0

    # --- scores: one softmax for all terms

    @cached_property
    def log_probs(self) -> Tensor:
        """Logarithms of the class probabilities, `[B, K, H, W]`, of the plain logits."""
        return torch.log_softmax(self.logits, 1)

    @cached_property
    def probs(self) -> Tensor:
        """Class probabilities `[B, K, H, W]` of the plain logits."""
        if self.together:
            return self._softmax[1]
        # With logarithms at hand exp is the cheaper; without, softmax alone is.
        return self.log_probs.exp() if "log_probs" in self.__dict__ else torch.softmax(self.logits, 1)

    @property
    def together(self) -> bool:
        """Whether `own_score` and `probs` are of one softmax and made by one function."""
        return self._shared and self.hard and self.prior is None

    @cached_property
    def own_log_probs(self) -> Tensor:
        """Of `log_probs` the value at each pixel's class, `[B, H, W]`; 0 where it is ignored."""
        if self.together:
            return torch.where(self.labelled, self._softmax[0], 0)
        return self.own(self.log_probs)

    @cached_property
    def _softmax(self) -> tuple[Tensor, Tensor]:
        return _Softmax.apply(self.logits, self.index)  # pyright: ignore[reportReturnType]

    def scores(self, weight: Tensor | None) -> Tensor:
        """Logarithms of the class probabilities that cross-entropy with these class weights works on.

        Those of the plain logits, or, with a prior, of the logits plus its offset.
        """
        if self.prior is None:
            return self.log_probs
        offset = self.prior.offset(weight).to(self.logits)
        return torch.log_softmax(self.logits + offset.view(1, -1, 1, 1), 1)

    def own_score(self, weight: Tensor | None = None) -> Tensor:
        """Of `scores(weight)` the value at each pixel's class, `[B, H, W]`; 0 where it is ignored."""
        if self.prior is None:
            return self.own_log_probs
        return self.own(self.scores(weight))

    def own(self, log_probs: Tensor) -> Tensor:
        """Of `[B, K, H, W]` the value at each pixel's class, `[B, H, W]`; 0 where it is ignored."""
        return -F.nll_loss(log_probs, self.mask, ignore_index=self.ignore, reduction="none")

    # --- sums

    @cached_property
    def sums(self) -> Sums:
        """Hits, claims and truth by class over the whole batch, each pixel counted by its class's worth.

        Of fractions f, hits are Σ min(p, f) and not Σ p·f, so that p = f is perfect; with hard labels the
        two are the same (Wang, Ning and Blaschko 2023, "Jaccard metric losses").
        """
        worth = None if self.prior is None else self.prior.worth.to(self.logits)
        truth = self.seen if worth is None else self.seen * worth
        if self.hard:
            hits, claimed = _Overlap.apply(self.probs, self.index, self.on_ground)  # pyright: ignore[reportGeneralTypeIssues]
        else:
            fractions = self.fractions
            if worth is not None:
                fractions = fractions * worth.view(1, -1, 1, 1)
            claims = self.probs * fractions.sum(1, keepdim=True)
            hits, claimed = torch.minimum(claims, fractions).sum((0, 2, 3)), claims.sum((0, 2, 3))
        hits, claimed = self.total(hits), self.total(claimed)
        return Sums(hits, claimed, truth, truth.sum())

    def total(self, of_share: Tensor) -> Tensor:
        """A sum over the pixels of this batch, as one over the whole that it is a share of."""
        return of_share if self.pool is None else self.pool(of_share)

    def ratio(self, above: Tensor, below: Tensor, least: float = 1e-12) -> Tensor:
        """One sum over pixels divided by another, which counts as `least` where it is less."""
        return self.total(above) / self.total(below).clamp(min=least)

    def mean(self, costs: Tensor, pixel_weight: Tensor) -> Tensor:
        """Mean of costs `[B, H, W]` by weights that are 0 where pixels are ignored; 0 where all are."""
        return self.ratio((costs * pixel_weight).sum(), pixel_weight.sum())

    def pixel_weights(self, weight: Tensor | None) -> Tensor:
        """What each pixel counts, `[B, H, W]`: 1, or its class's weight `[K]`; 0 where it is ignored."""
        return self._weighed(self.ones, weight)

    def ground_weights(self, weight: Tensor | None) -> Tensor:
        """The same of `on_ground`."""
        return self._weighed(self.on_ground, weight)

    def _weighed(self, ones: Tensor, weight: Tensor | None) -> Tensor:
        return ones if weight is None else ones * weight.to(self.logits)[self.index]

    def need_hard(self, kind: str) -> None:
        """Raise `TrainingError` where the truth are fractions."""
        if not self.hard:
            raise TrainingError(
                f"the loss term '{kind}' has no meaning on class fractions; give it a class index [B, H, W], "
                "or take ce, focal, poly, log_cosh, dice, log_cosh_dice, generalised_dice, iou, tversky or focal_tversky"
            )

    def need_map(self, kind: str, name: str) -> Tensor:
        """The map `distance`, `edge` or `center`; raises `TrainingError` where the batch came without it."""
        found: Tensor | None = getattr(self, name)
        if found is None:
            raise TrainingError(
                f"the loss term '{kind}' needs the map '{name}', which did not come with the batch; "
                "raremap.batches.distance makes it of the masks"
            )
        return found.to(self.logits)


class _Softmax(torch.autograd.Function):
    """log p at each pixel's class, and p of all classes, of logits and class index.

    As autograd would have it (∂/∂z is g∘p − p·Σg∘p for p, g·(1 − p) for log p), but no tensor of the size of p is
    made for the logarithms and their gradient.
    """

    @staticmethod
    def forward(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = torch.log_softmax(logits, 1)
        own = log_probs.gather(1, index.unsqueeze(1)).squeeze(1)
        return own, log_probs.exp_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[1], output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        index, probs = ctx.saved_tensors
        for_own, for_probs = grads
        grad = None
        if for_probs is not None:
            grad = torch.ops.aten._softmax_backward_data(for_probs, probs, 1, probs.dtype)
        if for_own is not None:
            g = for_own.unsqueeze(1)
            # Where gradients of gradients are wanted nothing may be changed in place.
            again = torch.is_grad_enabled()
            if grad is None:
                grad = -probs * g
            else:
                grad = grad - probs * g if again else grad.addcmul_(probs, g, value=-1)
            at = index.unsqueeze(1)
            grad = grad.scatter_add(1, at, g) if again else grad.scatter_add_(1, at, g)
        return grad, None


class _Overlap(torch.autograd.Function):
    """Σ counts·p·1 and Σ counts·p by class, of probabilities, class index and counts (0 where ignored).

    As autograd would have it (the sums are linear in p), but for two tensors of the size of p fewer.
    """

    @staticmethod
    def forward(probs: Tensor, index: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        b, k, h, _ = probs.shape
        own = probs.gather(1, index.unsqueeze(1)).squeeze(1) * counts
        # A bin for each row of pixels: float32 would stop counting at 2^24, and atomics would queue.
        bins = index + torch.arange(0, b * h * k, k, device=index.device).view(b, h, 1)
        hits = probs.new_zeros(b * h * k).index_add_(0, bins.flatten(), own.flatten()).view(-1, k).sum(0)
        with torch.autocast(probs.device.type, enabled=False):  # it would multiply in half precision
            claimed = torch.bmm(probs.flatten(2), counts.flatten(1).unsqueeze(2)).sum((0, 2))
        return hits, claimed

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Any) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        index, counts = ctx.saved_tensors
        for_hits, for_claims = grads
        grad = for_claims.view(1, -1, 1, 1) * counts.unsqueeze(1)
        grad.scatter_add_(1, index.unsqueeze(1), (for_hits[index] * counts).unsqueeze(1))
        return grad, None, None
