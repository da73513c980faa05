"""Faults of the loop that a user can mend, in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raremap.errors import TrainingError
from raremap.learn.loop import may_idle, quiet_lightning, run_loop


class Failing:
    """A trainer whose first step fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def fit(self, *_: object) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nMore of it."),
         "the device is out of memory (CUDA out of memory.); lower train.batch_size or train.crop"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
         "the device is out of memory (DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes.); "
         "lower train.batch_size or train.crop"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."),
         "a worker that reads tiles was ended by the system (DataLoader worker (pid 3) is killed by signal: Killed.); "
         "lower train.workers, or free memory"),
    ],
    ids=["device", "processor", "worker"],
)  # fmt: skip
def test_a_fault_that_can_be_mended_is_one_line(error, line):
    with quiet_lightning() as lightning, pytest.raises(TrainingError) as caught:
        run_loop(lightning, Failing(error), None, None)
    assert str(caught.value) == line


def test_another_fault_is_raised_as_it_is():
    with quiet_lightning() as lightning, pytest.raises(RuntimeError, match="shapes"):
        run_loop(lightning, Failing(RuntimeError("shapes do not fit")), None, None)


class Deep(nn.Module):
    """Two layers, of which the second may be left out."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        self.first, self.second, self._used = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1), used

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out = self.first(image)
        return self.second(out) if self._used else out


def test_weights_that_no_gradient_comes_to_are_known_before_the_first_step():
    image, plain, learns = torch.ones(1, 2, 4, 4), nn.Identity(), nn.Conv2d(1, 1, 1)
    assert not may_idle(Deep(True), plain, image)
    assert may_idle(Deep(False), plain, image)
    assert may_idle(Deep(True), learns, image)
    frozen = Deep(False)
    frozen.second.requires_grad_(False)
    assert not may_idle(frozen, plain, image)
    assert all(p.grad is None for p in frozen.parameters())
    assert frozen.training
