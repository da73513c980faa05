"""The outer loop: what it learns on a long-tailed problem, its bounds, its halves, and going on after a stop."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from raremap.labels import IGNORE
from raremap.learn.options import OuterOptions
from raremap.learn.outer import Outer, _counts, halves_of, linear
from raremap.measure import terms
from raremap.measure.terms import Prior, View

K, SHARES = 3, (0.80, 0.14, 0.06)
CENTRES = torch.tensor([[0.0, 0.0], [1.5, 0.4], [0.7, 1.6]])


def batch(seed, size=4, side=16, classes=K):
    """Pixels of overlapping classes, few of the last."""
    g = torch.Generator().manual_seed(seed)
    shares = torch.tensor(SHARES[:classes])
    mask = torch.multinomial(shares, size * side * side, True, generator=g).view(size, side, side)
    image = CENTRES[mask].movedim(-1, 1) + torch.randn(size, 2, side, side, generator=g)
    return {"image": image, "mask": mask}


def halves(update):
    return [batch(10_000 + 1000 * (update % 2) + update // 2)]


def inner(logits, batch, classes, weights):
    view = View(logits, batch["mask"])
    found = [terms.CrossEntropy().of(view, classes), terms.Dice().of(view)]
    return (weights * torch.stack(found[: len(weights)])).sum()


def parts(logits, batch):
    view = View(logits, batch["mask"])
    costs = torch.zeros(K).index_add_(0, view.index.flatten(), -view.own(view.log_probs).flatten())
    return costs / view.labelled.sum().clamp(min=1)


class Training:
    """A 1×1 convolution with Adam, and its outer loop."""

    def __init__(self, options, loss=inner, monitor=halves, steps=100, lr=0.02, **more):
        torch.manual_seed(0)
        self.network, self.loss = nn.Conv2d(2, K, 1), inner
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr)
        self.terms = len(more.get("terms", (1.0,)))
        self.outer = Outer(options, self.network, self.optimizer, loss, monitor, K, steps, **more)

    def go(self, first, last, data=batch):
        moved = []
        for step in range(first, last + 1):
            b = data(step)
            self.optimizer.zero_grad()
            inner(self.network(b["image"]), b, self.outer.class_weights, self.outer.term_weights).backward()
            self.optimizer.step()
            moved.append(self.outer.step(step, b))
        return moved


EARLY = OuterOptions(every=5, warmup=0.0, lr=0.2)


def pixels(b):
    return b["image"].movedim(1, -1).reshape(-1, 2).numpy(), b["mask"].flatten().numpy()


def test_class_weights_come_within_a_point_of_those_of_a_grid_search():
    x, y = pixels(batch(1, 8))
    held, truth = pixels(batch(2, 32))
    grid = {}
    for weights in itertools.product([1, 5, 12, 30], repeat=2):
        weight = dict(enumerate((1, *weights)))
        fitted = LogisticRegression(class_weight=weight, max_iter=50, tol=1e-3).fit(x, y)
        grid[weights] = 100 * balanced_accuracy_score(truth, fitted.predict(held))
    best = max(grid, key=grid.__getitem__)
    assert grid[best] > grid[(1, 1)] + 10  # the weights matter here
    assert grid[best] > grid[(30, 30)] + 1  # and can be too large
    training = Training(EARLY, steps=300)
    training.go(1, 300)
    with torch.no_grad():
        called = training.network(batch(2, 32)["image"]).argmax(1).flatten().numpy()
    ours = 100 * balanced_accuracy_score(truth, called)
    print(grid, training.outer.class_weights, ours)
    assert ours > grid[best] - 1


def test_updates_come_after_the_warm_up_and_not_at_the_end():
    training = Training(OuterOptions(every=4, warmup=0.3), steps=20)
    moved = training.go(1, 20)
    assert [i + 1 for i, m in enumerate(moved) if m] == [8, 12, 16]
    assert training.outer.updates == 3


def test_a_resumed_training_ends_with_the_same_numbers():
    options = OuterOptions(every=2, warmup=0.1, lr=0.2, classes="both")
    more = {"terms": (1.0, 0.5), "objects": np.array([50, 30, 5])}
    whole, broken = (Training(options, steps=40, **more) for _ in range(2))
    whole.go(1, 39)
    broken.go(1, 21)
    kept = json.loads(json.dumps(broken.outer.state()))  # plain numbers, as exact as they were
    on = Training(options, steps=40, **more)
    on.network.load_state_dict(broken.network.state_dict())
    on.optimizer.load_state_dict(broken.optimizer.state_dict())
    on.outer.restore(kept)
    on.go(22, 39)
    assert on.outer.seconds > kept["seconds"] > 0  # the whole cost is told
    assert on.outer.state() | {"seconds": 0} == whole.outer.state() | {"seconds": 0}
    assert np.array_equal(on.outer.offsets, whole.outer.offsets)
    assert torch.equal(on.outer.term_weights, whole.outer.term_weights)
    assert torch.equal(on.network.weight, whole.network.weight)
    assert np.any(whole.outer.offsets != 0)


def test_factors_stay_within_their_bounds():
    training = Training(OuterOptions(every=1, warmup=0.0, lr=5.0, bound=2.0), terms=(1.0, 0.5))
    training.go(1, 30)
    classes, found = training.outer.class_weights, training.outer.term_weights
    assert 2 < float(classes.max() / classes.min()) <= 4 + 1e-6
    assert float(classes.mean()) == pytest.approx(1)
    assert float(found.sum()) == pytest.approx(1.5)
    factors = found / torch.tensor([1.0, 0.5])
    assert 1 < float(factors.max() / factors.min()) <= 4 + 1e-6


def test_classes_with_few_objects_move_little_and_those_without_any_not_at_all():
    training = Training(EARLY, objects=np.array([1000, 20, 0]))
    training.go(1, 60)
    free = Training(EARLY)
    free.go(1, 60)
    ours, theirs = (np.log(t.outer.class_weights.numpy()) for t in (training, free))
    # Against the first class, which both have in plenty.
    assert theirs[1] - theirs[0] > 0.5
    assert 0 < ours[1] - ours[0] < theirs[1] - theirs[0]
    assert training.outer.state()["free"][2] == 0


@pytest.mark.parametrize(("classes", "of_loss"), [("weights", 1.0), ("both", 0.5), ("stream", 0.0)])
def test_the_offset_is_divided_between_loss_and_stream(classes, of_loss):
    training = Training(EARLY.model_copy(update={"classes": classes}))
    training.go(1, 6)
    phi = np.array(training.outer.state()["free"])[:K]
    assert np.any(phi != 0)
    assert training.outer.offsets == pytest.approx((1 - of_loss) * phi)
    weights = np.exp(of_loss * phi)
    assert training.outer.class_weights.numpy() == pytest.approx(weights / weights.mean(), rel=1e-6)


def test_with_nothing_to_learn_nothing_runs():
    training = Training(EARLY.model_copy(update={"classes": "none"}), monitor=None)
    assert not any(training.go(1, 10))
    assert training.outer.class_weights.tolist() == [1, 1, 1]
    assert training.outer.term_weights.tolist() == [1]


def test_halves_that_disagree_do_not_move():
    def of_class(update):  # one half holds only the first class, the other only the others
        b = batch(10_000 + update)
        first = b["mask"] == 0
        b["mask"] = torch.where(first == (update % 2 == 0), b["mask"], IGNORE)
        return [b]

    options = EARLY.model_copy(update={"every": 1, "classes": "none"})
    apart = Training(options, monitor=of_class, terms=(1.0, 1.0))
    apart.outer._descend(torch.tensor([0.0, 0, 0, 1, -1]).double(), torch.ones(K).bool())
    once = apart.outer.state()["free"]
    assert once[3:] == pytest.approx([-0.1, 0.1])  # half a step: the other half has not spoken
    apart.outer.updates += 1
    apart.outer._descend(torch.tensor([0.0, 0, 0, -1, 1]).double(), torch.ones(K).bool())
    assert apart.outer.state()["free"] == once
    agreed = Training(options, terms=(1.0, 1.0))
    for _ in range(2):
        agreed.outer._descend(torch.tensor([0.0, 0, 0, 1, -1]).double(), torch.ones(K).bool())
        agreed.outer.updates += 1
    assert agreed.outer.state()["free"][3:] == pytest.approx([-0.3, 0.3])


def test_a_class_that_the_monitor_crops_lack_stays():
    def without_last(update):
        b = halves(update)[0]
        b["mask"][b["mask"] == K - 1] = IGNORE
        return [b]

    training = Training(EARLY, monitor=without_last)
    training.outer._descend(torch.tensor([0.0, -1, 3, 0]).double(), torch.tensor([True, True, False]))
    assert training.outer._spoke[0].tolist() == [0, 1, 0, 0]


def all_ignored(seed):
    b = batch(seed)
    b["mask"][:] = IGNORE
    return b


def test_an_all_ignored_monitor_or_batch_changes_nothing():
    training = Training(EARLY, monitor=lambda update: [all_ignored(update)])
    assert not any(training.go(1, 10))
    assert training.outer.skipped == 2
    training = Training(EARLY, terms=(1.0, 1.0))
    training.go(1, 10, data=all_ignored)
    assert training.outer.class_weights.tolist() == [1, 1, 1]
    assert training.outer.term_weights.tolist() == [1, 1]


def test_one_class_alone_has_nothing_to_weigh_against():
    training = Training(EARLY, monitor=lambda update: [batch(update, classes=1)])
    training.go(1, 10, data=lambda seed: batch(seed, classes=1))
    assert training.outer.class_weights.tolist() == [1, 1, 1]


def test_a_loss_that_is_not_a_number_is_skipped_and_counted():
    def broken(logits, batch, classes, weights):
        return inner(logits, batch, classes, weights) * float("nan")

    training = Training(EARLY, broken)
    assert not any(training.go(1, 10))
    assert training.outer.skipped == training.outer.updates == 2
    assert training.outer.class_weights.tolist() == [1, 1, 1]


def test_linear_parts_are_the_weighted_loss():
    b, network = batch(5), nn.Conv2d(2, K, 1)
    logits = network(b["image"]).detach()
    weights = torch.tensor([0.5, 1.0, 1.5])
    found = linear(parts)(logits, b, weights, torch.tensor([2.0]))
    by_pixel = nn.functional.cross_entropy(logits, b["mask"], weights, reduction="none").mean()
    assert float(found) == pytest.approx(2 * float(by_pixel), rel=1e-5)
    training = Training(EARLY, linear(parts))
    training.go(1, 60)
    assert training.outer.class_weights.argmin() == 0
    with pytest.raises(ValueError, match="parts are 3; expected 3 classes and 1 further terms"):
        linear(parts, 2)(logits, b, weights, torch.ones(2))


def test_the_objective_is_the_mean_over_classes_over_all_batches():
    crops = [batch(1), batch(2, 2)]
    crops[0]["mask"][0] = IGNORE
    training = Training(EARLY)
    counts = torch.stack([torch.bincount(c["mask"][c["mask"] != IGNORE], minlength=K) for c in crops]).sum(0)
    found = sum(training.outer._objective(crops, counts.double(), torch.device("cpu")))
    costs, truth = [], []
    for c in crops:
        costs.append(
            nn.functional.cross_entropy(
                training.network(c["image"]), c["mask"], reduction="none", ignore_index=IGNORE
            ).flatten()
        )
        truth.append(c["mask"].flatten())
    cost, mask = torch.cat(costs).detach().numpy(), torch.cat(truth).numpy()
    wanted = np.mean([cost[mask == c].mean() for c in range(K)])
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-5)


def test_halves_are_of_places_and_both_hold_the_rare_class():
    places = np.array(["a", "a", "b", "c", "c", "d", "e"])
    counts = np.array([[90, 0], [80, 5], [70, 0], [60, 6], [50, 0], [90, 0], [85, 0]], float)
    first, second = halves_of(places, counts)
    assert sorted([*first, *second]) == list(range(7))
    assert not set(places[first]) & set(places[second])
    assert counts[first, 1].sum() > 0
    assert counts[second, 1].sum() > 0
    alone = halves_of(np.array(["a", "a"]), counts[:2])
    assert [h.tolist() for h in alone] == [[0, 1], [0, 1]]
    # Nothing can be drawn of a place without labels.
    alone = halves_of(np.array(["a", "b"]), np.array([[90.0, 0], [0, 0]]))
    assert [h.tolist() for h in alone] == [[0, 1], [0, 1]]


def test_soft_batches_count_by_area():
    mask = torch.tensor([[[[0.5, 0.0]], [[0.5, 0.0]], [[0.0, 0.0]]]])
    assert _counts(mask, K).tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize(
    "name",
    ["CrossEntropy", "Focal", "Poly", "LogCosh", "Seesaw", "Recall", "Dice", "IoU", "Tversky", "Lovasz"],
)
@pytest.mark.parametrize("tau", [None, 0.0])
def test_terms_can_be_differentiated_by_their_class_weights(name, tau):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, K, 5, 5, generator=g, dtype=torch.float64)
    mask = torch.randint(0, K, (2, 5, 5), generator=g)
    mask[0, 0] = IGNORE
    shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    prior = None if tau is None else Prior(shares, shares.flip(0), tau)
    term = getattr(terms, name)()
    weight = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: term.of(View(logits, mask, prior=prior), w), weight)
    plain = term.of(
        View(logits, mask, prior=prior), weight.detach()
    )  # the way without a gradient is the same
    assert float(plain) == pytest.approx(float(term.of(View(logits, mask, prior=prior), weight).detach()))
