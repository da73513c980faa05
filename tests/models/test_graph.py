"""One ONNX file for all sizes, beside the network itself in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.models.nets import build
from torch import nn

from raremap.models.graph import Choice, Graph, stride_of, write_graph
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
