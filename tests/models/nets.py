"""One small network of each make, for tests that all of them have to pass."""

from __future__ import annotations

from typing import Any

from torch import nn

from raremap.models.options import model_options

UNET: dict[str, Any] = {"kind": "unet", "width": 8, "depth": 3}
RESIDUAL: dict[str, Any] = {**UNET, "block": "residual"}
HRNET: dict[str, Any] = {"kind": "hrnet", "size": "w18_small", "dim": 16}
SMP: dict[str, Any] = {"encoder": "tu-test_resnet", "decoder_channels": [16, 8, 8]}

LIGHT: dict[str, dict[str, Any]] = {
    "unet": UNET,
    "se": {**UNET, "attention": "se"},
    "cbam": {**UNET, "attention": "cbam"},
    "axis": {**UNET, "attention": "axis"},
    "residual": RESIDUAL,
    "rau 1": {**RESIDUAL, "attention": "axis"},
    "rau 2": {**RESIDUAL, "attention": "axis", "place": "inside"},
    "squeeze": {"kind": "squeeze_unet", "width": 16},
    "vnet": {"kind": "vnet", "width": 4},
    "vnet 5": {"kind": "vnet", "width": 4, "kernel": 5},
    "unet image": {**UNET, "head": "image"},
    "unet multi": {**RESIDUAL, "head": "multiresolution"},
}
HEAVY: dict[str, dict[str, Any]] = {
    "aias": HRNET,
    "aias ocr": {**HRNET, "ocr": True},
    "hrnet concat stem 2": {"kind": "hrnet", "size": "w18_small", "aggregation": "concat", "stem_stride": 2},
    "aias stem 1": {**HRNET, "stem_stride": 1, "dim": 8},
    "aias multi": {**HRNET, "ocr": True, "head": "multiresolution"},
    "smp": SMP,
    "smp image": {**SMP, "head": "image"},
    "smp multi": {**SMP, "head": "multiresolution"},
    "mobilenetv3": {"decoder": "unet", "encoder": "mobilenetv3_small_050", "decoder_channels": [16, 16, 8, 8, 8]},
    "deeplabv3": {"decoder": "deeplabv3", "encoder": "mobilenetv3_small_050", "decoder_channels": 16},
    "deeplabv3 multi": {"decoder": "deeplabv3plus", "encoder": "mobilenetv3_small_050", "decoder_channels": 16,
                        "head": "multiresolution"},
    "segformer": {"decoder": "segformer", "encoder": "mit_b0", "decoder_channels": 32},
}  # fmt: skip
ALL = {**LIGHT, **HEAVY}


def build(name: str, bands: int = 3, classes: int = 2) -> nn.Module:
    """The network of that name."""
    return model_options(ALL[name]).build(bands, classes)
