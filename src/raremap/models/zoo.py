"""Networks of other libraries by their names: segmentation-models-pytorch and timm."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raremap.errors import ConfigError, MissingExtra, nearest, reason
from raremap.models.forward import AnySize
from raremap.models.heads import Features, headed
from raremap.models.pretrained import fill

if TYPE_CHECKING:
    from raremap.models.options import Hrnet, Smp

log = logging.getLogger("raremap")

# Where sides must be a multiple of more than 32: PAN halves its features at a sixteenth three times more.
_MULTIPLE = {"pan": 128}
# What a decoder calls its width, where it is not decoder_channels.
_WIDTH = {
    "fpn": "decoder_pyramid_channels",
    "pspnet": "psp_out_channels",
    "segformer": "decoder_segmentation_channels",
    "dpt": "decoder_fusion_channels",
}
# How other libraries say that parts do not go together.
FOREIGN_ERRORS = (
    TypeError, ValueError, AssertionError, RuntimeError, AttributeError, NotImplementedError, LookupError,
)  # fmt: skip


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
    more = {**_width(options, known[options.decoder]), **_of_any_size(encoder)}
    make = partial(known[options.decoder], encoder_name=encoder, **more)
    try:
        net = make(encoder_weights=None, in_channels=in_channels, classes=num_classes)
    except FOREIGN_ERRORS as error:
        raise ConfigError(
            f"decoder '{options.decoder}' cannot be made with encoder '{options.encoder}' and these options "
            f"({reason(error)}); choose another pair, or leave out model.decoder_channels"
        ) from None
    stride = _stride(options, encoder, net, make, in_channels)
    if options.weights is not None:

        def bare(channels: int, weights: str | None) -> nn.Module:
            return make(encoder_weights=weights, in_channels=channels, classes=1).encoder

        fill(net.encoder, encoder, options.weights, bands, bare)
    if options.head == "mask":
        return AnySize(net, stride)
    body = _SmpBody(net, stride, in_channels)
    return headed(body, options.head, num_classes, net.segmentation_head)


def _width(options: Smp, decoder: Callable[..., Any]) -> dict[str, Any]:
    """The decoder's own argument for `decoder_channels`."""
    width = options.decoder_channels
    if width is None:
        return {}
    takes = inspect.signature(decoder).parameters
    key = _WIDTH.get(options.decoder, "decoder_channels")
    if key not in takes:
        raise ConfigError(
            f"decoder '{options.decoder}' has no width to set; leave out model.decoder_channels"
        )
    many = isinstance(takes[key].default, Sequence)
    if many != isinstance(width, tuple):
        wanted = "a list of 3 to 5 numbers, from deep to shallow" if many else "one number"
        raise ConfigError(f"model.decoder_channels of decoder '{options.decoder}' is {wanted}, not {width}")
    if isinstance(width, tuple):
        return {key: width, "encoder_depth": len(width)}
    # FPN's segmentation branch is half as wide as its pyramid (Kirillov et al. 2019), in group norms of 32.
    half = (
        {"decoder_segmentation_channels": 32 * max(round(width / 64), 1)} if options.decoder == "fpn" else {}
    )
    return {key: width, **half}


def _of_any_size(encoder: str) -> dict[str, Any]:
    """timm's options for an encoder that would otherwise take images of one size only."""
    if not encoder.startswith("tu-"):
        return {}
    import timm

    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            takes = inspect.signature(type(timm.create_model(encoder.removeprefix("tu-")))).parameters
    except FOREIGN_ERRORS:  # it asks its own weights for values; the network is tried below
        return {}
    return {k: v for k, v in (("dynamic_img_size", True), ("strict_img_size", False)) if k in takes}


def _stride(options: Smp, encoder: str, net: Any, make: Callable[..., Any], in_channels: int) -> int:
    """What sides of images must be multiples of; raises `ConfigError` where the network takes one size only."""
    stride = math.lcm(_MULTIPLE.get(options.decoder, 32), net.encoder.output_stride or 32)
    # smp's own encoders take any multiple; of timm's more than a thousand not all do.
    failure = refused(net, in_channels, stride) if encoder.startswith("tu-") else None
    if failure is None:
        return stride
    import timm

    # Attention on a grid of cells (MaxViT) wants sides of so many cells: multiples of the size it was made for.
    size = timm.get_pretrained_cfg_value(encoder.removeprefix("tu-"), "input_size")
    wide = math.lcm(stride, size[-1]) if size else stride
    if wide != stride:
        try:
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                other = make(encoder_weights=None, in_channels=in_channels, classes=1)
        except FOREIGN_ERRORS:
            other = None
        if other is not None and refused(other, in_channels, wide) is None:
            log.info("encoder '%s': sides of images are padded to multiples of %d", options.encoder, wide)
            return wide
    raise ConfigError(
        f"encoder '{options.encoder}' with decoder '{options.decoder}' takes no images of other sizes "
        f"({failure}); choose another encoder, such as convnext_tiny or swinv2_tiny_window8_256"
    )


def refused(net: Any, in_channels: int, stride: int) -> str | None:
    """What the network says to an oblong image of odd multiples of `stride`; None where it answers at its size."""
    was, size = net.training, (stride, 3 * stride)
    image = next(net.parameters()).new_zeros(1, in_channels, *size)
    try:
        with torch.no_grad():
            found = tuple(net.eval()(image).shape[2:])
    except FOREIGN_ERRORS as error:
        return reason(error)
    finally:
        net.train(was)
    return None if found == size else f"an image of {size[0]}×{size[1]} becomes {found[0]}×{found[1]}"


class _SmpBody(nn.Module):
    """Encoder and decoder of a network of segmentation-models-pytorch."""

    def __init__(self, net: Any, stride: int, in_channels: int) -> None:
        super().__init__()
        self.encoder, self.decoder = net.encoder, net.decoder
        head = net.segmentation_head
        full = next(m for m in head.modules() if isinstance(m, nn.Conv2d)).in_channels
        self.stride = stride
        with torch.no_grad():
            was = net.training
            net.eval()
            found, deep = self._parts(next(net.parameters()).new_zeros(1, in_channels, stride, stride))
            net.train(was)
        self.reduction = stride // found.shape[-1]
        self.channels = (full, deep.shape[1], 0)

    def forward(self, image: Tensor) -> Features:
        """The decoder's features, and the encoder's last."""
        return Features(*self._parts(image))

    def _parts(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(image)
        if isinstance(features, tuple):  # of DPT: the levels, and the prefix tokens of each
            return self.decoder(*features), features[0][-1]
        return self.decoder(features), features[-1]


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
        name = f"hrnet_{options.size}"
        fill(body.backbone, name, options.weights, bands, partial(_hrnet_backbone, name))
    return headed(body, options.head, num_classes)


def _hrnet_backbone(name: str, channels: int, weights: str | None) -> nn.Module:
    from raremap.models.hrnet import backbone

    if weights not in (None, "imagenet"):
        raise KeyError(weights)
    return backbone(name, channels, pretrained=weights is not None)


def _smp() -> Any:
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise MissingExtra("segmentation-models-pytorch", "train") from None
    return smp
