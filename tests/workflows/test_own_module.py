"""Anyone's network on the sampler and the losses: trained, kept, used; one line where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from tests import project
from torch import nn

import raremap as rm
from raremap.errors import BundleError, ConfigError, TrainingError
from raremap.models.given import check_network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    project.make(folder)
    return folder


def own(channels: int = 4, classes: int = 3) -> nn.Module:
    """Two layers, which no name of raremap's has."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1)
    )


def of(folder: Path, out: Path, *overrides: str):
    scenes = {
        "root": str(folder),
        "images": "img/*.tif",
        "masks": "mask/*.tif",
        "features": [{"kind": "grey"}],
    }
    return project.experiment(folder, out, "train.steps=4", *overrides, scenes=scenes)


def test_it_is_trained_kept_and_used_as_any_other(folder, tmp_path):
    experiment, net = of(folder, tmp_path / "run"), own()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    catalog = rm.prepare(experiment, quiet=True)
    bundle = rm.train(catalog, None, experiment, quiet=True, module=net)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())  # a copy was trained
    assert any(not torch.equal(v, before[k]) for k, v in bundle.module.state_dict().items())
    assert bundle.options is None
    assert bundle.decision is not None
    assert bundle.channels == ("red", "green", "blue", "grey")
    assert json.loads((tmp_path / "run/versions.json").read_text())["module"].endswith("Sequential")

    # What lies in the run folder is the same network, with another of its make to fill.
    with pytest.raises(BundleError, match="pass it: Bundle"):
        rm.Bundle.load(tmp_path / "run/bundle")
    again = rm.Bundle.load(tmp_path / "run/bundle", module=own())
    scene = folder / "img/s0.tif"
    rm.predict(bundle, scene, tmp_path / "a.tif", quiet=True)
    rm.predict(again, scene, tmp_path / "b.tif", quiet=True)
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "b.tif") as b:
        assert np.array_equal(a.read(1), b.read(1))
        assert set(np.unique(a.read(1))) <= set(project.CLASSES)


def test_it_is_resumed_with_the_same_make_alone(folder, tmp_path):
    out = tmp_path / "run"
    experiment = of(folder, out)
    catalog = rm.prepare(experiment, quiet=True)
    with project.stopped_at(2, out):
        rm.train(catalog, None, experiment, quiet=True, module=own())
    for other in (None, own().append(nn.Identity()).append(nn.Conv2d(3, 3, 1))):
        with pytest.raises(
            TrainingError, match=r"last\.pt is of a training of another experiment or network"
        ):
            rm.train(catalog, None, experiment, resume=True, quiet=True, module=other)
    rm.train(catalog, None, experiment, resume=True, quiet=True, module=own())
    whole, resumed = (end["network"] for end in project.ends(out))
    assert all(torch.equal(whole[k], v) for k, v in resumed.items())


@pytest.mark.parametrize(
    ("net", "line"),
    [
        (own(4, 2), r"an image \[1, 4, 32, 32\] of red, green, blue, grey, gives \[1, 2, 32, 32\], expected logits "
                    r"\[1, 3, 32, 32\]: 3 classes, an answer at every pixel$"),
        (own(3, 3), r"fails \(.*3 channels.*\); it must take so many channels"),
    ],
    ids=["classes", "channels"],
)  # fmt: skip
def test_one_that_does_not_fit_is_told_before_anything_is_written(folder, tmp_path, net, line):
    experiment = of(folder, tmp_path / "run")
    catalog = rm.prepare(experiment, quiet=True)
    with pytest.raises(ConfigError, match=line):
        rm.train(catalog, None, experiment, quiet=True, module=net)
    assert not (tmp_path / "run/versions.json").exists()


def test_several_devices_are_refused(folder, tmp_path):
    experiment = of(folder, tmp_path / "run", "train.devices=2")
    catalog = rm.prepare(experiment, quiet=True)
    with pytest.raises(ConfigError, match=r"trains in one process; set it to 1$"):
        rm.train(catalog, None, experiment, quiet=True, module=own())


class Told(nn.Module):
    """Gives its logits in a dictionary, as torchvision's do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = own(2, 3)

    def forward(self, image):
        return {"out": self.net(image)}


@pytest.mark.parametrize(
    ("net", "size", "line"),
    [
        (Told(), (8, 8), r"gives a dict, expected logits \[1, 3, 8, 8\]; return them alone$"),
        (nn.Identity(), (8, 8), "has no weights"),
        (nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(32, 48, 1), nn.PixelShuffle(4)), (8, 10),
         r"\[1, 2, 8, 10\] of a, b, fails .*AnySize\(module, 32\)$"),
    ],
    ids=["dictionary", "no weights", "multiples"],
)  # fmt: skip
def test_other_mistakes_are_told_too(net, size, line):
    with pytest.raises(ConfigError, match=line):
        check_network(net, ("a", "b"), 3, [size])


def test_asking_changes_nothing_and_multiples_can_be_mended():
    from raremap.models.forward import AnySize

    net = AnySize(
        nn.Sequential(nn.BatchNorm2d(2), nn.PixelUnshuffle(4), nn.Conv2d(32, 48, 1), nn.PixelShuffle(4)), 4
    )
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.train().net[0].eval()
    check_network(net, ("a", "b"), 3, [(8, 10), (5, 3)])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert [m for m in net.modules() if not m.training] == [net.net[0]]
