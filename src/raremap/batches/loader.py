"""Batches in the order of draws, made by workers or in the process, and the same either way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from raremap.batches.dataset import TrainSamples


def train_loader(
    samples: TrainSamples, first: int, steps: int, batch_size: int, workers: int, pin: bool
) -> DataLoader[Any]:
    """Batches `first` to `steps - 1` of `batch_size` draws each, as tensors `image` and `mask`."""
    import torch
    from torch.utils.data import DataLoader

    return DataLoader(
        samples,  # type: ignore[arg-type]
        batch_sampler=_Draws(first, steps, batch_size),
        num_workers=workers,
        collate_fn=_collate,
        # Its own generator: a loader draws a seed when it starts, and a resumed run starts once more.
        generator=torch.Generator(),
        pin_memory=pin,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers and not torch.cuda.is_initialized() else None,
    )


class _Draws:
    """Draw numbers of each batch."""

    def __init__(self, first: int, steps: int, batch_size: int) -> None:
        self._first, self._steps, self._size = first, steps, batch_size

    def __len__(self) -> int:
        return max(0, self._steps - self._first)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self._first, self._steps):
            yield list(range(step * self._size, (step + 1) * self._size))


def _collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    import numpy as np
    import torch

    return {key: torch.from_numpy(np.stack([s[key] for s in samples])) for key in samples[0]}
