"""Batches in the order of draws, made by workers or in the process, and the same either way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from raremap.batches.dataset import TrainSamples


class TrainBatches:
    """Batches `first` to `steps - 1` of `batch_size` draws each, as tensors `image`, `mask` and `prior`.

    With `every` the workers are started anew after each step that it divides: what the samples are drawn by
    may change there, and no batch was made in advance. Of several processes each makes the draws of its `share`
    of every batch: (r, n) is every n-th from the r-th on.
    """

    def __init__(
        self,
        samples: TrainSamples,
        first: int,
        steps: int,
        batch_size: int,
        workers: int,
        pin: bool,
        every: int | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self._share = share
        self._samples, self._first, self._steps, self._size = samples, first, steps, batch_size
        self._workers, self._pin, self._every = workers, pin, every

    def __len__(self) -> int:
        return max(0, self._steps - self._first)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        step = self._first
        while step < self._steps:
            end = (
                self._steps
                if self._every is None
                else min(self._steps, (step // self._every + 1) * self._every)
            )
            yield from self._loader(step, end)
            step = end

    def _loader(self, first: int, end: int) -> DataLoader[Any]:
        import torch
        from torch.utils.data import DataLoader

        return DataLoader(
            self._samples,  # type: ignore[arg-type]
            batch_sampler=_Draws(first, end, self._size, self._share),
            num_workers=self._workers,
            collate_fn=_collate,
            # Its own generator: a loader draws a seed when it starts, and a resumed run starts once more.
            generator=torch.Generator(),
            pin_memory=self._pin,
            prefetch_factor=4 if self._workers else None,
            multiprocessing_context="fork" if self._workers and not torch.cuda.is_initialized() else None,
        )


class _Draws:
    """Draw numbers of each batch."""

    def __init__(self, first: int, steps: int, batch_size: int, share: tuple[int, int]) -> None:
        self._first, self._steps, self._size, self._share = first, steps, batch_size, share

    def __len__(self) -> int:
        return max(0, self._steps - self._first)

    def __iter__(self) -> Iterator[list[int]]:
        rank, ranks = self._share
        for step in range(self._first, self._steps):
            yield list(range(step * self._size + rank, (step + 1) * self._size, ranks))


def _collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    import numpy as np
    import torch

    return {key: torch.from_numpy(np.stack([s[key] for s in samples])) for key in samples[0]}
