"""Seesaw and recall over several batches, and after a restart."""

import pytest
import torch
from tests.measure.terms.reference import TERMS, batch

from raremap.labels import IGNORE
from raremap.measure import terms as t


def views(n=4):
    return [t.View(*batch(seed)[:2]) for seed in range(n)]


def test_stateless_terms_build_to_themselves() -> None:
    for term, _ in TERMS.values():
        assert (term.build(4) is term) == (term.kind not in ("seesaw", "recall"))


def test_seesaw_counts_over_batches() -> None:
    term = t.Seesaw()
    running = term.build(4)
    seen = torch.zeros(4)
    for view in views():
        seen += torch.bincount(view.mask[view.mask != IGNORE], minlength=4)
        assert torch.equal(running.of(view), term.of(view, counts=seen))
    assert running.counts.tolist() == seen.tolist()
    running.eval()
    running.of(view)
    assert running.counts.tolist() == seen.tolist()


def test_recall_moves_by_its_momentum_and_keeps_absent_classes() -> None:
    term = t.Recall(momentum=0.75)
    running = term.build(4)
    first, second = views(2)
    mask = torch.where(second.mask == 2, 0, second.mask)
    second = t.View(second.logits, mask)

    def recall(view):
        guess = view.logits.argmax(1)
        return torch.tensor([float((guess[view.mask == c] == c).float().mean()) for c in range(4)])

    a, b = recall(first), recall(second)
    assert running.of(first).item() == pytest.approx(float(term.of(first, recall=a)), rel=1e-6)
    expected = 0.75 * a + 0.25 * b
    expected[2] = a[2]
    assert running.of(second).item() == pytest.approx(float(term.of(second, recall=expected)), rel=1e-6)
    assert torch.allclose(running.recall, expected)


@pytest.mark.parametrize("term", [t.Seesaw(), t.Recall()])
def test_a_restart_goes_on_with_the_same_numbers(term) -> None:
    running, resumed = term.build(4), term.build(4)
    for view in views(3):
        running.of(view)
    resumed.load_state_dict(running.state_dict())
    last = t.View(*batch(9)[:2])
    assert torch.equal(running.of(last), resumed.of(last))


def test_an_empty_batch_leaves_the_statistics_alone() -> None:
    for term in (t.Seesaw(), t.Recall()):
        running = term.build(4)
        for view in views(2):
            running.of(view)
        before = {k: v.clone() for k, v in running.state_dict().items()}
        logits, mask, _ = batch()
        assert running.of(t.View(logits, torch.full_like(mask, IGNORE))) == 0
        assert all(torch.equal(before[k], v) for k, v in running.state_dict().items())
