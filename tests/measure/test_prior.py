"""The prior in the losses: what the stream shows more often does not move the map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logit

from raremap.measure import terms
from raremap.measure.losses import CeDice, CrossEntropy
from raremap.measure.terms import prior_offset

NATURAL = torch.tensor([0.98, 0.02])
STREAM = torch.tensor([0.8, 0.2])


def fitted(
    mask: torch.Tensor, x: torch.Tensor, loss: CrossEntropy | CeDice, prior: torch.Tensor
) -> np.ndarray:
    """Log-odds, at a few x, of a linear model trained to the end."""
    objective = loss.build(2, natural=NATURAL.numpy())
    slope, shift = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([slope, shift], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = (x[None] * slope[:, None] + shift[:, None])[None, :, None]
        total = sum(objective(logits, mask[None, None], prior).values())
        total = total + 1e-6 * (slope.square().sum() + shift.square().sum())
        total.backward()
        return total

    optimizer.step(closure)
    at = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    return (at * (slope[1] - slope[0]) + shift[1] - shift[0]).detach().numpy()


def drawn(shares: torch.Tensor, seed: int, n: int = 400_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes by their shares, and one feature N(0, 1) or N(2, 1): the same in each class, whatever the shares."""
    rng = np.random.default_rng(seed)
    mask = (rng.random(n) < float(shares[1])).astype(np.int64)
    return torch.from_numpy(mask), torch.from_numpy(rng.normal(2.0 * mask, 1).astype(np.float32))


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_scores_do_not_depend_on_the_stream(tau: float) -> None:
    # log p(x|1)/p(x|0) is 2x - 2 for these two normals; the prior's part is (1 - tau) log odds.
    truth = 2 * np.array([-1.0, 0, 1, 2]) - 2 + (1 - tau) * logit(0.02)
    for shares in (NATURAL, STREAM):
        mask, x = drawn(shares, 1)
        found = fitted(mask, x, CrossEntropy(tau=tau), shares)
        assert found == pytest.approx(truth, abs=0.15)


def test_without_tau_the_stream_moves_them() -> None:
    mask, x = drawn(STREAM, 2)
    found = fitted(mask, x, CrossEntropy(tau=None), STREAM)
    assert found == pytest.approx(2 * np.array([-1.0, 0, 1, 2]) - 2 + logit(0.2), abs=0.15)


def test_class_weights_are_part_of_what_is_delivered() -> None:
    weight = torch.tensor([0.5, 4.0])
    by_hand = torch.log(torch.tensor([0.4 / 1.2, 0.8 / 1.2])) - torch.log(NATURAL)
    assert torch.allclose(prior_offset(STREAM, NATURAL, 0.0, weight), by_hand)


def test_the_natural_stream_with_tau_0_is_plain_cross_entropy_and_absent_classes_are_left_alone() -> None:
    assert prior_offset(NATURAL, NATURAL, 0.0).tolist() == [0, 0]
    absent = torch.tensor([1.0, 0.0])
    assert torch.isfinite(prior_offset(absent, absent, 0.5)).all()
    logits, mask = torch.randn(1, 2, 3, 3), torch.randint(0, 2, (1, 3, 3))
    found = CrossEntropy().build(2, natural=NATURAL.numpy())(logits, mask, NATURAL)["ce"]
    assert found == terms.CrossEntropy()(logits, mask)


def test_dice_of_a_stream_is_that_of_natural_ground() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(1, 2, 1, 50), torch.randint(0, 2, (1, 1, 50))
    rare = torch.nonzero(mask[0, 0] == 1)[:, 0]
    # A stream that shows every pixel of class 1 three times.
    three = torch.cat([logits, logits[..., rare], logits[..., rare]], -1)
    labels = torch.cat([mask, mask[..., rare], mask[..., rare]], -1)
    n1 = len(rare)
    natural = torch.tensor([(50 - n1) / 50, n1 / 50])
    stream = torch.tensor([(50 - n1) / (50 + 2 * n1), 3 * n1 / (50 + 2 * n1)])
    found = CeDice().build(2, natural=natural.numpy())(three, labels, stream)
    assert float(found["dice"]) == pytest.approx(float(terms.Dice()(logits, mask)), abs=1e-6)
