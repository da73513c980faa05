"""Logits moved in a network's own weights: exactly, or not at all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raremap.models.options import Smp
from raremap.models.shift import shift_logits

SHIFT = torch.tensor([1.0, -0.5, 0.25])


@pytest.mark.parametrize("decoder", ["unet", "fpn", "deeplabv3plus"])
def test_the_logits_of_any_image_move_by_the_shift(decoder: str) -> None:
    network = Smp(decoder=decoder).build(2, 3)
    image = torch.randn(1, 2, 70, 50)
    network.eval()
    with torch.no_grad():
        before = network(image)
        network.train()
        assert shift_logits(network, SHIFT, channels=2)
        assert network.training
        network.eval()
        torch.testing.assert_close(network(image), before + SHIFT.view(1, 3, 1, 1))


def test_a_layer_whose_bias_is_not_that_of_the_logits_is_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1, bias=False))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert not shift_logits(network, SHIFT, channels=2)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
