"""Reading ahead: the next item is made in a thread while the present one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")

_END = object()


def ahead(items: Iterable[T]) -> Generator[T]:
    """The same items, each made by a thread while the one before is in use; never more than one in advance.

    A fault in the thread is raised where its item would have come. When the consumer stops early the
    thread ends after the item that it is at, and is waited for.
    """
    ready: queue.Queue[object] = queue.Queue()
    room = threading.Semaphore(1)
    stop = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        source = iter(items)
        try:
            while True:
                room.acquire()
                if stop.is_set():
                    return
                ready.put(next(source, _END))
        except BaseException as error:  # handed to the consumer, whatever it is
            failed.append(error)
            ready.put(_END)
        finally:
            # A generator is closed in the thread that ran it: what it holds may belong to the thread.
            if isinstance(source, Generator):
                source.close()

    thread = threading.Thread(target=work, name="raremap-reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            room.release()
            yield item  # type: ignore[misc]
        if failed:
            raise failed[0]
    finally:
        stop.set()
        room.release()
        thread.join()
