"""Terms against their formulas in float64, on random batches with ignored pixels."""

import typing

import numpy as np
import pytest
import torch
from tests.measure.terms.reference import TERMS, Pixels, batch

from raremap.labels import IGNORE
from raremap.measure import terms as t

EACH = pytest.mark.parametrize(("term", "formula"), TERMS.values(), ids=TERMS)


def test_every_term_has_a_reference() -> None:
    union = typing.get_args(typing.get_args(t.Terms)[0])
    assert {type(term) for term, _ in TERMS.values()} == set(union)


@EACH
@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_terms_agree_with_their_formula(term, formula, k, seed) -> None:
    logits, mask, maps = batch(seed, k)
    expected = formula(Pixels(logits, mask, maps))
    assert term(logits, mask, **maps).item() == pytest.approx(expected, rel=2e-5, abs=1e-6)
    assert term(logits.double(), mask, **maps).item() == pytest.approx(expected, rel=1e-9)


@EACH
def test_a_class_that_is_absent_is_left_out(term, formula) -> None:
    logits, mask, maps = batch(3)
    mask[mask == 2] = 0
    assert term(logits, mask, **maps).item() == pytest.approx(
        formula(Pixels(logits, mask, maps)), rel=2e-5, abs=1e-6
    )


@EACH
def test_one_class_alone_has_the_value_of_its_formula(term, formula) -> None:
    logits, mask, maps = batch(4)
    mask[mask != IGNORE] = 1
    assert term(logits, mask, **maps).item() == pytest.approx(
        formula(Pixels(logits, mask, maps)), rel=2e-5, abs=1e-6
    )


@EACH
@pytest.mark.parametrize("k", [2, 4])
def test_gradients_are_right(term, formula, k) -> None:
    logits, mask, maps = batch(5, k, size=(2, 3, 4), dtype=torch.float64)
    if term.kind == "recall":  # its weights count errors: no gradient runs through them
        term = _Fixed(term, torch.linspace(0.1, 0.8, k, dtype=torch.float64))
    if term.kind == "seesaw":  # its factors of p are held fixed, as the authors do
        term = t.Seesaw(q=0)
    maps = {name: m.double() for name, m in maps.items()}
    assert torch.autograd.gradcheck(lambda z: term(z, mask, **maps), logits.requires_grad_())


class _Fixed:
    def __init__(self, term, recall):
        self.kind, self._term, self._recall = "fixed", term, recall

    def __call__(self, logits, mask, **maps):
        return self._term.of(t.View(logits, mask), recall=self._recall)


@EACH
def test_second_derivatives_are_right(term, formula) -> None:
    """What the exact hypergradient differentiates once more."""
    logits, mask, maps = batch(6, 3, size=(1, 2, 3), dtype=torch.float64)
    if term.kind in ("recall", "seesaw", "boundary"):
        return  # the first two: as above; boundary is linear in p
    maps = {name: m.double() for name, m in maps.items()}
    assert torch.autograd.gradgradcheck(lambda z: term(z, mask, **maps), logits.requires_grad_())


@EACH
def test_class_weights_are_means_by_weight(term, formula) -> None:
    logits, mask, maps = batch(7, 3)
    weight = np.array([0.2, 1.0, 1.8])
    x = Pixels(logits, mask, maps)
    pixel = weight[x.y]
    found = term(logits, mask, torch.tensor(weight), **maps).item()
    if term.kind in ("ce", "focal", "poly", "log_cosh"):
        # A mean over pixels: of each class alone, by weight and number.
        alone = []
        for c in range(3):
            only = torch.where(mask == c, mask, IGNORE)
            alone.append(formula(Pixels(logits, only, maps)))
        expected = (weight * x.n * alone).sum() / (weight * x.n).sum()
    elif term.kind in ("dice", "iou", "tversky", "focal_tversky"):
        losses = [x.tversky(c, *_parts(term)) for c in range(3)]
        losses = [-np.log(v) if getattr(term, "log", False) else 1 - v for v in losses]
        if term.kind == "focal_tversky":
            losses = [v**0.75 for v in losses]
        expected = (weight * losses).sum() / weight.sum()
    elif term.kind in ("boundary_ce", "center_ce"):
        w = 1 + 10 * np.exp(-(x.edge**2) / 50) if term.kind == "boundary_ce" else 1 + 3 * x.center
        expected = (pixel * w * -np.log(x.own)).sum() / (pixel * w).sum()
    elif term.kind == "boundary":
        expected = ((x.p * x.distance).mean(0) * weight).sum() / weight.sum()
    else:
        equal = term(logits, mask, torch.ones(3), **maps).item()
        assert equal == pytest.approx(formula(x), rel=2e-5)
        assert found != pytest.approx(equal, rel=1e-4)
        return
    assert found == pytest.approx(expected, rel=2e-5)


def _parts(term):
    return {"dice": (0.5, 0.5), "iou": (1, 1)}.get(term.kind, (0.7, 0.3))
