"""Scores on the monitor places while a network trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from raremap.learn.norms import settle
from raremap.learn.team import ALONE, Team
from raremap.measure.confusion import confusion
from raremap.measure.scores import Scores

if TYPE_CHECKING:
    from raremap.scene.normalize import Normalization
    from raremap.tiles.reader import TileReader

# Pixels that go through the network at once.
_BATCH_PIXELS = 1 << 19

_Tile = tuple[np.ndarray, np.ndarray, np.ndarray]


class Monitor:
    """Whole monitor tiles, in a fixed order, against their labels; each of a team scores its share of them."""

    def __init__(
        self,
        reader: TileReader,
        rows: np.ndarray,
        normalization: Normalization,
        names: tuple[str, ...],
        natural: np.ndarray | None = None,
        team: Team = ALONE,
    ) -> None:
        self._reader, self._rows, self._team = reader, rows[team.rank :: team.size], team
        self._normalization, self._names = normalization, names
        self._natural = np.empty(0, np.int64) if natural is None else natural

    def __call__(self, module: nn.Module, device: torch.device, bf16: bool) -> Scores:
        """Pooled scores of a network, which is put back in training mode.

        Its batch norms are settled on the natural training tiles first, and stay so.
        """
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            settle(module, (self._images(batch, device) for batch in self._batches(self._natural)))
        module.eval()
        k = len(self._names)
        matrix = np.zeros((k, k), np.int64)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for batch in self._batches(self._rows):
                logits = module(self._images(batch, device))
                matrix += confusion(np.stack([m for _, _, m in batch]), logits.argmax(1).cpu().numpy(), k)
        module.train()
        return Scores(self._team.summed(torch.from_numpy(matrix).to(device)).cpu().numpy(), self._names)

    def _images(self, batch: list[_Tile], device: torch.device) -> torch.Tensor:
        image = torch.from_numpy(np.stack([self._normalization.apply(i, v) for i, v, _ in batch]))
        return image.to(device, memory_format=torch.channels_last)

    def _batches(self, rows: np.ndarray) -> Iterator[list[_Tile]]:
        """Neighbouring tiles of one size together."""
        batch: list[_Tile] = []
        for row in rows:
            tile = self._reader.sample(int(row))
            full = batch and (len(batch) + 1) * tile[2].size > _BATCH_PIXELS
            if batch and (full or batch[0][2].shape != tile[2].shape):
                yield batch
                batch = []
            batch.append(tile)
        if batch:
            yield batch
