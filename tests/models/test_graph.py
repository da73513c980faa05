"""One ONNX file for all sizes, beside the network itself in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.models.nets import build
from torch import nn

from raremap.errors import BundleError
from raremap.models.graph import Choice, Graph, stride_of, write_graph
from raremap.models.options import Smp
from raremap.models.zoo import decoders
from raremap.scene.normalize import Normalization

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

CHOICE = Choice(temperature=1.6, factors=(1.0, 2.5, 0.7), values=(1, 4, 9), nodata=255)


def session(graph: Graph, path, opset: int = 17):
    write_graph(graph, path, opset)
    onnx.checker.check_model(str(path))
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "name",
    ["rau 1", "squeeze", "unet multi", "aias ocr", "smp multi", "mobilenetv3", "deeplabv3", "segformer"],
)
def test_any_size_and_batch_give_what_the_network_gives(name, tmp_path):
    torch.manual_seed(0)
    net = build(name, 5, 3).eval()
    normalization = Normalization("standard", (100.0,) * 5, (0.02,) * 5)
    run = session(Graph(net, "abcde", (), normalization, CHOICE), tmp_path / "net.onnx").run
    for size in ((1, 64, 96), (2, 45, 70), (1, 7, 130)):
        image, valid = torch.randn(size[0], 5, *size[1:]) * 50 + 100, torch.rand(size) > 0.2
        image[~valid[:, None].expand_as(image)] = torch.nan
        probs, classes = run(None, {"image": image.numpy(), "valid": valid.numpy()})
        with torch.inference_mode():
            logits = net(torch.where(valid[:, None], (image - 100) / 50, 0)).double()
        assert np.abs(probs - torch.softmax(logits / 1.6, 1).numpy()).max() < 1e-4
        scores = (torch.softmax(logits, 1) * torch.tensor(CHOICE.factors)[:, None, None]).sort(1).values
        clear = valid & (scores[:, -1] - scores[:, -2] > 1e-4)
        expected = torch.softmax(logits, 1).mul(torch.tensor(CHOICE.factors)[:, None, None]).argmax(1)
        assert np.array_equal(classes[clear], np.array(CHOICE.values)[expected[clear]])
        assert (classes[~valid.numpy()] == 255).all()
        assert clear.float().mean() > 0.7


# Decoders of segmentation-models-pytorch whose graph takes any size, and those that want one: what is said of any
# other, and a size that they take (docs/models.md, Export).
FREE = ("deeplabv3", "deeplabv3plus", "fpn", "linknet", "manet", "pan", "segformer", "unet", "unetplusplus")
POOLED = r"sides that they divide, such as 192,192$"
ONE_SIZE = {
    "pspnet": ("tu-test_efficientnet", POOLED, (192, 192)),
    "upernet": ("tu-test_efficientnet", POOLED, (192, 192)),
    "dpt": ("tu-test_vit", r"the size that its transformer was made for, such as 224,224$", (160, 160)),
}


def beside_torch(net: nn.Module, run, size: tuple[int, int]) -> float:
    """The greatest difference of a graph's probabilities from the network's."""
    image = torch.randn(1, 4, *size)
    probs, _ = run(None, {"image": image.numpy(), "valid": np.ones((1, *size), bool)})
    with torch.inference_mode():
        return float(np.abs(probs - torch.softmax(net(image) / 1.6, 1).numpy()).max())


def test_every_decoder_is_known_to_export_or_not():
    assert {*FREE, *ONE_SIZE} == set(decoders())


@pytest.mark.parametrize("decoder", FREE)
def test_most_decoders_export_for_any_size(decoder, tmp_path):
    torch.manual_seed(0)
    net = Smp(decoder=decoder, encoder="tu-test_efficientnet").build(4, 3).eval()
    run = session(Graph(net, "abcd", (), Normalization.identity(4), CHOICE), tmp_path / "net.onnx").run
    assert max(beside_torch(net, run, size) for size in ((64, 96), (97, 130), (33, 7))) < 1e-4


@pytest.mark.parametrize("decoder", ONE_SIZE)
def test_the_others_say_in_a_line_which_size_they_export_for(decoder, tmp_path, capfd):
    torch.manual_seed(0)
    encoder, advice, size = ONE_SIZE[decoder]
    net = Smp(decoder=decoder, encoder=encoder).build(4, 3).eval()
    path = tmp_path / "net.onnx"
    for fixed in (None, (96, 128)):
        with pytest.raises(BundleError, match=advice) as caught:
            write_graph(Graph(net, "abcd", (), Normalization.identity(4), CHOICE, fixed), path, 17)
        assert "\n" not in str(caught.value)
    # torch prints the graph that it could not write, a thousand lines of it.
    assert capfd.readouterr().out == ""
    run = session(Graph(net, "abcd", (), Normalization.identity(4), CHOICE, size), path).run
    assert beside_torch(net, run, size) < 1e-4


def test_a_fixed_size_is_one_image_and_is_padded_where_it_must(tmp_path):
    torch.manual_seed(0)
    net = build("unet", 2, 3).eval()
    assert stride_of(net) == 8
    graph = Graph(net, "ab", (), Normalization.identity(2), CHOICE, fixed=(30, 44))
    found = session(graph, tmp_path / "net.onnx")
    assert [i.shape for i in found.get_inputs()] == [[1, 2, 30, 44], [1, 30, 44]]
    image = torch.randn(1, 2, 30, 44)
    probs, _ = found.run(None, {"image": image.numpy(), "valid": np.ones((1, 30, 44), bool)})
    with torch.inference_mode():
        assert np.abs(probs - torch.softmax(net(image) / 1.6, 1).numpy()).max() < 1e-5


def test_anyones_network_is_asked_as_it_is(tmp_path):
    net = nn.Conv2d(2, 3, 3, stride=1, padding=1)
    assert stride_of(net) == 1
    found = session(Graph(net, "ab", (), Normalization.identity(2), CHOICE), tmp_path / "net.onnx", opset=13)
    image = torch.randn(1, 2, 5, 9)
    probs, _ = found.run(None, {"image": image.numpy(), "valid": np.ones((1, 5, 9), bool)})
    with torch.inference_mode():
        assert np.abs(probs - torch.softmax(net(image) / 1.6, 1).numpy()).max() < 1e-5
