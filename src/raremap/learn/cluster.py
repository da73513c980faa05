"""The processes of one training as workers of Ray, on this machine or a cluster's."""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

from raremap.cluster import connect, ray_on_stderr
from raremap.errors import MissingExtra, RaremapError, TrainingError
from raremap.learn.several import leave, raised
from raremap.learn.team import Team


def train_on_ray(given: dict[str, Any], on_gpu: bool) -> None:
    """Run `fit(**given, team=...)` in `train.devices` workers of Ray Train; raises what one of them raised.

    `train.ray` is the address of a cluster, or "local": one of this machine's cores, which ends with the training.
    On a cluster every machine has raremap, and reads the data and writes the run folder at the same paths.
    """
    try:
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    train, folder = given["train"], Path(given["out"]).resolve() / "ray"
    told = {"given": pickle.dumps(given), "folder": str(folder), "place": str(Path.cwd())}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = False
    with warnings.catch_warnings(), ray_on_stderr():
        warnings.simplefilter("ignore")  # of Ray's parts about each other
        try:
            started = connect(train.ray, max(train.devices, os.cpu_count() or 1))
            TorchTrainer(
                _work,
                train_loop_config=told,
                scaling_config=ScalingConfig(num_workers=train.devices, use_gpu=on_gpu),
                run_config=RunConfig(name="training", storage_path=str(folder)),
            ).fit()
        except RaremapError:
            raise
        except Exception as error:
            # Ray wraps what happened in errors of its own, of more kinds than can be listed.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise raised(folder) or TrainingError(
                f"training on Ray ended before its time ({lines[-1][:200]}); --resume goes on from the last checkpoint"
            ) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if started:
                ray.shutdown()


def _work(told: dict[str, Any]) -> None:
    """What each worker does; Ray has made their group."""
    import ray.train

    from raremap.learn.fit import fit

    os.chdir(told["place"])
    context = ray.train.get_context()
    team = Team(context.get_world_rank(), context.get_world_size(), ray=True)
    try:
        fit(**pickle.loads(told["given"]), team=team)
    except RaremapError as error:
        leave(Path(told["folder"]), team.rank, error)
        raise
