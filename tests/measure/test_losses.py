import pytest
import torch
from tests.measure.terms.reference import batch

from raremap.labels import IGNORE
from raremap.measure import terms
from raremap.measure.options import CeDice, CrossEntropy


def test_terms_are_weighted() -> None:
    logits, mask, _ = batch()
    found = CeDice(ce=0.5, dice=2)(logits, mask)
    assert float(found["ce"]) == pytest.approx(0.5 * float(terms.CrossEntropy()(logits, mask)))
    assert float(found["dice"]) == pytest.approx(2 * float(terms.Dice()(logits, mask)))


@pytest.mark.parametrize("loss", [CrossEntropy(), CeDice(ce=0.5, dice=2)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(loss, dtype) -> None:
    logits, mask, _ = batch()
    exact, half = (sum(loss(z, mask).values()) for z in (logits, logits.to(dtype)))
    assert float(half) == pytest.approx(float(exact), rel=0.02)


def test_one_class_only_is_finite() -> None:
    logits, mask, _ = batch()
    loss = CeDice()(logits, torch.zeros_like(mask))
    assert all(torch.isfinite(v) for v in loss.values())


def test_weighted_cross_entropy_is_torchs_and_finite_where_nothing_is_labelled() -> None:
    logits, mask, _ = batch(k=3)
    weight = torch.tensor([0.2, 1.0, 1.8])
    theirs = torch.nn.functional.cross_entropy(logits, mask, weight, ignore_index=IGNORE)
    assert float(CrossEntropy(weights="ins")(logits, mask, weight)["ce"]) == pytest.approx(float(theirs))
    empty = torch.full_like(mask, IGNORE)
    assert float(CeDice(weights="ins")(logits, empty, weight)["ce"]) == 0
