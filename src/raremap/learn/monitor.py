"""Scores on the monitor places while a network trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from raremap.measure.confusion import confusion
from raremap.measure.scores import Scores

if TYPE_CHECKING:
    from raremap.scene.normalize import Normalization
    from raremap.tiles.reader import TileReader

# Pixels that go through the network at once.
_BATCH_PIXELS = 1 << 19


class Monitor:
    """Whole monitor tiles, in a fixed order, against their labels."""

    def __init__(
        self, reader: TileReader, rows: np.ndarray, normalization: Normalization, names: tuple[str, ...]
    ) -> None:
        self._reader, self._rows = reader, rows
        self._normalization, self._names = normalization, names

    def __call__(self, module: nn.Module, device: torch.device, bf16: bool) -> Scores:
        """Pooled scores of a network, which is put back in training mode."""
        module.eval()
        k = len(self._names)
        matrix = np.zeros((k, k), np.int64)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for batch in self._batches():
                image = torch.from_numpy(np.stack([self._normalization.apply(i, v) for i, v, _ in batch]))
                logits = module(image.to(device, memory_format=torch.channels_last))
                matrix += confusion(np.stack([m for _, _, m in batch]), logits.argmax(1).cpu().numpy(), k)
        module.train()
        return Scores(matrix, self._names)

    def _batches(self):
        """Neighbouring tiles of one size together."""
        batch: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for row in self._rows:
            tile = self._reader.whole(int(row))
            full = batch and (len(batch) + 1) * tile[2].size > _BATCH_PIXELS
            if batch and (full or batch[0][2].shape != tile[2].shape):
                yield batch
                batch = []
            batch.append(tile)
        if batch:
            yield batch
