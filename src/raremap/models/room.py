"""How many windows a device has room for at once, found by trying, and how it says that it has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

_SHARE = 0.8
"""Of the free memory; what is left is for pieces that do not fit together, and for who else is there."""


class Memory(Protocol):
    """Memory of a device, in bytes."""

    def free(self) -> int:
        """What this process could take more."""
        ...

    def peak(self, step: Callable[[], object]) -> int:
        """What was taken more at most while `step` ran."""
        ...


def no_room(error: RuntimeError) -> bool:
    """Whether torch says that the memory, of a device or of the processor, does not hold what was asked for."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(text in said for text in _NO_ROOM)


# The processor's allocator raises a plain RuntimeError; so does a number of bytes beyond 64 bits.
_NO_ROOM = ("tried to allocate", "out of memory", "Storage size calculation overflowed")


class CudaMemory:
    """Memory of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        """What this process could take more, with what torch holds and does not use."""
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return torch.cuda.mem_get_info(self._device)[0] + unused

    def peak(self, step: Callable[[], object]) -> int:
        """What was taken more at most while `step` ran."""
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        step()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - before


def at_once(ask: Callable[[int], object], memory: Memory, most: int, lanes: int = 1) -> int:
    """The largest power of two up to `most` that `lanes` threads can each `ask` at once.

    A number is tried only where twice what half of it took is free: that is at least what it takes, since weights and
    workspaces are not doubled.
    """
    room = _SHARE * memory.free()

    def taken(count: int) -> int:
        return memory.peak(lambda: ask(count))

    count, bytes_ = 1, taken(1)
    while 2 * count <= most and 2 * bytes_ * lanes <= room:
        count *= 2
        bytes_ = taken(count)
    return count
