"""Which classes a region term is a mean of, what alpha weighs, and what a pixel is worth."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.measure.terms.reference import Pixels, batch

from raremap.labels import IGNORE
from raremap.measure import terms as t

REGIONS = [t.Dice, t.IoU, t.Tversky, t.FocalTversky, t.Lovasz]
EACH = pytest.mark.parametrize("make", REGIONS)


def without_class_3(seed=0):
    logits, mask, _ = batch(seed)
    mask[mask == 3] = 1
    return logits, mask


@EACH
def test_all_is_present_times_the_share_of_classes_present(make) -> None:
    logits, mask = without_class_3()
    present, every = (make(classes=c)(logits, mask) for c in ("present", "all"))
    assert every.item() == pytest.approx(3 / 4 * float(present), rel=1e-6)


@EACH
@pytest.mark.parametrize(("classes", "moved"), [("present", False), ("all", False), ("cover", True)])
def test_only_cover_sees_false_alarms_of_an_absent_class(make, classes, moved) -> None:
    logits, mask = without_class_3()
    # The gradient by p and not by logits: the softmax ties the classes together.
    probs = torch.softmax(logits, 1).requires_grad_()
    view = t.View(logits, mask)
    view.__dict__["probs"] = probs
    grad = torch.autograd.grad(make(classes=classes).of(view), probs)[0][:, 3]
    assert bool(grad.any()) == moved
    assert (grad >= 0).all()


def test_cover_judges_an_absent_class_by_its_complement() -> None:
    logits, mask = without_class_3()
    x = Pixels(logits, mask)
    claimed, right = x.p[:, 3].sum(), (1 - x.p[:, 3]).sum()
    present = [1 - x.tversky(c, 1, 1) for c in range(3)]
    share = claimed / len(x.y)
    assert t.IoU(classes="cover")(logits, mask).item() == pytest.approx(np.mean([*present, share]), rel=1e-5)
    present = [1 - x.tversky(c, 0.7, 0.3) for c in range(3)]
    index = right / (right + 0.3 * claimed)
    assert t.Tversky(classes="cover")(logits, mask).item() == pytest.approx(
        np.mean([*present, 1 - index]), rel=1e-5
    )


def test_lovasz_cover_is_the_authors_all() -> None:
    """An absent class's loss is its largest probability."""
    logits, mask = without_class_3()
    largest = Pixels(logits, mask).p[:, 3].max()
    present = float(t.Lovasz()(logits, mask))
    assert t.Lovasz(classes="cover")(logits, mask).item() == pytest.approx(
        (3 * present + largest) / 4, rel=1e-5
    )


@pytest.mark.parametrize("make", [t.Tversky, t.FocalTversky, t.UnifiedFocal])
def test_alpha_weighs_omissions(make) -> None:
    name = "delta" if make is t.UnifiedFocal else "alpha"
    truth = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]])
    missed = torch.tensor([[[0, 0, 0, 0, 0, 0, 1, 1]]])
    false = torch.tensor([[[0, 0, 1, 1, 1, 1, 1, 1]]])

    def loss(strong, guess):
        # Of class 1 alone: every omission of one of two classes is a false alarm of the other.
        logits = F.one_hot(guess, 2).movedim(-1, 1) * 20.0
        return float(make(**{name: strong}, weights=(0, 1))(logits, truth))

    assert loss(0.9, missed) > loss(0.5, missed)
    assert loss(0.9, false) < loss(0.5, false)
    assert loss(0.9, missed) > loss(0.9, false)


def test_alpha_and_beta_by_hand() -> None:
    # Class 1: 2 hits, 2 omissions, 0 false alarms; class 0: 4 hits, 0 omissions, 2 false alarms.
    truth = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]])
    logits = F.one_hot(torch.tensor([[[0, 0, 0, 0, 0, 0, 1, 1]]]), 2).movedim(-1, 1) * 50.0
    expected = np.mean([1 - 4 / (4 + 0.25 * 2), 1 - 2 / (2 + 0.75 * 2)])
    assert t.Tversky(alpha=0.75)(logits, truth).item() == pytest.approx(expected, rel=1e-6)
    expected = np.mean([1 - 4 / (4 + 2 * 2), 1 - 2 / (2 + 0.75 * 2)])
    assert t.Tversky(alpha=0.75, beta=2)(logits, truth).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "make", [*REGIONS, t.GeneralisedDice, t.LogCoshDice, t.UnifiedFocal, t.Boundary, t.LogCosh]
)
def test_worth_makes_a_stream_natural_ground(make) -> None:
    """A stream that shows each pixel of class 1 three times, and the ground that it is of."""
    torch.manual_seed(0)
    logits, mask, distance = (
        torch.randn(1, 2, 1, 50),
        torch.randint(0, 2, (1, 1, 50)),
        torch.randn(1, 2, 1, 50),
    )
    rare = torch.nonzero(mask[0, 0] == 1)[:, 0]
    three, labels, far = (torch.cat([x, x[..., rare], x[..., rare]], -1) for x in (logits, mask, distance))
    n = len(rare)
    natural = torch.tensor([(50 - n) / 50, n / 50])
    stream = torch.tensor([(50 - n) / (50 + 2 * n), 3 * n / (50 + 2 * n)])
    found = make()(three, labels, prior=t.Prior(stream, natural), distance=far)
    assert found.item() == pytest.approx(float(make()(logits, mask, distance=distance)), rel=1e-5)


def test_generalised_dice_covers_absent_classes_with_the_largest_weight() -> None:
    """As MONAI's GeneralizedDiceLoss(batch=True) replaces its infinite weights."""
    logits, mask = without_class_3()
    x = Pixels(logits, mask)
    w = 1 / np.where(x.n > 0, x.n, x.n[x.n > 0].min()) ** 2
    score = 2 * (w * (x.p * x.one).sum(0)).sum() / (w * (x.p.sum(0) + x.n)).sum()
    assert t.GeneralisedDice(classes="cover")(logits, mask).item() == pytest.approx(1 - score, rel=1e-5)


def test_boundary_of_chosen_classes_is_the_mean_over_them() -> None:
    logits, mask, maps = batch()
    x = Pixels(logits, mask, maps)
    chosen = maps["distance"][:, [3, 1]]
    expected = np.mean(x.p[:, [3, 1]] * x.distance[:, [3, 1]])
    assert t.Boundary(only=(3, 1))(logits, mask, distance=chosen).item() == pytest.approx(expected, rel=1e-5)
    weight = torch.tensor([9.0, 1, 9, 3])
    expected = (x.p[:, 3] * x.distance[:, 3]).mean() * 0.75 + (x.p[:, 1] * x.distance[:, 1]).mean() * 0.25
    found = t.Boundary(only=(3, 1))(logits, mask, weight, distance=chosen)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_sums_do_not_stop_counting_in_float32() -> None:
    """Twenty million pixels of one class: a running sum of ones in float32 ends at 2^24."""
    logits = torch.zeros(20, 2, 1000, 1000)
    logits[:, 0] = 40.0
    sums = t.View(logits, torch.zeros(20, 1000, 1000, dtype=torch.uint8)).sums
    assert sums.hits.tolist() == [20e6, 0]
    assert sums.truth.tolist() == [20e6, 0]
    assert sums.claimed[0] == pytest.approx(20e6, rel=1e-5)


def test_ignored_pixels_are_no_class_0() -> None:
    _, mask, _ = batch()
    view = t.View(torch.zeros(2, 4, 9, 7), mask)
    assert view.seen.tolist() == np.bincount(mask[mask != IGNORE], minlength=4).tolist()
