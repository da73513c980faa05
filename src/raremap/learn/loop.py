"""Lightning's loop without its remarks, and with faults in one line."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raremap.errors import RaremapError, TrainingError, reason
from raremap.models.outputs import Outputs
from raremap.models.room import no_room

if TYPE_CHECKING:
    from raremap.learn.task import SegmentationTask
    from raremap.learn.team import Team


def run_loop(lightning: Any, trainer: Any, task: SegmentationTask, loader: Any) -> None:
    """Lightning's loop, with the faults that a user can mend in one line and stops as `KeyboardInterrupt`."""
    on_stop = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(task, loader)
    except (SystemExit, lightning.pytorch.utilities.exceptions.SIGTERMException):
        raise KeyboardInterrupt from None  # Lightning turns Ctrl-C into an exit of the whole process
    except RaremapError as error:
        if not str(error).startswith("Caught "):
            raise
        # A worker's error carries the worker's traceback; its last line is what was said.
        text = str(error).strip().splitlines()[-1]
        raise type(error)(text.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from None
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            "batch normalisation needs more than one value a channel; raise train.batch_size or train.crop"
        ) from None
    except RuntimeError as error:
        if no_room(error):
            raise TrainingError(
                f"the device is out of memory ({reason(error)}); lower train.batch_size or train.crop"
            ) from None
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a worker that reads tiles was ended by the system ({reason(error)}); "
            "lower train.workers, or free memory"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_stop)  # Lightning leaves it ignored


def processes(team: Team, device: torch.device, unused: bool = True) -> dict[str, Any]:
    """What Lightning's trainer is told of the processes that train together, which run already.

    With `unused` they look at every step for weights that no gradient comes to, and wait for none of them.
    """
    if team.size == 1:
        return {"devices": 1 if device.index is None else [device.index]}
    shared: dict[str, Any] = {"use_distributed_sampler": False}
    told: dict[str, Any] = {"find_unused_parameters": unused}
    if team.ray:
        from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

        strategy, plugins = RayDDPStrategy(**told), [RayLightningEnvironment()]
        return {"strategy": strategy, "plugins": plugins, "devices": "auto", **shared}
    from lightning.pytorch.strategies import DDPStrategy

    return {"strategy": DDPStrategy(**told), "devices": team.size, **shared}


def may_idle(network: nn.Module, loss: nn.Module, image: torch.Tensor) -> bool:
    """Whether a step may leave weights without a gradient, by what the network makes of an image `[1, C, H, W]`.

    An encoder that is not used to its depth has such weights. What a loss learns, and outputs of the training alone,
    may go without in some batches: they count as such.
    """
    weights = [p for p in network.parameters() if p.requires_grad]
    logits = Outputs.of(network.eval()(image)).logits
    network.train()
    idle = None in torch.autograd.grad(logits.sum(), weights, allow_unused=True)
    return idle or next(loss.parameters(), None) is not None


@contextmanager
def quiet_lightning() -> Iterator[Any]:
    """Lightning without its remarks on workers, devices and tips; ours say what a user needs."""
    import lightning

    loggers = [
        logging.getLogger(n)
        for n in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(lightning|torch)\b.*")
            yield lightning
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
