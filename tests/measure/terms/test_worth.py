"""A pixel that is worth three counts as three pixels that are alike."""

import pytest
import torch

from raremap.labels import IGNORE
from raremap.measure import terms as t
from raremap.measure.terms import Prior

K = 3
TERMS = [
    t.CrossEntropy(),
    t.CrossEntropy(weights=(0.5, 1.0, 2.0)),
    t.Focal(),
    t.Poly(),
    t.LogCosh(),
    t.BoundaryCE(),
    t.CenterCE(),
    t.Seesaw(),
    t.Recall(),
    t.Dice(),
    t.GeneralisedDice(),
    t.IoU(classes="cover"),
    t.FocalTversky(),
    t.LogCoshDice(),
    t.UnifiedFocal(),
    t.Lovasz(),
    t.Boundary(),
]


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.kind)
@pytest.mark.parametrize(
    "prior", [None, Prior(torch.tensor([0.4, 0.3, 0.3]), torch.tensor([0.8, 0.15, 0.05]))]
)
def test_worth_repeats_a_pixel(term, prior):
    torch.manual_seed(0)
    n = 40
    logits, mask = torch.randn(1, K, 1, n), torch.randint(0, K, (1, 1, n))
    mask[..., ::7] = IGNORE
    worth = torch.randint(0, 4, (1, 1, n)).float()
    maps = {
        "distance": torch.randn(1, K, 1, n),
        "edge": 5 * torch.rand(1, 1, n),
        "center": torch.rand(1, 1, n),
    }
    times = worth.flatten().long()
    alike = {name: m.repeat_interleave(times, -1) for name, m in maps.items()}
    one = logits.clone().requires_grad_()
    found = term.of(t.View(one, mask, prior=prior, worth=worth, **maps))
    expected = term(
        logits.repeat_interleave(times, -1), mask.repeat_interleave(times, -1), prior=prior, **alike
    )
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)
    found.backward()
    assert one.grad is not None
    assert (one.grad[0, :, 0, times == 0] == 0).all()  # what counts nothing pulls nowhere


def test_the_worth_of_fractions_scales_their_areas():
    torch.manual_seed(1)
    logits, fractions = torch.randn(1, K, 1, 6), torch.rand(1, K, 1, 6)
    worth = torch.tensor([[[0.0, 1, 2, 3, 1, 0]]])
    found = t.CrossEntropy().of(t.View(logits, fractions, worth=worth))
    assert float(found) == pytest.approx(float(t.CrossEntropy()(logits, fractions * worth.unsqueeze(1))))
