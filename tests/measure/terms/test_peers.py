"""Terms beside those of other libraries, and where they differ."""

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score, jaccard_score, log_loss
from tests.measure.terms.reference import batch

from raremap.labels import IGNORE
from raremap.measure import terms as t


def test_cross_entropy_is_torchs_with_weights_too() -> None:
    logits, mask, _ = batch(k=5)
    assert torch.equal(t.CrossEntropy()(logits, mask), F.cross_entropy(logits, mask, ignore_index=IGNORE))
    weight = torch.tensor([0.1, 1, 2, 0.5, 3])
    theirs = F.cross_entropy(logits, mask, weight, ignore_index=IGNORE)
    assert t.CrossEntropy()(logits, mask, weight).item() == pytest.approx(float(theirs), rel=1e-6)
    empty = torch.full_like(mask, IGNORE)
    assert torch.isnan(F.cross_entropy(logits, empty, ignore_index=IGNORE))
    assert t.CrossEntropy()(logits, empty) == 0


def test_cross_entropy_is_scikit_learns_log_loss() -> None:
    logits, mask, _ = batch()
    kept = mask != IGNORE
    probs = torch.softmax(logits.double(), 1).movedim(1, -1)[kept].numpy()
    theirs = log_loss(mask[kept], probs / probs.sum(1, keepdims=True), labels=range(4))
    assert t.CrossEntropy()(logits, mask).item() == pytest.approx(theirs, rel=1e-5)


def test_dice_and_iou_of_sure_maps_are_scikit_learns() -> None:
    logits, mask, _ = batch()
    guess = logits.argmax(1)
    sure = F.one_hot(guess, 4).movedim(-1, 1) * 100.0
    kept = mask != IGNORE
    pair = mask[kept].numpy(), guess[kept].numpy()
    assert 1 - t.Dice()(sure, mask).item() == pytest.approx(f1_score(*pair, average="macro"), rel=1e-5)
    assert 1 - t.IoU()(sure, mask).item() == pytest.approx(jaccard_score(*pair, average="macro"), rel=1e-5)
    assert t.Lovasz()(sure, mask).item() == pytest.approx(1 - jaccard_score(*pair, average="macro"), rel=1e-5)


@pytest.mark.parametrize("absent", [False, True])
def test_dice_and_tversky_are_smps_with_all_classes(absent) -> None:
    logits, mask, _ = batch()
    if absent:
        mask[mask == 3] = 0
    dice = smp.losses.DiceLoss("multiclass", ignore_index=IGNORE)(logits, mask)
    assert t.Dice(classes="all")(logits, mask).item() == pytest.approx(float(dice), rel=1e-5)
    # Their alpha weighs false positives, ours false negatives.
    tversky = smp.losses.TverskyLoss("multiclass", ignore_index=IGNORE, alpha=0.2, beta=0.9)(logits, mask)
    ours = t.Tversky(alpha=0.9, beta=0.2, classes="all")(logits, mask)
    assert ours.item() == pytest.approx(float(tversky), rel=1e-5)


@pytest.mark.parametrize("log", [False, True])
def test_iou_is_smps(log) -> None:
    logits, mask, _ = batch(ignored=0)  # their Jaccard loss knows no ignored pixels
    theirs = smp.losses.JaccardLoss("multiclass", log_loss=log)(logits, mask)
    assert t.IoU(log=log)(logits, mask).item() == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("k", [2, 5])
def test_lovasz_and_its_gradient_are_smps(k) -> None:
    logits, mask, _ = batch(k=k, size=(2, 40, 30))
    mask[mask == k - 1] = 0  # absent: both leave it out
    results = []
    for loss in (smp.losses.LovaszLoss("multiclass", ignore_index=IGNORE), t.Lovasz()):
        z = logits.clone().requires_grad_()
        value = loss(z, mask)
        results.append((value.item(), torch.autograd.grad(value, z)[0].numpy()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-3, atol=1e-6)


def test_focal_is_of_the_softmax_and_smps_is_not() -> None:
    logits, mask, _ = batch()
    sigmoid = smp.losses.FocalLoss("multiclass", ignore_index=IGNORE, alpha=None)(logits, mask)
    assert t.Focal()(logits, mask).item() != pytest.approx(float(sigmoid), rel=0.05)
    assert t.Focal(gamma=0)(logits, mask).item() == pytest.approx(
        float(t.CrossEntropy()(logits, mask)), rel=1e-6
    )


def test_seesaw_is_the_authors_code() -> None:
    """After mmdet.models.losses.seesaw_ce_loss, without its cap on N."""
    logits, mask, _ = batch(9, k=5)
    kept = mask != IGNORE
    scores, labels = logits.movedim(1, -1)[kept], mask[kept]
    samples, onehot = torch.bincount(labels, minlength=5).float() + 7, F.one_hot(labels, 5)
    ratio = samples[None, :].clamp(min=1) / samples[:, None].clamp(min=1)
    smaller = (ratio < 1).float()
    weights = (ratio.pow(0.8) * smaller + 1 - smaller)[labels]
    probs = torch.softmax(scores, 1)
    against = probs / probs[torch.arange(len(labels)), labels][:, None].clamp(min=0.01)
    larger = (against > 1).float()
    weights = weights * (against.pow(2) * larger + 1 - larger)
    theirs = F.cross_entropy(scores + weights.log() * (1 - onehot), labels)
    view = t.View(logits, mask)
    assert t.Seesaw().of(view, counts=samples).item() == pytest.approx(float(theirs), rel=1e-5)


def test_unified_focal_is_the_authors_for_two_classes() -> None:
    """After mlyg/unified-focal-loss, `asym_unified_focal_loss`, on one image without ignored pixels."""
    logits, mask, _ = batch(ignored=0, k=2, size=(1, 9, 7))
    p, one = torch.softmax(logits, 1)[0].flatten(1), F.one_hot(mask, 2)[0].movedim(-1, 0).flatten(1)
    delta, gamma = 0.6, 0.5
    tp, fn, fp = (p * one).sum(1), ((1 - p) * one).sum(1), (p * (1 - one)).sum(1)
    index = tp / (tp + delta * fn + (1 - delta) * fp)
    regions = torch.stack([1 - index[0], (1 - index[1]) * (1 - index[1]) ** -gamma]).mean()
    ce = -one * p.log()
    pixels = ((1 - delta) * (1 - p[0]) ** gamma * ce[0] + delta * ce[1]).mean()
    expected = 0.5 * regions + 0.5 * pixels
    assert t.UnifiedFocal()(logits, mask).item() == pytest.approx(float(expected), rel=1e-5)
