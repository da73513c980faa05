"""`raremap models`: which networks there are, how large they are, and how fast here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from raremap.errors import ConfigError
from raremap.jobs import progress

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class ModelRow:
    """A network: millions of weights, billions of multiply-adds for a crop, crops a second where measured."""

    name: str
    title: str
    parameters_m: float
    multiply_adds_g: float
    train_crops_s: float | None = None
    predict_crops_s: float | None = None
    failed: str | None = None


@dataclass(frozen=True)
class ModelTable:
    """What `raremap models` found, and of what: crops of `crop`², `bands`, `classes`, on `device`."""

    rows: tuple[ModelRow, ...]
    crop: int
    bands: int
    classes: int
    batch: int
    device: str
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def __str__(self) -> str:
        measured = any(r.predict_crops_s is not None for r in self.rows)
        head = f"{'model':<24}{'weights':>10}{'multiply-adds':>15}"
        head += f"{'train':>12}{'predict':>12}  made of" if measured else "  made of"
        lines = [head]
        for r in self.rows:
            if r.failed is not None:
                lines.append(f"{r.name:<24}{r.failed}")
                continue
            line = f"{r.name:<24}{r.parameters_m:>8.2f} M{r.multiply_adds_g:>13.2f} G"
            if measured:
                line += f"{_rate(r.train_crops_s):>12}{_rate(r.predict_crops_s):>12}"
            lines.append(f"{line}  {r.title}")
        about = f"a crop is {self.crop}² of {self.bands} bands, {self.classes} classes"
        if measured:
            about += f"; speed on {self.device}, {self.threads} threads, {self.batch} crops at once, float32"
        return "\n".join([*lines, about])


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}/s"


def list_models(
    names: Sequence[str] | None = None,
    bands: int = 13,
    classes: int = 2,
    crop: int = 128,
    batch: int = 4,
    seconds: float | None = 1.0,
    device: str = "auto",
    quiet: bool = False,
) -> ModelTable:
    """The networks by name, or those of `names`, with weights, multiply-adds and crops a second on this machine.

    A name is one of raremap's, or `DECODER/ENCODER` of segmentation-models-pytorch and timm. `seconds` is how long each
    is measured, training and prediction alike; None measures nothing. Raises `ConfigError` naming an unknown name, or
    where memory does not hold the crops.
    """
    import torch

    from raremap.models.forward import best_device
    from raremap.models.options import NAMED
    from raremap.models.room import no_room

    where = best_device(device)
    made = {name: _options_of(name) for name in (names or NAMED)}
    rows = []
    with progress("models", len(made), quiet) as bar:
        for name, options in made.items():
            try:
                net = options.bare().build(bands, classes)
            except ConfigError as error:
                if names:
                    raise
                rows.append(ModelRow(name, "", 0, 0, failed=str(error)))
                continue
            count = sum(p.numel() for p in net.parameters()) / 1e6
            row = ModelRow(name, options.title, count, multiply_adds(net, bands, crop) / 1e9)
            if seconds is not None:
                try:
                    image = torch.randn(batch, bands, crop, crop, device=where)
                    image = image.contiguous(memory_format=torch.channels_last)
                    mask = torch.randint(0, classes, (batch, crop, crop), device=where)
                    net = net.to(where).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
                    row = replace(
                        row,
                        train_crops_s=batch / _seconds(_training(net, image, mask), seconds, where),
                        predict_crops_s=batch / _seconds(_prediction(net, image), seconds, where),
                    )
                except RuntimeError as error:
                    if not no_room(error):
                        raise
                    raise ConfigError(
                        f"{where} has no room to train {name} on {batch} crops of {crop}²; lower --batch or --crop"
                    ) from None
            rows.append(row)
            bar.advance()
            bar.note(name)
    return ModelTable(tuple(rows), crop, bands, classes, batch, str(where), torch.get_num_threads())


def _options_of(name: str) -> Any:
    from raremap.errors import nearest
    from raremap.models.options import NAMED, Smp, model_options

    if name in NAMED:
        return model_options(name)
    decoder, slash, encoder = name.partition("/")
    if not slash:
        raise ConfigError(
            f"no model is called '{name}', nor is it a DECODER/ENCODER such as fpn/resnet50; {nearest(name, NAMED)}"
        )
    return Smp(decoder=decoder, encoder=encoder)


@dataclass(frozen=True)
class EncoderNames:
    """Encoders that `model.encoder` takes, of segmentation-models-pytorch and of timm."""

    smp: tuple[str, ...]
    timm: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join([*self.smp, *self.timm])


def encoder_names() -> EncoderNames:
    """The encoders by name; which of timm's give features for a decoder is seen when one is built."""
    import timm

    from raremap.models.zoo import encoders

    own = tuple(encoders())
    return EncoderNames(own, tuple(n for n in timm.list_models() if n not in own))


def multiply_adds(net: nn.Module, bands: int, crop: int) -> int:
    """Multiplications with an addition that predicting one crop takes: convolutions and matrix products.

    Nothing is computed: the network is followed on shapes alone.
    """
    import copy

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    shapes = copy.deepcopy(net).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shapes(torch.empty(1, bands, crop, crop, device="meta"))
    return counter.get_total_flops() // 2


def _training(net: nn.Module, image: torch.Tensor, mask: torch.Tensor) -> Any:
    """One step: forward, cross-entropy of everything it gives, backward, AdamW."""
    import torch
    import torch.nn.functional as F

    from raremap.models.outputs import losses_of

    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def loss(logits: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"ce": F.cross_entropy(logits, truth)}

    def step() -> None:
        net.train()
        total = torch.stack(list(losses_of(net(image), loss, mask).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step


def _prediction(net: nn.Module, image: torch.Tensor) -> Any:
    import torch

    def step() -> None:
        net.eval()
        with torch.inference_mode():
            net(image)

    return step


def _seconds(step: Any, budget: float, device: torch.device) -> float:
    """The median seconds of a step, after one that does not count, for about `budget` seconds."""
    import statistics

    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    step()
    times: list[float] = []
    while not times or sum(times) < budget:
        wait()
        started = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
