"""Group norms in the place of batch norms, beside torch's own formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raremap.bundle import Bundle
from raremap.labels import LabelScheme
from raremap.models.norms import groups_of
from raremap.models.options import model_options

NETWORKS = (
    {"kind": "unet", "width": 8, "depth": 2},
    {"decoder_channels": [16, 8, 8]},
    {"encoder": "tu-mobilenetv3_small_100", "decoder": "deeplabv3", "decoder_channels": 16},
)


@pytest.mark.parametrize("options", NETWORKS, ids=lambda o: o.get("encoder", o.get("kind", "resnet")))
def test_what_a_network_makes_of_an_image_does_not_depend_on_the_batch(options):
    torch.manual_seed(0)
    net = model_options({**options, "norm": "group"}).build(3, 4)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
    for m in net.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    image = torch.randn(3, 3, 64, 64)
    together, alone = net.train()(image), net(image[1:2])
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-3)
    assert together.std() > 0
    torch.testing.assert_close(net.eval()(image), together, atol=1e-4, rtol=1e-3)


def test_each_norm_is_one_and_keeps_weights_and_activation():
    plain, grouped = (model_options({**NETWORKS[2], "norm": n}).build(3, 2) for n in ("batch", "group"))
    before = [m for m in plain.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    after = [m for m in grouped.modules() if isinstance(m, nn.GroupNorm)]
    assert [m.num_features for m in before] == [m.num_channels for m in after]
    activations = (nn.ReLU, nn.Hardswish)
    assert sum(isinstance(m, activations) for m in plain.modules()) == sum(
        isinstance(m, activations) for m in grouped.modules()
    )


@pytest.mark.parametrize("channels", [1, 7, 8, 24, 90, 512, 2048])
def test_groups_divide_the_channels_and_are_not_of_single_ones(channels):
    groups = groups_of(channels)
    assert channels % groups == 0
    assert groups <= 32
    assert groups == 1 or channels // groups >= 8


def test_a_bundle_brings_them_back(tmp_path):
    options = model_options({**NETWORKS[0], "norm": "group"})
    net = options.build(2, 2).eval()
    bundle = Bundle.from_module(net, LabelScheme({0: "a", 1: "b"}), ["x", "y"], options=options)
    again = Bundle.load(bundle.save(tmp_path / "b")).module
    image = torch.randn(1, 2, 20, 20)
    assert torch.equal(net(image), again(image))
