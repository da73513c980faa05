import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from tests.measure.terms.reference import batch

from raremap.batches.distance import BoundaryMaps
from raremap.errors import ConfigError
from raremap.labels import IGNORE
from raremap.measure import terms
from raremap.measure.losses import CeDice, CrossEntropy, Hialf, LossOptions, Sum, written_out

ANY = TypeAdapter(LossOptions)
SHARES = np.array([0.7, 0.25, 0.05])


def loss_of(written):
    """The options of a loss as an experiment writes it."""
    return ANY.validate_python(written_out(written))


def test_terms_are_weighted() -> None:
    logits, mask, _ = batch()
    found = CeDice(ce=0.5, dice=2).build(logits.shape[1])(logits, mask)
    assert float(found["ce"]) == pytest.approx(0.5 * float(terms.CrossEntropy()(logits, mask)))
    assert float(found["dice"]) == pytest.approx(2 * float(terms.Dice()(logits, mask)))


@pytest.mark.parametrize(
    "loss", [CrossEntropy(), CeDice(ce=0.5, dice=2), loss_of({"focal": 0.5, "iou": 0.5})]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(loss, dtype) -> None:
    logits, mask, _ = batch()
    objective = loss.build(logits.shape[1])
    exact, half = (sum(objective(z, mask).values()) for z in (logits, logits.to(dtype)))
    assert float(half) == pytest.approx(float(exact), rel=0.02)


def test_one_class_only_is_finite() -> None:
    logits, mask, _ = batch()
    loss = CeDice().build(logits.shape[1])(logits, torch.zeros_like(mask))
    assert all(torch.isfinite(v) for v in loss.values())


def test_weighted_cross_entropy_is_torchs_and_finite_where_nothing_is_labelled() -> None:
    logits, mask, _ = batch(k=3)
    raw = 1 / SHARES / np.mean(1 / SHARES)
    theirs = torch.nn.functional.cross_entropy(
        logits, mask, torch.tensor(raw, dtype=logits.dtype), ignore_index=IGNORE
    )
    found = CrossEntropy(weights="ins").build(3, shares=SHARES)(logits, mask)["ce"]
    assert float(found) == pytest.approx(float(theirs), rel=1e-6)
    empty = torch.full_like(mask, IGNORE)
    assert float(CeDice(weights="ins").build(3, shares=SHARES)(logits, empty)["ce"]) == 0


def test_a_sum_by_name_is_the_sum_of_its_terms_times_their_factors() -> None:
    logits, mask, _ = batch()
    loss = loss_of(
        {"focal": {"factor": 0.5, "gamma": 3}, "iou": 0.25, "hard": {"kind": "tversky", "alpha": 0.9}}
    )
    assert isinstance(loss, Sum)
    found = loss.build(logits.shape[1])(logits, mask)
    by_hand = {
        "focal": 0.5 * terms.Focal(gamma=3)(logits, mask),
        "iou": 0.25 * terms.IoU()(logits, mask),
        "hard": terms.Tversky(alpha=0.9)(logits, mask),
    }
    assert set(found) == set(by_hand)
    for name, value in by_hand.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-6)


@pytest.mark.parametrize(
    "written",
    ["dice", {"focal": 0.5, "iou": {"factor": 0.5, "log": True}}, {"kind": "lovasz", "tau": None}, "ce"],
)
def test_a_loss_is_read_back_from_what_it_dumps(written) -> None:
    loss = loss_of(written)
    assert ANY.validate_python(loss.model_dump(mode="json")) == loss


def test_an_unknown_term_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no loss term is called 'focall'; did you mean 'focal'"):
        loss_of({"focall": 1})


def test_boundary_maps_are_of_the_classes_named_or_rare() -> None:
    names = ("forest", "water", "mine")
    for only, expected in ((["mine"], (2,)), ("rare", (1, 2)), (None, None)):
        loss = loss_of({"ce": 1, "boundary": {"only": only}})
        assert loss.build(3, names=names, rare=(1, 2)).boundary.numbers == expected
    with pytest.raises(ConfigError, match="names 'mines', which is not a class; did you mean 'mine'"):
        loss_of({"boundary": {"only": ["mines"]}}).build(3, names=names)
    with pytest.raises(ConfigError, match="none is rare"):
        loss_of({"boundary": {"only": "rare"}}).build(3, names=names)


def test_maps_reach_the_terms_that_ask_for_them() -> None:
    logits, mask, _ = batch(k=3)
    objective = loss_of({"boundary_ce": 1, "center_ce": 1, "boundary": {"only": [1]}}).build(3)
    assert objective.maps == ("edge", "center", "distance")
    make = BoundaryMaps(3, objective.maps, objective.boundary.numbers, objective.boundary.clip)
    each = [make(m.numpy()) for m in mask]
    maps = {n: torch.from_numpy(np.stack([m[n] for m in each])) for n in objective.maps}
    found = objective(logits, mask, **maps)
    assert float(found["boundary"]) == pytest.approx(
        float(terms.Boundary(only=(1,))(logits, mask, distance=maps["distance"]))
    )


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"boundary": {"only": [3]}}, "class number 3 in only, and classes are numbered 0 to 2"),
        ({"boundary": {"only": [-1]}}, "class number -1 in only"),
        ({"unified_focal": {"background": 3}}, "class number 3 in background"),
        ({"focal": 0, "iou": 0}, "every term of the loss has the factor 0"),
        ({"kind": "ce_dice", "ce": 0, "dice": 0}, "every term of the loss has the factor 0"),
        ({"ce": {"weights": [0, 0, 0]}}, "all class weights are 0"),
        ({"ce": {"weights": [-1, 1, 1]}}, "greater than or equal to 0"),
        ({"ce": {"weights": ["inf", 1, 1]}}, "finite number"),
    ],
)
def test_what_cannot_be_meant_is_refused(written, message) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        loss_of(written).build(3)


def test_a_term_with_the_factor_0_is_not_looked_at() -> None:
    logits, shares = torch.randn(1, 3, 2, 2), torch.softmax(torch.randn(1, 3, 2, 2), 1)
    objective = loss_of({"ce": 1, "lovasz": 0, "boundary": 0}).build(3)
    assert objective.maps == ()
    assert set(objective(logits, shares)) == {"ce"}  # the others have no meaning on fractions


def test_a_class_that_is_named_twice_has_one_map() -> None:
    assert loss_of({"boundary": {"only": ["b", 1, "c"]}}).build(3, names=("a", "b", "c")).boundary.only == (
        1,
        2,
    )


def test_weights_without_shares_are_refused() -> None:
    with pytest.raises(ConfigError, match="'ce' has weights 'ins'"):
        CrossEntropy(weights="ins").build(3)


def test_what_the_scores_take_for_granted() -> None:
    natural, delivered = np.array([0.9, 0.1]), np.array([600.0, 200.0])
    plain = CrossEntropy(tau=None).build(2, natural=natural)
    assert plain.learned_prior(natural, delivered) == pytest.approx([0.75, 0.25])
    weighted = CrossEntropy(tau=None, weights=(1.0, 3.0)).build(2, natural=natural)
    assert weighted.learned_prior(natural, delivered) == pytest.approx([0.5, 0.5])
    half = CrossEntropy(tau=0.5).build(2, natural=natural)
    assert half.learned_prior(natural, delivered) == pytest.approx([0.75, 0.25])  # sqrt(.9) : sqrt(.1)
    regions = loss_of({"dice": {"weights": [1.0, 3.0]}, "ce": 1, "tau": None}).build(2, natural=natural)
    assert regions.learned_prior(natural, delivered) == pytest.approx([0.75, 0.25])


def test_boundaries_of_other_classes_do_not_share_a_map() -> None:
    with pytest.raises(ValueError, match="the boundary terms every, rare differ in only or clip"):
        loss_of({"every": {"kind": "boundary"}, "rare": {"kind": "boundary", "only": "rare"}})
    loss_of({"one": {"kind": "boundary"}, "two": {"kind": "boundary"}})


def test_terms_of_whole_classes_meet_the_largest_of_a_coarser_outputs_cells() -> None:
    torch.manual_seed(0)
    # Cells of four pixels: of class 0; of class 2 as far as it is labelled, a half; of nothing; of class 1 in the main.
    shares = torch.tensor([[1.0, 0, 0], [0, 0, 0.5], [0, 0, 0], [0.25, 0.75, 0]]).T.view(1, 3, 1, 4)
    mask, worth = torch.tensor([[[0, 2, 255, 1]]]), torch.tensor([[[1, 0.5, 0, 1]]])
    logits, center = torch.randn(1, 3, 1, 4), torch.rand(1, 1, 4)
    objective = loss_of({"ce": 1, "lovasz": 1, "center_ce": 1}).build(3)
    found = objective.aside(logits, shares, center=center)
    view = terms.View(logits, mask, worth=worth, center=center)
    assert float(found["lovasz"]) == pytest.approx(float(terms.Lovasz().of(view)), rel=1e-6)
    assert float(found["center_ce"]) == pytest.approx(float(terms.CenterCE().of(view)), rel=1e-6)
    assert float(found["ce"]) == pytest.approx(float(terms.CrossEntropy()(logits, shares)), rel=1e-6)


def test_ground_that_was_filled_does_not_come_in_the_shares_of_points() -> None:
    torch.manual_seed(0)
    logits, filled = torch.randn(1, 2, 6, 6), torch.randint(0, 2, (1, 6, 6))
    points = torch.full_like(filled, 255)
    points[0, 0, :2] = torch.tensor([0, 1])
    # As many points of either class, of ground that holds one per cent of the second.
    how = {"natural": np.array([0.99, 0.01]), "counts": np.array([[5, 5], [7, 7]])}
    objective = loss_of({"ce": 1, "dice": 1}).build(2, **how)
    found = objective(logits, points, torch.tensor([0.5, 0.5]), regions=filled)
    assert float(found["dice"]) == pytest.approx(float(terms.Dice()(logits, filled)), rel=1e-6)
    # A stream that shows twice as much of the second class as of the first, by its labels.
    found = objective(logits, points, torch.tensor([1 / 3, 2 / 3]), regions=filled)
    of = terms.Prior(torch.tensor([1 / 3, 2 / 3]), torch.tensor([0.5, 0.5]))
    assert float(found["dice"]) == pytest.approx(float(terms.Dice()(logits, filled, prior=of)), rel=1e-6)


def test_a_pixel_that_was_filled_counts_one_where_labels_have_weights() -> None:
    torch.manual_seed(0)
    logits, filled = torch.randn(1, 2, 1, 4), torch.tensor([[[0, 1, 1, 0]]])
    labels, worth = torch.tensor([[[0, 1, 255, 255]]]), torch.tensor([[[3.0, 0.5, 0.0, 0.0]]])
    found = loss_of({"dice": 1}).build(2)(logits, labels, regions=filled, worth=worth)
    view = terms.View(logits, filled, worth=torch.tensor([[[3.0, 0.5, 1, 1]]]))
    assert float(found["dice"]) == pytest.approx(float(terms.Dice().of(view)), rel=1e-6)


def test_hialf_has_the_parts_of_its_source() -> None:
    assert set(Hialf().parts()) == {"focal", "dice", "boundary"}


def test_factors_of_the_outer_loop_weigh_classes_of_pixel_terms_and_the_terms() -> None:
    logits, mask, _ = batch(k=3)
    objective = loss_of({"ce": 1, "dice": 2}).build(3)
    classes, factors = torch.tensor([0.5, 1.0, 1.5]), torch.tensor([2.0, 1.0])
    expected = 2 * terms.CrossEntropy()(logits, mask, classes) + terms.Dice()(logits, mask)
    before = objective(logits, mask)
    inner = objective.inner(logits, mask, None, classes, factors)
    assert float(inner) == pytest.approx(float(expected), rel=1e-6)
    assert {k: float(v) for k, v in objective(logits, mask).items()} == {
        k: float(v) for k, v in before.items()
    }
    objective.set(classes, factors)
    assert float(sum(objective(logits, mask).values())) == pytest.approx(float(expected), rel=1e-6)
    again = loss_of({"ce": 1, "dice": 2}).build(3)
    again.load_state_dict(objective.state_dict())
    assert float(sum(again(logits, mask).values())) == pytest.approx(float(expected), rel=1e-6)
