"""The teacher: its average, its thresholds and pseudo-labels by hand, what a checkpoint keeps, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raremap.labels import IGNORE
from raremap.learn import checkpoint
from raremap.learn.average import MovingAverage
from raremap.learn.options import PseudoOptions
from raremap.learn.teacher import FestaExtra, PseudoLabels, extra_of, valid_pixels
from raremap.measure.terms.festa import Festa

X = IGNORE


def net(seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, classes, 1))


def batch(seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 2, 8, 8, generator=rng)
    image[0, :, :2] = 0  # no imagery
    mask = torch.full((2, 8, 8), IGNORE)
    mask[:, 5, 5] = 1
    return {"image": image, "mask": mask}


def with_scores(probs: Tensor, options: PseudoOptions) -> PseudoLabels:
    """Pseudo-labels by a teacher that always says `probs` `[B, K, H, W]`."""

    class Says(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, image: Tensor) -> Tensor:
            return probs.log()

    return PseudoLabels(options, Says(), probs.shape[1])


# --- the average


def test_weights_and_statistics_move_alike_and_counts_are_copied() -> None:
    start, goal = net(0), net(1)
    goal[1].running_mean += 4.0
    goal[1].num_batches_tracked += 7
    average = MovingAverage(start, decay=0.9)
    average.update(goal)  # the first update keeps 2/11
    for name, own in average.network.state_dict().items():
        before, after = start.state_dict()[name], goal.state_dict()[name]
        expected = before * 2 / 11 + after * 9 / 11 if own.is_floating_point() else after
        torch.testing.assert_close(own, expected)
    average.update(goal)
    torch.testing.assert_close(average.network[1].running_mean, torch.full((4,), 4 * (1 - 2 / 11 * 3 / 12)))


def test_in_the_long_run_it_keeps_its_decay() -> None:
    average = MovingAverage(net(0), decay=0.5)
    average.updates = 1000
    before, goal = average.network[0].weight.clone(), net(1)
    average.update(goal)
    torch.testing.assert_close(average.network[0].weight, (before + goal[0].weight) / 2)


def test_the_network_that_is_followed_is_not_touched() -> None:
    network = net()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    extra = PseudoLabels(PseudoOptions(), network, 3)
    network.eval()
    extra(network, batch(), network(batch()["image"]))
    assert not any(p.requires_grad for p in extra.teacher.network.parameters())
    assert not extra.teacher.network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


# --- pseudo-labels, by hand

# One row of five pixels. Class by class: 0 sure, 0 less sure, 1, 1 hardly, 0 sure but labelled.
PROBS = torch.tensor([[0.95, 0.80, 0.30, 0.45, 0.95], [0.05, 0.20, 0.70, 0.55, 0.05]]).view(1, 2, 1, 5)
OPTIONS = PseudoOptions(threshold=0.9, floor=0.5)
MASK = torch.tensor([[[X, X, X, X, 1]]])


def test_before_it_has_seen_a_class_its_threshold_is_the_full_one() -> None:
    extra = with_scores(PROBS, OPTIONS)
    assert extra.thresholds.tolist() == pytest.approx([0.9, 0.9])
    assert extra.pseudo(MASK, PROBS).tolist() == [[[0, X, X, X, 1]]]


def test_a_class_that_is_learned_slowly_asks_for_less() -> None:
    extra = with_scores(PROBS, OPTIONS)
    data = {"image": torch.ones(1, 1, 1, 5), "mask": MASK}
    extra(extra.teacher.network, data, torch.zeros(1, 2, 1, 5))
    # Over the four unlabelled pixels: class 0 is 0.875 sure on average, class 1 0.625.
    assert extra.sureness.tolist() == pytest.approx([0.875, 0.625])
    assert extra.thresholds.tolist() == pytest.approx([0.9, 0.9 * 0.625 / 0.875])
    assert extra.filled(data).tolist() == [[[0, X, 1, X, 1]]]
    assert with_floor(extra, 0.75).pseudo(MASK, PROBS).tolist() == [[[0, X, X, X, 1]]]


def with_floor(extra: PseudoLabels, floor: float) -> PseudoLabels:
    extra.options = extra.options.model_copy(update={"floor": floor})
    return extra


def test_the_moving_mean_keeps_its_momentum_and_classes_not_seen_stay() -> None:
    extra = with_scores(PROBS, OPTIONS.model_copy(update={"momentum": 0.9}))
    free = torch.ones(1, 1, 5, dtype=torch.bool)
    extra._look(PROBS, free)
    first = extra.sureness.clone()
    extra._look(torch.tensor([0.6, 0.4]).view(1, 2, 1, 1), free[..., :1])
    assert extra.sureness.tolist() == pytest.approx([0.9 * float(first[0]) + 0.1 * 0.6, float(first[1])])


def test_the_term_is_the_cross_entropy_of_pseudo_labels_over_all_unlabelled_pixels() -> None:
    extra = with_scores(PROBS, OPTIONS.model_copy(update={"weight": 2.0}))
    extra._look = lambda probs, free: None  # type: ignore[method-assign]
    logits = torch.zeros(1, 2, 1, 5, requires_grad=True)
    term = extra(extra.teacher.network, {"image": torch.ones(1, 1, 1, 5), "mask": MASK}, logits)["pseudo"]
    assert term.item() == pytest.approx(2 * 0.6931472 / 4)  # one pixel of four, at log 2
    term.backward()
    assert logits.grad is not None
    assert logits.grad[0, :, 0].abs().sum(0).gt(0).tolist() == [True, False, False, False, False]


def test_labels_and_ground_without_imagery_are_left_alone() -> None:
    data = batch()
    sure = torch.tensor([0.98, 0.01, 0.01]).view(1, 3, 1, 1).expand(2, 3, 8, 8)
    filled = with_scores(sure, PseudoOptions()).filled(data)
    assert (filled[0, :2] == IGNORE).all()
    assert filled[0, 5, 5] == 1
    assert (filled == 0).sum() == 2 * 64 - 16 - 2
    given = {**data, "valid": torch.zeros(2, 8, 8)}
    assert torch.equal(with_scores(sure, PseudoOptions()).filled(given), data["mask"])
    assert int(valid_pixels(data).sum()) == 128 - 16


def test_before_its_start_it_is_zero_and_looks_all_the_same() -> None:
    network, data = net(), batch()
    extra = PseudoLabels(PseudoOptions(start=1, threshold=0.3, floor=0.1), network, 3)
    assert extra(network, data, network(data["image"]))["pseudo"].item() == 0
    assert extra.sureness.any()
    extra.after_step(network)
    assert extra(network, data, network(data["image"]))["pseudo"].item() > 0


@pytest.mark.parametrize("strong", [0.0, 0.2])
def test_a_batch_without_free_ground_is_zero_and_finite(strong: float) -> None:
    network, data = net(), batch()
    data["mask"] = torch.zeros_like(data["mask"])
    extra = PseudoLabels(PseudoOptions(strong=strong), network, 3)
    term = extra(network, data, network(data["image"]))["pseudo"]
    term.backward()
    assert term.item() == 0


def test_the_strong_look_changes_the_image_but_not_where_there_is_none() -> None:
    network, data = net(), batch()
    extra = PseudoLabels(PseudoOptions(strong=0.3), network, 3)
    changed = extra._changed(data)
    assert not changed[0, :, :2].any()
    assert (changed[1] != data["image"][1]).all()


# --- stop and go on


@pytest.mark.parametrize("strong", [0.0, 0.3])
def test_stopped_and_restored_it_goes_on_with_the_same_numbers(tmp_path: Path, strong: float) -> None:
    options = PseudoOptions(threshold=0.4, floor=0.1, strong=strong)

    def steps(network: nn.Module, extra: Any, first: int, last: int) -> list[float]:
        values = []
        for i in range(first, last):
            data = batch(i)
            term = sum(extra(network, data, network(data["image"])).values())
            network.zero_grad()
            term.backward()
            with torch.no_grad():
                for p in network.parameters():
                    p -= 0.1 * p.grad
            extra.after_step(network)
            values.append(term.item())
        return values

    network = net()
    extra = extra_of(options, Festa(share=0.2), network, 3, seed=1)
    assert extra is not None
    steps(network, extra, 0, 3)
    checkpoint.save(tmp_path / "last.pt", {"extra": extra.state(), "network": network.state_dict()})
    whole = steps(network, extra, 3, 6)

    state = checkpoint.load(tmp_path / "last.pt")
    again = net(5)
    fresh = extra_of(options, Festa(share=0.2), again, 3, seed=9)
    assert fresh is not None
    again.load_state_dict(state["network"])
    fresh.restore(state["extra"])
    assert steps(again, fresh, 3, 6) == whole


def test_nothing_asked_for_is_no_extra() -> None:
    assert extra_of(None, None, net(), 3, 0) is None


def test_festa_of_all_valid_pixels_does_not_look_at_labels() -> None:
    data = batch()
    logits = torch.randn(2, 3, 8, 8)
    one = FestaExtra(Festa(share=0.5))(net(), data, logits)["festa"]
    labelled = {**data, "mask": torch.zeros_like(data["mask"])}
    assert FestaExtra(Festa(share=0.5))(net(), labelled, logits)["festa"] == one
    by_hand = Festa(share=0.5)(torch.softmax(logits, 1), valid_pixels(data), torch.Generator().manual_seed(0))
    assert one == by_hand


def test_a_training_with_it_becomes_surer_of_unlabelled_ground_than_one_without() -> None:
    rng = torch.Generator().manual_seed(0)
    truth = torch.arange(400) % 2
    image = (torch.randn(400, 2, generator=rng) * 0.5 + truth[:, None] * 1.5 - 0.75).T.reshape(1, 2, 20, 20)
    mask = truth.masked_fill(torch.arange(400) >= 6, IGNORE).view(1, 20, 20)
    data = {"image": image, "mask": mask}

    def trained(pseudo: bool) -> Tensor:
        torch.manual_seed(0)
        network = nn.Conv2d(2, 2, 1)
        extra = PseudoLabels(PseudoOptions(threshold=0.8, decay=0.9), network, 2)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(100):
            logits = network(image)
            loss = nn.functional.cross_entropy(logits, mask, ignore_index=IGNORE)
            if pseudo:
                loss = loss + extra(network, data, logits)["pseudo"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            extra.after_step(network)
        return torch.softmax(network(image), 1).detach()

    plain, taught = trained(False), trained(True)
    assert taught.max(1).values.mean() > plain.max(1).values.mean() + 0.02
    assert (taught.argmax(1).flatten() == truth).float().mean() > 0.9
