import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn

import raremap as rm
from raremap.bundle import fields_of, item_of
from raremap.errors import BundleError, OutputError
from raremap.exported import Exported
from raremap.measure.decision import Decision
from raremap.models.options import Smp
from raremap.scene.normalize import Normalization

SCHEME = rm.LabelScheme({1: "land", 5: "slide"}, ignore=[0])
OPTIONS = Smp(decoder_channels=(16, 8, 8))


@pytest.fixture(scope="module")
def bundle():
    torch.manual_seed(0)
    return rm.Bundle(
        module=OPTIONS.build(3, 2).eval(),
        scheme=SCHEME,
        bands=("red", "green", "blue"),
        normalization=Normalization("standard", (1.0, 2.0, 3.0), (0.1, 0.2, 0.3)),
        options=OPTIONS,
        prior=(0.6, 0.4),
        shares=(0.9, 0.1),
        decision=Decision((0.0, 0.7), gain=0.1, gain_se=0.02, places=9, way={"window": 64}),
        metrics={"use": "test", "by_class": {"slide": {"f1": 0.5, "iou": 0.33}}},
        info={"name": "m"},
    )


def test_a_bundle_is_read_back_and_predicts_the_same(bundle, tmp_path):
    again = rm.Bundle.load(bundle.save(tmp_path / "b"))
    for field in (
        "scheme",
        "bands",
        "normalization",
        "options",
        "prior",
        "shares",
        "decision",
        "predict",
        "metrics",
        "info",
    ):
        assert getattr(again, field) == getattr(bundle, field), field
    image = np.random.default_rng(0).integers(0, 255, (1, 3, 40, 50)).astype(np.uint8)
    valid = np.ones((1, 40, 50), bool)
    assert np.array_equal(*(b.network("cpu", "float32")(image, valid) for b in (bundle, again)))


def test_it_holds_no_pickle_and_describes_itself(bundle, tmp_path):
    folder = bundle.save(tmp_path / "b")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "model.json", "model.safetensors"]
    assert not any(b"torch._utils" in p.read_bytes() for p in folder.iterdir())
    item = json.loads((folder / "model.json").read_text())
    assert item["properties"]["mlm:tasks"] == ["semantic-segmentation"]
    classes = item["properties"]["mlm:output"][0]["classification:classes"]
    assert [(c["value"], c["name"]) for c in classes] == [(1, "land"), (5, "slide")]
    card = (folder / "README.md").read_text()
    assert "| value | class | share in training | learned prior | F1 (test) | IoU |" in card
    assert "| 5 | slide | 0.1000 | 0.4000 | 0.500 | 0.330 |" in card


def test_an_exported_model_tells_what_a_bundle_tells_of_all_but_the_network(bundle):
    told = {f.name for f in fields(rm.Bundle)} - {"module"}
    assert {f.name for f in fields(Exported)} - {"path", "graph", "content"} == told
    assert fields_of(item_of(bundle)["properties"]).keys() == told


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (lambda f: (f / "model.safetensors").unlink(), r"has no model\.safetensors"),
        (lambda f: (f / "model.json").unlink(), r"has no model\.json"),
        (lambda f: (f / "model.json").write_text("{}"), r"is not a bundle's description"),
        (lambda f: (f / "model.json").write_text((f / "model.json").read_text().replace("0.7", "0.8")), "was altered"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-4]), "altered or cut short"),
    ],
)  # fmt: skip
def test_a_missing_or_altered_file_is_named(bundle, tmp_path, harm, match):
    folder = bundle.save(tmp_path / "b")
    harm(folder)
    with pytest.raises(BundleError, match=match):
        rm.Bundle.load(folder)


def test_a_folder_that_is_no_bundle_is_neither_read_nor_overwritten(bundle, tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        rm.Bundle.load(tmp_path / "nowhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(OutputError, match="is not a bundle"):
        bundle.save(tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_saving_again_replaces_the_bundle_and_leaves_nothing_else(bundle, tmp_path):
    bundle.save(tmp_path / "b")
    bundle.with_decision(None).save(tmp_path / "b")
    assert rm.Bundle.load(tmp_path / "b").decision is None
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_anyones_network_is_kept_and_asked_for(tmp_path):
    net = nn.Conv2d(2, 2, 1)
    bundle = rm.Bundle.from_module(net, SCHEME, ["vv", "vh"])
    bundle.save(tmp_path / "b")
    with pytest.raises(BundleError, match="pass it"):
        rm.Bundle.load(tmp_path / "b")
    again = rm.Bundle.load(tmp_path / "b", module=nn.Conv2d(2, 2, 1))
    assert torch.equal(again.module.weight, net.weight)
    with pytest.raises(BundleError, match="do not fit its network"):
        rm.Bundle.load(tmp_path / "b", module=nn.Conv2d(2, 2, 3))
