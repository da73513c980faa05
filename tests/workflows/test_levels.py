"""Maps at a level of the class tree, and the bands that say how sure a map is."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import rasterio
import torch
from tests.rasters import write

import raremap as rm
from raremap.bundle import Bundle
from raremap.errors import LabelError
from raremap.labels import LabelScheme
from raremap.measure.decision import Decision

SCHEME = LabelScheme(
    {3: "house", 5: "road", 8: "water"}, parents={"house": "built", "road": "built"}, colors={"built": "#AA0000"}
)  # fmt: skip


@pytest.fixture
def made(tmp_path):
    """Log-odds in, their softmax at temperature 2 out; classes beside a map of each kind."""
    logits = np.random.default_rng(0).normal(0, 2, (3, 50, 40)).astype(np.float32)
    logits[:, :4, :4] = np.nan
    net = torch.nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        net.weight[:] = torch.eye(3).reshape(3, 3, 1, 1)
    bundle = Bundle.from_module(
        net, SCHEME, ["a", "b", "c"], decision=Decision((0.0, 0.5, 0.0), temperature=2.0)
    )
    with np.errstate(invalid="ignore"):
        soft = np.exp(logits.astype(float) / 2)
        soft /= soft.sum(0)
    return bundle, write(tmp_path / "s.tif", logits, names=["a", "b", "c"], nodata=np.nan), soft, tmp_path


def read(path):
    with rasterio.open(path) as file:
        return file.read(1), file.scales[0], file.nodata


def test_confidence_and_entropy_lie_beside_the_map(made):
    bundle, scene, soft, folder = made
    rm.predict(bundle, scene, folder / "m.tif", confidence=True, entropy=True, quiet=True)
    index = np.select([read(folder / "m.tif")[0] == v for v in SCHEME.values], range(3), 0)
    empty = np.isnan(soft[0])
    for name, truth in (
        ("confidence", np.take_along_axis(soft, index[None], 0)[0]),
        ("entropy", -(soft * np.log(soft)).sum(0) / np.log(3)),
    ):
        stored, scale, nodata = read(folder / f"m.{name}.tif")
        assert np.array_equal(stored == nodata, empty)
        assert np.abs(stored * scale - truth)[~empty].max() < 0.0025
        style = ET.parse(folder / f"m.{name}.qml").getroot().find(".//rasterrenderer")
        assert style.get("type") == "singlebandpseudocolor"
        assert [float(i.get("value")) for i in style.findall(".//item")] == [0, 1]


def test_probabilities_are_summed_over_a_group_before_the_decision(made):
    bundle, scene, soft, folder = made
    rm.predict(bundle, scene, folder / "m.tif", level=1, probabilities="float32", quiet=True)
    sums = np.stack([soft[0] + soft[1], soft[2]])
    got, _, _ = read(folder / "m.tif")
    expected = np.where(np.isnan(soft[0]), 255, np.where(sums[0] > sums[1], 3, 8))
    clear = np.isnan(soft[0]) | (np.abs(sums[0] - sums[1]) > 1e-5)
    assert np.array_equal(got[clear], expected[clear])
    with rasterio.open(folder / "m.tif") as file:
        tags = file.tags()
        assert (tags["class_3"], tags["class_8"], tags["raremap_decision"]) == (
            "built",
            "water",
            "argmax at level 1",
        )
        assert file.colormap(1)[3] == (0xAA, 0, 0, 255)
        assert "class_5" not in tags
    with rasterio.open(folder / "m.probs.tif") as file:
        assert file.descriptions == ("built", "water")
        assert np.allclose(file.read(1), sums[0], atol=1e-5, equal_nan=True)
    with pytest.raises(LabelError, match="no level 2"):
        rm.predict(bundle, scene, folder / "m.tif", level=2, quiet=True)


def test_a_finished_map_is_merged_by_the_tree_in_its_tags(made):
    bundle, scene, _, folder = made
    rm.predict(bundle, scene, folder / "m.tif", probabilities="uint8", quiet=True)
    before = read(folder / "m.tif")[0]
    with rasterio.open(folder / "m.tif") as file:
        assert json.loads(file.tags()["class_tree"]) == SCHEME.parents
    rm.clean(folder / "m.tif", folder / "c.tif", level=1, quiet=True)
    assert np.array_equal(read(folder / "c.tif")[0], np.where(before == 5, 3, before))
    with rasterio.open(folder / "c.tif") as file:
        tags = file.tags()
        assert tags["class_3"] == "built"
        assert not {"class_5", "class_tree"} & set(tags)
    done = rm.clean(
        folder / "m.tif", folder / "d.tif", level=1, mmu={"built": 300}, probabilities=folder / "m.probs.tif", quiet=True
    )  # fmt: skip
    assert set(done.area_m2) == {"built", "water"}
    assert done.filled["built"] > 0
    with pytest.raises(LabelError, match="says nothing of parents"):
        rm.clean(folder / "c.tif", folder / "e.tif", level=1, quiet=True)
    rm.clean(folder / "m.tif", folder / "e.tif", level=1, parents={"water": "wet", "road": "wet"}, quiet=True)
    assert np.array_equal(read(folder / "e.tif")[0], np.where(before == 8, 5, before))
