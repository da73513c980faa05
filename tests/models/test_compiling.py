"""Networks by torch.compile: the same map as without, and one line where nothing can be compiled."""

from __future__ import annotations

import shutil
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from tests.rasters import write
from torch import nn

from raremap.bundle import Bundle
from raremap.errors import ConfigError
from raremap.exported import Exported
from raremap.labels import LabelScheme
from raremap.maps.options import PredictOptions
from raremap.models.compiling import compiled
from raremap.models.forward import TorchNetwork
from raremap.scene.normalize import Normalization
from raremap.workflows.predict import predict

inductor = pytest.importorskip("torch._inductor.config")
NO_COMPILER = inductor.patch({"cpp.cxx": ("no-such-compiler",)})
SCHEME = LabelScheme({1: "meadow", 2: "water", 3: "rock"})
HEADER = Path(sysconfig.get_path("include")) / "Python.h"
can_compile = pytest.mark.skipif(
    not (shutil.which("g++") and HEADER.is_file()), reason=f"needs g++ and {HEADER} to compile"
)


@pytest.fixture(autouse=True)
def nothing_compiled_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch._dynamo.reset()


class Counted(nn.Module):
    """A small network that counts how often its Python code ran: what is compiled does without."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 3, 1)
        )
        self.asked = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            self.asked += 1
        return self.net(image)


@can_compile
def test_windows_are_computed_by_what_was_compiled_and_trials_by_the_network_itself():
    module = Counted()
    net = TorchNetwork(module, Normalization.identity(2), device="cpu", precision="float32", compiled=True)
    image = np.random.default_rng(0).random((1, 2, 24, 20), np.float32)
    valid = np.ones((1, 24, 20), bool)
    trial = net(image, ~valid)
    assert module.asked == 1
    assert np.isfinite(trial).all()
    with ThreadPoolExecutor(2, initializer=net.enter_lane) as pool:
        found = list(pool.map(lambda _: net(image, valid), range(4)))
    assert module.asked == 1
    plain = TorchNetwork(module, Normalization.identity(2), device="cpu", precision="float32")(image, valid)
    assert module.asked == 2
    for probs in found:
        np.testing.assert_allclose(probs, plain, atol=1e-6)


@can_compile
def test_a_compiled_map_is_the_map_and_says_so(tmp_path: Path):
    image = np.random.default_rng(0).normal(size=(2, 70, 90)).astype(np.float32)
    scene = write(tmp_path / "scene.tif", image)
    bundle = Bundle.from_module(
        Counted(), SCHEME, ["band1", "band2"], predict=PredictOptions(window=32, overlap=0.25)
    )
    for name in ("plain", "fast"):
        predict(bundle, scene, tmp_path / f"{name}.tif", precision="float32", device="cpu", quiet=True,
                probabilities="float32", compiled=name == "fast")  # fmt: skip
    maps = {name: rasterio.open(tmp_path / f"{name}.tif") for name in ("plain", "fast")}
    probs = {name: rasterio.open(tmp_path / f"{name}.probs.tif").read() for name in maps}
    np.testing.assert_allclose(probs["fast"], probs["plain"], atol=1e-5)
    first, second = np.sort(probs["plain"], axis=0)[:-3:-1]
    np.testing.assert_array_equal(
        (maps["fast"].read(1) != maps["plain"].read(1)) & (first - second > 1e-5), False
    )
    assert maps["fast"].tags()["raremap_compiled"] == "torch.compile"
    assert "raremap_compiled" not in maps["plain"].tags()


def test_where_there_is_no_compiler_it_is_one_line():
    told = r"torch.compile does not work here \(No working C\+\+ compiler.*leave out --compile"
    with NO_COMPILER, pytest.raises(ConfigError, match=told):
        compiled(nn.Conv2d(2, 3, 1), torch.device("cpu"))


@can_compile
def test_a_network_that_cannot_be_compiled_is_one_line():
    net = compiled(nn.Sequential(nn.Conv2d(2, 3, 1), nn.SiLU()).eval(), torch.device("cpu"))
    told = r"the network cannot be compiled \(.*leave out --compile"
    with NO_COMPILER, torch.inference_mode(), pytest.raises(ConfigError, match=told):  # it has gone since
        net(torch.ones(1, 2, 8, 8))


def test_an_exported_model_has_nothing_to_compile(tmp_path: Path):
    model = Exported(tmp_path / "m.onnx", SCHEME, ("red",), Normalization.identity(1), {})
    with pytest.raises(ConfigError, match=r"m\.onnx is computed by ONNX Runtime.*leave out --compile"):
        model.network(compiled=True)
