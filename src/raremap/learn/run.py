"""One training: what is counted, logged, kept and written between its steps."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from raremap.balance.dynamic import Follower
from raremap.balance.make import target_of
from raremap.balance.sampler import Stream
from raremap.batches.dataset import TrainSamples
from raremap.batches.loader import TrainBatches
from raremap.jobs import Progress, progress
from raremap.learn import checkpoint
from raremap.learn.crops import MonitorCrops
from raremap.learn.history import History
from raremap.learn.loop import may_idle, processes, quiet_lightning, run_loop
from raremap.learn.monitor import Monitor
from raremap.learn.options import OptimizerOptions, OuterOptions, TrainOptions
from raremap.learn.outer import Outer
from raremap.learn.team import ALONE, Team
from raremap.measure.objective import maps_of, truth_of
from raremap.measure.scores import Scores
from raremap.models.forward import has_bf16
from raremap.scene.normalize import Normalization

if TYPE_CHECKING:
    from raremap.learn.task import SegmentationTask
    from raremap.learn.teacher import Extra
    from raremap.measure.objective import Objective
    from raremap.scene.features.options import Feature

log = logging.getLogger("raremap")

Watch = Callable[[int, Scores], bool]
"""Is told the scores of the monitor places as they are taken, with the step; says whether training goes on."""


@dataclass(frozen=True)
class Fit:
    """A trained network with the weights of its best step on the monitor places.

    `prior` are the class shares that the scores have learned: those of the labelled pixels that the loss
    received, times its class weights; `natural` those of the ground of the training. `features` have the numbers that were taken from the training tiles.
    """

    module: nn.Module
    normalization: Normalization
    prior: np.ndarray
    steps: int
    best_step: int
    best_macro_f1: float
    natural: np.ndarray
    features: tuple[Feature, ...] = ()


class TrainingRun:
    """The state of one training: what is counted, logged, kept and written between steps.

    Of a team every process has the same state; the one that leads writes the files.
    """

    def __init__(
        self,
        network: nn.Module,
        monitor: Monitor,
        names: tuple[str, ...],
        loss: Objective,
        optimizer: OptimizerOptions,
        train: TrainOptions,
        device: torch.device,
        out: Path,
        stream: Stream,
        of: dict[str, str],
        extra: Extra | None = None,
        watch: Watch | None = None,
        team: Team = ALONE,
    ) -> None:
        from raremap.learn.task import SegmentationTask

        self._loss, self._team = loss.to(device), team
        self._loss.pool = team.pool
        self.task: SegmentationTask = SegmentationTask(
            network, loss, optimizer, train.steps, len(names), self._after, train.ema, extra, team
        )
        self._clip = optimizer.clip
        self._monitor, self._names, self._train, self._device = monitor, names, train, device
        self._folder, self._out, self._of = out / "checkpoints", out, of
        self._best_f1, self._best_step = -1.0, 0
        self._watch, self._called_off = watch, False
        self._bf16 = False
        self._history: History | None = None
        self._bar: Progress | None = None
        self._stream = stream
        moves = target_of(stream.plan.options).gamma > 0
        self._follower = Follower(stream.plan, names) if moves else None
        self._followed = 0
        self._spent = 0.0  # seconds, before it was stopped

    def learn_outside(self, options: OuterOptions, monitor: MonitorCrops, objects: np.ndarray) -> None:
        """Let an outer loop move class factors, term weights and the stream's target."""
        loss = self._loss

        def inner(logits: Tensor, batch: dict[str, Tensor], classes: Tensor, terms: Tensor) -> Tensor:
            factors = terms if loss.learns_terms else loss.term_weights
            truth, prior, regions = truth_of(batch), batch["prior"].mean(0), self.task.regions(batch)
            return loss.inner(logits, truth, prior, classes, factors, regions, **maps_of(batch))

        self.task.outer = Outer(
            options if loss.learns_terms else options.model_copy(update={"terms": False}),
            self.task.network,
            self.task.optimizer,
            inner,
            monitor,
            loss.num_classes,
            self._train.steps,
            loss.term_weights.tolist(),
            objects,
        )
        if options.classes in ("stream", "both") and self._follower is None:
            self._follower = Follower(self._stream.plan, self._names)

    def restore(self) -> None:
        """Go back to the last checkpoint; the random state is put in force when training goes on."""
        state = checkpoint.load_of(self._folder / "last.pt", self._of)
        self.task.restore(state["task"])
        if self._follower is not None and state.get("follower"):
            self._follower.restore(state["follower"])
            self._stream.follow(self._stream.plan.toward(self._follower.target), state["follower"]["draw"])
            self._followed = int(state["follower"]["draw"])
        # The best weights say for themselves which they are: they may be newer than the checkpoint.
        if (self._folder / "best.pt").exists():
            best = checkpoint.load(self._folder / "best.pt")
            self._best_f1, self._best_step = best["macro_f1"], best["step"]
        self._spent = float(state.get("seconds", 0.0))
        randoms = [state["random"], *state.get("others", [])]
        self._random = randoms[self._team.rank % len(randoms)]

    def go(self, samples: TrainSamples, quiet: bool) -> None:
        """Train from the current step to the last; a stop is a `KeyboardInterrupt`."""
        first, t = self.task.step, self._train
        workers = min(8, os.cpu_count() or 1) if self._device.type == "cuda" else 0
        workers = t.workers if t.workers is not None else workers
        every = t.monitor_steps if self._follower is not None else None
        on_gpu, team = self._device.type == "cuda", self._team
        share = (team.rank, team.size)
        loader = TrainBatches(samples, first, t.steps, t.batch_size, workers, on_gpu, every, share)
        self._bf16 = self._choose_bf16(samples)
        idle = team.size > 1 and may_idle(self.task.network, self._loss, self._first_image(samples))
        if self.task.outer is not None:
            self.task.outer.bf16 = self._bf16
        columns = [
            "step",
            "loss",
            *self._loss.logged_names,
            *(self.task.extra.names if self.task.extra is not None else ()),
            *self._outside(),
            "lr",
            "macro_f1",
            "miou",
            *(f"f1/{n}" for n in self._names),
            *(f"{part}/{n}" for part in ("target", "stream") for n in self._names if self._follower),
            "seconds",
        ]
        self._history = History(self._out, columns, first) if team.leads else None
        self._started = time.perf_counter() - self._spent
        try:
            with quiet_lightning() as lightning, progress("train", t.steps, quiet or not team.leads) as bar:
                self._bar = bar
                bar.advance(first)
                trainer = lightning.Trainer(
                    accelerator={"cuda": "gpu"}.get(self._device.type, self._device.type),
                    **processes(team, self._device, idle),
                    max_steps=t.steps - first,
                    precision="bf16-mixed" if self._bf16 else "32-true",
                    logger=False,
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                    num_sanity_val_steps=0,
                    gradient_clip_val=self._clip,
                )
                if first:
                    checkpoint.restore_random(self._random)
                self.task.train()
                run_loop(lightning, trainer, self.task, loader)
                if trainer.interrupted or (self.task.step < t.steps and not self.settled()):
                    raise KeyboardInterrupt
        finally:
            if self._history is not None:
                self._history.close()
        team.gathered(None)  # nobody goes on before the last checkpoint is written

    def _choose_bf16(self, samples: TrainSamples) -> bool:
        wanted = self._train.precision
        if wanted == "bf16-mixed" or (wanted == "auto" and not has_bf16(self._device)):
            return wanted == "bf16-mixed"
        if wanted == "float32":
            return False
        image, network = self._first_image(samples), self.task.network.eval()
        with torch.inference_mode():
            exact = network(image)
            with torch.autocast(self._device.type, torch.bfloat16):
                fast = network(image).float()
        network.train()
        off = float((torch.softmax(exact, 1) - torch.softmax(fast, 1)).abs().mean())
        log.info(
            "bf16 training %s: mean difference of probabilities %.4f", "used" if off < 0.01 else "left", off
        )
        return off < 0.01

    def _first_image(self, samples: TrainSamples) -> Tensor:
        image = torch.from_numpy(samples[0]["image"])[None]
        return image.to(self._device, memory_format=torch.channels_last)

    def settled(self) -> bool:
        """Whether it was called off, or as many scores in a row as `patience` allows were no better."""
        if self._called_off:
            return True
        patience, every = self._train.patience, self._train.monitor_steps
        return patience is not None and (self.task.step - self._best_step) // every >= patience

    def _after(self, step: int) -> None:
        assert self._bar is not None
        self._bar.advance()
        last = step == self._train.steps
        if step % self._train.monitor_steps == 0 or last:
            self._score(step)
            if self.settled():
                last = True
                self.task.trainer.should_stop = True
                why = "called off" if self._called_off else f"no better score since step {self._best_step}"
                self._bar.note(f"step {step}: {why}; training ends")
        if step % self._train.checkpoint_steps == 0 or last:
            randoms = self._team.gathered(checkpoint.random_state())
            state = {
                "task": self.task.progress_state(),
                **self._of,
                "follower": self._follower and {**self._follower.state(), "draw": self._followed},
                "random": randoms[0],
                "others": randoms[1:],
                "seconds": self._elapsed(),
            }
            if self._team.leads:
                checkpoint.save(self._folder / "last.pt", state)

    def _elapsed(self) -> float:
        """Seconds of training, with those before a stop."""
        return time.perf_counter() - self._started

    def _score(self, step: int) -> None:
        assert self._bar is not None
        values: dict[str, float] = {**self.task.means(), **self._loss.logged()}
        values |= self._outside()
        values["lr"] = self.task.optimizer.param_groups[0]["lr"]
        scores = self._monitor(self.task.scored, self._device, self._bf16)
        self.task.schedule.monitored(scores.macro_f1)
        if scores.macro_f1 > self._best_f1:
            self._best_f1, self._best_step = scores.macro_f1, step
            best = {
                "network": self.task.scored.state_dict(),
                "step": step,
                "macro_f1": scores.macro_f1,
            }
            if self._team.leads:
                checkpoint.save(self._folder / "best.pt", best)
        values |= {"macro_f1": scores.macro_f1, "miou": scores.miou}
        values |= {f"f1/{n}": float(f) for n, f in zip(self._names, scores.f1, strict=True) if f == f}
        values["seconds"] = round(self._elapsed(), 3)
        if self._follower is not None:
            values |= self._follow(self._follower, step, scores)
        if self._history is not None:
            self._history.add(step, values)
        self._bar.note(_note(step, values["loss"], scores))
        if self._watch is not None:
            self._called_off = not self._watch(step, scores)

    def _outside(self) -> dict[str, float]:
        """What the outer loop has set (factors of classes and, of a plain sum, weights of its terms), and what it cost."""
        outer, loss = self.task.outer, self._loss
        if outer is None:
            return {}
        out = {"outer/seconds": round(outer.seconds, 2), "outer/skipped": outer.skipped}
        out |= {f"factor/{n}": float(f) for n, f in zip(self._names, loss.class_factors, strict=True)}
        if loss.balance is None and loss.learns_terms:
            out |= {f"lambda/{n}": float(x) for n, x in zip(loss.names, loss.term_weights, strict=True)}
        return out

    def _follow(self, follower: Follower, step: int, scores: Scores) -> dict[str, float]:
        """Draw by the latest scores from the next step on; what is logged of it."""
        offsets = None if self.task.outer is None else self.task.outer.offsets
        plan = self._stream.plan.toward(follower.update(scores.f1, offsets))
        self._followed = step * self._train.batch_size
        self._stream.follow(plan, self._followed)
        parts = {"target": plan.target, "stream": plan.shares}
        return {f"{part}/{n}": float(v[i]) for part, v in parts.items() for i, n in enumerate(self._names)}

    def result(self, normalization: Normalization) -> Fit:
        """The network with its best weights, on the CPU."""
        network = self.task.scored
        if self._best_step:
            network.load_state_dict(checkpoint.load(self._folder / "best.pt")["network"])
        network = network.cpu().eval()
        return Fit(
            network,
            normalization,
            self._loss.learned_prior(
                self._stream.plan.natural, self.task.delivered.cpu().numpy().astype(np.float64)
            ),
            self.task.step,
            self._best_step,
            self._best_f1,
            self._stream.plan.natural,
        )


def _note(step: int, loss: float, scores: Scores) -> str:
    by_class = " ".join(f"{n[:10]} {f:.2f}" for n, f in zip(scores.names, scores.f1, strict=True) if f == f)
    return f"step {step} loss {loss:.3f} macro-F1 {scores.macro_f1:.3f} | {by_class}"
