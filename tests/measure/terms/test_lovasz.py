"""The two ways of sorting for Lovász, and what it says of sure maps, ties and chance."""

import numpy as np
import pytest
import torch
from tests.measure.terms.reference import Pixels, batch, lovasz

from raremap.measure import terms as t
from raremap.measure.terms import extension


def both_ways(probs, index, labelled, worth):
    classes = list(range(probs.shape[1]))
    return [
        [x.numpy() for x in way(probs, index, labelled, classes, worth)]
        for way in (extension._by_numpy, extension._by_torch)
    ]


@pytest.mark.parametrize("by_class", [None, torch.tensor([0.3, 2.0, 1.0, 5.0])])
def test_numpy_and_torch_sort_to_the_same(by_class) -> None:
    logits, mask, _ = batch(2, size=(3, 50, 40))
    view = t.View(logits, mask)
    worth = None if by_class is None else by_class[view.index]
    here, there = both_ways(view.probs, view.index, view.labelled, worth)
    np.testing.assert_allclose(here[0], there[0], rtol=1e-5)
    np.testing.assert_allclose(here[1], there[1], rtol=1e-3, atol=1e-7)


def test_equal_errors_have_one_value() -> None:
    """The extension does not depend on the order of equals; only the gradient does."""
    logits, mask, _ = batch(3)
    logits = logits.round()
    expected = lovasz(Pixels(logits, mask))
    assert t.Lovasz()(logits, mask).item() == pytest.approx(expected, rel=1e-5)
    assert t.Lovasz()(logits.double(), mask).item() == pytest.approx(expected, rel=1e-9)


def test_it_is_the_jaccard_loss_of_sure_maps_and_convex_between() -> None:
    logits, mask, _ = batch(4)
    view = t.View(logits, mask)
    one = torch.eye(4)[torch.randint(0, 4, mask.shape)].movedim(-1, 1)
    other = torch.eye(4)[torch.randint(0, 4, mask.shape)].movedim(-1, 1)

    def loss(probs):
        return extension.lovasz_extension(probs, view.index, view.labelled, view.present)

    x = view.labelled
    for c in range(4):
        guess, truth = one[:, c][x] > 0, mask[x] == c
        assert float(loss(one)[c]) == pytest.approx(1 - float((guess & truth).sum() / (guess | truth).sum()))
    assert (loss((one + other) / 2) <= (loss(one) + loss(other)) / 2 + 1e-6).all()


def test_a_few_pixels_of_one_class_and_one_pixel_at_all() -> None:
    logits, mask = torch.randn(1, 3, 1, 1), torch.tensor([[[1]]])
    p = torch.softmax(logits, 1)[0, 1]
    assert t.Lovasz()(logits, mask).item() == pytest.approx(1 - float(p))


def test_threads_change_no_number() -> None:
    logits, mask, _ = batch(5, size=(2, 60, 60))
    before = torch.get_num_threads()
    values = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            z = logits.clone().requires_grad_()
            value = t.Lovasz()(z, mask)
            values.append((value.item(), torch.autograd.grad(value, z)[0]))
    finally:
        torch.set_num_threads(before)
    assert values[0][0] == values[1][0]
    assert torch.equal(values[0][1], values[1][1])
