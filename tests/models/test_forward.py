import threading

import numpy as np
import pytest
import torch
from torch import nn

from raremap.errors import ConfigError
from raremap.models.forward import AnySize, TorchNetwork
from raremap.models.options import Smp
from raremap.scene.normalize import Normalization

SMALL = Smp(decoder_channels=(16, 8, 8))


@pytest.mark.parametrize("bands", [1, 4, 13])
@pytest.mark.parametrize("size", [(1, 1), (32, 64), (97, 130)])
def test_any_number_of_bands_and_any_size(bands, size):
    net = SMALL.build(bands, 5).eval()
    with torch.inference_mode():
        out = net(torch.randn(1, bands, *size))
    assert out.shape == (1, 5, *size)
    assert torch.isfinite(out).all()


def test_padding_changes_nothing_where_none_is_needed():
    net = SMALL.build(3, 2).eval()
    assert isinstance(net, AnySize)
    x = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        assert torch.equal(net(x), net.net(x))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"decoder": "unett"}, r"model\.decoder 'unett' is not known; did you mean 'unet'"),
        ({"encoder": "resnet81"}, r"model\.encoder 'resnet81' is not known; did you mean 'resnet18'"),
        ({"weights": "nowhere"}, r"model\.weights 'nowhere'"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(options, match):
    with pytest.raises(ConfigError, match=match):
        Smp(**options).build(3, 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_a_network_gets_normalised_pixels_with_zero_where_invalid(dtype):
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x.clone())
            return torch.cat([x[:, :1], -x[:, :1]], 1)

    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (2, 3, 6, 5)).astype(dtype)
    valid = rng.random((2, 6, 5)) < 0.7
    if dtype == np.float32:
        image[:, 1][~valid] = np.nan
    norm = Normalization("standard", (10.0, 20.0, 30.0), (0.1, 0.2, 0.3))
    before = image.copy()
    probs = TorchNetwork(Spy(), norm, device="cpu", precision="float32")(image, valid)
    expected = np.stack([norm.apply(i, v) for i, v in zip(image, valid, strict=True)])
    assert np.allclose(seen[0].numpy(), expected, atol=1e-5)
    assert np.allclose(probs[:, 0], 1 / (1 + np.exp(-2 * expected[:, 0])), atol=1e-6)
    assert np.array_equal(before, image, equal_nan=dtype == np.float32)


def test_a_lane_computes_alone_and_other_threads_as_usual() -> None:
    network = TorchNetwork(torch.nn.Conv2d(1, 2, 1), Normalization.identity(1), device="cpu")
    network.lanes = network._threads = max(2, torch.get_num_threads())
    found = []

    def lane() -> None:
        network.enter_lane()
        torch.ones(1000).sum()
        found.append(torch.get_num_threads())

    before = torch.get_num_threads()
    try:
        for target in (lane, lane, lambda: found.append(torch.get_num_threads())):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    finally:
        torch.set_num_threads(before)
    assert found == [1, 1, network._threads]
