"""Truth as class fractions of coarse cells."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.measure.terms.reference import TERMS, batch

from raremap.errors import TrainingError
from raremap.labels import IGNORE
from raremap.measure import terms as t

SOFT = ["ce", "focal", "poly", "log_cosh", "dice", "generalised_dice", "iou", "tversky", "focal_tversky"]
SOFT += ["log_cosh_dice", "log iou"]
soft = pytest.mark.parametrize("name", SOFT)


def cells(seed=0, k=4):
    """Logits, fractions of full cells, and which are ignored (their fractions are all 0)."""
    logits, mask, _ = batch(seed, k)
    g = torch.Generator().manual_seed(seed)
    fractions = torch.rand(mask.shape[0], k, *mask.shape[1:], generator=g) ** 3
    fractions = fractions / fractions.sum(1, keepdim=True)
    return logits, fractions * (mask != IGNORE).unsqueeze(1), mask == IGNORE


@soft
@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 1, 2, 0.1])])
def test_fractions_of_0_and_1_are_the_hard_labels(name, weight) -> None:
    term = TERMS[name][0]
    logits, mask, _ = batch(1)
    one = F.one_hot(torch.where(mask == IGNORE, 0, mask), 4).movedim(-1, 1) * (mask != IGNORE).unsqueeze(1)
    assert not term.hard
    hard, soft = term(logits, mask, weight), term(logits, one.float(), weight)
    assert soft.item() == pytest.approx(float(hard), rel=1e-5)


@soft
def test_cells_without_fractions_or_with_nan_are_ignored(name) -> None:
    term = TERMS[name][0]
    logits, fractions, ignored = cells()
    unknown = torch.where(ignored.unsqueeze(1), torch.nan, fractions)
    other = torch.where(ignored.unsqueeze(1), 50 * torch.randn_like(logits), logits).requires_grad_()
    value = term(other, unknown)
    (grad,) = torch.autograd.grad(value, other)
    assert value.item() == float(term(logits, fractions))
    assert not grad.movedim(1, -1)[ignored].any()
    nothing = term(other, torch.full_like(fractions, torch.nan))
    assert nothing.item() == 0
    assert not torch.autograd.grad(nothing, other)[0].any()


@pytest.mark.parametrize("name", [n for n in SOFT if n not in ("ce", "focal", "poly")])
def test_the_fractions_themselves_are_perfect(name) -> None:
    _, fractions, _ = cells()
    logits = fractions.clamp(min=1e-9).log()
    assert float(TERMS[name][0](logits, fractions)) == pytest.approx(0, abs=1e-5)


def test_cross_entropy_is_torchs_of_class_probabilities() -> None:
    logits, fractions, ignored = cells()
    z, f = (x.movedim(1, -1)[~ignored] for x in (logits, fractions))
    assert t.CrossEntropy()(logits, fractions).item() == pytest.approx(float(F.cross_entropy(z, f)), rel=1e-5)


def test_focal_and_dice_by_their_formulas() -> None:
    logits, fractions, ignored = cells()
    p, f = (x.movedim(1, -1)[~ignored].double().numpy() for x in (torch.softmax(logits, 1), fractions))
    assert t.Focal()(logits, fractions).item() == pytest.approx(
        -(f * (1 - p) ** 2 * np.log(p)).sum(1).mean(), rel=1e-5
    )
    dice = 2 * np.minimum(p, f).sum(0) / (p.sum(0) + f.sum(0))
    assert t.Dice()(logits, fractions).item() == pytest.approx(np.mean(1 - dice), rel=1e-5)


def test_a_cell_labelled_in_part_counts_by_its_part() -> None:
    logits = torch.randn(1, 3, 1, 2)
    fractions = torch.tensor([[[[0.5, 0.0]], [[0.5, 0.25]], [[0.0, 0.0]]]])
    log_p = torch.log_softmax(logits, 1)[0, :, 0]
    expected = -(0.5 * log_p[0, 0] + 0.5 * log_p[1, 0] + 0.25 * log_p[1, 1]) / 1.25
    assert t.CrossEntropy()(logits, fractions).item() == pytest.approx(float(expected), rel=1e-5)
    share = torch.softmax(logits, 1)[0, :, 0] * torch.tensor([1, 0.25])
    assert t.View(logits, fractions).sums.claimed.tolist() == pytest.approx(share.sum(1).tolist(), rel=1e-5)


@soft
def test_gradients_are_right(name) -> None:
    logits, fractions, _ = cells(3)
    z, f = logits[..., :3, :3].double().requires_grad_(), fractions[..., :3, :3].double()
    assert torch.autograd.gradcheck(lambda z: TERMS[name][0](z, f), z)


@pytest.mark.parametrize("name", sorted(n for n, (term, _) in TERMS.items() if term.kind not in SOFT))
def test_other_terms_say_that_fractions_have_no_meaning_for_them(name) -> None:
    logits, fractions, _ = cells()
    assert TERMS[name][0].hard
    with pytest.raises(TrainingError, match="has no meaning on class fractions"):
        TERMS[name][0](logits, fractions, **batch()[2])
