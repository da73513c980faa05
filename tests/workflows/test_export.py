"""An exported model beside its bundle: the same map, without torch; and what is told where it cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from tests.command import raremap
from tests.rasters import write
from torch import nn

from raremap.bundle import Bundle
from raremap.errors import BundleError, ConfigError, MissingExtra, OutputError
from raremap.exported import Exported
from raremap.labels import LabelScheme
from raremap.maps.options import PredictOptions
from raremap.measure.decision import Decision
from raremap.models.options import UNet
from raremap.scene.features.options import Feature
from raremap.scene.normalize import Normalization
from raremap.scene.raster import open_image
from raremap.scene.sources import ScenesOptions
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare
from raremap.workflows.evaluate import evaluate
from raremap.workflows.export import export, taking_turns
from raremap.workflows.predict import predict

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

BANDS = ("blue", "green", "red", "nir")
SCHEME = LabelScheme({1: "land", 4: "water", 9: "slide"}, ignore=[0])
OPTIONS = UNet(kind="unet", width=8, depth=2)
FEATURES = TypeAdapter(tuple[Feature, ...]).validate_python(
    [
        {"kind": "gaussian", "size": 5},
        {"kind": "ndvi", "offset": -20},
        "grey",
        "sobel",
        {"kind": "global", "of": ["red", "nir"], "low": [10, 50], "high": [200, 50]},
    ]
)


def bundle(features=FEATURES, **more) -> Bundle:
    """A network of random weights, loud enough that its classes change from pixel to pixel."""
    torch.manual_seed(1)
    count = len(BANDS) + sum(len(f.channels) for f in features)
    net = OPTIONS.build(count, 3).eval()
    with torch.no_grad():
        net.head.last.weight *= 40
    shift = (120.0,) * 4 + (0.3,) * (count - 4)
    given = {"options": OPTIONS, "prior": (0.7, 0.2, 0.1), "nodata": 0, "features": features,
             "decision": Decision((0.0, 0.8, -0.4), temperature=1.7, way={"window": 48, "overlap": 0.25}),
             "predict": PredictOptions(window=48, overlap=0.25)}  # fmt: skip
    return Bundle(net, SCHEME, BANDS, Normalization("standard", shift, (0.02,) * count), **{**given, **more})


def scenes(folder: Path, count: int = 1, size=(90, 131)) -> list[Path]:
    rng, paths = np.random.default_rng(0), []
    for i in range(count):
        soft = rng.integers(1, 250, (4, size[0] // 6 + 1, size[1] // 6 + 1)).repeat(6, 1).repeat(6, 2)
        image = np.clip(soft[:, : size[0], : size[1]] + rng.integers(-9, 9, (4, *size)), 1, 255).astype(
            np.uint8
        )
        image[:, 20:34, 60:] = 0
        mask = np.array([1, 4, 9], np.uint8)[(image[3] > 100).astype(int) + (image[0] > 220)]
        origin = (4e5 + 5000 * i, 4.6e6)
        paths.append(write(folder / f"img/s{i}.tif", image, origin, names=BANDS, nodata=0))
        write(folder / f"mask/s{i}.tif", mask, origin)
    return paths


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle, its export, and a scene with a gap."""
    folder = tmp_path_factory.mktemp("export")
    one = bundle()
    one.save(folder / "bundle")
    result = export(one, folder / "model.onnx", quiet=True)
    return folder, one, result, scenes(folder)[0]


# Where a processor has bfloat16 of its own, a bundle would use it, and a graph does not.
EXACT = {"probabilities": "float32", "precision": "float32", "quiet": True}


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def same_maps(one: Path, other: Path) -> None:
    a, b = read(one.with_suffix(".probs.tif")), read(other.with_suffix(".probs.tif"))
    assert np.nanmax(np.abs(a - b)) < 1e-4
    assert np.array_equal(np.isnan(a), np.isnan(b))
    assert (read(one) != read(other)).mean() < 1e-3  # ties
    assert len(np.unique(read(one))) == 4


LIGHT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "lightning", "timm", "segmentation_models_pytorch", "safetensors", "onnx"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from raremap.cli import main
main()
"""


def test_the_light_install_makes_the_map_of_the_bundle(made):
    folder, one, _, scene = made
    words = [
        "predict",
        folder / "model.onnx",
        scene,
        "-o",
        folder / "light.tif",
        "--probabilities",
        "float32",
        "-q",
    ]
    done = subprocess.run([sys.executable, "-c", LIGHT, *map(str, words)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    predict(one, scene, folder / "own.tif", **EXACT)
    same_maps(folder / "own.tif", folder / "light.tif")


@pytest.mark.parametrize(
    "how",
    [{"argmax": True}, {"tta": "d4", "argmax": True}, {"prior": {"land": 0.2, "water": 0.4, "slide": 0.4}}],
)
def test_every_way_of_predicting_is_the_bundles(made, how, tmp_path):
    _, one, result, scene = made
    for model, name in ((one, "own"), (result.path, "exported")):
        predict(model, scene, tmp_path / f"{name}.tif", **EXACT, **how)
    same_maps(tmp_path / "own.tif", tmp_path / "exported.tif")


def test_the_graphs_own_outputs_by_hand(made):
    _, one, result, scene = made
    graph = Exported.load(result.path)
    assert [c for f in graph.before for c in f.channels] == ["gaussian", "sobel_x", "sobel_y"]
    with graph.opened(open_image(scene)) as image:
        given, valid = image.read(image.grid.window)
    probs, classes = graph.network().run(given[None], valid[None])
    blue, green, red, nir = given[:4]
    total = nir + red - 40
    ndvi = np.clip(np.divide(nir - red, total, out=np.zeros_like(total), where=total != 0), -1, 1)
    grey, rising = (red + green + blue) / 3, (red - 10) / 190
    channels = np.stack([blue, green, red, nir, given[4], ndvi, grey, given[5], given[6], rising, 0 * red])
    shift = np.array(one.normalization.shift)[:, None, None]
    x = np.where(valid, (channels - shift) * 0.02, 0).astype(np.float32)
    with torch.inference_mode():
        logits = one.module(torch.from_numpy(x)[None])[0].double().numpy()
    e = np.exp(logits / 1.7 - (logits / 1.7).max(0))
    assert np.abs(probs[0] - e / e.sum(0))[:, valid].max() < 1e-4
    scores = logits / 1.7 + np.array([0, 0.8, -0.4])[:, None, None]
    clear = valid & (np.sort(scores, 0)[-1] - np.sort(scores, 0)[-2] > 1e-3)
    assert np.array_equal(classes[0][clear], np.array([1, 4, 9])[scores.argmax(0)][clear])
    assert (classes[0][~valid] == 255).all()
    assert (classes[0][clear] != np.array([1, 4, 9])[logits.argmax(0)][clear]).any()  # the decision is in it


def test_the_sidecar_tells_everything_that_the_graph_does_not(made):
    folder, one, result, _ = made
    own = json.loads((folder / "model.onnx.json").read_text())["properties"]
    assert own["raremap:onnx"]["in_graph"] == ["ndvi", "grey", "global_red", "global_nir"]
    assert [b if isinstance(b, str) else b["name"] for b in own["mlm:input"][0]["bands"]] == [
        *BANDS,
        "gaussian",
        "sobel_x",
        "sobel_y",
    ]
    assert [o["name"] for o in own["mlm:output"]] == ["probabilities", "classes"]
    again = Exported.load(result.path)
    for name in (
        "scheme",
        "bands",
        "normalization",
        "options",
        "prior",
        "decision",
        "predict",
        "nodata",
        "features",
    ):
        assert getattr(again, name) == getattr(one, name), name
    assert result.parity.greatest < 1e-4
    assert result.to_dict()["before"] == ("gaussian", "sobel_x", "sobel_y")


def test_a_fixed_size_takes_its_windows_and_no_larger_ones(made, tmp_path):
    _, one, _, scene = made
    path = export(one, tmp_path / "fixed.onnx", fixed=(48, 48), quiet=True).path
    for model, name in ((one, "own"), (path, "fixed")):
        predict(model, scene, tmp_path / f"{name}.tif", **EXACT)
    same_maps(tmp_path / "own.tif", tmp_path / "fixed.tif")
    with pytest.raises(
        BundleError, match="takes windows of 48 × 48 pixels, this one has 64 × 64; use --window 48"
    ):
        predict(path, scene, tmp_path / "no.tif", window=64, argmax=True, quiet=True)
    how = {"argmax": True, "quiet": True, "scales": (1, 2)}
    with pytest.raises(ConfigError, match="scale 2 makes windows of 48 larger; use --window 24, or export"):
        predict(path, scene, tmp_path / "no.tif", window=48, **how)
    predict(path, scene, tmp_path / "smaller.tif", window=24, **how)
    assert not (tmp_path / "no.tif").exists()


class OneSize(nn.Module):
    """A network that writes its size into any graph."""

    def forward(self, x):
        return F.interpolate(F.avg_pool2d(x[:, :3], 2), size=(int(x.shape[2]), int(x.shape[3])))


def test_a_network_of_one_size_is_found_out_and_exported_for_it(tmp_path):
    one = Bundle.from_module(OneSize(), SCHEME, BANDS)
    with pytest.raises(BundleError, match="try --fixed 256,256"):
        export(one, tmp_path / "m.onnx", quiet=True)
    assert not list(tmp_path.iterdir())
    assert export(one, tmp_path / "m.onnx", fixed=(32, 40), quiet=True).parity.greatest < 1e-5


def test_a_graph_that_differs_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("raremap.models.graph.Graph._made", lambda self, image: [image[:, :1]] * 7)
    with pytest.raises(
        BundleError, match=r"probabilities differ from the bundle's by up to .* \(allowed: 0.0001\)"
    ):
        export(bundle(), tmp_path / "m.onnx", quiet=True)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalog")
    scenes(folder, 5, (64, 64))
    return prepare(
        ScenesOptions(images="img/*.tif", masks="mask/*.tif", root=str(folder)), SCHEME, TileOptions(size=32, min_valid=0),
        SplitOptions(places=1, folds=5, monitor=0.2, calibration=0.2), quiet=True,
    )  # fmt: skip


def test_an_exported_model_is_scored_as_its_bundle_is(catalog, tmp_path, capsys):
    split = SplitOptions(places=1, folds=5, monitor=0.2, calibration=0.2).model_dump(mode="json")
    one = replace(bundle(), info={"catalog": catalog.fingerprint, "split": split})
    export(one, tmp_path / "small.onnx", quiet=True)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    found, own = (evaluate(m, catalog, quiet=True) for m in (tmp_path / "small.onnx", one))
    assert (found.rows == own.rows).all()
    assert found.decided.matrices.sum() == own.decided.matrices.sum() > 0
    apart = np.abs(found.decided.matrices - own.decided.matrices).sum()
    assert apart <= 2e-3 * own.decided.matrices.sum()  # ties
    assert {p.name for p in found.files} == {"evaluation-small.json", "report-small.html"}
    assert {p.parent for p in found.files} == {tmp_path}
    assert {n: (tmp_path / n).read_bytes() for n in before} == before
    told = json.loads((tmp_path / "evaluation-small.json").read_text())
    assert told["model"] == OPTIONS.model_dump(mode="json")
    code, shown, _ = raremap(
        capsys, "evaluate", tmp_path / "small.onnx", "--catalog", catalog.save(tmp_path / "c.parquet"),
        "--use", "monitor", "-q", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(shown)["files"] == [
        str(tmp_path / f"{name}-small-monitor.{kind}")
        for name, kind in (("evaluation", "json"), ("report", "html"))
    ]


def test_int8_by_channel_within_the_network_alone(made, catalog, tmp_path):
    _, one, result, scene = made
    split = SplitOptions(places=1, folds=5, monitor=0.2, calibration=0.2).model_dump(mode="json")
    one = replace(one, info={"catalog": catalog.fingerprint, "split": split})
    found = export(
        one, tmp_path / "m.onnx", int8=True, calibrate=catalog, evaluate=catalog, tiles=5, quiet=True
    )
    assert found.size_bytes < 0.6 * result.size_bytes
    assert found.parity.greatest < 1e-4
    assert 0 < found.int8.mean < 0.1
    assert found.int8.changed < 0.1
    assert set(found.scores["bundle"]["f1"]) == {"land", "water", "slide"}
    assert abs(found.scores["bundle"]["macro_f1"] - found.scores["exported"]["macro_f1"]) < 0.1
    nodes = onnx.load(found.path).graph
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in nodes.initializer}
    made_of = {o: n for n in nodes.node for o in n.output}
    convs = [n for n in nodes.node if n.op_type == "Conv"]
    small = [n for n in convs if n.input[1] in made_of and made_of[n.input[1]].op_type == "DequantizeLinear"]
    assert len(small) == len(convs) - 1
    assert convs[-1] not in small  # the scores' own layer
    for conv in small:
        bits, scale, _ = made_of[conv.input[1]].input
        assert weights[bits].dtype == np.int8
        assert weights[scale].shape == (len(weights[bits]),)
    bytes_of = [
        made_of[n.input[0]].op_type
        for n in nodes.node
        if n.op_type == "QuantizeLinear" and n.input[0] in made_of
    ]
    assert "Conv" in bytes_of or "Relu" in bytes_of
    assert not {"Softmax", "Sub", "Div"} & set(
        bytes_of
    )  # normalisation, features and probabilities stay as they are
    predict(found.path, scene, tmp_path / "map.tif", quiet=True)
    predict(one, scene, tmp_path / "own.tif", quiet=True)
    assert (read(tmp_path / "map.tif") != read(tmp_path / "own.tif")).mean() < 0.1


def test_calibration_takes_the_classes_by_turns():
    counts = np.array([[90, 0, 0], [80, 10, 0], [100, 0, 0], [50, 40, 0], [95, 0, 5]])
    assert taking_turns(np.arange(5), counts, 4) == [4, 3, 2, 0]
    assert sorted(taking_turns(np.arange(1, 4), counts, 9)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (lambda f: (f / "m.onnx.json").unlink(), r"has no m\.onnx\.json beside it"),
        (lambda f: (f / "m.onnx").unlink(), r"m\.onnx does not exist; make it"),
        (lambda f: (f / "m.onnx.json").write_text("{"), "is not an exported model's description"),
        (lambda f: (f / "m.onnx.json").write_text((f / "m.onnx.json").read_text().replace("0.8", "0.9")), "was altered"),
        (lambda f: (f / "m.onnx").write_bytes((f / "m.onnx").read_bytes()[:-9]), "altered or cut short"),
    ],
)  # fmt: skip
def test_a_missing_or_altered_file_is_named(made, tmp_path, harm, match, capsys):
    folder, _, _, scene = made
    for name in ("model.onnx", "model.onnx.json"):
        (tmp_path / name.replace("model", "m")).write_bytes((folder / name).read_bytes())
    harm(tmp_path)
    with pytest.raises(BundleError, match=match):
        predict(tmp_path / "m.onnx", scene, tmp_path / "map.tif")
    code, out, err = raremap(capsys, "predict", tmp_path / "m.onnx", scene, "-o", tmp_path / "map.tif", "-q")
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_a_file_that_is_no_graph_is_told_by_the_runtime(tmp_path):
    from raremap.maps.runtime import RuntimeNetwork

    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match="cannot be read by ONNX Runtime"):
        RuntimeNetwork(tmp_path / "m.onnx")


def test_lanes_that_share_threads_give_the_same_numbers(made):
    from raremap.maps.runtime import RuntimeNetwork

    network = RuntimeNetwork(made[2].path, device="cpu")
    rng = np.random.default_rng(0)
    image, valid = rng.normal(100, 40, (2, 13, 70, 51)).astype(np.float32), np.ones((2, 70, 51), bool)
    image = image[:, : network._session.get_inputs()[0].shape[1]]
    alone = network(image, valid)
    network.threads = network.lanes = 6  # whatever this machine has
    network.share(2)
    assert network.lanes == 2
    assert network._session.get_session_options().intra_op_num_threads == 5
    np.testing.assert_array_equal(network(image, valid), alone)


def test_a_scene_of_other_bands_is_refused(made, tmp_path):
    other = write(tmp_path / "s.tif", np.ones((3, 9, 9), np.uint8), names=("red", "green", "blue"))
    with pytest.raises(BundleError, match="has no band 'nir'; the bundle needs blue, green, red, nir"):
        predict(made[2].path, other, tmp_path / "map.tif", quiet=True)


def test_without_the_runtime_the_extra_is_named(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        MissingExtra, match=r"onnxruntime is not installed; .* pip install 'raremap\[export\]'"
    ):
        Exported.load(made[2].path).network()


@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ({"int8": True}, ConfigError, "give their catalog with --calibrate"),
        ({"calibrate": "c.parquet"}, ConfigError, "add --int8, or leave --calibrate out"),
        ({"opset": 9}, ConfigError, "opset is 9, expected 13 to 20"),
        ({"fixed": (0, 5)}, ConfigError, "fixed is 0,5"),
        ({"out": "model.tif"}, OutputError, r"does not end in \.onnx"),
    ],
)
def test_arguments_that_make_no_sense(made, tmp_path, how, error, match):
    out = tmp_path / how.pop("out", "m.onnx")
    with pytest.raises(error, match=match):
        export(made[1], out, quiet=True, **how)
    assert not list(tmp_path.iterdir())


def test_shares_that_a_decision_moves_to_are_not_exported(made, tmp_path):
    moved = made[1].decision.moved_to((0.3, 0.3, 0.4), (0.7, 0.2, 0.1))
    with pytest.raises(BundleError, match="give the shares to predict with --prior"):
        export(made[1].with_decision(moved), tmp_path / "m.onnx", quiet=True)


def test_the_verb(made, capsys, tmp_path):
    folder = made[0]
    code, out, _ = raremap(
        capsys, "export", folder / "bundle", "-o", tmp_path / "m.onnx", "--fixed", "64,48", "--json", "-q"
    )
    assert code == 0
    assert json.loads(out)["precision"] == "float32"
    code, out, err = raremap(capsys, "calibrate", tmp_path / "m.onnx", "--catalog", "c.parquet", "-q")
    assert (code, out) == (2, "")
    assert "is an exported model, expected the bundle" in err
    assert raremap(capsys, "export", folder / "bundle", "-o", tmp_path / "m.onnx", "--fixed", "64")[0] == 2


def test_the_precision_of_the_command_line(made, capsys, tmp_path):
    folder, _, _, scene = made
    out = tmp_path / "map.tif"
    words = ["predict", folder / "bundle", scene, "-o", out, "--device", "cpu", "-q", "--precision"]
    for precision in ("bf16", "float32"):
        assert raremap(capsys, *words, precision)[0] == 0
        with rasterio.open(out) as file:
            assert file.tags()["raremap_precision"] == precision
    words[1] = folder / "model.onnx"
    code, _, err = raremap(capsys, *words, "bf16")
    assert (code, err.splitlines()) == (
        2, ["raremap: precision is 'bf16', but model.onnx computes in float32, in which it was exported; leave it out"],
    )  # fmt: skip
    assert raremap(capsys, *words, "fp16")[0] == 2


def test_the_light_install_and_ensembles_are_told_what_helps(made, capsys, tmp_path):
    folder, one, _, _ = made
    words = ["export", folder / "bundle", "-o", tmp_path / "m.onnx", "-q"]
    done = subprocess.run([sys.executable, "-c", LIGHT, *map(str, words)], capture_output=True, text=True)
    extra = "raremap: torch is not installed; it comes with the extra 'train': pip install 'raremap[train]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", extra)
    both = Bundle.ensemble([one, one])
    both.save(tmp_path / "both")
    words[1] = tmp_path / "both"
    code, out, err = raremap(capsys, *words)
    told = f"which has no ONNX form yet; export its members, such as {tmp_path / 'both/members/0'}\n"
    assert (code, out, err) == (2, "", f"raremap: {tmp_path / 'both'} is an ensemble, {told}")
    with pytest.raises(BundleError, match="export its members"):
        export(both, tmp_path / "m.onnx", quiet=True)
    words[1] = tmp_path / "both/members/0"
    assert raremap(capsys, *words)[0] == 0


def test_a_bundle_that_computes_otherwise_than_its_graph_says_how_far_they_are_apart(made, tmp_path):
    one = made[1]
    exact = export(replace(one, info={"precision": "float32"}), tmp_path / "a.onnx", quiet=True)
    assert (exact.own_precision, exact.own) == ("float32", None)
    found = export(replace(one, info={"precision": "bf16"}), tmp_path / "b.onnx", quiet=True)
    assert found.own_precision == "bf16"
    assert found.parity == exact.parity
    # What the maps themselves say, on another image: bf16 has eight bits.
    assert 1e-4 < found.own.mean < 0.05
    assert 0 < found.own.changed < 0.1
    assert "float32 beside the bundle in bf16, in which it computes: greatest difference 0." in str(found)
    own = json.loads((tmp_path / "b.onnx.json").read_text())["properties"]["raremap:onnx"]["beside_bundle"]
    assert own == {"precision": "bf16", **asdict(found.own)}
