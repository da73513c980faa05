"""FESTA against a loop over pixels, and what must not enter it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raremap.measure.terms.festa import Festa


def by_hand(x: np.ndarray, valid: np.ndarray, sample: list[list[int]], options: Festa) -> float:
    """The formula, pixel by pixel, of features `[B, D, H, W]`."""
    costs = []
    for b, drawn in enumerate(sample):
        _, height, width = x[b].shape
        pixels = [(r, c) for r in range(height) for c in range(width) if valid[b, r, c]]
        for flat in drawn:
            i = (flat // width, flat % width)
            own = x[b][:, *i]
            others = [p for p in pixels if p != i]
            near = min(((own - x[b][:, *p]) ** 2).sum() for p in others)
            beside = [p for p in others if abs(p[0] - i[0]) <= 1 and abs(p[1] - i[1]) <= 1]
            side = min((((own - x[b][:, *p]) ** 2).sum() for p in beside), default=0.0)
            norm = np.linalg.norm
            far = min(own @ x[b][:, *p] / (norm(own) * norm(x[b][:, *p])) for p in pixels)
            costs.append(options.alpha * near + options.beta * side + options.gamma * far)
    return options.weight * float(np.mean(costs))


@pytest.mark.parametrize(
    "options", [Festa(), Festa(weight=1, alpha=0.2, beta=0.7, gamma=2.0), Festa(beta=0, gamma=0)]
)
@pytest.mark.parametrize("holes", [0.0, 0.3, 0.8])
def test_it_is_the_formula(options, holes) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 6, 7))
    valid = rng.random((2, 6, 7)) >= holes
    sample = [list(rng.permutation(np.flatnonzero(v))[:2]) for v in valid]
    found = options(torch.tensor(x), torch.tensor(valid), sample=torch.tensor(np.array(sample)))
    assert float(found) == pytest.approx(by_hand(x, valid, sample, options))


def test_pairs_are_compared_a_part_at_a_time(monkeypatch) -> None:
    from raremap.measure.terms import festa

    sizes, cdist = [], torch.cdist
    monkeypatch.setattr(
        torch, "cdist", lambda *a, **k: (sizes.append(len(a[0]) * len(a[1])), cdist(*a, **k))[1]
    )
    x, sample = torch.rand(1, 3, 12, 12), torch.arange(0, 144, 5)[None]
    whole = float(Festa()(x, sample=sample))
    monkeypatch.setattr(festa, "_PAIRS", 1000)
    assert float(Festa()(x, sample=sample)) == whole
    assert sizes[0] == 29 * 144
    assert max(sizes[1:]) <= 1000


def test_a_pixel_is_not_its_own_neighbour_but_may_be_its_farthest() -> None:
    x = torch.tensor([[[[3.0, 4.0]], [[0.0, 0.0]]]], dtype=torch.float64)
    everything = torch.tensor([[0, 1]])
    assert float(Festa(weight=1, alpha=1, beta=0, gamma=0)(x, sample=everything)) == pytest.approx(1)
    assert float(Festa(weight=1, alpha=0, beta=1, gamma=0)(x, sample=everything)) == pytest.approx(1)
    assert float(Festa(weight=1, alpha=0, beta=0, gamma=1)(x, sample=everything)) == pytest.approx(1)


def test_the_same_generator_draws_the_same_pixels_and_invalid_ones_change_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    x, valid = torch.rand(2, 3, 20, 20, generator=rng), torch.rand(2, 20, 20, generator=rng) > 0.4
    one, two, other = (float(Festa(share=0.1)(x, valid, torch.Generator().manual_seed(s))) for s in (1, 1, 2))
    assert one == two != other
    noisy = torch.where(valid.unsqueeze(1), x, 1e4)
    assert float(Festa(share=0.1)(noisy, valid, torch.Generator().manual_seed(1))) == pytest.approx(one)


def test_a_share_of_each_image_is_drawn() -> None:
    class Counting(Festa):
        def _costs(self, x, there, at, width):
            numbers.append((len(at), len(set(at.tolist())), bool(there[at].all())))
            return super()._costs(x, there, at, width)

    numbers: list[tuple[int, int, bool]] = []
    valid = torch.zeros(3, 10, 10, dtype=torch.bool)
    valid[0], valid[1, :5] = True, True
    Counting(share=0.2)(torch.rand(3, 2, 10, 10), valid)
    assert numbers == [(20, 20, True), (10, 10, True)]


@pytest.mark.parametrize("pixels", [0, 1])
def test_without_neighbours_it_is_zero_with_a_gradient_of_zero(pixels) -> None:
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    valid = torch.zeros(2, 4, 4, dtype=torch.bool)
    valid.view(2, -1)[:, :pixels] = True
    value = Festa()(x, valid)
    value.backward()
    assert value.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_its_gradient_is_right() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    sample = torch.tensor([[0, 5, 11]])
    assert torch.autograd.gradcheck(lambda v: Festa(weight=1)(v, sample=sample), (x,))


def test_half_precision_stays_near() -> None:
    torch.manual_seed(0)
    x, sample = torch.rand(1, 3, 8, 8), torch.arange(0, 64, 5)[None]
    exact = float(Festa()(x, sample=sample))
    assert float(Festa()(x.bfloat16(), sample=sample)) == pytest.approx(exact, abs=0.02)


def test_equal_features_cost_only_what_likeness_does() -> None:
    x = torch.ones(1, 2, 5, 5)
    assert float(Festa(weight=1, gamma=1, share=1)(x)) == pytest.approx(1)
