"""Backbones of terratorch: what needs the package is skipped where it is not installed."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from torch import nn

from raremap.errors import ConfigError
from raremap.models.foundation import _named, _placed, _Squares
from raremap.models.options import Terratorch

OURS = ("blue", "green", "red", "nir", "swir1", "swir2")
NUMBERS = ("B2", "B3", "B4", "B8A", "B11", "B12")
# The order that Prithvi's authors give (Jakubik et al. 2023), as terratorch spells it.
HLS = ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"]


def options(backbone, **more):
    return Terratorch(kind="terratorch", backbone=backbone, weights=None, **more)


@pytest.mark.parametrize("bands", [OURS, NUMBERS, HLS])
def test_bands_get_the_names_of_their_filters(bands, caplog):
    pretrained = Terratorch(kind="terratorch", backbone="prithvi_eo_v2_300_tl")
    with caplog.at_level("INFO", "raremap"):
        assert _named(pretrained, bands, HLS) == HLS
        assert _named(pretrained, ("B05", "B02", "slope"), HLS) == ["B05", "BLUE", "slope"]
    assert caplog.messages[0].endswith("6 of 6 bands have filters of their own")
    assert caplog.messages[1].endswith("1 of 3 bands have filters of their own; B05, slope start at random")
    assert caplog.records[1].levelno == logging.WARNING


def test_tokens_go_where_they_were_in_an_oblong_image_too():
    grid = torch.arange(16.0).view(1, 1, 2, 8)  # as many tokens as a square of four by four has
    tokens = torch.cat([torch.full((1, 1, 1), -1.0), grid.flatten(2).transpose(1, 2)], 1)
    assert torch.equal(_placed(tokens, (2, 8)), grid)
    assert torch.equal(_placed(tokens[:, 1:], (2, 8)), grid)


def test_squares_are_seen_one_by_one_and_put_back():
    class Ranked(nn.Module):
        def forward(self, image):
            assert image.shape[2:] == (4, 4)
            return torch.cat([image - image.amax((2, 3), keepdim=True), image], 1)

    image = torch.randn(2, 1, 8, 12)
    found = _Squares(Ranked(), 4)(image)
    for row in (0, 4):
        for column in (0, 4, 8):
            part = image[..., row : row + 4, column : column + 4]
            assert torch.equal(found[..., row : row + 4, column : column + 4], Ranked()(part))


@pytest.fixture
def terratorch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports warn
        yield pytest.importorskip("terratorch", reason="terratorch is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "stride"),
    [
        ({"backbone": "prithvi_eo_tiny"}, 32),
        ({"backbone": "prithvi_eo_tiny", "decoder": "UperNetDecoder", "decoder_channels": (16,)}, 32),
        ({"backbone": "prithvi_eo_tiny", "decoder": "FCNDecoder", "decoder_channels": (16,)}, 32),
        ({"backbone": "terramind_v1_tiny"}, 32),
        ({"backbone": "clay_v1_base", "stride": 32, "decoder_channels": (32, 16, 8, 8)}, 32),
        ({"backbone": "dofa_small_patch16_224", "stride": 64}, 64),
    ],
)
@pytest.mark.usefixtures("terratorch")
def test_backbones_of_each_family_give_logits_of_any_size_on_a_batch_of_one(keys, stride):
    net = options(**keys).build(6, 3, OURS)
    assert net.stride == stride
    image = torch.randn(1, 6, 40, 70)
    with torch.no_grad():
        assert net.train()(image).shape == net.eval()(image).shape == (1, 3, 40, 70)


@pytest.mark.slow
@pytest.mark.usefixtures("terratorch")
def test_prithvis_filters_come_from_its_own_bands(monkeypatch):
    from terratorch.models.backbones import prithvi_vit  # pyright: ignore[reportMissingImports]

    bare = prithvi_vit.prithvi_eo_v2_tiny_tl(pretrained=False)
    state = {f"encoder.{k}": v.clone() for k, v in bare.state_dict().items()}
    monkeypatch.setattr(prithvi_vit, "hf_hub_download", lambda **_: "none")
    monkeypatch.setattr(prithvi_vit.torch, "load", lambda *_, **__: dict(state))
    key = "backbone.patch_embed.proj.weight"
    filters = bare.state_dict()["patch_embed.proj.weight"]
    for bands, order in ((OURS, [0, 1, 2, 3, 4, 5]), (NUMBERS[::-1], [5, 4, 3, 2, 1, 0])):
        net = Terratorch(kind="terratorch", backbone="prithvi_eo_v2_tiny_tl").build(6, 2, bands)
        found = next(v for k, v in net.state_dict().items() if k.endswith(key))
        assert torch.equal(found, filters[:, order])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "match"),
    [
        (
            {"backbone": "prithvi_xx"},
            r"model\.backbone 'prithvi_xx' is not known to terratorch; did you mean 'prithvi",
        ),
        ({"backbone": "timm_resnet18"}, r"use model: \{kind: smp, encoder: resnet18\}"),
        ({"backbone": "prithvi_eo_tiny", "decoder": "UNetDecode"}, r"did you mean 'UNetDecoder'"),
        (
            {"backbone": "prithvi_eo_tiny", "indices": (0, 1, 2, 9)},
            r"indices are \[0, 1, 2, 9\], and it has 4 layers",
        ),
        ({"backbone": "terramind_v1_tiny_tim"}, r"does not make 'terramind_v1_tiny_tim'"),
    ],
)
@pytest.mark.usefixtures("terratorch")
def test_what_terratorch_cannot_make_is_one_line(keys, match):
    with pytest.raises(ConfigError, match=match) as caught:
        options(**keys).build(6, 2, OURS)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("terratorch")
def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch):
    from terratorch.models.backbones import prithvi_vit  # pyright: ignore[reportMissingImports]

    def unreachable(**_):
        raise FileNotFoundError("cannot find it on the Hub")

    monkeypatch.setattr(prithvi_vit, "hf_hub_download", unreachable)
    with pytest.raises(ConfigError, match=r"could not be fetched \(cannot find it on the Hub\); connect"):
        Terratorch(kind="terratorch", backbone="prithvi_eo_v2_tiny_tl").build(6, 2, OURS)
