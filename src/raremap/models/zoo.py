"""Networks of other libraries by their names: segmentation-models-pytorch, timm, torchgeo, terratorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raremap.errors import ConfigError, MissingExtra, nearest
from raremap.models.forward import AnySize
from raremap.models.heads import Features, headed
from raremap.models.stems import RGB, widened_state

if TYPE_CHECKING:
    from raremap.models.options import Hrnet, Smp, Terratorch

# Where sides must be a multiple of more than 32: PAN halves its features at a sixteenth three times more.
_MULTIPLE = {"pan": 128}


def decoders() -> dict[str, Callable[..., Any]]:
    """Decoders of segmentation-models-pytorch by name, in lower case."""
    smp = _smp()
    return {c.__name__.lower(): c for c in smp.MODEL_ARCHITECTURES_MAPPING.values()}


def encoders() -> list[str]:
    """Encoders of segmentation-models-pytorch by name; those of timm are known beside them."""
    return list(_smp().encoders.get_encoder_names())


def smp_network(
    options: Smp, in_channels: int, num_classes: int, bands: Sequence[str] | None = None
) -> nn.Module:
    """A decoder and an encoder of segmentation-models-pytorch; see `raremap.models.options.Smp`."""
    known = decoders()
    if options.decoder not in known:
        raise ConfigError(
            f"model.decoder '{options.decoder}' is not known; {nearest(options.decoder, known)}"
        )
    encoder = _encoder_name(options.encoder)
    more: dict[str, Any] = {}
    if options.decoder_channels is not None:
        more["decoder_channels"] = options.decoder_channels
        if isinstance(options.decoder_channels, tuple):
            more["encoder_depth"] = len(options.decoder_channels)
    if options.decoder == "dpt":
        more["dynamic_img_size"] = True
    try:
        net = known[options.decoder](
            encoder_name=encoder, encoder_weights=None, in_channels=in_channels, classes=num_classes, **more
        )
    except (
        TypeError,
        ValueError,
        AssertionError,
        RuntimeError,
        AttributeError,
        NotImplementedError,
    ) as error:
        raise ConfigError(
            f"decoder '{options.decoder}' cannot be made with encoder '{options.encoder}' and these options "
            f"({_first_line(error)}); choose another pair, or leave out model.decoder_channels"
        ) from None
    if options.weights is not None:
        _fill(net.encoder, encoder, options.weights, in_channels, bands)
    stride = math.lcm(_MULTIPLE.get(options.decoder, 32), net.encoder.output_stride or 32)
    if options.head == "mask":
        return AnySize(net, stride)
    body = _SmpBody(net, stride, in_channels)
    return headed(body, options.head, num_classes, net.segmentation_head)


class _SmpBody(nn.Module):
    """Encoder and decoder of a network of segmentation-models-pytorch."""

    def __init__(self, net: Any, stride: int, in_channels: int) -> None:
        super().__init__()
        self.encoder, self.decoder = net.encoder, net.decoder
        head = net.segmentation_head
        full = next(m for m in head.modules() if isinstance(m, nn.Conv2d)).in_channels
        self.stride = stride
        with torch.no_grad():
            was, side = net.training, 2 * stride
            image = next(net.parameters()).new_zeros(1, in_channels, side, side)
            features = net.eval().encoder(image)
            self.reduction = side // net.decoder(features).shape[-1]
            net.train(was)
        self.channels = (full, _of_image(features[-1]).shape[1], 0)

    def forward(self, image: Tensor) -> Features:
        """The decoder's features, and the encoder's last."""
        features = self.encoder(image)
        return Features(self.decoder(features), _of_image(features[-1]))


def _of_image(features: Any) -> Tensor:
    """The features of an encoder's level; one of transformers gives its prefix tokens beside them."""
    return features if isinstance(features, Tensor) else features[0]


def _encoder_name(name: str) -> str:
    """smp's name of an encoder, or `tu-` and timm's."""
    import timm

    if name in encoders():
        return name
    bare = name.removeprefix("tu-")
    if timm.is_model(bare):
        return f"tu-{bare}"
    raise ConfigError(
        f"model.encoder '{name}' is not known; {_near(name, [*encoders(), *timm.list_models()])}"
    )


def _near(name: str, known: Sequence[str]) -> str:
    hint = nearest(name, known)
    # There are more than a thousand: a list of them would help nobody.
    return hint if hint.startswith("did") else "`raremap models --encoders` lists them"


def _fill(encoder: nn.Module, name: str, weights: str, in_channels: int, bands: Sequence[str] | None) -> None:
    """Fill an encoder with pretrained weights, its stem widened to the bands."""
    source: Sequence[str] = RGB
    if weights.endswith(".safetensors"):
        state, source = _state_of_file(Path(weights))
    elif "_Weights." in weights:
        state, source = _state_of_torchgeo(weights)
    else:
        state = _state_of_smp(name, weights)
    own = encoder.state_dict()
    prefix = (
        "model."
        if next(iter(own)).startswith("model.") and not next(iter(state)).startswith("model.")
        else ""
    )
    state = {prefix + k: v for k, v in state.items() if prefix + k in own}
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    if missing:
        raise ConfigError(
            f"model.weights '{weights}' do not fit encoder '{name}': {len(missing)} of {len(own)} tensors are not "
            f"there, such as {missing[0]}; choose the encoder that they were made with"
        )
    shapes = {k: v.shape for k, v in own.items()}
    stems = _stems(name, len(source))
    if in_channels == 3 and bands is None and tuple(source) == RGB:
        stems = []
    try:
        encoder.load_state_dict(widened_state(state, shapes, bands, stems, source), strict=False)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"model.weights '{weights}' do not fit encoder '{name}' ({_first_line(error)})"
        ) from None


def _stems(name: str, bands: int) -> list[str]:
    """Tensors of an encoder whose second axis is the bands: those that differ with one band more."""
    with torch.random.fork_rng(devices=[]):
        one, other = (
            _smp().encoders.get_encoder(name, in_channels=c, weights=None).state_dict()
            for c in (bands, bands + 1)
        )
    return [k for k in one if one[k].shape != other[k].shape]


def _state_of_smp(name: str, weights: str) -> dict[str, Tensor]:
    """Weights that segmentation-models-pytorch or timm fetch, for red, green and blue."""
    try:
        return _smp().encoders.get_encoder(name, in_channels=3, weights=weights).state_dict()
    except KeyError:
        raise ConfigError(
            f"model.weights '{weights}' do not exist for encoder '{name}'; use null or 'imagenet'"
        ) from None
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"model.weights '{weights}' of '{name}' could not be fetched ({_first_line(error)}); "
            "connect to the network once, or set model.weights to null"
        ) from None


def _state_of_file(path: Path) -> tuple[dict[str, Tensor], Sequence[str]]:
    """Tensors of a file, and the bands that its metadata names under `bands`, with commas between."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            named = (file.metadata() or {}).get("bands")
            return {k: file.get_tensor(k) for k in file.keys()}, named.split(",") if named else RGB  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"model.weights {path} cannot be read ({_first_line(error)}); give a safetensors file of an encoder"
        ) from None


def _state_of_torchgeo(weights: str) -> tuple[dict[str, Tensor], Sequence[str]]:
    """Weights of torchgeo by their name, and the bands that they were made with."""
    try:
        from torchgeo.models import get_weight  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtra("torchgeo", "torchgeo") from None
    try:
        found = get_weight(weights)
    except (ValueError, KeyError):
        raise ConfigError(
            f"model.weights '{weights}' are not known to torchgeo; its documentation lists them"
        ) from None
    try:
        state = found.get_state_dict(progress=False)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"model.weights '{weights}' could not be fetched ({_first_line(error)}); connect to the network once"
        ) from None
    count = int(found.meta["in_chans"])
    return state, list(found.meta.get("bands", [f"source {i}" for i in range(count)]))


def hrnet_network(
    options: Hrnet, in_channels: int, num_classes: int, bands: Sequence[str] | None = None
) -> nn.Module:
    """AIAS-Net's network; see `raremap.models.options.Hrnet`."""
    try:
        from raremap.models.hrnet import HRNet
    except ImportError:
        raise MissingExtra("timm", "train") from None
    body = HRNet(
        in_channels,
        num_classes,
        options.size,
        options.aggregation,
        options.dim,
        options.ocr,
        options.stem_stride,
    )
    if options.weights is not None:
        _fill_backbone(body.backbone, f"hrnet_{options.size}", options.weights, bands)
    return headed(body, options.head, num_classes)


def _fill_backbone(backbone: Any, name: str, weights: str, bands: Sequence[str] | None) -> None:
    """Fill timm's HRNet with its ImageNet weights."""
    import timm

    try:
        made = timm.create_model(
            name, pretrained=True, features_only=True, feature_location="", out_indices=(1, 2, 3, 4)
        )
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"model.weights '{weights}' of '{name}' could not be fetched ({_first_line(error)}); "
            "connect to the network once, or set model.weights to null"
        ) from None
    shapes = {k: v.shape for k, v in backbone.state_dict().items()}
    backbone.load_state_dict(widened_state(made.state_dict(), shapes, bands, ["conv1.weight"]))


def terratorch_network(
    options: Terratorch, in_channels: int, num_classes: int, bands: Sequence[str] | None = None
) -> nn.Module:
    """A backbone of terratorch with one of its decoders; see `raremap.models.options.Terratorch`."""
    try:
        from terratorch.models import EncoderDecoderFactory  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtra("terratorch", "terratorch") from None
    if options.head != "mask":
        raise ConfigError(f"model.head '{options.head}' is not made for terratorch; use mask")
    names = list(bands) if bands is not None else [f"BAND_{i}" for i in range(in_channels)]
    channels = list(options.decoder_channels)
    necks = [
        {"name": "SelectIndices", "indices": list(options.indices)},
        {"name": "ReshapeTokensToImage"},
        *([{"name": "LearnedInterpolateToPyramidal"}] if options.decoder == "UNetDecoder" else []),
    ]
    try:
        net = EncoderDecoderFactory().build_model(
            task="segmentation",
            backbone=options.backbone,
            backbone_pretrained=options.weights is not None,
            backbone_bands=[n.upper() for n in names],
            decoder=options.decoder,
            decoder_channels=channels if options.decoder == "UNetDecoder" else channels[0],
            necks=necks,
            num_classes=num_classes,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"terratorch does not make '{options.backbone}' with '{options.decoder}' of these bands "
            f"({_first_line(error)}); `list(terratorch.BACKBONE_REGISTRY)` names the backbones"
        ) from None
    return AnySize(_Output(net), options.stride)


class _Output(nn.Module):
    """The logits alone of a network whose answer has them as `output`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, K, H, W]`."""
        return self.net(image).output


def _smp() -> Any:
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise MissingExtra("segmentation-models-pytorch", "train") from None
    return smp


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
