"""Train a network on a catalog: the loop, its monitor, its checkpoints."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from raremap.balance.sampler import Stream
from raremap.batches.augment import lasting
from raremap.batches.cache import keep_features, use_cache
from raremap.batches.dataset import TrainSamples
from raremap.batches.distance import BoundaryMaps
from raremap.batches.options import AugmentOptions
from raremap.errors import ConfigError
from raremap.learn import checkpoint, several
from raremap.learn.crops import MonitorCrops, objects_in
from raremap.learn.monitor import Monitor
from raremap.learn.norms import natural_tiles
from raremap.learn.options import OptimizerOptions, OuterOptions, PseudoOptions, TrainOptions
from raremap.learn.run import Fit, TrainingRun, Watch
from raremap.learn.teacher import extra_of
from raremap.learn.team import ALONE, Team
from raremap.measure.losses import LossOptions
from raremap.models.forward import best_device
from raremap.models.norms import synced
from raremap.models.options import ModelOptions
from raremap.scene.normalize import NormalizeOptions
from raremap.scene.normalize import fit as fit_normalization
from raremap.tiles.reader import TileReader

if TYPE_CHECKING:
    from torch import nn

    from raremap.balance.plan import SamplingPlan
    from raremap.measure.terms.festa import Festa
    from raremap.scene.features.options import Feature
    from raremap.tiles.catalog import Catalog

log = logging.getLogger("raremap")


def fit(
    catalog: Catalog,
    uses: np.ndarray,
    plan: SamplingPlan,
    *,
    model: ModelOptions,
    normalize: NormalizeOptions,
    features: Sequence[Feature] = (),
    loss: LossOptions,
    optimizer: OptimizerOptions,
    train: TrainOptions,
    augment: AugmentOptions,
    out: Path,
    of: str,
    rare: Sequence[int] = (),
    pseudo: PseudoOptions | None = None,
    festa: Festa | None = None,
    outer: OuterOptions | None = None,
    resume: bool = False,
    quiet: bool = False,
    watch: Watch | None = None,
    team: Team = ALONE,
    module: nn.Module | None = None,
) -> Fit:
    """Train on the tiles of a plan and keep the weights that score best on monitor places.

    `rare` are class numbers, for terms of the loss that are of the rare classes only. A copy of `module` is trained in
    the place of what `model` says, in one process.
    Writes metrics.csv, tensorboard/ and checkpoints/ under `out`, where none of an older training are
    (`checkpoint.clear`). With `resume` it goes on from the last checkpoint, which must be of the same `of`, a checksum
    of all that the steps depend on but the tiles, and ends with the weights of an unbroken run. `watch` may end it after any score. With `train.devices`
    above 1 as many processes train; in each of them `team` says which it is. Raises `TrainingError`.
    """
    if train.devices > 1 and team.size == 1:
        if watch is not None:
            raise ConfigError("a training that may be called off runs in one process; set train.devices to 1")
        several.train_together(
            catalog=catalog,
            uses=uses,
            plan=plan,
            model=model,
            normalize=normalize,
            features=features,
            loss=loss,
            optimizer=optimizer,
            train=train,
            augment=augment,
            out=out,
            of=of,
            rare=rare,
            pseudo=pseudo,
            festa=festa,
            outer=outer,
            resume=resume,
            quiet=quiet,
        )
        resume = True  # what they left is all that there is to do
    device = best_device(train.device)
    rows, monitor_rows = plan.rows(catalog), np.flatnonzero(uses == "monitor")
    reader = TileReader(
        catalog, np.concatenate([rows, monitor_rows]), features=features, least_scale=augment.least_scale
    )
    cache = Path(train.cache_folder or out / "cache")
    use_cache(reader, catalog, train.cache, cache, quiet)
    tiles = rows[~plan.composite]
    features, channels = reader.fit_features(tiles), reader.channels.names
    settled = natural_tiles(tiles, train.norm_tiles, train.seed)
    plain = np.concatenate([monitor_rows, settled])
    keep_features(reader, catalog, train.cache, cache, lasting(augment, reader.channels), plain, quiet)
    normalization = fit_normalization((reader.sample(int(r))[:2] for r in tiles), channels, normalize)
    with (
        _threads(train.threads or max(1, torch.get_num_threads() // team.size)),
        torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else []),
    ):
        torch.manual_seed(train.seed)
        if module is not None:
            network = copy.deepcopy(module)
        else:
            network = model.build(len(channels), catalog.scheme.num_classes, channels)
        network = network.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if team.size > 1 and device.type == "cuda":
            network = synced(network)
        if not team.leads:
            torch.manual_seed(train.seed + team.rank)  # dropout of its own
        stream = Stream(plan, train.seed)
        objective = loss.build(
            catalog.scheme.num_classes,
            names=catalog.scheme.names,
            shares=plan.shares,
            natural=plan.natural,
            counts=catalog.counts[tiles],
            rare=rare,
        )
        maps = None
        if objective.maps:
            boundary = objective.boundary
            maps = BoundaryMaps(objective.num_classes, objective.maps, boundary.numbers, boundary.clip)
        samples = TrainSamples(reader, catalog, stream, normalization, train.crop, augment, train.seed, maps)
        monitor = Monitor(reader, monitor_rows, normalization, catalog.scheme.names, settled, team)
        extra = extra_of(pseudo, festa, network, objective.num_classes, train.seed)
        run = TrainingRun(
            network,
            monitor,
            catalog.scheme.names,
            objective,
            optimizer,
            train,
            device,
            out,
            stream,
            _identity(catalog, plan, of),
            extra,
            watch,
            team,
        )
        if outer is not None:
            crops = MonitorCrops.of_tiles(
                reader,
                catalog,
                monitor_rows,
                normalization,
                train.crop,
                outer.crops,
                train.batch_size,
                train.seed,
            )
            run.learn_outside(outer, crops, objects_in(reader, monitor_rows, objective.num_classes))
        if resume:
            run.restore()
        if run.task.step < train.steps and not run.settled():
            reader.load(np.concatenate([rows, monitor_rows]))
            run.go(samples, quiet)
        return replace(run.result(normalization), features=features)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute in `count` threads, and in as many as before afterwards: the process is the caller's."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stopped_at(catalog: Catalog, plan: SamplingPlan, out: Path, of: str) -> int:
    """The step from which the training in a run folder goes on; raises `TrainingError` where none can with this plan."""
    state = checkpoint.load_of(out / "checkpoints" / "last.pt", _identity(catalog, plan, of))
    return int(state["task"]["step"])


def _identity(catalog: Catalog, plan: SamplingPlan, of: str) -> dict[str, str]:
    rows = plan.rows(catalog).tolist()
    text = f"{catalog.fingerprint} {rows} {plan.weights.tolist()}"
    return {"experiment": of, "tiles": hashlib.sha256(text.encode()).hexdigest()}
