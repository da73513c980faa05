import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from raremap.labels import IGNORE
from raremap.measure.losses import cross_entropy, dice
from raremap.measure.options import CeDice, CrossEntropy
from raremap.measure.weights import class_weights

TERMS = [cross_entropy, dice]


def batch(seed=0, k=4, ignored=0.2, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, k, 9, 7, generator=g).to(dtype)
    mask = torch.randint(0, k, (2, 9, 7), generator=g)
    mask[torch.rand(mask.shape, generator=g) < ignored] = IGNORE
    return logits, mask


def by_hand_ce(logits, mask):
    z, y = logits.double().permute(0, 2, 3, 1).numpy(), mask.numpy()
    logs = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return np.mean([-logs[i][y[i]] for i in np.ndindex(y.shape) if y[i] != IGNORE])


def by_hand_dice(logits, mask):
    p, y = torch.softmax(logits.double(), 1).permute(0, 2, 3, 1).numpy(), mask.numpy()
    kept = y != IGNORE
    losses = [
        1 - 2 * p[..., c][kept & (y == c)].sum() / (p[..., c][kept].sum() + (y == c).sum())
        for c in range(p.shape[-1])
        if (y == c).any()
    ]
    return np.mean(losses)


@pytest.mark.parametrize(("term", "reference"), [(cross_entropy, by_hand_ce), (dice, by_hand_dice)])
@pytest.mark.parametrize("seed", range(3))
def test_terms_agree_with_their_formula_in_float64(term, reference, seed):
    logits, mask = batch(seed)
    assert float(term(logits, mask)) == pytest.approx(reference(logits, mask), rel=1e-5)


def test_dice_agrees_with_smp_where_every_class_is_present():
    logits, mask = batch()
    theirs = smp.losses.DiceLoss("multiclass", ignore_index=IGNORE)(logits, mask)
    assert float(dice(logits, mask)) == pytest.approx(float(theirs), rel=1e-5)


def test_a_class_that_is_absent_is_left_out_of_the_mean():
    logits, mask = batch()
    mask[mask == 3] = 0
    assert float(dice(logits, mask)) == pytest.approx(by_hand_dice(logits, mask), rel=1e-5)


@pytest.mark.parametrize("term", TERMS)
@given(seed=st.integers(0, 99))
def test_ignored_pixels_change_nothing(term, seed):
    logits, mask = batch(seed, ignored=0.4)
    other = torch.where((mask == IGNORE).unsqueeze(1), torch.randn_like(logits) * 50, logits)
    assert torch.equal(term(logits, mask), term(other, mask))


@pytest.mark.parametrize("term", TERMS)
def test_a_batch_without_labels_costs_nothing_and_has_a_gradient_of_zero(term):
    logits, mask = batch()
    logits.requires_grad_()
    loss = term(logits, torch.full_like(mask, IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
    assert torch.isnan(F.cross_entropy(logits, torch.full_like(mask, IGNORE), ignore_index=IGNORE))


@pytest.mark.parametrize("term", TERMS)
def test_perfect_is_zero_and_worst_is_large(term):
    _, mask = batch(ignored=0)
    right = F.one_hot(mask, 4).permute(0, 3, 1, 2) * 60.0
    wrong = F.one_hot((mask + 1) % 4, 4).permute(0, 3, 1, 2) * 60.0
    assert float(term(right, mask)) == pytest.approx(0, abs=1e-6)
    assert float(term(wrong, mask)) > 0.99


def test_gradients_are_right():
    logits, mask = batch(k=3)
    z = logits[:, :, :4, :4].double().requires_grad_()
    # The terms compute in float32, so the check is by a secant of a step that float32 can see.
    for term in TERMS:
        (g,) = torch.autograd.grad(term(z, mask[:, :4, :4] % 3), z)
        direction = torch.randn_like(z)
        with torch.no_grad():
            ahead, back = (term(z + s * 1e-2 * direction, mask[:, :4, :4] % 3) for s in (1, -1))
        assert float((ahead - back) / 2e-2) == pytest.approx(float((g * direction).sum()), rel=2e-2, abs=1e-4)


@pytest.mark.parametrize("loss", [CrossEntropy(), CeDice(ce=0.5, dice=2)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(loss, dtype):
    logits, mask = batch()
    exact, half = (sum(loss(z, mask).values()) for z in (logits, logits.to(dtype)))
    assert float(half) == pytest.approx(float(exact), rel=0.02)


def test_one_class_only_is_finite():
    logits, mask = batch()
    loss = CeDice()(logits, torch.zeros_like(mask))
    assert all(torch.isfinite(v) for v in loss.values())


def test_terms_are_weighted():
    logits, mask = batch()
    terms = CeDice(ce=0.5, dice=2)(logits, mask)
    assert float(terms["ce"]) == pytest.approx(0.5 * float(cross_entropy(logits, mask)))
    assert float(terms["dice"]) == pytest.approx(2 * float(dice(logits, mask)))


@pytest.mark.parametrize("kind", ["ins", "sqrt_ins"])
def test_class_weights_follow_their_formula_and_have_the_mean_one(kind: str) -> None:
    shares = np.array([0.7, 0.2, 0.1, 0.0])
    weights = class_weights(kind, shares)
    power = 1 if kind == "ins" else 0.5
    expected = (1 / shares[:3]) ** power
    np.testing.assert_allclose(weights, [*(expected / expected.mean()), 0])
    assert class_weights("none", shares).tolist() == [1, 1, 1, 0]
    assert class_weights("ins", np.array([*[0.0832] * 12, 1e-9])).max() == 10


def test_weighted_cross_entropy_is_torchs_and_finite_where_nothing_is_labelled() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 3, 5, 7), torch.randint(0, 3, (2, 5, 7))
    mask[0, :2] = IGNORE
    weight = torch.tensor([0.2, 1.0, 1.8])
    theirs = torch.nn.functional.cross_entropy(logits, mask, weight, ignore_index=IGNORE)
    assert CrossEntropy(weights="ins")(logits, mask, weight)["ce"] == pytest.approx(float(theirs))
    empty = torch.full_like(mask, IGNORE)
    assert float(CeDice(weights="ins")(logits, empty, weight)["ce"]) == 0
