"""How many windows a processor computes at once: as many as have room in a set piece of memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

BUDGET = 400 << 20
"""Bytes for all windows that are computed at once: with a swath's buffers a map then takes about 500 MB above the model.

Each window at once takes as much as the network's layers, 130 to 200 MB at 512² of the usual ones, so that without a
bound memory would grow with the processor's cores.
"""

_LARGE = 8 << 20
_M_MMAP_THRESHOLD = -3  # of mallopt in malloc.h
_PAUSE = 0.002  # seconds between two looks; a layer of a window that takes memory worth counting takes longer


@runtime_checkable
class SharingNetwork(Protocol):
    """A network whose `lanes`, the threads that ask it at once, share the `threads` of a processor evenly.

    `threads` is 1 where it computes elsewhere.
    """

    lanes: int

    @property
    def threads(self) -> int:
        """Threads of the processor that it may take."""
        ...

    def share(self, lanes: int) -> None:
        """Have so many lanes from now on, `threads // lanes` threads each."""
        ...


def share_by_room(network: object, ask: Callable[[], object], size: Hashable) -> None:
    """Let a network have as many lanes as `BUDGET` has room for, each taking what it takes to `ask` it of one `size`.

    It is asked once for each size. Nothing happens to a network that shares nothing, nor where the system does not tell
    what memory a process holds.
    """
    if not isinstance(network, SharingNetwork) or network.threads < 2:
        return
    _give_large_back_at_once()
    known = _taken.setdefault(network, {})
    if size not in known:
        known[size] = peak(ask)
    if (taken := known[size]) is not None:
        network.share(even(network.threads, BUDGET // max(1, taken)))


_taken: WeakKeyDictionary[object, dict[Hashable, int | None]] = WeakKeyDictionary()


def even(threads: int, room: int) -> int:
    """How many lanes, `room` of them at most, leave the fewest threads idle when each has as many as the others.

    >>> even(16, 40), even(16, 9), even(4, 3), even(2, 0)
    (16, 8, 2, 1)
    """
    most = max(1, min(threads, room))
    return max(range((most + 1) // 2, most + 1), key=lambda n: (n * (threads // n), n))


def told(network: object) -> dict[str, int]:
    """Lanes of a network and the threads of each, for records; the threads may move the last bits."""
    if not isinstance(network, SharingNetwork):
        return {}
    return {"lanes": network.lanes, "threads": network.threads // network.lanes or 1}


def peak(step: Callable[[], object]) -> int | None:
    """Bytes that this process held more at most while `step` ran; None where the system does not tell."""
    _give_back()  # or what is free would be taken again without being seen
    before = _resident()
    if before is None:
        return None
    most, done = before, threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(_PAUSE):
            most = max(most, _resident() or 0)

    looking = threading.Thread(target=look, name="raremap-memory", daemon=True)
    looking.start()
    try:
        step()
    finally:
        done.set()
        looking.join()
    most = max(most, _resident() or 0)
    _give_back()  # or it would stay with the thread that asked, which is no lane
    return most - before


def _give_large_back_at_once() -> None:
    """Have the C library (glibc) give arrays of `_LARGE` bytes and more back to the system when they are freed.

    By itself it keeps what is below 32 MB for each thread, which a window's layers are: with two threads of a U-Net ResNet-18 at
    512² that are 100 to 180 MB. It costs about a fifth of the time in float32, since memory has to be taken anew.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def _give_back() -> None:
    """Have the C library give back what is free, where it knows how."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident() -> int | None:
    """Bytes of memory that this process holds now, as Linux tells."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
