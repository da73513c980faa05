import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from raremap.errors import ConfigError, MissingExtra
from raremap.models.options import Hrnet, Smp, Terratorch
from raremap.models.stems import widened
from raremap.models.zoo import decoders

NARROW = {"unet": (16, 8, 8), "unetplusplus": (16, 8, 8), "manet": (16, 8, 8)}
LIGHT = "mobilenetv3_small_050"


@pytest.mark.parametrize("decoder", ["unetplusplus", "manet", "linknet", "fpn", "pspnet", "pan", "upernet"])
def test_every_decoder_on_a_batch_of_one_with_many_bands(decoder):
    encoder = LIGHT if decoder not in ("linknet", "manet") else "resnet18"
    net = Smp(decoder=decoder, encoder=encoder, decoder_channels=NARROW.get(decoder)).build(30, 3)
    image = torch.randn(1, 30, 33, 50)
    with torch.no_grad():
        assert net.train()(image).shape == net.eval()(image).shape == (1, 3, 33, 50)


def test_the_list_of_decoders_is_smps():
    assert {"unet", "segformer", "deeplabv3plus", "dpt"} <= set(decoders())


def test_a_transformer_with_another_patch_size_is_padded_to_it():
    net = Smp(decoder="dpt", encoder="vit_tiny_patch16_224", decoder_channels=None).build(4, 2).eval()
    with torch.inference_mode():
        assert net(torch.randn(1, 4, 40, 70)).shape == (1, 2, 40, 70)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"decoder": "unett"}, r"model\.decoder 'unett' is not known; did you mean 'unet'"),
        (
            {"encoder": "efficientnetv2_rw_n"},
            r"'efficientnetv2_rw_n' is not known; did you mean 'efficientnetv2_rw_",
        ),
        ({"encoder": "qqqqqq"}, r"'qqqqqq' is not known; `raremap models --encoders` lists them"),
        ({"decoder": "deeplabv3", "decoder_channels": (8, 8, 8)}, r"decoder 'deeplabv3' cannot be made"),
        ({"weights": "none.safetensors"}, r"model\.weights none\.safetensors cannot be read"),
    ],
)
def test_what_cannot_be_made_is_said_in_a_line(options, match):
    with pytest.raises(ConfigError, match=match):
        Smp(**options).build(5, 2)


# --- pretrained stems


def test_filters_go_to_the_bands_of_their_wavelength():
    rgb = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1)
    found = widened(rgb, ["B02", "B03", "B04", "nir", "swir", "slope"])
    assert found.flatten().tolist() == [100.0, 10.0, 1.0, 18.5, 18.5, 18.5]  # mean 37 · 3 / 6
    assert widened(rgb, ["red_edge", "nir", "vv"]).flatten().tolist() == [37.0] * 3
    twice = widened(rgb, ["pre_red", "post_red"])
    assert twice.flatten().tolist() == [0.5, 0.5]


def test_the_same_bands_in_another_order_give_the_same_response():
    conv, image = nn.Conv2d(3, 4, 3, bias=False), torch.randn(1, 3, 8, 8)
    weight = widened(conv.weight, ["blue", "red", "green"])
    assert torch.allclose(nn.functional.conv2d(image[:, [2, 0, 1]], weight), conv(image), atol=1e-6)


def test_bands_that_all_show_the_same_answer_like_a_grey_image():
    conv, grey = nn.Conv2d(3, 4, 3, bias=False), torch.randn(1, 1, 8, 8)
    wide = nn.functional.conv2d(grey.expand(1, 7, 8, 8), widened(conv.weight, [f"b{i}x" for i in range(7)]))
    assert torch.allclose(wide, conv(grey.expand(1, 3, 8, 8)), atol=1e-5)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Weights of a three-band encoder, made on the spot."""
    torch.manual_seed(3)
    net = Smp(encoder=LIGHT, decoder_channels=(8, 8, 8)).build(3, 2).net
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    save_file({k: v.contiguous() for k, v in net.encoder.state_dict().items()}, path)
    return net.encoder.state_dict(), path


def test_an_encoders_file_fills_it_for_other_bands(made):
    state, path = made
    bands = ("nir", "red", "green", "blue")
    options = Smp(encoder=LIGHT, decoder_channels=(8, 8, 8), weights=str(path))
    own = options.build(4, 2, bands).net.encoder.state_dict()
    stem = "model.conv_stem.weight"
    assert torch.equal(own[stem][:, 1:], state[stem])
    assert torch.allclose(own[stem][:, 0], state[stem].mean(1) * 0.75)
    assert all(torch.equal(own[k], v) for k, v in state.items() if k != stem)


def test_three_bands_in_another_order_are_sorted_too(made):
    state, path = made
    options = Smp(encoder=LIGHT, decoder_channels=(8, 8, 8), weights=str(path))
    own = options.build(3, 2, ("nir", "green", "red")).net.encoder.state_dict()["model.conv_stem.weight"]
    stem = state["model.conv_stem.weight"]
    assert torch.equal(own[:, 1:], stem[:, [1, 0]])
    assert torch.allclose(own[:, 0], stem.mean(1))
    plain = options.build(3, 2).net.encoder.state_dict()["model.conv_stem.weight"]
    assert torch.equal(plain, stem)


def test_weights_of_another_encoder_are_refused(made):
    with pytest.raises(
        ConfigError, match=r"do not fit encoder 'tu-mobilenetv3_small_075'|tensors are not there"
    ):
        Smp(encoder="resnet18", decoder_channels=(8, 8, 8), weights=str(made[1])).build(3, 2)


# --- packages that may be there


@pytest.mark.skipif("torchgeo" in sys.modules, reason="torchgeo is installed")
def test_packages_that_are_not_installed_are_named(monkeypatch):
    for name in ("torchgeo", "torchgeo.models", "terratorch", "terratorch.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"raremap\[torchgeo\]"):
        Smp(weights="ResNet18_Weights.SENTINEL2_ALL_MOCO").build(13, 2)
    with pytest.raises(MissingExtra, match=r"raremap\[terratorch\]"):
        Terratorch(kind="terratorch", backbone="prithvi_eo_v2_300_tl").build(6, 2)


def test_torchgeos_weights_are_sorted_by_their_bands(monkeypatch):
    torch.manual_seed(4)
    source = ["B2", "B3", "B4", "B8"]
    bare = Smp(encoder="resnet18", decoder_channels=(8, 8, 8)).build(4, 2).net.encoder.state_dict()
    found = SimpleNamespace(get_state_dict=lambda progress: bare, meta={"in_chans": 4, "bands": source})
    package = ModuleType("torchgeo.models")
    package.get_weight = lambda name: found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchgeo", ModuleType("torchgeo"))
    monkeypatch.setitem(sys.modules, "torchgeo.models", package)
    options = Smp(decoder_channels=(8, 8, 8), weights="ResNet18_Weights.SENTINEL2_ALL_MOCO")
    own = options.build(2, 2, ("nir", "red")).net.encoder.state_dict()["conv1.weight"]
    assert torch.equal(own, bare["conv1.weight"][:, [3, 2]])


def test_terratorchs_answer_is_its_output_of_any_size(monkeypatch):
    asked = {}

    class Net(nn.Module):
        def forward(self, image):
            assert image.shape[-1] % 16 == image.shape[-2] % 16 == 0
            return SimpleNamespace(output=image[:, :2])

    class Factory:
        def build_model(self, **keys):
            asked.update(keys)
            return Net()

    package = ModuleType("terratorch.models")
    package.EncoderDecoderFactory = Factory  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "terratorch", ModuleType("terratorch"))
    monkeypatch.setitem(sys.modules, "terratorch.models", package)
    net = Terratorch(kind="terratorch", backbone="prithvi_eo_v2_300_tl").build(3, 2, ("blue", "green", "red"))
    image = torch.randn(1, 3, 20, 30)
    assert torch.equal(net(image), image[:, :2])
    assert asked["backbone_bands"] == ["BLUE", "GREEN", "RED"]
    assert asked["num_classes"] == 2


# --- AIAS-Net


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_the_stems_stride_is_what_a_cell_is_wide(stem):
    net = Hrnet(kind="hrnet", size="w18_small", dim=8, stem_stride=stem).build(2, 2).eval()
    with torch.inference_mode():
        features = net.body(torch.randn(1, 2, 32, 64))
    assert features.full.shape == (1, 8, 32 // stem, 64 // stem)
    assert features.deep.shape == (1, 128, 32 // stem // 8, 64 // stem // 8)


def test_attention_over_branches_means_them_at_the_start():
    from raremap.models.hrnet import AttentionAggregation

    fuse = AttentionAggregation([4, 6], 8).eval()
    branches = [torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)]
    near, far = (p(b) for p, b in zip(fuse.project, branches, strict=True))
    far = nn.functional.interpolate(far, scale_factor=2, mode="bilinear")
    assert torch.allclose(fuse(branches), (near + far) / 2, atol=1e-6)
    nn.init.normal_(fuse.choose.weight)
    assert not torch.allclose(fuse(branches), (near + far) / 2, atol=1e-3)


def test_object_context_is_the_papers_sum_over_pixels_and_regions():
    from raremap.models.hrnet import ObjectContext

    torch.manual_seed(0)
    block = ObjectContext(6, 32, 3).eval()
    x = torch.randn(2, 6, 4, 5)
    found, aux = block(x)
    pixels = block.pixels(x)
    shares = torch.softmax(aux.view(2, 3, 20), 2).view(2, 3, 4, 5)
    regions = torch.einsum("bkhw,bdhw->bkd", shares, pixels)
    query, key, value = block.query(pixels), block.key(regions), block.value(regions)
    weights = torch.softmax(torch.einsum("bdhw,bkd->bkhw", query, key) / 4, 1)
    context = block.out(torch.einsum("bkhw,bkd->bdhw", weights, value))
    assert torch.allclose(found, block.mix(torch.cat([context, pixels], 1)), atol=1e-5)
