import pytest
import torch
import torchvision
from tests.models.nets import build

from raremap.errors import ConfigError
from raremap.models.blocks import ATTENTION, AxisAttention, Cbam, ResidualBlock, SqueezeExcite
from raremap.models.options import NAMED, model_options


def _millions(net):
    return sum(p.numel() for p in net.parameters()) / 1e6


# Landslide detection (AIT, Vienna 2023), slides "Improve Model's Backbone" and "Small Models".
@pytest.mark.parametrize(
    ("name", "documented"),
    [
        ("unet", 31.4),
        ("unet_cbam", 31.9),
        ("unet_se", 31.6),
        ("unet_axis", 31.8),
        ("residual_unet", 24.4),
        ("rau_net_1", 24.8),
        ("rau_net_2", 24.8),
        ("residual_unet_small", 2.6),
        ("rau_net_small", 2.6),
        ("squeeze_unet", 2.6),
        ("vnet", 2.6),
        ("mobilenetv3", 2.6),
        ("deeplabv3", 2.6),
    ],
)
@pytest.mark.parametrize(("bands", "head"), [(14, "mask"), (23, "multiresolution")])
def test_as_many_weights_as_the_document_says(name, documented, bands, head):
    net = model_options({**NAMED[name], "head": head}).build(bands, 2)
    assert _millions(net) == pytest.approx(documented, rel=0.03)


def test_the_traditional_unet_counted_by_hand():
    widths, count = (64, 128, 256, 512, 1024), 0
    for into, out in zip((14, *widths), widths, strict=False):
        count += 9 * into * out + 2 * out + 9 * out * out + 2 * out
    for deep, out in zip(widths[:0:-1], widths[-2::-1], strict=True):
        count += 4 * deep * out + out + 9 * 2 * out * out + 2 * out + 9 * out * out + 2 * out
    count += 64 * 2 + 2
    assert sum(p.numel() for p in model_options("unet").build(14, 2).parameters()) == count


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("size", [(1, 1), (7, 12)])
def test_attention_keeps_the_shape_and_its_weights_any_size(kind, size):
    layer = ATTENTION[kind](24).eval()
    assert layer(torch.randn(2, 24, *size)).shape == (2, 24, *size)


def test_squeeze_and_excitation_is_torchvisions():
    ours = SqueezeExcite(32, reduction=4)
    theirs = torchvision.ops.SqueezeExcitation(32, 8)
    theirs.fc1.load_state_dict(ours.gate[0].state_dict())
    theirs.fc2.load_state_dict(ours.gate[2].state_dict())
    x = torch.randn(2, 32, 5, 6)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_cbam_weighs_channels_then_pixels_as_in_its_paper():
    layer = Cbam(16).eval()
    x = torch.randn(1, 16, 6, 5)
    mlp = layer.channels
    by_channel = torch.sigmoid(sum(mlp(f(x)) for f in (_mean, _peak)))
    inner = x * by_channel
    maps = torch.stack([inner.mean(1), inner.max(1).values], 1)
    expected = inner * torch.sigmoid(layer.pixels[0](maps) / (1 + 1e-5) ** 0.5)
    assert torch.allclose(layer(x), expected, atol=1e-6)


def _mean(x):
    return torch.nn.functional.adaptive_avg_pool2d(x, 1)


def _peak(x):
    return torch.nn.functional.adaptive_max_pool2d(x, 1)


def _stirred(layer):
    torch.manual_seed(0)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return layer


def test_axis_attention_starts_as_the_identity():
    x = torch.randn(2, 32, 9, 5)
    assert torch.equal(AxisAttention(32)(x), x)


def test_axis_attention_of_an_image_on_its_side_is_turned_alike():
    layer, x = _stirred(AxisAttention(32)), torch.randn(2, 32, 9, 5)
    for turned in (lambda t: t.transpose(2, 3), lambda t: t.flip(2), lambda t: t.rot90(1, (2, 3))):
        assert torch.allclose(layer(turned(x)), turned(layer(x)), atol=1e-5)
    assert not torch.allclose(layer(x), x, atol=1e-2)


def test_attention_among_rows_is_torchs():
    layer = _stirred(AxisAttention(32, reduction=1, head=8))
    theirs = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in (layer.queries, layer.keys, layer.values)]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in (layer.queries, layer.keys, layer.values)]))
        theirs.out_proj.load_state_dict(layer.out.state_dict())
    tokens = torch.randn(2, 7, 32)
    normed = layer.norm(tokens)
    for ours, expected in zip(layer._attend(tokens), theirs(normed, normed, normed), strict=True):
        assert torch.allclose(ours, expected, atol=1e-5)


def test_a_residual_block_is_its_shortcut_where_the_branch_is_silent():
    block = ResidualBlock(8, 8).eval()
    torch.nn.init.zeros_(block.branch[-1].weight)
    x = torch.randn(1, 8, 4, 4)
    assert torch.allclose(block(x), x.relu())


def test_attention_inside_and_after_the_branch_have_equal_weights_and_differ():
    first, second = build("rau 1"), build("rau 2")
    assert _millions(first) == _millions(second)
    assert [n for n, _ in first.named_parameters()] != [n for n, _ in second.named_parameters()]


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("rau_net_3", "no model is called 'rau_net_3'; did you mean 'rau_net_"),
        ({"kind": "unett"}, "no kind of model is 'unett'; did you mean 'unet'"),
        ({"kind": "unet", "place": "inside"}, "add block: residual"),
    ],
)
def test_what_cannot_be_is_said_in_the_experiment(value, match):
    from raremap.config import Experiment

    base = {"out": "o", "scenes": {"images": "i", "masks": "m"}, "labels": {"classes": {0: "a", 1: "b"}}}
    with pytest.raises(ConfigError, match=match):
        Experiment.from_dict({**base, "model": value})


def test_a_name_stands_for_its_keys_in_an_experiment():
    from raremap.config import Experiment

    base = {"out": "o", "scenes": {"images": "i", "masks": "m"}, "labels": {"classes": {0: "a", 1: "b"}}}
    named = Experiment.from_dict({**base, "model": "rau_net_small"})
    assert named.model == model_options(
        {"kind": "unet", "block": "residual", "attention": "axis", "width": 18}
    )
    assert Experiment.from_dict(base).model == model_options({"kind": "smp"}) == model_options({})
    assert named.changed({"model": {"head": "multiresolution"}}).model.width == 18
