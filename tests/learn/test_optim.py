"""Optimizers, rates, averaged weights and an early end; truth from torch's own schedules and by hand."""

import csv

import pytest
import torch
from tests import project
from torch import nn

from raremap.learn import checkpoint
from raremap.learn.average import MovingAverage
from raremap.learn.optim import Schedule, make_optimizer
from raremap.learn.options import OptimizerOptions
from raremap.workflows.prepare import catalog_of
from raremap.workflows.train import run

KINDS = ("adamw", "adam", "nadam", "adagrad", "rmsprop", "sgd")


def rates(options, steps, key="lr"):
    optimizer = make_optimizer(options, nn.Linear(2, 1), nn.Identity())
    schedule = Schedule(optimizer, options, steps)
    out = []
    for _ in range(steps):
        out.append(optimizer.param_groups[0][key])
        optimizer.step()
        schedule.after_step()
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_every_optimizer_goes_downhill(kind, schedule):
    torch.manual_seed(0)
    net, x = nn.Linear(3, 1), torch.randn(50, 3)
    goal = x @ torch.tensor([[1.0], [2.0], [-1.0]])
    options = OptimizerOptions(kind=kind, lr=0.05, schedule=schedule, weight_decay=0)
    optimizer = make_optimizer(options, net, nn.Identity())
    moves = Schedule(optimizer, options, 60)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (net(x) - goal).square().mean()
        loss.backward()
        optimizer.step()
        moves.after_step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_cosine_and_poly_are_those_of_torch_after_the_warm_up():
    for name in ("cosine", "poly"):
        options = OptimizerOptions(kind="sgd", lr=0.1, schedule=name, warmup=0.25)
        found = rates(options, 40)
        assert found[:10] == pytest.approx([0.1 * (i + 1) / 10 for i in range(10)])
        plain = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
        of = torch.optim.lr_scheduler
        theirs = of.CosineAnnealingLR(plain, 30) if name == "cosine" else of.PolynomialLR(plain, 30, 0.9)
        expected = []
        for _ in range(30):
            expected.append(plain.param_groups[0]["lr"])
            plain.step()
            theirs.step()
        assert found[10:] == pytest.approx(expected, rel=1e-6)


def test_constant_and_plateau_rise_where_they_are_told_to_and_only_then():
    for name in ("constant", "plateau"):
        options = OptimizerOptions(kind="sgd", lr=0.1, schedule=name)
        assert rates(options, 10) == pytest.approx([0.1] * 10)
        warm = options.model_copy(update={"warmup": 0.4})
        assert rates(warm, 10) == pytest.approx([0.025, 0.05, 0.075] + [0.1] * 7)


def test_a_plateau_falls_when_it_has_risen():
    options = OptimizerOptions(kind="sgd", lr=0.1, schedule="plateau", warmup=0.5, patience=0, factor=0.5)
    optimizer = make_optimizer(options, nn.Linear(2, 1), nn.Identity())
    schedule, found = Schedule(optimizer, options, 8), []
    for _ in range(8):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after_step()
        schedule.monitored(0.5)  # never better than the first that counts, after four steps
    assert found == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.05, 0.025, 0.0125])


def test_one_cycle_moves_the_momentum_around_what_was_asked_for():
    theirs = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.1, total_steps=20)
    expected = []
    for _ in range(20):
        expected.append(theirs.param_groups[0]["momentum"])
        theirs.step()
        if len(expected) < 20:
            cycle.step()
    asked = OptimizerOptions(kind="sgd", lr=0.1)
    assert rates(asked, 20, "momentum") == pytest.approx(expected)  # of 0.9, unless told
    half = rates(asked.model_copy(update={"momentum": 0.5}), 20, "momentum")
    assert half == pytest.approx([m - 0.4 for m in expected])
    assert rates(asked.model_copy(update={"momentum": 0.0}), 20, "momentum") == [0.0] * 20
    for momentum, ends in ((0.02, (0.0, 0.07)), (0.97, (0.92, 0.99)), (0.995, (0.945, 0.995))):
        for kind in ("sgd", "rmsprop"):
            options = asked.model_copy(update={"kind": kind, "momentum": momentum})
            found = rates(options, 41, "momentum")
            assert (min(found), max(found)) == pytest.approx(ends, abs=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_said_is_torchs_own(kind):
    """But for SGD's momentum, which is 0 there; a constant rate, so that nothing else moves."""
    of = {"adamw": "AdamW", "adam": "Adam", "nadam": "NAdam", "adagrad": "Adagrad", "rmsprop": "RMSprop"}
    own = {"momentum": 0.9} if kind == "sgd" else {}
    options = OptimizerOptions(kind=kind, lr=0.01, schedule="constant")
    ends = []
    for make in (
        lambda net: make_optimizer(options, net, nn.Identity()),
        lambda net: getattr(torch.optim, of.get(kind, "SGD"))(net.parameters(), lr=0.01, **own),
    ):
        torch.manual_seed(0)
        net = nn.Linear(3, 1)
        optimizer = make(net)
        for step in range(1, 6):
            optimizer.zero_grad()
            net(torch.tensor([[0.01, 0.01 * step, 0.02]])).square().mean().backward()  # small beside a decay
            optimizer.step()
        ends.append(net.weight.detach())
    torch.testing.assert_close(ends[0], ends[1])


def test_what_the_loss_learns_has_no_weight_decay():
    loss = nn.Module()
    loss.s = nn.Parameter(torch.zeros(2))
    groups = make_optimizer(OptimizerOptions(), nn.Linear(1, 1), loss).param_groups
    assert [g["weight_decay"] for g in groups] == [0.01, 0.0]


def test_the_average_is_that_of_the_weights_and_young_ones_follow_faster():
    net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    average, by_hand = MovingAverage(net, 0.9), net[0].weight.item()
    for step in range(1, 200):
        with torch.no_grad():
            net[0].weight.fill_(float(step % 5))
        net[1].num_batches_tracked.fill_(step)
        average.update(net)
        keep = min(0.9, (1 + step) / (10 + step))
        by_hand = keep * by_hand + (1 - keep) * (step % 5)
    assert average.network[0].weight.item() == pytest.approx(by_hand, rel=1e-4)
    assert average.network[1].num_batches_tracked.item() == 199
    assert not any(p.requires_grad for p in average.network.parameters())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    project.make(folder)
    return folder


def train(folder, out, *overrides, resume=False):
    fixed = ("train.precision=float32", "train.checkpoint_every=4", "train.monitor_every=2")
    experiment = project.experiment(folder, out, *fixed, *overrides)
    return run(catalog_of(experiment, quiet=True), None, experiment, resume, quiet=True)


def test_averaged_weights_are_kept_scored_and_resumed(folder, tmp_path):
    how = ("train.ema=0.8", "optimizer.schedule=cosine", "optimizer.kind=nadam", "optimizer.clip=0.5")
    with project.stopped_at(4, tmp_path / "run"):
        whole = train(folder, tmp_path / "run", *how)
    end = checkpoint.load(tmp_path / "whole/checkpoints/last.pt")["task"]
    assert any(
        not torch.equal(end["average"]["network"][k], v)
        for k, v in end["network"].items()
        if v.is_floating_point()
    )
    resumed = train(folder, tmp_path / "run", *how, resume=True)
    for a, b in zip(
        whole.bundle.module.state_dict().values(), resumed.bundle.module.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("clip", ["0.5", "null"])
def test_gradients_are_clipped_in_bf16_too(folder, tmp_path, clip):
    """Lightning refuses to clip there what an optimizer does in one pass."""
    train(folder, tmp_path / "run", "train.precision=bf16-mixed", f"optimizer.clip={clip}", "train.steps=2")


def test_training_ends_where_nothing_gets_better(folder, tmp_path):
    # With a rate this small no score changes, so the first is the best.
    still = ("optimizer.lr=1e-12", "optimizer.schedule=constant", "train.steps=40", "train.patience=2")
    training = train(folder, tmp_path / "run", *still, "train.norm_tiles=0", "model.decoder_channels=[8,8,8]")
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert training.steps < 40
    assert training.steps - training.best_step == 4  # two scores, two steps apart
    assert int(rows[-1]["step"]) == training.steps
