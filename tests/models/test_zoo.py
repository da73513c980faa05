import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import raremap as rm
from raremap.errors import ConfigError, MissingExtra
from raremap.models.options import Hrnet, Smp, Terratorch, UNet
from raremap.models.pretrained import _torchgeo_bands
from raremap.models.stems import plain_name, same_bands, widened
from raremap.models.zoo import decoders

NARROW = {"unet": (16, 8, 8), "unetplusplus": (16, 8, 8), "manet": (16, 8, 8)}
LIGHT = "mobilenetv3_small_050"


@pytest.mark.parametrize("decoder", ["unetplusplus", "manet", "linknet", "fpn", "pspnet", "pan", "upernet"])
def test_every_decoder_on_a_batch_of_one_with_many_bands(decoder):
    encoder = LIGHT if decoder not in ("linknet", "manet") else "resnet18"
    width = None if decoder == "linknet" else NARROW.get(decoder, 16)
    net = Smp(decoder=decoder, encoder=encoder, decoder_channels=width).build(30, 3)
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
    ("encoder", "stride"),
    [("swin_s3_tiny_224", 32), ("swinv2_cr_tiny_ns_224", 32), ("maxvit_rmlp_pico_rw_256", 256)],
)
def test_transformers_of_windows_take_any_size(encoder, stride):
    net = Smp(decoder="segformer", encoder=encoder, decoder_channels=8).build(2, 2)
    assert net.stride == stride
    image = torch.empty(1, 2, 40, 70, device="meta")
    assert net.to("meta")(image).shape == (1, 2, 40, 70)


# Width of the features that the last layer sees: what each decoder makes of `decoder_channels`.
@pytest.mark.parametrize(
    ("decoder", "width", "sees"),
    [
        ("unet", (24, 16, 12), 12),
        ("unetplusplus", (24, 16, 12), 12),
        ("manet", (24, 16, 12), 12),
        ("fpn", 128, 64),
        ("pspnet", 24, 24),
        ("deeplabv3", 24, 24),
        ("deeplabv3plus", 24, 24),
        ("pan", 24, 24),
        ("upernet", 24, 24),
        ("segformer", 24, 24),
        ("dpt", 24, 24),
    ],
)
def test_decoder_channels_are_every_decoders_width_and_every_head_goes_on_it(decoder, width, sees):
    encoder = "vit_tiny_patch16_224" if decoder == "dpt" else "resnet18"
    head = "image" if decoder in ("dpt", "fpn") else "multiresolution"
    net = Smp(decoder=decoder, encoder=encoder, decoder_channels=width, head=head).build(2, 3)
    assert net.body.channels[0] == sees
    image = torch.randn(2, 2, 40, 70)
    with torch.no_grad():
        trained, logits = net.train()(image), net.eval()(image)
    assert logits.shape == trained.logits.shape == (2, 3, 40, 70)
    if head == "image":
        assert trained.image.shape == (2, 3)
    else:
        assert [tuple(s.shape[2:]) for s in trained.scales] == [(20, 35), (80, 140)]


def test_a_width_never_reaches_timm():
    net = Smp(decoder="segformer", encoder="tu-test_resnet", decoder_channels=8).build(3, 2).net
    assert net.segmentation_head[0].in_channels == 8


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"decoder": "unett"}, r"model\.decoder 'unett' is not known; did you mean 'unet'"),
        (
            {"encoder": "efficientnetv2_rw_n"},
            r"'efficientnetv2_rw_n' is not known; did you mean 'efficientnetv2_rw_",
        ),
        ({"encoder": "qqqqqq"}, r"'qqqqqq' is not known; `raremap models --encoders` lists them"),
        (
            {"decoder": "deeplabv3", "decoder_channels": (8, 8, 8)},
            r"'deeplabv3' is one number, not \(8, 8, 8\)",
        ),
        ({"decoder": "unet", "decoder_channels": 8}, r"'unet' is a list of 3 to 5 numbers"),
        ({"decoder": "linknet", "decoder_channels": 8}, r"decoder 'linknet' has no width to set"),
        ({"decoder": "unetplusplus", "encoder": "mit_b0"}, r"decoder 'unetplusplus' cannot be made"),
        ({"encoder": "nest_tiny"}, r"cannot be made with encoder 'nest_tiny'"),
        (
            {"encoder": "hiera_tiny_224"},
            r"encoder 'hiera_tiny_224' with decoder 'unet' takes no images of other",
        ),
        ({"encoder": "coatnet_pico_rw_224"}, r"'coatnet_pico_rw_224' .* takes no images of other sizes"),
        (
            {"decoder": "dpt", "encoder": "vit_tiny_patch16_224", "decoder_channels": (8, 8, 8)},
            r"is one number",
        ),
        (
            {"decoder": "dpt", "encoder": "eva02_tiny_patch14_224"},
            r"'eva02_tiny_patch14_224' .* takes no images",
        ),
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


def test_the_backbone_of_hrnet_is_filled_as_encoders_are(tmp_path):
    options = Hrnet(kind="hrnet", size="w18_small", dim=8)
    torch.manual_seed(5)
    state = options.build(3, 2).body.backbone.state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "mine.safetensors")
    mine = options.model_copy(update={"weights": str(tmp_path / "mine.safetensors")})
    own = mine.build(4, 2, ("blue", "nir", "red", "green")).body.backbone.state_dict()
    assert torch.equal(own["conv1.weight"][:, [2, 3, 0]], state["conv1.weight"])
    assert all(torch.equal(own[k], v) for k, v in state.items() if k != "conv1.weight")
    with pytest.raises(
        ConfigError, match=r"model\.weights 'imagnet' do not exist for encoder 'hrnet_w18_small'"
    ):
        options.model_copy(update={"weights": "imagnet"}).build(3, 2)


# What STAC's catalogues, Sentinel Hub, HLS and torchgeo call what we call so.
@pytest.mark.parametrize(
    ("name", "ours"),
    [("swir_1", "swir1"), ("SWIR16", "swir1"), ("pre_B11", "swir1"), ("swir22", "swir2"), ("red_edge_1", "rededge1"),
     ("nir08", "nir08"), ("rededge4", "nir08"), ("B8A", "nir08"), ("B8a", "nir08"), ("B08", "nir"), ("band 2", "blue"),
     ("COASTAL_AEROSOL", "coastal"), ("vv", "vv")],
)  # fmt: skip
def test_bands_are_known_by_the_catalogues_names(name, ours):
    assert plain_name(name) == ours


def test_broad_and_narrow_near_infrared_stand_for_each_other_where_one_is_unknown():
    assert same_bands(["B08", "red"], ["red", "nir_narrow"]) == [1, 0]
    assert same_bands(["nir08", "B08"], ["red", "nir"]) == [None, 1]
    assert same_bands(["B8A", "B08"], ["nir", "B8A"]) == [1, 0]


def test_what_found_no_filter_is_told(made, caplog):
    options = Smp(encoder=LIGHT, decoder_channels=(8, 8, 8), weights=str(made[1]))
    with caplog.at_level("INFO", "raremap"):
        options.build(3, 2, ("nir", "red", "slope"))
        options.build(2, 2, ("vv", "vh"))
    assert "1 of 3 bands have filters of their own; nir, slope have the mean of all" in caplog.messages[0]
    assert caplog.records[1].levelname == "WARNING"
    assert caplog.messages[1].startswith("none of the bands vv, vh has a filter")


def test_a_bundle_builds_its_network_for_its_own_bands(tmp_path, monkeypatch):
    """Networks that know bands by wavelength (Clay, DOFA) have no tensor that says which they were."""
    asked, made = [], UNet._made
    monkeypatch.setattr(UNet, "_made", lambda self, *args: asked.append(args) or made(self, *args))
    options, scheme = UNet(kind="unet", width=4, depth=1), rm.LabelScheme({0: "other", 1: "slide"})
    bundle = rm.Bundle.from_module(
        options.build(2, 2, ("red", "nir")), scheme, ["red", "nir"], options=options
    )
    rm.Bundle.load(bundle.save(tmp_path / "b"))
    assert asked == [(2, 2, ("red", "nir"))] * 2


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


# USGS: band designations of Landsat 5 (TM), 7 (ETM+), and 8 (OLI and TIRS).
@pytest.mark.parametrize(
    ("weights", "bands", "colours"),
    [
        ("ResNet18_Weights.LANDSAT_TM_TOA_MOCO", [f"B{i}" for i in range(1, 8)],
         "blue green red nir swir1 thermal swir2"),
        ("ResNet18_Weights.LANDSAT_ETM_TOA_MOCO", ["B1", "B4", "B6_VCID_1", "B6_VCID_2", "B7", "B8"],
         "blue nir thermal thermal swir2 pan"),
        ("ResNet50_Weights.LANDSAT_OLI_SR_MOCO", [f"SR_B{i}" for i in range(1, 8)],
         "coastal blue green red nir swir1 swir2"),
        ("Swin_V2_B_Weights.LANDSAT_SI_SATLAS", [f"B{i:02}" for i in range(1, 12)],
         "coastal blue green red nir swir1 swir2 pan cirrus thermal thermal2"),
        ("ResNet50_Weights.FMOW_RGB_GASSL", ["R", "G", "B"], "red green blue"),
    ],
)  # fmt: skip
def test_torchgeos_landsats_are_told_apart(weights, bands, colours):
    assert [plain_name(b) for b in _torchgeo_bands(weights, bands)] == colours.split()


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
