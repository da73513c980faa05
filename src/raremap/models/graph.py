"""A bundle's whole way from bands as stored to classes, as one module that ONNX can hold.

Axes: B batch, C channels, K classes, H W pixels.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raremap.errors import BundleError, MissingExtra, reason
from raremap.models.forward import AnySize
from raremap.models.heads import Headed
from raremap.models.outputs import Outputs
from raremap.scene.features.names import require_band
from raremap.scene.features.options import FeatureOptions, Grey
from raremap.scene.features.options.indices import Index
from raremap.scene.features.options.ranges import GlobalMinMax
from raremap.scene.normalize import Normalization

NET = "net"
"""The part of the graph whose nodes are the network's, in their names."""


def in_graph(feature: FeatureOptions) -> bool:
    """Whether a feature is arithmetic on single pixels, which a graph can do; others are made before it."""
    return isinstance(feature, (Index, Grey, GlobalMinMax))


@dataclass(frozen=True)
class Choice:
    """What makes classes of scores, and how they are told.

    Probabilities are of logits / `temperature`; the class is the greatest probability times its factor, `factors`
    `[K]` being meant for probabilities of the bare logits. `values` `[K]` are the classes' numbers in the source,
    `nodata` that of pixels which are not valid.
    """

    temperature: float
    factors: tuple[float, ...]
    values: tuple[int, ...]
    nodata: int


class Graph(nn.Module):
    """Bands and validity in; probabilities and classes out.

    The image `[B, C, H, W]` float32 holds the `bands` as stored, then the channels of the features that are not
    `in_graph`, in order. The features of the graph are made in it; the network's input is put in order, normalised
    and 0 where it is not valid.
    """

    shift: Tensor
    scale: Tensor
    factors: Tensor
    values: Tensor

    def __init__(
        self,
        module: nn.Module,
        bands: Sequence[str],
        features: Sequence[FeatureOptions],
        normalization: Normalization,
        choice: Choice,
        fixed: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.net = _AnySize(module, fixed)
        self.stride, self.fixed = self.net.stride, fixed
        self.bands, self.features = tuple(bands), tuple(features)
        self.temperature, self.nodata = choice.temperature, choice.nodata
        for name, numbers in (
            ("shift", normalization.shift),
            ("scale", normalization.scale),
            ("factors", choice.factors),
        ):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("values", torch.tensor(choice.values, dtype=torch.uint8))

    def forward(self, image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities float32 `[B, K, H, W]` and classes uint8 `[B, H, W]` of an image and its validity `[B, H, W]`."""
        usable = valid.unsqueeze(1)
        # Also where nothing else stood: NaN marks no data, and NaN times 0 is NaN.
        image = torch.where(usable, image, 0.0)
        x = torch.cat([image[:, : len(self.bands)], *self._made(image)], 1) if self.features else image
        x = torch.where(usable, (x - self.shift) * self.scale, 0.0)
        logits = self.net(x)
        raw = torch.softmax(logits, 1)
        probs = raw if self.temperature == 1 else torch.softmax(logits / self.temperature, 1)
        classes = self.values[torch.argmax(raw * self.factors, 1)]
        return probs, torch.where(valid, classes, self.nodata).to(torch.uint8)

    def _made(self, image: Tensor) -> list[Tensor]:
        """The channels of all features, in the network's order."""
        out, given = [], len(self.bands)
        for feature in self.features:
            if in_graph(feature):
                out.append(self._feature(feature, image))
            else:
                n = len(feature.channels)
                out.append(image[:, given : given + n])
                given += n
        return out

    def _feature(self, feature: FeatureOptions, image: Tensor) -> Tensor:
        def layer(name: str) -> Tensor:
            if name == "grey":
                return (layer("red") + layer("green") + layer("blue")) / 3
            at = self.bands.index(require_band(name, self.bands, feature.called))
            return image[:, at : at + 1]

        if isinstance(feature, Index):
            high, low = (
                sum((layer(n) for n in names[1:]), layer(names[0]) + len(names) * feature.offset)
                for names in feature.sums
            )
            total = high + low
            some = total != 0
            return torch.where(some, (high - low) / torch.where(some, total, 1.0), 0.0).clamp(-1, 1)
        if isinstance(feature, GlobalMinMax):
            assert feature.low is not None
            assert feature.high is not None
            bounds = zip(feature.of, feature.low, feature.high, strict=True)
            return torch.cat([(layer(n) - a) / (b - a) if b > a else layer(n) * 0 for n, a, b in bounds], 1)
        return layer("grey")


class _AnySize(nn.Module):
    """A network on images of any size, its own padding and cutting done in a way that a tracer follows.

    Theirs ask for sizes in Python, and the tracer would write today's answer into the graph.
    """

    def __init__(self, module: nn.Module, fixed: tuple[int, int] | None) -> None:
        super().__init__()
        self.module, self.stride = module, stride_of(module)
        self.pads = self.stride > 1 and (fixed is None or any(s % self.stride for s in fixed))

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, K, H, W]` of an image `[B, C, H, W]`."""
        height, width = image.shape[-2:]
        if self.pads:  # always, also by nothing: a graph is written once for all sizes
            image = F.pad(image, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        if isinstance(self.module, AnySize):
            return self._cut(self.module.net(image), height, width)
        if isinstance(self.module, Headed):
            out: Outputs = self.module.head(self.module.body(image))
            across = int(image.shape[-1])
            logits = self._cut(out.logits, height, width)
            scales = []
            for mask in out.scales:
                finer, coarser = int(mask.shape[-1]) // across, across // int(mask.shape[-1])
                size = [s * finer if finer else (s + coarser - 1) // coarser for s in (height, width)]
                scales.append(self._cut(mask, *size))
            return Outputs(logits, scales=tuple(scales)).fused()
        return self.module(image)

    def _cut(self, logits: Tensor, height: int, width: int) -> Tensor:
        return logits[..., :height, :width] if self.pads else logits


def stride_of(module: nn.Module) -> int:
    """What sides must be a multiple of; 1 of networks that raremap did not build, which take what they get."""
    if isinstance(module, AnySize):
        return module.stride
    if isinstance(module, Headed):
        return int(module.body.stride)  # pyright: ignore[reportArgumentType]
    return 1


def write_graph(graph: Graph, path: Path, opset: int) -> None:
    """Write the graph as ONNX: any height, width and batch, or one image of the fixed size.

    Raises `BundleError` where the network holds an operation that ONNX has not.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise MissingExtra("onnx", "export") from None
    graph = graph.eval()
    side = 2 * max(graph.stride, 32)
    size = graph.fixed or (side, side + graph.stride)
    given = len(graph.bands) + sum(len(f.channels) for f in graph.features if not in_graph(f))
    image = torch.zeros(1, given, *size)
    axes = {0: "batch", 2: "height", 3: "width"}
    flat = {0: "batch", 1: "height", 2: "width"}
    free = {"image": axes, "valid": flat, "probabilities": axes, "classes": flat}
    try:
        with warnings.catch_warnings(), _quiet_stdout():
            # The tracer says that sizes may have become constants; `workflows.export` looks whether they have.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph, (image, torch.ones(1, *size, dtype=torch.bool)), path, dynamo=False, opset_version=opset,
                input_names=["image", "valid"], output_names=["probabilities", "classes"],
                dynamic_axes=None if graph.fixed else free,
            )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise BundleError(
            f"the network cannot be written as ONNX with opset {opset} ({reason(error)}); {_advice(str(error))}"
        ) from None


_ADVICE = {
    "adaptive_avg_pool2d": "it pools to set numbers of cells: give --fixed with sides that they divide, such as 192,192",
    "_upsample_bicubic2d_aa": "give --fixed with the size that its transformer was made for, such as 224,224",
}


def _advice(fault: str) -> str:
    """What helps against a fault of the exporter."""
    known = (advice for operation, advice in _ADVICE.items() if operation in fault)
    return next(known, "try --fixed 256,256, or another --opset")


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Nothing on standard output: where torch's exporter fails it prints the whole graph there, past Python."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
