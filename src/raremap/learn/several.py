"""Several processes that train together: started, watched, and ended with each other.

Each of them runs `fit` with its place in a `Team`. The one that asked waits; then it reads what they left.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from raremap import errors
from raremap.errors import ConfigError, RaremapError, TrainingError
from raremap.files import written
from raremap.models.forward import best_device

log = logging.getLogger("raremap")

_LOOK_S = 0.1


def train_together(**given: Any) -> None:
    """Run `fit(**given, team=...)` in `train.devices` processes; raises what one of them raised.

    Ends when all have; where one ends before its time the others are ended too.
    """
    train = given["train"]
    device = best_device(train.device)
    if device.type == "cuda" and train.ray is None and torch.cuda.device_count() < train.devices:
        raise ConfigError(
            f"train.devices is {train.devices}, here are {torch.cuda.device_count()} GPUs; set it to what is here, "
            "or train.device to cpu"
        )
    if device.type != "cuda" and given["model"].norm == "batch":
        log.warning(
            "batch norms on a processor see the share of one process, a batch of %d; model.norm: group is the same in any number",
            train.batch_size // train.devices,
        )
    if train.ray is not None:
        from raremap.learn.cluster import train_on_ray

        return train_on_ray(given, device.type == "cuda")
    with tempfile.TemporaryDirectory(prefix="raremap-") as folder:
        _run(pickle.dumps(given), train.devices, device.type, Path(folder))


def _run(given: bytes, size: int, device: str, folder: Path) -> None:
    command = [sys.executable, "-m", "raremap.learn.worker"]
    environment = {
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # its remarks on unused weights, once a process
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(size):
            # In a session of its own: Ctrl-C is for the one that waits, which ends them all.
            process = subprocess.Popen(
                [*command, str(rank), str(size), device, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
            processes.append(process)
        for process in processes:
            assert process.stdin is not None
            try:
                # It stays open: a worker ends where it closes, since the one that waits has gone then.
                process.stdin.write(given)
                process.stdin.flush()
            except BrokenPipeError:
                break  # its end is told below
        while any(p.poll() is None for p in processes) and not any(p.poll() for p in processes):
            time.sleep(_LOOK_S)
        ends = [p.poll() for p in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it ended before it had read all
                process.stdin.close()
    if any(ends):
        raise _fault(ends, folder)


def leave(folder: Path, rank: int, error: RaremapError) -> None:
    """Keep what a process raised for the one that waits."""
    with written(folder / f"raised-{rank}") as fresh:
        fresh.write_text(f"{type(error).__name__}\n{error}")


def raised(folder: Path) -> RaremapError | None:
    """What a process has left there, of the first that has."""
    for path in sorted(folder.glob("raised-*")):
        kind, _, text = path.read_text().partition("\n")
        of: type[RaremapError] = getattr(errors, kind)
        error = of.__new__(of)  # some make their text of other arguments
        error.args = (text,)
        return error
    return None


def _fault(ends: list[int | None], folder: Path) -> Exception:
    """What made the first process end: what it raised, the signal that ended it, or a failure of ours."""
    if (error := raised(folder)) is not None:
        return error
    for rank, end in enumerate(ends):
        if end is not None and end < 0:
            return TrainingError(
                f"training process {rank} of {len(ends)} was ended ({signal.Signals(-end).name}) and the others with it; "
                "--resume goes on from the last checkpoint"
            )
    told = [(folder / f"failed-{rank}") for rank in range(len(ends))]
    return RuntimeError("\n".join(p.read_text() for p in told if p.exists()) or f"exit codes {ends}")
