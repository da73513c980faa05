"""HIALF: terms on their own scale, and weights that move; truth by hand, in NumPy."""

import numpy as np
import pytest
import torch

from raremap.measure.losses import Hialf

NATURAL = np.array([0.98, 0.02])


def objective(weighting="fixed", natural=NATURAL, **more):
    options = Hialf(terms=more.pop("terms", {"ce": 1, "dice": 1}), weighting=weighting, **more)
    return options.build(2, natural=natural)


def steps(of, values, logits=None):
    """What the balance makes of a row of values, one batch after the other."""
    out = []
    for row in values:
        weighed, more = of.balance(torch.as_tensor(row, dtype=torch.float32), logits)
        out.append((weighed.detach().numpy(), {k: float(v.detach()) for k, v in more.items()}))
    return out


def test_each_term_is_divided_by_its_moving_mean_and_the_mean_has_no_gradient() -> None:
    of = objective(momentum=0.9)
    found = [w for w, _ in steps(of, [[2.0, 0.5], [1.0, 0.5], [4.0, 0.25]])]
    scale = [2.0, 0.9 * 2 + 0.1 * 1]
    scale.append(0.9 * scale[1] + 0.1 * 4)
    assert [w[0] for w in found] == pytest.approx([2 / scale[0], 1 / scale[1], 4 / scale[2]])
    values = torch.tensor([3.0, 0.3], requires_grad=True)
    before = of.balance.scale.clone()
    of.balance(values, torch.zeros(1))[0].sum().backward()
    after = 0.9 * before + 0.1 * torch.tensor([3.0, 0.3])
    assert values.grad is not None
    assert torch.allclose(values.grad, 1 / after)


def test_a_term_of_another_size_counts_the_same() -> None:
    rng = np.random.default_rng(0)
    rows = rng.uniform(0.5, 1, (20, 2))
    one, thousand = (steps(objective(), rows * [1, f])[-1][0] for f in (1, 1000))
    assert thousand == pytest.approx(one, rel=1e-5)


def test_factors_are_kept_and_a_ramp_brings_the_boundary_in() -> None:
    of = objective(terms={"dice": 3, "boundary": 1}, ramp=0.5)
    for done, grown in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)):
        of.advance(done)
        assert of.logged() == pytest.approx({"lambda/dice": 3, "lambda/boundary": grown})


def test_dwa_gives_more_to_the_term_that_falls_slowly() -> None:
    of = objective("dwa", every=2, temperature=2.0)
    steps(of, [[4, 1], [4, 1]])
    assert of.logged() == pytest.approx(
        {"lambda/ce": 1, "lambda/dice": 1}
    )  # one mean says nothing of a change
    steps(of, [[2, 0.9], [2, 0.9]])
    share = np.exp(np.array([2 / 4, 0.9 / 1]) / 2)
    share = 2 * share / share.sum()
    assert list(of.logged().values()) == pytest.approx(list(share), rel=1e-5)


@pytest.mark.parametrize(
    ("before", "now", "ratio"),
    [(-0.1, -0.3, 0.0), (-0.3, -0.1, 1 + 0.2 / 0.3), (0.05, -0.02, 0.0), (0.005, -0.3, 0.0), (0.1, 2.0, 4.0)],
)
def test_a_boundary_term_that_falls_below_zero_falls(before, now, ratio) -> None:
    of = objective("dwa", every=1, terms={"ce": 1, "boundary": 1}, ramp=0)
    steps(of, [[1, before], [1, now]])
    share = np.exp(np.array([1, ratio]) / 2)
    assert list(of.logged().values()) == pytest.approx(list(2 * share / share.sum()), rel=1e-4)


def test_gradnorm_takes_a_boundary_below_zero_for_ahead() -> None:
    of = objective("gradnorm", every=1, terms={"ce": 1, "boundary": 1}, ramp=0)
    for boundary in (0.1, -0.4):
        # Both pull alike on their scales; cross-entropy stays as it is.
        at = torch.zeros(2, requires_grad=True)
        of.balance(torch.tensor([1.0, boundary]) + torch.tensor([1.0, 0.1]) * at, at)
    assert of.logged()["lambda/boundary"] < of.logged()["lambda/ce"]


def test_uncertainty_comes_back_from_its_bounds() -> None:
    of = objective("uncertainty")
    with torch.no_grad():
        of.balance.uncertainty.copy_(torch.tensor([-4.5, 4.5]))
    optimizer = torch.optim.Adam(of.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        terms, extra = of.balance(torch.tensor([2.0, 0.5]), torch.zeros(1))
        (terms.sum() + extra["uncertainty"]).backward()
        optimizer.step()
    assert (of.balance.uncertainty.abs() < 3.5).all()


def test_a_batch_without_labels_has_no_scale_nor_has_a_term_before_its_classes_come() -> None:
    of = objective(terms={"ce": 1, "boundary": 1}, momentum=0.9, ramp=0)
    found = [w for w, _ in steps(of, [[0, 0], [2, 0], [2, 3], [0, 0], [2, 0], [2, 3]])]
    later = 0.9 * (0.9 * 3) + 0.1 * 3  # once it is known, a batch that lacks its classes counts
    assert np.array(found) == pytest.approx(
        np.array([[0, 0], [1, 0], [1, 1], [0, 0], [1, 0], [1, 3 / later]])
    )


def test_uncertainty_is_that_of_kendall_and_learns_the_logarithm_of_the_loss() -> None:
    of = objective("uncertainty")
    (weighed, more), *_ = steps(of, [[2.0, 0.5]])
    assert weighed == pytest.approx([1.0, 0.25])
    assert more == {"uncertainty": 0.0}
    optimizer = torch.optim.Adam(of.parameters(), 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        terms, extra = of.balance(torch.tensor([2.0, 0.5]), torch.zeros(1))
        (terms.sum() + extra["uncertainty"]).backward()
        optimizer.step()
    # The minimum of e^(-s) L + s lies at s = log L.
    assert of.balance.uncertainty.detach().numpy() == pytest.approx(np.log([2.0, 0.5]), abs=0.02)


def test_gradnorm_makes_unequal_pulls_equal() -> None:
    of = objective("gradnorm", every=1, alpha=0.0, momentum=0.0)
    logits = torch.tensor([1.0, 1.0], requires_grad=True)
    for _ in range(40):
        # Both terms are 1, and the second pulls three times as hard.
        values = torch.stack([logits[0], 1 + 3 * (logits[1] - 1)])
        weighed, _ = of.balance(values, logits)
    pulls = torch.autograd.grad(weighed.sum(), logits)[0]
    assert pulls[0].item() == pytest.approx(pulls[1].item(), rel=1e-3)
    assert sum(of.logged().values()) == pytest.approx(2)


def test_frequency_leans_on_regions_where_classes_are_uneven() -> None:
    even, uneven = (objective("frequency", natural=np.array(n)).logged() for n in ([0.5, 0.5], [0.98, 0.02]))
    u = (0.98 * np.log(0.98 * 2) + 0.02 * np.log(0.02 * 2)) / np.log(2)
    assert even == pytest.approx({"lambda/ce": 1.8, "lambda/dice": 0.2})
    assert uneven == pytest.approx({"lambda/ce": 2 * (1 - u), "lambda/dice": 2 * u}, rel=1e-5)


@pytest.mark.parametrize("weighting", ["fixed", "dwa", "uncertainty", "gradnorm", "frequency", "outer"])
def test_what_the_outer_loop_perturbs_is_the_loss_that_trains(weighting) -> None:
    torch.manual_seed(0)
    of = objective(weighting, terms={"ce": 1, "dice": 3, "boundary": 2}, every=1, ramp=0.8)
    maps = {"distance": torch.randn(2, 2, 6, 6)}
    for step in range(4):
        logits, mask = torch.randn(2, 2, 6, 6, requires_grad=True), torch.randint(0, 2, (2, 6, 6))
        of.advance(step / 10)
        of(logits, mask, **maps)
        if weighting == "uncertainty":
            with torch.no_grad():
                of.balance.uncertainty += torch.tensor([0.3, -0.5, 0.2])
    of.eval()
    found = {k: float(v.detach()) for k, v in of(logits, mask, **maps).items() if k != "uncertainty"}
    inner = of.inner(logits, mask, None, torch.ones(2), of.term_weights, **maps)
    assert float(inner.detach()) == pytest.approx(sum(found.values()), rel=1e-5)


@pytest.mark.parametrize("weighting", ["fixed", "dwa", "uncertainty", "gradnorm", "frequency", "outer"])
def test_a_training_that_goes_on_weighs_as_one_that_did_not_stop(weighting) -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(2, 2, 6, 6), torch.randint(0, 2, (2, 6, 6))) for _ in range(9)]

    def run(of, some):
        for logits, mask in some:
            logits = logits.clone().requires_grad_()
            of.advance(0.3)
            found = of(logits, mask)
        return {k: float(v.detach()) for k, v in found.items()}

    whole = run(objective(weighting, every=2), batches)
    first = objective(weighting, every=2)
    run(first, batches[:4])
    second = objective(weighting, every=2)
    second.load_state_dict(first.state_dict())
    assert run(second, batches[4:]) == whole


def test_a_batch_without_labels_or_in_evaluation_changes_no_weight() -> None:
    of = objective("dwa", every=1)
    logits = torch.randn(1, 2, 4, 4)
    empty = torch.full((1, 4, 4), 255)
    assert all(torch.isfinite(v) for v in of(logits, empty).values())
    of.eval()
    before = {k: v.clone() for k, v in of.state_dict().items() if isinstance(v, torch.Tensor)}
    of(logits, torch.zeros(1, 4, 4, dtype=torch.int64))
    for k, v in before.items():
        assert torch.equal(v.nan_to_num(-1), of.state_dict()[k].nan_to_num(-1))
