"""Backbones of terratorch (Prithvi, TerraMind, Clay and others) with its decoders.

Axes: B batch, C bands, D channels, N tokens, K classes, H W pixels.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from raremap.errors import ConfigError, MissingExtra, nearest, reason
from raremap.models.forward import AnySize
from raremap.models.pretrained import tell_filters
from raremap.models.stems import same_bands
from raremap.models.zoo import refused

if TYPE_CHECKING:
    from raremap.models.options import Terratorch

# terratorch's names of what a band sees, by which its backbones choose their filters or wavelengths.
_HLS = (
    "COASTAL_AEROSOL", "BLUE", "GREEN", "RED", "RED_EDGE_1", "RED_EDGE_2", "RED_EDGE_3", "NIR_BROAD",
    "NIR_NARROW", "WATER_VAPOR", "CIRRUS", "SWIR_1", "SWIR_2",
)  # fmt: skip
_PRITHVI = ("BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2")
_SENTINEL2_L2A = tuple(b for b in _HLS if b != "CIRRUS")
# Positions on a fixed grid: such a network sees squares of this side.
_SQUARES = {"clay": 256, "dofa": 224}
_PYRAMIDS = ("UNetDecoder", "UperNetDecoder")


def terratorch_network(
    options: Terratorch, in_channels: int, num_classes: int, bands: Sequence[str] | None = None
) -> nn.Module:
    """A backbone of terratorch with one of its decoders; see `raremap.models.options.Terratorch`.

    Raises `ConfigError` where terratorch has no such parts, cannot join them, or the network does not answer.
    """
    try:
        from terratorch import BACKBONE_REGISTRY, DECODER_REGISTRY  # pyright: ignore[reportMissingImports]
        from terratorch.models import EncoderDecoderFactory  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtra("terratorch", "terratorch") from None
    if options.head != "mask":
        raise ConfigError(f"model.head '{options.head}' is not made for terratorch; use mask")
    name = options.backbone.removeprefix("terratorch_")
    _require(name, "backbone", BACKBONE_REGISTRY)
    _require(options.decoder, "decoder", DECODER_REGISTRY)
    names = list(bands) if bands is not None else [f"band {i}" for i in range(in_channels)]
    side = next((s for start, s in _SQUARES.items() if name.startswith(start)), None)
    if side is not None and options.stride is not None:
        side = options.stride
    keys = _keys_of(options, name, BACKBONE_REGISTRY, names, side)
    takes = inspect.signature(DECODER_REGISTRY.find_class(options.decoder)).parameters
    channels = list(options.decoder_channels)
    if "channels" in takes:
        keys_of_decoder = {"channels": channels if options.decoder == "UNetDecoder" else channels[0]}
    else:
        keys_of_decoder = {}
    try:
        made = BACKBONE_REGISTRY.build(name, pretrained=options.weights is not None, **keys)
        levels = _Levels(made, None if "out_indices" in keys else options.indices)
        flat = len(set(levels.out_channels)) == 1 and options.decoder in _PYRAMIDS
        net = EncoderDecoderFactory().build_model(
            task="segmentation",
            backbone=levels,
            decoder=options.decoder,
            decoder_kwargs=keys_of_decoder,
            necks=[{"name": "LearnedInterpolateToPyramidal"}] if flat else [],
            num_classes=num_classes,
        )
    except OSError as error:
        raise ConfigError(
            f"model.weights of '{options.backbone}' could not be fetched ({reason(error)}); "
            "connect to the network once, or set model.weights to null"
        ) from None
    except Exception as error:  # of terratorch, which raises bare ones too
        raise _cannot(options, reason(error)) from None
    if side is not None:
        return AnySize(_Squares(_Logits(net), side), side)
    network, stride = _Logits(net), options.stride or 2 * levels.patch
    failure = refused(network, in_channels, stride)
    if failure is not None:
        raise _cannot(options, failure)
    return AnySize(network, stride)


def _require(name: str, what: str, registry: Any) -> None:
    if name in registry:
        return
    known = [n.removeprefix("terratorch_") for n in registry if n.startswith("terratorch_")]
    hint = nearest(name, known)
    hint = hint if hint.startswith("did") else f"such as {', '.join(known[:3])}"
    raise ConfigError(f"model.{what} '{name}' is not known to terratorch; {hint}")


def _cannot(options: Terratorch, why: str) -> ConfigError:
    return ConfigError(
        f"terratorch does not make '{options.backbone}' with '{options.decoder}' of these bands and options "
        f"({why}); choose another model.backbone or model.decoder"
    )


def _keys_of(
    options: Terratorch, name: str, registry: Any, bands: Sequence[str], side: int | None
) -> dict[str, Any]:
    """What a backbone is told of the bands, each family in its own way; logs which bands it knows."""
    terratorchs = f"terratorch_{name}" in registry
    if not terratorchs and not name.startswith("clay"):
        encoder = name.removeprefix("timm_")
        raise ConfigError(
            f"model.backbone '{name}' is not terratorch's own; use model: {{kind: smp, encoder: {encoder}}}"
        )
    if name.startswith("terramind"):
        return {"modalities": ["S2L2A"], "bands": {"S2L2A": _named(options, bands, _SENTINEL2_L2A)}}
    if name.startswith("prithvi"):
        return {"bands": _named(options, bands, _PRITHVI)}
    named = _named(options, bands, _HLS)
    if name.startswith("clay"):
        return {"bands": named, "img_size": side}
    if name.startswith("dofa"):
        depth = 24 if "large" in name else 12
        return {"model_bands": named, "img_size": side, "out_indices": options.indices or _even(depth)}
    takes = inspect.signature(registry.find_class(name)).parameters
    return {key: named for key in ("model_bands", "bands") if key in takes}


def _named(options: Terratorch, bands: Sequence[str], source: Sequence[str]) -> list[str]:
    """terratorch's names of the bands, by which it finds their filters among those of `source`."""
    found = same_bands(bands, source)
    if options.weights is not None:
        tell_filters(options.backbone, bands, found, source, random=True)
    return [b if i is None else source[i] for b, i in zip(bands, found, strict=True)]


def _even(count: int) -> tuple[int, ...]:
    """Four of so many layers, evenly, the last one among them.

    >>> _even(12), _even(24), _even(5)
    ((2, 5, 8, 11), (5, 11, 17, 23), (0, 1, 2, 4))
    """
    return tuple(count * k // 4 - 1 for k in (1, 2, 3, 4)) if count > 4 else tuple(range(count))


class _Levels(nn.Module):
    """Layers of a backbone as images `[B, D, H / patch, W / patch]`: tokens at their places, without the class's.

    terratorch's own neck takes tokens of a square number for a square image, which an oblong one may have too.
    """

    def __init__(self, backbone: Any, indices: Sequence[int] | None) -> None:
        super().__init__()
        self.backbone = backbone
        channels = list(backbone.out_channels)
        pyramid = len(set(channels)) > 1
        layers = tuple(range(len(channels)))[-4:] if pyramid else _even(len(channels))
        self.indices = layers if indices is None else tuple(indices)
        if max(self.indices) >= len(channels):
            raise ValueError(f"indices are {list(self.indices)}, and it has {len(channels)} layers")
        self.out_channels = [channels[i] for i in self.indices]
        patch = next((m.patch_size for m in backbone.modules() if hasattr(m, "patch_size")), 16)
        self.patch = int(patch if isinstance(patch, int) else patch[-1])  # type: ignore[index]

    def forward(self, image: Tensor, **_: Any) -> list[Tensor]:
        """The layers at `indices`."""
        found = self.backbone(image)
        size = (image.shape[-2] // self.patch, image.shape[-1] // self.patch)
        return [_placed(found[i], size) for i in self.indices]


def _placed(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    if tokens.ndim == 4:
        return tokens
    return tokens[:, -size[0] * size[1] :].transpose(1, 2).unflatten(2, size)


class _Squares(nn.Module):
    """A network that takes one size only, for any multiple of it: it sees squares of `side`, one beside the other."""

    def __init__(self, net: nn.Module, side: int) -> None:
        super().__init__()
        self.net, self.side = net, side

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, K, H, W]`."""
        rows, columns = image.shape[-2] // self.side, image.shape[-1] // self.side
        squares = image.unflatten(3, (columns, self.side)).unflatten(2, (rows, self.side))
        logits = self.net(squares.permute(0, 2, 4, 1, 3, 5).flatten(0, 2))
        apart = logits.unflatten(0, (len(image), rows, columns)).permute(0, 3, 1, 4, 2, 5)
        return apart.flatten(4, 5).flatten(2, 3)


class _Logits(nn.Module):
    """The logits alone of a network whose answer has them as `output`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, K, H, W]`."""
        return self.net(image).output
