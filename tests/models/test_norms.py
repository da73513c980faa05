"""Batch norms of a single value, and group norms in their place, beside torch's own formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raremap.bundle import Bundle
from raremap.labels import LabelScheme
from raremap.models.norms import groups_of, synced, with_lone_values
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


@pytest.mark.parametrize(
    ("options", "side"),
    [
        ({"kind": "unet", "width": 8, "depth": 3}, 8),
        ({"kind": "hrnet", "size": "w18_small", "dim": 8}, 8),
        ({"encoder": "mobilenetv3_small_050", "decoder_channels": [16, 8, 8, 8, 8]}, 32),
        ({"encoder": "tu-test_resnet", "decoder": "deeplabv3"}, 32),
    ],
    ids=["unet", "hrnet", "mobilenetv3", "deeplabv3"],
)
def test_every_network_trains_on_one_image_that_it_pools_to_a_pixel(options, side):
    torch.manual_seed(0)
    net = model_options(options).build(2, 2).train()
    lone = []
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.register_forward_pre_hook(lambda _, x: lone.append(x[0].numel() == x[0].shape[1]))
    net(torch.randn(1, 2, side, side)).square().mean().backward()
    assert any(lone)
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    assert all(m.training for m in net.modules())


def test_a_lone_value_is_normed_by_the_running_statistics_and_leaves_them_alone():
    from timm.layers.norm_act import BatchNormAct2d

    for norm, act in ((nn.BatchNorm2d(3), lambda x: x), (BatchNormAct2d(3), torch.relu)):
        norm.running_mean = torch.tensor([0.0, 1.0, 2.0])  # type: ignore[union-attr]
        norm.running_var = torch.tensor([4.0, 1.0, 0.25])  # type: ignore[union-attr]
        value = torch.tensor([2.0, 0.0, 3.0]).view(1, 3, 1, 1)
        found = with_lone_values(norm).train()(value)
        torch.testing.assert_close(found.flatten(), act(torch.tensor([1.0, -1.0, 2.0])), atol=1e-4, rtol=0)
        assert norm.running_mean.tolist() == [0, 1, 2]
        assert norm.training


def test_two_values_are_normed_by_their_own():
    norm, image = with_lone_values(nn.BatchNorm2d(3)).train(), torch.randn(2, 3, 1, 1)
    assert torch.equal(norm(image), nn.BatchNorm2d(3).train()(image))


def test_a_fault_inside_a_norm_leaves_it_in_training():
    norm = with_lone_values(nn.BatchNorm2d(3)).train()
    with pytest.raises(RuntimeError, match="2"):
        norm(torch.randn(1, 2, 1, 1))
    assert norm.training


@pytest.mark.parametrize("options", NETWORKS, ids=lambda o: o.get("encoder", o.get("kind", "resnet")))
def test_norms_of_several_processes_keep_their_activations(options):
    torch.manual_seed(0)
    net, image = model_options(options).build(3, 2).eval(), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = net(image)
        made = synced(net)
        torch.testing.assert_close(made(image), before)
    norms = [m for m in made.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)
