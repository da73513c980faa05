"""How many windows fit, on a device that stands in for one with memory of its own."""

from __future__ import annotations

import pytest
import torch

from raremap.models.room import at_once, no_room


class Device:
    """So much memory, of which the network takes `fixed`, and `each` for every window."""

    def __init__(self, total: int, fixed: int, each: int) -> None:
        self.total, self._fixed, self._each = total, fixed, each
        self.asked: list[int] = []

    def free(self) -> int:
        return self.total

    def peak(self, step) -> int:
        step()
        return self._fixed + self._each * self.asked[-1]


@pytest.mark.parametrize(
    ("total", "fixed", "lanes", "count"),
    [
        (1000, 0, 1, 8),  # 8 take 800, which is what may be taken; 16 would take 1600
        (999, 0, 1, 4),
        (1000, 0, 2, 4),
        (1000, 300, 1, 2),  # 4 take 700, but were not known to: two take 500
        (10, 0, 1, 1),  # not even one fits: it is asked, and tells so
        (10**9, 0, 2, 16),
    ],
)
def test_the_windows_at_once_follow_from_the_free_memory(
    total: int, fixed: int, lanes: int, count: int
) -> None:
    device = Device(total, fixed, 100)
    assert at_once(device.asked.append, device, 16, lanes) == count
    assert device.asked == [2**i for i in range(len(device.asked))]
    assert device.asked[-1] == count


def test_what_torch_says_where_there_is_no_room_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)  # a petabyte and more
    assert no_room(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**40, 2**40)
    assert no_room(caught.value)
    assert no_room(torch.OutOfMemoryError("CUDA out of memory."))
    assert not no_room(RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."))
