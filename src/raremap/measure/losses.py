"""Options of the loss: one term, a sum of terms by name, or HIALF; torch is loaded only when it is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field, model_validator

from raremap.errors import ConfigError, nearest
from raremap.measure import terms
from raremap.measure.terms import Boundary, Term, Terms, UnifiedFocal
from raremap.measure.weights import Weights, class_weights
from raremap.options import Options

if TYPE_CHECKING:
    from raremap.measure.objective import Objective

TERM_KINDS: tuple[str, ...] = tuple(t.model_fields["kind"].default for t in get_args(get_args(Terms)[0]))
"""Names of the terms that a loss may be made of."""


class Part(Options):
    """A term of a loss and what it is multiplied by."""

    term: Terms
    factor: float = Field(default=1.0, ge=0)


class _Loss(Options):
    """`tau` of the prior, which holds for all terms of the loss.

    Cross-entropy works on `logits + log π̂ − (1 − tau)·log π`, π̂ the class shares that it receives (those of
    the stream times the class weights) and π the natural ones: 0 learns the natural posterior whatever the
    stream and the weights are, 1 balanced scores. With null it works on plain logits, and the stream moves the
    map. Terms of regions and boundaries, and log_cosh, work on plain logits, with each pixel counting as its class
    does on natural ground (natural over stream shares) unless `tau` is null.
    """

    tau: float | None = Field(default=0.0, ge=0, le=1)

    def parts(self) -> dict[str, Part]:
        """The terms by their names."""
        raise NotImplementedError

    def of_areas(self, filled: bool = False) -> list[str]:
        """Names of the terms that measure areas or boundaries, which point labels do not show.

        With `filled`, when the ground between the points has pseudo-labels, only those of boundaries.
        """
        parts = [(n, p.term) for n, p in self.parts().items() if p.factor > 0]
        return [name for name, term in parts if term.maps or (term.region and not filled)]

    def learns_terms(self) -> bool:
        """Whether the outer loop may weigh the terms: there are two or more, and nothing else moves their weights."""
        return sum(part.factor > 0 for part in self.parts().values()) > 1

    def of_classes(self) -> list[str]:
        """Names of the terms that have no meaning where a pixel holds several classes."""
        return [name for name, part in self.parts().items() if part.factor > 0 and part.term.hard]

    def build(
        self,
        num_classes: int,
        *,
        names: Sequence[str] = (),
        shares: np.ndarray | None = None,
        natural: np.ndarray | None = None,
        counts: np.ndarray | None = None,
        rare: Sequence[int] = (),
    ) -> Objective:
        """The loss of a training of `num_classes` classes: a module with its state.

        Class `shares` `[K]` are those of the stream, which class weights follow from (some from `counts`
        `[N, K]` of the tiles); `natural` `[K]` those of the training places, which the prior needs. Terms with
        the factor 0 are left out. Raises
        `ConfigError` where a term names a class that is none, or weights have nothing to follow from.
        """
        from raremap.measure.objective import Objective

        if not any(p.factor for p in self.parts().values()):
            raise ConfigError("every term of the loss has the factor 0; give one of them more")
        parts = {
            n: p.model_copy(update={"term": named(p.term, names, rare, num_classes)})
            for n, p in self.parts().items()
            if p.factor > 0
        }
        weights = {n: _weights(n, p.term, num_classes, shares, counts) for n, p in parts.items()}
        labels = (
            None if counts is None or counts.ndim < 2 or counts.sum() == 0 else counts.sum(0) / counts.sum()
        )
        return Objective(
            parts, num_classes, weights, self.tau, natural, self._balance(parts, natural), labels
        )

    def _balance(self, parts: dict[str, Part], natural: np.ndarray | None) -> Any:
        """What weighs the terms while training, or None for a plain sum."""
        return None


class CrossEntropy(_Loss):
    """Cross-entropy, the mean over labelled pixels of the whole batch, with `weights` by class."""

    kind: Literal["ce"] = "ce"
    weights: Weights = "none"

    def parts(self) -> dict[str, Part]:
        """One term."""
        return {"ce": Part(term=terms.CrossEntropy(weights=self.weights))}


class CeDice(_Loss):
    """Cross-entropy, with `weights` by class, plus Dice, each times its factor."""

    kind: Literal["ce_dice"] = "ce_dice"
    weights: Weights = "none"
    ce: float = Field(default=1.0, ge=0)
    dice: float = Field(default=1.0, ge=0)

    def parts(self) -> dict[str, Part]:
        """Two terms."""
        return {
            "ce": Part(term=terms.CrossEntropy(weights=self.weights), factor=self.ce),
            "dice": Part(term=terms.Dice(), factor=self.dice),
        }


class _Named(_Loss):
    """Terms by name: a number is the factor of the term of that name, a mapping its options beside `factor`.

    Two terms of one kind have names of their own, and say their `kind`.
    """

    terms: dict[str, Part] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("terms"), Mapping):
            return data
        return {**data, "terms": {name: _part(name, value) for name, value in data["terms"].items()}}

    @model_validator(mode="after")
    def _one_distance(self) -> _Named:
        boundaries = {n: p.term for n, p in self.terms.items() if isinstance(p.term, Boundary)}
        if len({(t.only, t.clip) for t in boundaries.values()}) > 1:
            raise ValueError(
                f"the boundary terms {', '.join(boundaries)} differ in only or clip, and a sample has the distances of "
                "one of them; make those equal, or leave all but one out"
            )
        return self

    def parts(self) -> dict[str, Part]:
        """The terms as named."""
        return dict(self.terms)


class Sum(_Named):
    """A sum of terms by name, such as `{focal: 0.5, iou: 0.5}`."""

    kind: Literal["sum"] = "sum"


class Hialf(_Named):
    """HIALF, the hybrid imbalance-aware loss: Σ λ_k·L_k / m_k, each term on the scale of its own moving mean m_k.

    Our reconstruction; the source names the parts and gives no formula. `weighting` says how λ moves:

    - fixed: the factors of the terms.
    - dwa: dynamic weight average (Liu, Johns and Davison 2019, eq. 7): times T·softmax(r_k / `temperature`), r_k
      the ratio of a term's last two means over `every` steps. A term that falls slowly gets more. Ours: r is kept within 0
      and 4, and of a boundary term, which may be negative, it is 1 plus the change over the size of the one before.
    - uncertainty: ½·e^(−s_k)·L_k + ½·s_k with s learned (Kendall, Gal and Cipolla 2018), on terms as they are,
      not on their scale, where s would stay 0; s is kept within ±4.
    - gradnorm: after Chen et al. (2018, `alpha` 1.5): every `every` steps λ moves to where all terms pull
      equally at the logits, those that lag behind more. Theirs looks at the last shared layer's weights.
    - frequency: by the class distribution: pixel terms times 2(1 − u), region terms times 2u, u the unevenness
      KL(π ‖ uniform)/log K of the natural shares π, held within .1 and .9: on even classes cross-entropy
      is enough, on uneven ones regions count.
    - outer: λ learned by the outer loop on monitor places; the factors until it starts.

    λ sums to the sum of the factors. Boundary terms grow from 0 over the share `ramp` of the training
    (Kervadec et al. 2019). `momentum` of the moving means.
    """

    kind: Literal["hialf"] = "hialf"
    terms: dict[str, Part] = Field(
        default={
            "focal": Part(term=terms.Focal()),
            "dice": Part(term=terms.Dice()),
            "boundary": Part(term=Boundary()),
        },
        min_length=1,
    )
    weighting: Literal["fixed", "dwa", "uncertainty", "gradnorm", "frequency", "outer"] = "fixed"
    ramp: float = Field(default=0.5, ge=0, le=1)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    every: int = Field(default=50, ge=1)
    temperature: float = Field(default=2.0, gt=0)
    alpha: float = Field(default=1.5, ge=0)

    def learns_terms(self) -> bool:
        """With the weighting `outer` alone."""
        return self.weighting == "outer" and super().learns_terms()

    def _balance(self, parts: dict[str, Part], natural: np.ndarray | None) -> Any:
        from raremap.measure.hialf import Hybrid

        return Hybrid(self, list(parts.values()), natural)


LossOptions = Annotated[CrossEntropy | CeDice | Sum | Hialf, Field(discriminator="kind")]
LOSS_KINDS = ("ce", "ce_dice", "sum", "hialf")


def written_out(loss: Any) -> Any:
    """A loss as an experiment may write it, with its `kind`: a term's name, or terms by name, become a sum.

    >>> written_out("dice")
    {'kind': 'sum', 'terms': {'dice': 1.0}}
    >>> written_out({"focal": 0.5, "iou": 0.5, "tau": None})
    {'kind': 'sum', 'terms': {'focal': 0.5, 'iou': 0.5}, 'tau': None}
    """
    if isinstance(loss, str) and loss not in LOSS_KINDS:
        return {"kind": "sum", "terms": {loss: 1.0}}
    if isinstance(loss, str):
        return {"kind": loss}
    if not isinstance(loss, Mapping) or "terms" in loss:
        return loss
    kind = loss.get("kind")
    if kind in TERM_KINDS and kind not in LOSS_KINDS:
        term = {k: v for k, v in loss.items() if k != "tau"}
        return {"kind": "sum", "terms": {kind: term}} | {k: v for k, v in loss.items() if k == "tau"}
    if kind is not None or set(loss) <= {"tau"}:
        return loss
    by_name = {k: v for k, v in loss.items() if k != "tau"}
    return {"kind": "sum", "terms": by_name} | {k: v for k, v in loss.items() if k == "tau"}


def named(term: Term, names: Sequence[str], rare: Sequence[int], num_classes: int) -> Term:
    """The term with the classes that it names as numbers; raises `ConfigError` for one that is none."""
    if isinstance(term, UnifiedFocal):
        _check_number("unified_focal", "background", term.background, num_classes)
    if not isinstance(term, Boundary) or term.only is None:
        return term
    only: list[int] = []
    for one in rare if term.only == "rare" else term.only:
        if isinstance(one, str) and one not in names:
            raise ConfigError(
                f"loss term 'boundary' names '{one}', which is not a class; {nearest(one, list(names))}"
            )
        only.append(names.index(one) if isinstance(one, str) else one)
        _check_number("boundary", "only", only[-1], num_classes)
    if not only:
        raise ConfigError(
            "loss term 'boundary' is of the rare classes, and none is rare; set only: null for all"
        )
    return term.model_copy(update={"only": tuple(dict.fromkeys(only))})


def _check_number(term: str, option: str, number: int, num_classes: int) -> None:
    if not 0 <= number < num_classes:
        raise ConfigError(
            f"loss term '{term}' has the class number {number} in {option}, and classes are numbered 0 to "
            f"{num_classes - 1} in the order of labels.classes"
        )


def _part(name: str, value: Any) -> Any:
    if isinstance(value, Part | Mapping) and not (isinstance(value, Mapping) and "term" not in value):
        return value
    options = dict(value) if isinstance(value, Mapping) else {"factor": 1.0 if value is None else value}
    kind = options.get("kind", name)
    if kind not in TERM_KINDS:
        raise ValueError(f"no loss term is called '{kind}'; {nearest(str(kind), TERM_KINDS)}")
    factor = options.pop("factor", 1.0)
    return {"term": {**options, "kind": kind}, "factor": factor}


def _weights(
    name: str, term: Term, num_classes: int, shares: np.ndarray | None, counts: np.ndarray | None
) -> np.ndarray | None:
    if term.weights == "none":
        return None
    if isinstance(term.weights, tuple):
        shares = np.ones(num_classes) if shares is None else shares
    if shares is None:
        raise ConfigError(
            f"loss term '{name}' has weights '{term.weights}', which follow from class shares; give them"
        )
    return class_weights(term.weights, shares, counts)
