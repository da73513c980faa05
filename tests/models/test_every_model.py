"""What every network has to pass, whoever made it."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.models.nets import ALL, HEAVY, LIGHT, build

import raremap as rm
from raremap.measure.losses import CeDice
from raremap.models.options import NAMED, model_options
from raremap.models.outputs import Outputs, losses_of

SIZES = [(128, 128), (300, 300), (97, 130)]
FULL = [(b, k, s) for b in (1, 13, 23) for k in (2, 12) for s in SIZES]
SOME = [(1, 12, SIZES[2]), (13, 2, SIZES[0]), (23, 12, SIZES[1])]
ONNX_TOLERANCE = 1e-4


def _check(name, bands, classes, size):
    net = build(name, bands, classes)
    image = torch.randn(1, bands, *size)
    head = ALL[name].get("head", "mask")
    with torch.no_grad():
        trained = Outputs.of(net.train()(image))
        logits = net.eval()(image)
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == trained.logits.shape == (1, classes, *size)
    assert logits.isfinite().all()
    assert trained.logits.isfinite().all()
    assert all(aux.shape == logits.shape for aux in trained.aux)
    assert len(trained.aux) == bool(ALL[name].get("ocr"))
    assert (trained.image is not None) == (head == "image")
    half, double = tuple(-(-s // 2) for s in size), tuple(2 * s for s in size)
    expected = [half, double] if head == "multiresolution" else []
    assert [tuple(s.shape[-2:]) for s in trained.scales] == expected


@pytest.mark.parametrize("name", LIGHT)
def test_any_bands_classes_and_size_in_training_and_evaluation(name):
    for bands, classes, size in FULL if name == "residual" else SOME:
        _check(name, bands, classes, size)


@pytest.mark.parametrize("name", HEAVY)
def test_the_same_of_networks_that_take_longer(name):
    for bands, classes, size in SOME[: 3 if name == "segformer" else 1 if name == "aias stem 1" else 2]:
        _check(name, bands, classes, size)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_every_network_by_its_name_and_at_its_size(name):
    net, image = model_options(name).build(13, 2), torch.randn(1, 13, 97, 130)
    with torch.inference_mode():
        logits = net.eval()(image)
        trained = Outputs.of(net.train()(image[..., :33, :50]))
    assert logits.shape == (1, 2, 97, 130)
    assert trained.logits.shape == (1, 2, 33, 50)
    assert logits.isfinite().all()
    assert trained.logits.isfinite().all()


@pytest.mark.parametrize("name", ["rau 1", "aias ocr", "smp"])
def test_other_sizes_are_padded_by_their_edge_and_cut_back(name):
    net = build(name).eval()
    stride = getattr(net, "stride", None) or net.body.stride
    image = torch.randn(1, 3, 45, 70)
    wide = np.pad(image.numpy(), ((0, 0), (0, 0), (0, -45 % stride), (0, -70 % stride)), "edge")
    with torch.inference_mode():
        assert torch.equal(net(image), net(torch.from_numpy(wide))[..., :45, :70])


@pytest.mark.parametrize("name", ALL)
def test_the_loss_falls_on_one_batch(name):
    torch.manual_seed(0)
    net = build(name).train()
    image = torch.randn(4, 3, 32, 32)
    mask = (F.avg_pool2d(image[:, :1], 5, 1, 2)[:, 0] > 0).long()
    mask[:, :4] = 255
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        total = sum(losses_of(net(image), CeDice().build(2), mask).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < 0.97 * losses[0], losses


@pytest.mark.parametrize("name", ALL)
def test_finite_in_bfloat16(name):
    net = build(name)
    image = torch.randn(2, 3, 32, 32) * 3
    with torch.autocast("cpu", torch.bfloat16):
        out = net.train()(image)
        losses = losses_of(out, CeDice().build(2), torch.randint(0, 2, (2, 32, 32)))
        total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert net.eval()(image).isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_a_bundle_brings_the_same_network_back(name, tmp_path):
    options = model_options(ALL[name])
    scheme = rm.LabelScheme({0: "other", 1: "slide"})
    net = options.build(3, 2, bands=("red", "green", "blue")).eval()
    bundle = rm.Bundle.from_module(net, scheme, ["red", "green", "blue"], options=options)
    again = rm.Bundle.load(bundle.save(tmp_path / "b"))
    assert again.options == options
    image = torch.randn(1, 3, 40, 33)
    with torch.inference_mode():
        assert torch.equal(net(image), again.module(image))


@pytest.mark.parametrize(
    "name", [n for n in ALL if n not in ("se", "rau 2", "vnet 5", "aias stem 1", "smp image")]
)
def test_onnx_gives_the_same_logits(name, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = build(name, 5, 3).eval()
    image = torch.randn(1, 5, 50, 70)
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer says that sizes become constants, and they do
        torch.onnx.export(net, (image,), path, dynamo=False, opset_version=17)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.inference_mode():
        assert np.abs(found - net(image).numpy()).max() < ONNX_TOLERANCE
