"""What a training logs: metrics.csv and TensorBoard, cut back to the checkpoint when it goes on."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from raremap.files import written


class History:
    """A row of numbers every so many steps."""

    def __init__(self, folder: Path, columns: list[str], first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path, self._columns = folder / "metrics.csv", columns
        rows = self._kept(first)
        with written(self._path) as fresh, fresh.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1 if first else None)

    def _kept(self, first: int) -> list[dict[str, Any]]:
        if not first or not self._path.exists():
            return []
        with self._path.open(newline="") as file:
            return [
                {c: row.get(c, "") for c in self._columns}
                for row in csv.DictReader(file)
                if int(row["step"]) <= first
            ]

    def add(self, step: int, values: dict[str, float]) -> None:
        """One row; columns without a value stay empty."""
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, extrasaction="ignore").writerow({"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def close(self) -> None:
        """Close TensorBoard's file."""
        self._board.close()
