"""The hypergradient against exact double backward through one step, and what the passes leave behind."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from raremap.labels import IGNORE
from raremap.learn.hypergradient import Ahead, hypergradient, look_ahead
from raremap.measure import terms
from raremap.measure.terms import Prior, View

K = 4
STREAM, NATURAL = torch.tensor([0.3, 0.3, 0.3, 0.1]), torch.tensor([0.5, 0.3, 0.15, 0.05])
H = torch.tensor([0.3, -0.2, 0.1, 0.8, 0.0, 0.2, -0.3])


class UNet(nn.Module):
    """Two levels with a skip, with group or batch norms; biases before a batch norm have no gradient but rounding."""

    def __init__(self, norm: str, drop: float = 0.0) -> None:
        super().__init__()

        def block(i: int, o: int) -> nn.Sequential:
            layer = nn.GroupNorm(2, o) if norm == "group" else nn.BatchNorm2d(o)
            return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), layer, nn.ReLU())

        self.down, self.deep, self.up = block(3, 8), block(8, 16), block(24, 8)
        self.drop, self.head = nn.Dropout(drop), nn.Conv2d(8, K, 1)

    def forward(self, x):
        a = self.down(x)
        b = F.interpolate(self.deep(F.max_pool2d(a, 2)), scale_factor=2.0)
        return self.head(self.drop(self.up(torch.cat([a, b], 1))))


def batch(seed, size=4):
    g = torch.Generator().manual_seed(seed)
    image = torch.randn(size, 3, 16, 16, generator=g)
    mask = (image[:, 0] + 0.5 * torch.randn(size, 16, 16, generator=g)).add(1).long().clamp(0, K - 1)
    mask[torch.rand(mask.shape, generator=g) < 0.2] = IGNORE
    return image, mask


def trained(norm, kind, steps=12, drop=0.0):
    """A network and its optimizer after some steps; `frozen` batch norms stay in evaluation from then on."""
    torch.manual_seed(0)
    network = UNet(norm.removeprefix("frozen "), drop).train()
    optimizer = KINDS[kind](network.parameters())
    for step in range(steps):
        image, mask = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(network(image), mask, ignore_index=IGNORE).backward()
        optimizer.step()
    for m in network.modules():
        if norm.startswith("frozen") and isinstance(m, nn.BatchNorm2d):
            m.eval()
    return network, optimizer


KINDS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=3e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.1, amsgrad=True),
}


def inner(logits, mask, h):
    """Three terms; the class weights of the first are in its prior as well, so that h does not act linearly."""
    view = View(logits, mask, prior=Prior(STREAM, NATURAL))
    found = [terms.CrossEntropy().of(view, h[:K].exp()), terms.Dice().of(view), terms.Focal().of(view)]
    return (h[K:].exp() * torch.stack(found)).sum()


def validation(logits, mask):
    return F.cross_entropy(logits, mask, torch.tensor([0.2, 0.5, 1.0, 3.0]), ignore_index=IGNORE)


def exact(network, ahead, image, mask, other, h):
    """Autograd through one step: θ − moves − r·(∇L(h) − its value), so that only h moves it off the step ahead."""
    network = copy.deepcopy(network)
    parameters = dict(network.named_parameters())
    h = h.clone().requires_grad_()
    value = inner(network(image), mask, h)
    grads = torch.autograd.grad(value, list(parameters.values()), create_graph=True)
    stepped = {
        name: p.detach() - move - rate * (g - g.detach())
        for (name, p), rate, move, g in zip(parameters.items(), ahead.rates, ahead.moves, grads, strict=True)
    }
    found = validation(functional_call(network, stepped, (other[0],)), other[1])
    return torch.autograd.grad(found, h)[0]


def ours(network, ahead, image, mask, other, h, **more):
    return hypergradient(
        network,
        ahead,
        lambda: (validation(network(other[0]), other[1]) for _ in range(1)),
        lambda: network(image),
        lambda logits, h: inner(logits, mask, h),
        h,
        **more,
    )


def cosine(a, b):
    return float(F.cosine_similarity(a.double(), b.double(), dim=0))


@pytest.mark.parametrize("norm", ["group", "batch", "frozen batch"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_passes_give_what_double_backward_gives(norm, kind):
    network, optimizer = trained(norm, kind)
    ahead, train, other = look_ahead(optimizer), batch(11), batch(200, 8)
    found, wanted = ours(network, ahead, *train, other, H), exact(network, ahead, *train, other, H)
    assert cosine(found, wanted) > 0.999
    assert float(found.norm() / wanted.norm()) == pytest.approx(1, abs=0.05)


def test_the_step_of_one_gradient_is_looked_ahead_as_exactly():
    network, optimizer = trained("group", "adam")
    image, mask = batch(11)
    ahead = look_ahead(optimizer)
    own = torch.autograd.grad(inner(network(image), mask, H), ahead.parameters)
    ahead = Ahead(ahead.parameters, ahead.rates, [r * g for r, g in zip(ahead.rates, own, strict=True)])
    other = batch(200, 8)
    wanted = exact(network, ahead, image, mask, other, H)
    assert cosine(ours(network, ahead, image, mask, other, H), wanted) > 0.999


def test_what_is_looked_ahead_is_the_step_that_adam_has_just_made():
    network, optimizer = trained("group", "adam")
    before = [p.detach().clone() for p in network.parameters()]
    image, mask = batch(50)
    optimizer.zero_grad()
    validation(network(image), mask).backward()
    optimizer.step()
    ahead = look_ahead(optimizer)
    for b, p, move in zip(before, ahead.parameters, ahead.moves, strict=True):
        # Where the gradient is more than rounding, which Adam multiplies up and we do not.
        large = optimizer.state[p]["exp_avg_sq"].sqrt() > 1e-5
        assert large.float().mean() > 0.8
        assert torch.allclose((b - p.detach())[large], move[large], rtol=1e-3, atol=2e-7)


@pytest.mark.parametrize(("extra", "moved"), [({}, "grad"), ({"momentum": 0.9}, "buffer")])
def test_sgd_moves_by_its_gradient_or_momentum(extra, moved):
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.SGD([p], lr=0.5, **extra)
    for grad in ([1.0, 0.0], [3.0, 1.0]):
        p.grad = torch.tensor(grad)
        optimizer.step()
    ahead = look_ahead(optimizer)
    assert ahead.rates[0].tolist() == [0.5, 0.5]
    wanted = [1.5, 0.5] if moved == "grad" else [0.5 * (3 + 0.9 * 1), 0.5]
    assert ahead.moves[0].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.RMSprop([p], lr=0.01),
        lambda p: torch.optim.RMSprop([p], lr=0.01, momentum=0.9),
        lambda p: torch.optim.Adagrad([p], lr=0.01),
    ],
)
def test_rmsprop_and_adagrad_are_looked_ahead_by_their_own_scale(make):
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = make(p)
    for grad in ([1.0, 0.1], [3.0, 0.2]):
        before = p.detach().clone()
        p.grad = torch.tensor(grad)
        optimizer.step()
    ahead = look_ahead(optimizer)
    assert torch.allclose(ahead.moves[0], before - p.detach(), rtol=1e-4)
    # A weight whose gradients are a tenth moves per unit of gradient about ten times as far.
    assert float(ahead.rates[0][1] / ahead.rates[0][0]) > 5


def test_a_gradient_that_is_but_rounding_does_not_take_over():
    _, optimizer = trained("batch", "adam")
    ahead = look_ahead(optimizer)
    largest = [float(r.max()) for r in ahead.rates]
    # Biases before a batch norm are the second parameter of each block; Adam's own rate there is up to lr/eps.
    assert max(largest) < 3e-3 * 1e4 / 1e-4
    raw = [3e-3 / (float(optimizer.state[p]["exp_avg_sq"].min()) ** 0.5 + 1e-8) for p in ahead.parameters]
    assert max(raw) > 10 * max(largest)


def test_nothing_is_left_behind():
    network, optimizer = trained("batch", "adam", drop=0.4)
    network.down.eval()
    buffers = copy.deepcopy(dict(network.named_buffers()))
    parameters = copy.deepcopy(dict(network.named_parameters()))
    grads = [p.grad.clone() for p in network.parameters()]
    modes = [m.training for m in network.modules()]
    torch.manual_seed(7)
    random = torch.get_rng_state()
    first = ours(network, look_ahead(optimizer), *batch(11), batch(200), H)
    assert torch.equal(torch.get_rng_state(), random)  # dropout drew nothing
    assert torch.equal(first, ours(network, look_ahead(optimizer), *batch(11), batch(200), H))
    assert all(torch.equal(buffers[n], b) for n, b in network.named_buffers())
    assert all(torch.equal(parameters[n], p) for n, p in network.named_parameters())
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, network.parameters(), strict=True))
    assert modes == [m.training for m in network.modules()]
    assert all(m.track_running_stats for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_an_error_in_a_pass_leaves_the_network_as_it_was():
    network, optimizer = trained("batch", "adam")
    parameters = copy.deepcopy(dict(network.named_parameters()))

    def broken(*_):
        raise RuntimeError("out of memory")

    for forward, loss in ((lambda: network(batch(11)[0]), broken), (broken, lambda z, h: h.sum())):
        pieces = (validation(network(x), y) for x, y in [batch(3)])
        with pytest.raises(RuntimeError, match="out of memory"):
            hypergradient(network, look_ahead(optimizer), lambda p=pieces: p, forward, loss, H)
    assert all(torch.equal(parameters[n], p) for n, p in network.named_parameters())
    assert network.training
    assert network.down[1].track_running_stats


def test_perturbed_passes_are_in_float32_under_autocast():
    network, optimizer = trained("group", "adam")
    seen = []

    def forward():
        logits = network(batch(11)[0])
        seen.append(logits.dtype)
        return logits

    with torch.autocast("cpu", torch.bfloat16):
        pieces = (validation(network(x), y) for x, y in [batch(3)])
        hypergradient(
            network, look_ahead(optimizer), lambda: pieces, forward, lambda z, h: (z.mean() * h).sum(), H
        )
    assert seen == [torch.float32, torch.float32]


def test_a_validation_loss_without_slope_gives_zero():
    network, optimizer = trained("group", "adam")
    image, mask = batch(11)
    found = hypergradient(
        network,
        look_ahead(optimizer),
        lambda: (0 * network(image).sum() for _ in range(2)),
        lambda: network(image),
        lambda z, h: inner(z, mask, h),
        H,
    )
    assert torch.equal(found, torch.zeros_like(H))
