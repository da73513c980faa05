"""`raremap faults`: what a model disputes that never saw the labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio
import pytest
import torch
from tests.rasters import write

from raremap.bundle import Bundle
from raremap.config import Experiment
from raremap.ensembles import Ensemble
from raremap.errors import BundleError, OutputError
from raremap.workflows.faults import faults
from raremap.workflows.prepare import prepare


@pytest.fixture
def labelled(tmp_path: Path):
    """Two scenes of 64²: the image has the log-odds of water; labels are right but for one square in each."""
    for i, name in enumerate("ab"):
        odds = np.full((64, 64), -3, np.float32)
        odds[:, 40:] = 3
        write(tmp_path / "img" / f"{name}.tif", odds[None], (4e5 + 2000 * i, 4.6e6), names=["odds"])
        mask = np.where(odds > 0, 2, 1).astype(np.uint8)
        mask[10:15, 10 : 15 + i] = 2
        write(tmp_path / "mask" / f"{name}.tif", mask, (4e5 + 2000 * i, 4.6e6))
    exp = Experiment.from_dict(
        {
            "out": str(tmp_path / "run"),
            "scenes": {"images": "img/*.tif", "masks": "mask/*.tif", "root": str(tmp_path)},
            "labels": {"classes": {1: "meadow", 2: "water"}},
            "tiles": {"size": 32},
            "split": {"block_px": 64, "folds": 2},
        }
    )
    return prepare(exp, quiet=True)


def bundle(catalog, train: list[str], **more) -> Bundle:
    net = torch.nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        net.weight[:] = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    info = {"places": {"train": train}, **more}
    return Bundle.from_module(net, catalog.scheme, ["odds"], prior=(0.5, 0.5), info=info)


def test_the_faults_that_were_put_in_are_polygons(labelled, tmp_path: Path) -> None:
    found = faults(bundle(labelled, []), labelled, tmp_path / "f.gpkg", quiet=True)
    frame = pyogrio.read_dataframe(tmp_path / "f.gpkg", layer="faults")
    assert (found.found, found.unseen) == (2, 0)
    assert frame["rank"].tolist() == [1, 2]
    assert frame["given"].tolist() == ["water"] * 2
    assert frame["suspected"].tolist() == ["meadow"] * 2
    assert sorted(frame["pixels"]) == [25, 30]
    by_scene = frame.set_index("scene")
    assert by_scene.geometry["a"].bounds == (4e5 + 100, 4.6e6 - 150, 4e5 + 150, 4.6e6 - 100)
    assert by_scene["area_m2"]["a"] == pytest.approx(2500, rel=2e-3)
    assert frame.crs.to_epsg() == 25831


def test_only_labels_that_were_not_learned_are_judged(labelled, tmp_path: Path) -> None:
    places = sorted(set(labelled.table["place"].astype(str)))
    first = [
        p for p, s in zip(labelled.table["place"].astype(str), labelled.scene_names, strict=True) if s == "a"
    ]
    second = [p for p in places if p not in first]
    one, other = bundle(labelled, sorted(set(first))), bundle(labelled, second)
    found = faults(one, labelled, tmp_path / "f.gpkg", quiet=True)
    assert pyogrio.read_dataframe(tmp_path / "f.gpkg")["scene"].tolist() == ["b"]
    assert found.unseen == 4
    both = faults([one, other], labelled, tmp_path / "f.gpkg", quiet=True)
    assert (both.found, both.unseen) == (2, 0)
    by_members = faults(Ensemble.of([one, other]), labelled, tmp_path / "f.gpkg", quiet=True)
    assert by_members.to_dict() == both.to_dict()
    with pytest.raises(BundleError, match="every tile of the catalog was in the training"):
        faults(bundle(labelled, places), labelled, tmp_path / "f.gpkg", quiet=True)


def test_the_first_ranks_are_kept(labelled, tmp_path: Path) -> None:
    found = faults(bundle(labelled, []), labelled, tmp_path / "f.gpkg", most=1, quiet=True)
    assert (found.found, len(found.ranked)) == (2, 1)


def test_wrong_wishes_are_told(labelled, tmp_path: Path) -> None:
    net = bundle(labelled, [])
    with pytest.raises(OutputError, match=r"ends in \.gpkg"):
        faults(net, labelled, tmp_path / "f.shp", quiet=True)
    net.info.pop("places")
    with pytest.raises(BundleError, match="does not say on which places"):
        faults(net, labelled, tmp_path / "f.gpkg", quiet=True)
