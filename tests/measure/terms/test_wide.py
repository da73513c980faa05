"""A processor that is told to have no float64, as Apple's GPUs have none: whatever asks for one there fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.measure.terms.reference import batch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raremap.learn.hypergradient import look_ahead
from raremap.measure import terms as t
from raremap.measure.terms import extension, wide


class Narrow(TorchDispatchMode):
    """Raises where an operation gives a float64 tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in tree_leaves(out)):
            raise TypeError(f"{func} gave float64, which this device has not")
        return out


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(wide, "_WITHOUT_FLOAT64", frozenset({"cpu"}))
    with Narrow():
        yield


def test_the_narrow_device_would_tell(narrow: None) -> None:
    with pytest.raises(TypeError, match="gave float64"):
        torch.ones(2).double()


def test_terms_that_sum_over_a_batch_do_without(narrow: None) -> None:
    logits, mask = batch(0)[:2]
    labelled = mask != 255
    worth = torch.where(labelled, 0.5, 0.0)
    view = t.View(logits, mask, worth=worth)
    expected = torch.bincount(mask[labelled], minlength=4) / 2
    torch.testing.assert_close(view.seen, expected)
    running = t.Seesaw().build(4)
    running.of(view)
    assert running.counts.tolist() == expected.tolist()


def test_the_sort_of_other_devices_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, mask = batch(0)[:2]
    given = (logits.softmax(1), mask.clamp(max=3), mask != 255, [0, 1, 2, 3], None)
    exact = extension._by_torch(*given)
    monkeypatch.setattr(wide, "_WITHOUT_FLOAT64", frozenset({"cpu"}))
    with Narrow():
        found = extension._by_torch(*given)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_look_ahead_of_the_outer_loop_does_without(narrow: None) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.square().sum().backward()
    optimizer.step()
    assert torch.isfinite(look_ahead(optimizer).rates[0]).all()
