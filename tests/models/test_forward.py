import logging
import threading

import numpy as np
import pytest
import torch
from torch import nn

from raremap.errors import ConfigError
from raremap.models import forward
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


@pytest.mark.parametrize(("lanes", "each"), [(8, 1), (2, 4)])
def test_a_lane_computes_with_its_share_and_other_threads_as_usual(lanes: int, each: int) -> None:
    network = TorchNetwork(torch.nn.Conv2d(1, 2, 1), Normalization.identity(1), device="cpu")
    network.threads = 8
    network.share(lanes)
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
    assert found == [each, each, 8]


class Narrow(nn.Module):
    """A network on a device that has room for so many windows."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.asked = room, []

    def forward(self, x):
        self.asked.append(len(x))
        if len(x) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return torch.cat([x[:, :1], -x[:, :1]], 1)


def test_a_device_without_room_is_asked_in_halves_from_then_on(caplog: pytest.LogCaptureFixture) -> None:
    image = np.random.default_rng(0).normal(size=(7, 1, 4, 5)).astype(np.float32)
    valid = np.ones((7, 4, 5), bool)
    module = Narrow(2)
    network = TorchNetwork(module, Normalization.identity(1), device="cpu", precision="float32")
    probs = network(image, valid)
    assert module.asked == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert np.allclose(probs[:, 0], 1 / (1 + np.exp(-2 * image[:, 0])), atol=1e-6)
    assert network.most == 1
    assert [r.getMessage() for r in caplog.records] == [
        "cpu has no room for 7 windows at once: 3 from now on",
        "cpu has no room for 3 windows at once: 1 from now on",
    ]
    network(image[:2], valid[:2])
    assert module.asked[9:] == [1, 1]


def test_a_device_without_room_for_one_window_is_told() -> None:
    network = TorchNetwork(Narrow(0), Normalization.identity(1), device="cpu", precision="float32")
    with pytest.raises(
        ConfigError, match=r"device cpu has no room for one window of 4 × 5 pixels; .*--window"
    ):
        network(np.zeros((2, 1, 4, 5), np.float32), np.ones((2, 4, 5), bool))


def test_windows_without_a_valid_pixel_settle_no_precision(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forward, "has_bf16", lambda device: True)
    network = TorchNetwork(torch.nn.Conv2d(1, 2, 1), Normalization.identity(1), device="cpu")
    image, valid = np.ones((1, 1, 4, 5), np.float32), np.ones((1, 4, 5), bool)
    network(image, ~valid)
    assert network.precision == "auto"
    with caplog.at_level(logging.INFO, "raremap"):
        network(image, valid)
    assert network.precision == "bf16"
    assert caplog.records[0].getMessage().startswith("bf16 used: mean difference 0.")


@pytest.mark.parametrize(
    ("device", "bf16", "capability", "fast"),
    [
        ("cpu", True, (0, 0), "bf16"),
        ("cpu", False, (9, 0), None),
        ("cuda", True, (8, 0), "bf16"),
        ("cuda", False, (7, 5), "float16"),
        ("cuda", False, (6, 1), None),
        ("mps", False, (0, 0), None),
    ],
)
def test_sixteen_bits_are_what_the_device_has_units_for(monkeypatch, device, bf16, capability, fast) -> None:
    monkeypatch.setattr(forward, "has_bf16", lambda device: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert forward.fast_on(torch.device(device)) == fast


class Loud(nn.Module):
    """A convolution whose logits float16 holds to three digits, and to none where the image is loud."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        nn.init.constant_(self.conv.weight, 1.0)

    def forward(self, x):
        self.kind = self.conv(x).dtype
        return self.conv(x) * torch.tensor([1.0, 1.001]).reshape(1, 2, 1, 1)


def test_float16_where_it_agrees_and_what_it_cannot_hold_is_computed_again(monkeypatch) -> None:
    monkeypatch.setattr(forward, "fast_on", lambda device: "float16")
    module = Loud()
    network = TorchNetwork(module, Normalization.identity(1), device="cpu")
    quiet, loud = np.ones((1, 1, 4, 5), np.float32), np.full((1, 1, 4, 5), 1e5, np.float32)
    valid = np.ones((1, 4, 5), bool)
    network(quiet, valid)
    assert network.precision == "float16"
    assert module.kind == torch.float16
    exact = TorchNetwork(Loud(), Normalization.identity(1), device="cpu", precision="float32")(loud, valid)
    assert np.array_equal(network(loud, valid), exact)
    assert exact[0, 1, 0, 0] > 0.999
    network(quiet, valid)
    assert module.kind == torch.float16


@pytest.mark.parametrize("precision", ["fp16", "bfloat16", "nonsense", ""])
def test_a_precision_that_is_none_is_told(precision: str) -> None:
    with pytest.raises(ConfigError, match=r"^precision is '.*', expected auto, float32, bf16 or float16$"):
        TorchNetwork(Loud(), Normalization.identity(1), device="cpu", precision=precision)
