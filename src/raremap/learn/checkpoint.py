"""Checkpoints of a training: whole files, and everything that the next step depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from raremap.errors import TrainingError
from raremap.files import written


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, with the random state of torch unless it holds some."""
    with written(path) as fresh:
        torch.save({"random": random_state(), **state}, fresh)


def random_state() -> dict[str, Any]:
    """The random state of torch in this process."""
    random: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state_all()
    return random


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; `restore_random` puts its random state in force. Raises `TrainingError`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(
            f"{path} does not exist, so there is nothing to resume; train without --resume"
        ) from None
    except Exception as error:
        # torch.load raises whatever the damaged bytes make it raise.
        raise TrainingError(
            f"checkpoint {path} cannot be read ({type(error).__name__}); train without --resume"
        ) from None
    if not isinstance(state, dict) or "random" not in state:
        raise TrainingError(
            f"checkpoint {path} cannot be read (it holds no training of raremap); train without --resume"
        )
    return state


def load_of(path: Path, of: dict[str, str]) -> dict[str, Any]:
    """Read a checkpoint that is of these `tiles` and this `experiment`; raises `TrainingError` where it is of others."""
    state = load(path)
    if state.get("experiment") != of["experiment"]:
        raise TrainingError(
            f"{path} is of a training of another experiment or network; --resume goes on with the same one, "
            "or choose another `out`"
        )
    if state.get("tiles") != of["tiles"]:
        raise TrainingError(f"{path} is of a training on other tiles; train without --resume")
    return state


def clear(out: Path) -> None:
    """Remove what an older training left in a run folder, which a new one's `--resume` would take for its own."""
    for pattern in ("checkpoints/*.pt", "checkpoints/.*.pt", "tensorboard/events.*", "metrics.csv"):
        for path in out.glob(pattern):
            path.unlink()


def restore_random(state: dict[str, Any]) -> None:
    """Put a `random_state` in force."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
