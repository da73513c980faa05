"""Options of models; torch is loaded only when one is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    Tag,
    model_validator,
)

from raremap.errors import nearest
from raremap.options import Options

if TYPE_CHECKING:
    from torch import nn

Head = Literal["mask", "image", "multiresolution"]


class _Model(Options):
    """`head`: one mask; a mask and, for training alone, whether each class is in the image at all; or masks at half,
    one and two times the image's size, each against the truth at its size, averaged at prediction. `norm` "group" has
    group norms where the network has batch norms: what they do to an image does not depend on the batch around it."""

    head: Head = "mask"
    norm: Literal["batch", "group"] = "batch"

    def build(self, in_channels: int, num_classes: int, bands: Sequence[str] | None = None) -> nn.Module:
        """The network, `[B, in_channels, H, W]` of any size → logits `[B, num_classes, H, W]`.

        In training it may give `raremap.models.outputs.Outputs`. `bands` name the channels, for weights that
        were made with other ones. Raises `ConfigError` naming what is not known with the nearest that is.
        """
        from raremap.models.norms import grouped, with_lone_values

        network = self._made(in_channels, num_classes, bands)
        return with_lone_values(network) if self.norm == "batch" else grouped(network)

    def _made(self, in_channels: int, num_classes: int, bands: Sequence[str] | None = None) -> nn.Module:
        """The network as its authors have it."""
        raise NotImplementedError

    def bare(self) -> Self:
        """The same network without weights to fetch."""
        return self.model_copy(update={"weights": None}) if "weights" in type(self).model_fields else self

    @property
    def pretrained(self) -> bool:
        """Whether training starts from weights that were made elsewhere."""
        return bool(getattr(self, "weights", None))

    @property
    def title(self) -> str:
        """A short name for cards and tables."""
        raise NotImplementedError

    def _with_head(self, body: nn.Module, num_classes: int) -> nn.Module:
        from raremap.models.heads import headed

        return headed(body, self.head, num_classes)


class Smp(_Model):
    """A decoder and an encoder of segmentation-models-pytorch, by their names; encoders of timm too.

    `weights` such as "imagenet" are fetched by the library; a name of torchgeo's such as
    "ResNet50_Weights.SENTINEL2_ALL_MOCO" by that one; a path ending in .safetensors is an encoder's state. Null trains
    from scratch. `decoder_channels` makes the decoder narrower or wider: of a U-Net, U-Net++ or MA-Net from deep
    to shallow, of others one number; LinkNet has no such choice.
    """

    kind: Literal["smp"] = "smp"
    decoder: Annotated[str, StringConstraints(to_lower=True)] = "unet"
    encoder: str = "resnet18"
    weights: str | None = None
    decoder_channels: (
        Annotated[tuple[int, ...], Field(min_length=3, max_length=5)] | Annotated[int, Field(ge=1)] | None
    ) = None

    def _made(self, in_channels: int, num_classes: int, bands: Sequence[str] | None = None) -> nn.Module:
        from raremap.models.zoo import smp_network

        return smp_network(self, in_channels, num_classes, bands)

    @property
    def title(self) -> str:
        """Decoder and encoder."""
        return f"{self.decoder} {self.encoder}"


class UNet(_Model):
    """A U-Net of our own blocks, traditional by default: 64 channels at the top, 31 M weights.

    `residual` blocks have a 1×1 projection beside two convolutions; `attention` stands after each block, or
    inside the branch of a residual one.
    """

    kind: Literal["unet"]
    width: int = Field(default=64, ge=4)
    depth: int = Field(default=4, ge=1, le=6)
    block: Literal["plain", "residual"] = "plain"
    attention: Literal["none", "se", "cbam", "axis"] = "none"
    place: Literal["after", "inside"] = "after"

    @model_validator(mode="after")
    def _inside_a_branch(self) -> Self:
        if self.place == "inside" and self.block == "plain":
            raise ValueError("attention inside a branch needs blocks that have one; add block: residual")
        if self.place == "inside" and self.attention == "none":
            raise ValueError("place says where attention stands, and there is none; add attention: axis")
        return self

    def _made(self, in_channels: int, num_classes: int, bands: Sequence[str] | None = None) -> nn.Module:
        from raremap.models.unet import UNet as Body

        body = Body(in_channels, self.width, self.depth, self.block, self.attention, self.place)
        return self._with_head(body, num_classes)

    @property
    def title(self) -> str:
        """What it is made of."""
        more = "" if self.attention == "none" else f" {self.attention}"
        return f"U-Net {self.width} {self.block}{more}"


class SqueezeUNet(_Model):
    """A U-Net of fire modules (Beheshti and Johnsson 2020); a width of 66 gives 2.6 M weights."""

    kind: Literal["squeeze_unet"]
    width: int = Field(default=66, ge=8)

    def _made(self, in_channels: int, num_classes: int, bands: Sequence[str] | None = None) -> nn.Module:
        from raremap.models.unet import SqueezeUNet as Body

        return self._with_head(Body(in_channels, self.width), num_classes)

    @property
    def title(self) -> str:
        """Its name and width."""
        return f"Squeeze U-Net {self.width}"


class VNet(_Model):
    """V-Net in two dimensions (Milletari et al. 2016); the paper's is 16 wide with kernels of 5 (9 M weights)."""

    kind: Literal["vnet"]
    width: int = Field(default=14, ge=4)
    kernel: Literal[3, 5] = 3

    def _made(self, in_channels: int, num_classes: int, bands: Sequence[str] | None = None) -> nn.Module:
        from raremap.models.unet import VNet as Body

        return self._with_head(Body(in_channels, self.width, self.kernel), num_classes)

    @property
    def title(self) -> str:
        """Its name and width."""
        return f"V-Net {self.width}"


class Hrnet(_Model):
    """AIAS-Net's network: HRNet (timm) with branches aggregated by attention, or concatenated as in HRNetV2.

    `ocr` adds object context with its auxiliary loss. `stem_stride` 2 or 1 keeps objects of a pixel, at 4 or
    16 times the work. `weights` "imagenet" are timm's of the backbone; a path ending in .safetensors is its state.
    """

    kind: Literal["hrnet"]
    size: Literal["w18_small", "w18", "w30", "w32", "w40", "w44", "w48", "w64"] = "w18"
    aggregation: Literal["attention", "concat"] = "attention"
    dim: int = Field(
        default=64, ge=8, description="channels that each branch, and object context, is projected to"
    )
    ocr: bool = False
    stem_stride: Literal[1, 2, 4] = 4
    weights: str | None = None

    @model_validator(mode="after")
    def _of_something(self) -> Self:
        if (
            self.aggregation == "concat"
            and not self.ocr
            and self.dim != type(self).model_fields["dim"].default
        ):
            raise ValueError(
                "dim is of attention among branches and of object context; a concatenation alone has neither: "
                "leave dim out, or add ocr: true"
            )
        return self

    def _made(self, in_channels: int, num_classes: int, bands: Sequence[str] | None = None) -> nn.Module:
        from raremap.models.zoo import hrnet_network

        return hrnet_network(self, in_channels, num_classes, bands)

    @property
    def title(self) -> str:
        """Its size and what it is made of."""
        name = "AIAS-Net" if self.aggregation == "attention" else "HRNet"
        return f"{name} {self.size}{' OCR' if self.ocr else ''} stem {self.stem_stride}"


class Terratorch(_Model):
    """A backbone of terratorch by its name, with a decoder of terratorch's, when that package is installed.

    `backbone` such as "prithvi_eo_v2_300_tl", "terramind_v1_base" or "clay_v1_base"; `indices` the layers that
    the decoder gets, four evenly by default. `weights` "pretrained" are fetched by the library. Bands with a name
    of ours or Sentinel-2's use the backbone's filters; a warning says where there are none. Clay and DOFA take
    images of one size: they see squares of `stride`, 256 or 224 by default.
    """

    kind: Literal["terratorch"]
    backbone: str
    decoder: str = "UNetDecoder"
    decoder_channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (512, 256, 128, 64)
    indices: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    weights: Literal["pretrained"] | None = "pretrained"
    stride: int | None = Field(
        default=None,
        ge=1,
        description="what sides of images must be multiples of; by default two of its patches",
    )

    def _made(self, in_channels: int, num_classes: int, bands: Sequence[str] | None = None) -> nn.Module:
        from raremap.models.foundation import terratorch_network

        return terratorch_network(self, in_channels, num_classes, bands)

    @property
    def title(self) -> str:
        """Backbone and decoder."""
        return f"{self.backbone} {self.decoder}"


_RAU: dict[str, Any] = {"kind": "unet", "block": "residual", "attention": "axis", "width": 56}
# Networks by name: `model: rau_net_1` in an experiment.
NAMED: dict[str, dict[str, Any]] = {
    "unet": {"kind": "unet"},
    "unet_cbam": {"kind": "unet", "attention": "cbam"},
    "unet_se": {"kind": "unet", "attention": "se"},
    "unet_axis": {"kind": "unet", "attention": "axis"},
    "residual_unet": {"kind": "unet", "block": "residual", "width": 56},
    "rau_net_1": _RAU,
    "rau_net_2": {**_RAU, "place": "inside"},
    "residual_unet_small": {"kind": "unet", "block": "residual", "width": 18},
    "rau_net_small": {**_RAU, "width": 18},
    "squeeze_unet": {"kind": "squeeze_unet"},
    "vnet": {"kind": "vnet"},
    "mobilenetv3": {
        "kind": "smp",
        "decoder": "unet",
        "encoder": "tu-mobilenetv3_small_100",
        "decoder_channels": [184, 96, 48, 32, 16],
    },
    "deeplabv3": {
        "kind": "smp",
        "decoder": "deeplabv3",
        "encoder": "tu-mobilenetv3_small_100",
        "decoder_channels": 92,
    },
    "unet_resnet18": {"kind": "smp"},
    "unet_resnet50": {"kind": "smp", "encoder": "resnet50"},
    "deeplabv3plus_resnet50": {"kind": "smp", "decoder": "deeplabv3plus", "encoder": "resnet50"},
    "unet_efficientnetv2": {"kind": "smp", "encoder": "tu-tf_efficientnetv2_s"},
    "segformer_b0": {"kind": "smp", "decoder": "segformer", "encoder": "mit_b0"},
    "segformer_b2": {"kind": "smp", "decoder": "segformer", "encoder": "mit_b2"},
    "aias_w18_small": {"kind": "hrnet", "size": "w18_small"},
    "aias_w18": {"kind": "hrnet"},
    "aias_w18_ocr": {"kind": "hrnet", "ocr": True},
    "aias_w32": {"kind": "hrnet", "size": "w32"},
    "aias_w48": {"kind": "hrnet", "size": "w48"},
}


_KINDS = ("smp", "unet", "squeeze_unet", "vnet", "hrnet", "terratorch")


def _named(value: Any) -> Any:
    """The keys behind a name, and those given without a kind as smp's."""
    if isinstance(value, str):
        if value not in NAMED:
            raise ValueError(f"no model is called '{value}'; {nearest(value, NAMED)}")
        return NAMED[value]
    if isinstance(value, dict) and value.get("kind", "smp") not in _KINDS:
        raise ValueError(f"no kind of model is '{value['kind']}'; {nearest(value['kind'], _KINDS)}")
    return value


def _kind(value: Any) -> str:
    return value.get("kind", "smp") if isinstance(value, dict) else getattr(value, "kind", "smp")


ModelOptions = Annotated[
    Annotated[Smp, Tag("smp")]
    | Annotated[UNet, Tag("unet")]
    | Annotated[SqueezeUNet, Tag("squeeze_unet")]
    | Annotated[VNet, Tag("vnet")]
    | Annotated[Hrnet, Tag("hrnet")]
    | Annotated[Terratorch, Tag("terratorch")],
    Discriminator(_kind),
    BeforeValidator(_named),
]


def model_options(value: Any) -> ModelOptions:
    """Options of a name or of keys, such as a bundle holds; raises pydantic's `ValidationError`."""
    from pydantic import TypeAdapter

    return TypeAdapter(ModelOptions).validate_python(value)
