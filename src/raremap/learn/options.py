"""Options of training and its optimizer; no heavy import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raremap.options import Options


class OptimizerOptions(Options):
    """An optimizer of torch, and how its rate moves.

    `schedule`: one-cycle (peak `lr`), `cosine` or `poly` (down to 0 by a cosine, or by a power), `plateau` (falls by
    `factor` where the monitor's macro-F1 no longer rises) or constant. Before that the rate goes up over the share
    `warmup` of the steps: by a cosine in one-cycle, else in a straight line. `clip` is the largest norm of a gradient,
    null: any. AdamW takes the weight decay off the weights; the others add it to the gradient, as an L2 penalty.
    """

    kind: Literal["adamw", "adam", "nadam", "adagrad", "rmsprop", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float | None = Field(
        default=None, ge=0, description="null: 0.01 of adamw, 0 of the others, whose decay is an L2 penalty"
    )
    momentum: float | None = Field(
        default=None, ge=0, lt=1, description="of sgd and rmsprop; null: 0.9 of sgd, 0 of rmsprop"
    )
    clip: float | None = Field(default=None, gt=0)
    schedule: Literal["onecycle", "cosine", "poly", "plateau", "constant"] = "onecycle"
    warmup: float | None = Field(
        default=None, ge=0, lt=1, description="null: 0.3, and 0 of plateau and constant"
    )
    power: float = Field(default=0.9, gt=0)
    patience: int = Field(
        default=3, ge=0, description="monitor evaluations without gain before a plateau's rate falls"
    )
    factor: float = Field(default=0.3, gt=0, lt=1)

    @property
    def decay(self) -> float:
        """The weight decay of this kind."""
        if self.weight_decay is not None:
            return self.weight_decay
        return 1e-2 if self.kind == "adamw" else 0.0

    @property
    def inertia(self) -> float | None:
        """The momentum of this kind; None of those that have none."""
        if self.kind not in ("sgd", "rmsprop"):
            return None
        if self.momentum is not None:
            return self.momentum
        return 0.9 if self.kind == "sgd" else 0.0

    @property
    def rise(self) -> float:
        """The share of the steps before the peak."""
        if self.warmup is not None:
            return self.warmup
        return 0.0 if self.schedule in ("plateau", "constant") else 0.3


class TrainOptions(Options):
    """How long, on what, and with which numbers to train.

    `precision` "auto" is bf16 where the processor has it and it agrees with float32. `workers` None makes
    batches in the process on a CPU and in up to eight workers beside a GPU. Scores on the monitor places
    are taken every `monitor_every` steps (default a tenth of all), a checkpoint is written as often.
    Before each of them the batch norms' statistics are taken anew from `norm_tiles` whole training tiles,
    drawn alike (0: they stay those of the stream's crops). `devices` so many processes train together, each on a
    GPU of its own or on a share of the processor; `batch_size` is of all of them, and with `model.norm: group`
    the steps are those of one. With `ray` they are workers of a Ray cluster at that address, or of one
    that is started here ("local"). With `ema` the weights that are scored and kept are a
    moving average, which keeps that share of itself at every step. With `patience` training ends after so many
    scores without a better one. `cache`: whether decoded tiles and costly features of them are kept on disk, in
    `cache_folder` (default: OUT/cache); "auto" where the tiles do not fit in memory and it takes at most half of the free disk.
    """

    steps: int = Field(default=2000, ge=1)
    batch_size: int = Field(default=16, ge=1)
    crop: int = Field(default=128, ge=16)
    precision: Literal["auto", "float32", "bf16-mixed"] = "auto"
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    devices: int = Field(default=1, ge=1)
    ray: str | None = None
    workers: int | None = Field(default=None, ge=0)
    threads: int | None = Field(default=None, ge=1)
    monitor_every: int | None = Field(default=None, ge=1)
    checkpoint_every: int | None = Field(default=None, ge=1)
    norm_tiles: int = Field(default=16, ge=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    cache: Literal["auto"] | bool = "auto"
    cache_folder: str | None = None

    @model_validator(mode="after")
    def _even_shares(self) -> TrainOptions:
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of devices {self.devices}; make it one"
            )
        if self.devices > 1 and ":" in self.device:
            raise ValueError(
                f"device '{self.device}' is one, and devices is {self.devices}; name the kind alone"
            )
        if self.ray is not None and self.devices == 1:
            raise ValueError("ray without several devices trains as without it; say how many: devices: 2")
        return self

    @property
    def monitor_steps(self) -> int:
        """Steps between two evaluations on monitor places."""
        return self.monitor_every or max(1, self.steps // 10)

    @property
    def checkpoint_steps(self) -> int:
        """Steps between two checkpoints."""
        return self.checkpoint_every or self.monitor_steps


class PseudoOptions(Options):
    """Pseudo-labels by a teacher, a moving average of the network, where ground is not labelled.

    The teacher keeps `decay` of itself a step. A pixel takes the teacher's class c where its probability is at
    least `threshold`·m_c/max m, m_c how sure the teacher is of class c on average (it keeps `momentum` of it a
    batch): a class that is learned slowly asks for less, but never for less than `floor`. From step `start` on
    their cross-entropy counts `weight`. With `strong` above 0 it is taken on a second look at the images,
    with gain, offset and noise of that size (in standard deviations of a band), the teacher's on the first.
    """

    weight: float = Field(default=1.0, gt=0)
    decay: float = Field(default=0.99, ge=0, lt=1)
    threshold: float = Field(default=0.9, gt=0, le=1)
    floor: float = Field(default=0.5, ge=0, le=1)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    start: int = Field(default=0, ge=0)
    strong: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _floor_below(self) -> PseudoOptions:
        if self.floor > self.threshold:
            raise ValueError(
                f"pseudo.floor {self.floor:g} is above pseudo.threshold {self.threshold:g}; lower it"
            )
        return self


class OuterOptions(Options):
    """Class offsets and term weights that are learned on monitor places while the network trains.

    From the share `warmup` of the steps on, `every` so many, class-balanced cross-entropy on `crops` monitor crops
    says what should count more: with `classes` the classes of the loss ("weights"), those of the stream's
    target ("stream"), half of it each ("both") or none; with `terms` the terms of the loss. `lr` is the most that
    a logarithm moves an update. Factors stay within 1/`bound` and `bound`. `shrink` is the number of monitor
    objects at which half of a class's offset is kept; 0 keeps all of it.
    """

    every: int = Field(default=20, ge=1)
    warmup: float = Field(default=0.3, ge=0, lt=1)
    classes: Literal["weights", "stream", "both", "none"] = "weights"
    terms: bool = True
    lr: float = Field(default=0.1, gt=0)
    bound: float = Field(default=4.0, gt=1)
    shrink: float = Field(default=20.0, ge=0)
    crops: int = Field(default=16, ge=1)
