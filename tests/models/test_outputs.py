import numpy as np
import pytest
import torch
from scipy.special import softmax

from raremap.errors import TrainingError
from raremap.measure.losses import CeDice, CrossEntropy
from raremap.measure.terms import Lovasz
from raremap.models.outputs import Outputs, image_loss, losses_of, truth_at


def _cells(mask):
    """Shares of two classes in cells of 2×2, by numpy; beyond the border nothing is labelled."""
    shares = np.stack([mask == k for k in (0, 1)]).astype(float)
    shares = np.pad(shares, ((0, 0), (0, mask.shape[0] % 2), (0, mask.shape[1] % 2)))
    return shares.reshape(2, shares.shape[1] // 2, 2, shares.shape[2] // 2, 2).mean((2, 4))


MASK = torch.tensor([[[0, 1, 255], [0, 0, 255], [2, 255, 1]]])


def test_a_coarser_truth_holds_the_share_of_each_class():
    fractions = truth_at(MASK, (2, 2), 3)
    # Cells: {0, 1, 0, 0}; {ignored, ignored} and the border; {2, ignored} and the border; {1} and the border.
    expected = [[[0.75, 0], [0, 0]], [[0.25, 0], [0, 0.25]], [[0, 0], [0.25, 0]]]
    assert torch.equal(fractions, torch.tensor([expected]))


def test_a_rare_pixel_is_never_lost_on_the_way_down():
    mask = torch.zeros(1, 97, 130, dtype=torch.uint8)
    mask[0, 96, 129] = 1
    fractions = truth_at(mask, (49, 65), 2)
    assert np.allclose(fractions[0], _cells(mask[0].numpy()))
    assert fractions[0, 1].sum() == 0.25


def test_a_finer_truth_repeats_pixels_and_keeps_ignored_ones():
    fine = truth_at(MASK, (6, 6), 3)
    assert fine.dtype == MASK.dtype
    assert np.array_equal(fine[0], np.kron(MASK[0].numpy(), np.ones((2, 2), int)))


def test_fractions_are_pooled_without_the_unknown():
    soft = torch.tensor([[[[1.0, 0.5], [torch.nan, 0.0]], [[0.0, 0.5], [0.3, 1.0]]]])
    assert torch.equal(truth_at(soft, (1, 1), 2), torch.tensor([[[[0.375]], [[0.375]]]]))
    assert truth_at(soft, (4, 4), 2).shape == (1, 2, 4, 4)


def test_plain_logits_meet_the_loss_as_ever():
    logits = torch.randn(2, 3, 4, 4)
    mask = torch.randint(0, 3, (2, 4, 4))
    ((name, value),) = losses_of(logits, CrossEntropy().build(logits.shape[1]), mask).items()
    assert name == "ce"
    assert value.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, mask).item(), rel=1e-6)


def test_each_output_meets_its_own_truth():
    rng = np.random.default_rng(0)
    mask = torch.from_numpy(rng.integers(0, 2, (1, 4, 4)))
    coarse, fine = (torch.from_numpy(rng.normal(size=(1, 2, s, s)).astype(np.float32)) for s in (2, 8))
    logits = torch.zeros(1, 2, 4, 4)
    terms = losses_of(
        Outputs(logits, aux=(logits,), scales=(coarse, fine)), CrossEntropy().build(logits.shape[1]), mask
    )
    assert set(terms) == {"ce", "aux_ce", "x0.5_ce", "x2_ce"}
    assert terms["ce"].item() == pytest.approx(np.log(2))
    assert terms["aux_ce"].item() == pytest.approx(0.4 * np.log(2))
    shares = _cells(mask[0].numpy())
    by_hand = -(shares * np.log(softmax(coarse[0].numpy(), 0))).sum(0).mean()
    assert terms["x0.5_ce"].item() == pytest.approx(by_hand, rel=1e-5)
    twice = torch.nn.functional.cross_entropy(fine, mask.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert terms["x2_ce"].item() == pytest.approx(twice.item(), rel=1e-5)


def test_terms_of_regions_meet_the_ground_that_was_filled_at_every_output():
    torch.manual_seed(0)
    points = torch.full((1, 4, 4), 255)
    points[0, 0, 0] = 1
    heads = [torch.randn(1, 2, s, s) for s in (4, 4, 2, 8)]
    out, loss = Outputs(heads[0], aux=(heads[1],), scales=(heads[2], heads[3])), CeDice().build(2)

    def of(regions):
        found = losses_of(out, loss, points, aside=loss.aside, regions=regions)
        return {name: float(value) for name, value in found.items()}

    nothing, filled = of(torch.full_like(points, 255)), of(torch.zeros_like(points))
    for name in ("", "aux_", "x0.5_", "x2_"):
        assert nothing[f"{name}ce"] == filled[f"{name}ce"] > 0
        assert nothing[f"{name}dice"] == 0
    for logits, name in ((heads[0], ""), (heads[2], "x0.5_"), (heads[3], "x2_")):
        p = softmax(logits.numpy(), 1)[:, 0]
        assert filled[f"{name}dice"] == pytest.approx(1 - 2 * p.sum() / (p.sum() + p.size), rel=1e-5)


def test_a_term_that_needs_whole_classes_says_so_of_a_coarser_mask():
    def lovasz(logits, mask):
        return {"lovasz": Lovasz()(logits, mask)}

    out = Outputs(torch.zeros(1, 2, 4, 4), scales=(torch.zeros(1, 2, 2, 2),))
    with pytest.raises(TrainingError, match="'lovasz' has no meaning on class fractions"):
        losses_of(out, lovasz, torch.zeros(1, 4, 4, dtype=torch.long))


def test_maps_follow_to_other_resolutions():
    seen = {}

    def loss(logits, mask, edge, center):
        seen[logits.shape[-1]] = (edge, center)
        return {"none": logits.sum() * 0}

    edge = torch.full((1, 4, 4), 6.0)
    out = Outputs(torch.zeros(1, 2, 4, 4), scales=(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 8, 8)))
    losses_of(out, loss, torch.zeros(1, 4, 4, dtype=torch.long), maps={"edge": edge, "center": edge / 6})
    assert {size: (e.unique().tolist(), c.unique().tolist()) for size, (e, c) in seen.items()} == {
        4: ([6.0], [1.0]), 2: ([3.0], [1.0]), 8: ([12.0], [1.0]),
    }  # fmt: skip


def test_an_absent_class_counts_as_much_as_is_labelled():
    logits = torch.tensor([[2.0, -1.0]])
    mask = torch.tensor([[[0, 0], [255, 255]]])
    present, absent = np.log1p(np.exp(-2)), np.log1p(np.exp(-1))
    expected = (present + 0.5 * absent) / 1.5
    assert image_loss(logits, mask).item() == pytest.approx(expected, rel=1e-6)
    soft = torch.tensor([[[[1.0, 1.0], [torch.nan, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    assert image_loss(logits, soft).item() == pytest.approx(expected, rel=1e-6)


def test_an_image_without_labels_counts_nothing():
    logits = torch.randn(2, 3, requires_grad=True)
    mask = torch.full((2, 4, 4), 255)
    image_loss(logits, mask).backward()
    assert torch.equal(logits.grad, torch.zeros(2, 3))


def test_voting_means_probabilities_and_not_classes():
    def of(p, size):
        return torch.tensor([1 - p, p]).log().view(1, 2, 1, 1).expand(1, 2, *size)

    out = Outputs(of(0.2, (5, 7)), scales=(of(0.9, (3, 4)), of(0.4, (10, 14))))
    fused = torch.softmax(out.fused(), 1)
    assert fused.shape == (1, 2, 5, 7)
    assert torch.allclose(fused[:, 1], torch.tensor(0.5), atol=1e-6)
