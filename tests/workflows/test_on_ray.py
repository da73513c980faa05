"""Verbs on two workers of Ray: what one machine makes, to the last pixel; lost workers and stopped runs."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from tests.rasters import write

from raremap.bundle import Bundle
from raremap.cluster import joined
from raremap.errors import ClusterError, ConfigError, SceneError
from raremap.exported import Exported
from raremap.labels import LabelScheme
from raremap.maps.drawing import Drawing
from raremap.maps.options import PredictOptions
from raremap.scene.sources import ScenesOptions
from raremap.workflows.export import export
from raremap.workflows.predict import predict
from raremap.workflows.predict_on_ray import Given, map_on
from raremap.workflows.rescale import rescale
from raremap.workflows.scenes import scenes_to_map

pytest.importorskip("ray", reason="ray is not installed")

SCHEME = LabelScheme({1: "meadow", 2: "water", 7: "rock"})


@pytest.fixture(scope="module")
def two() -> Iterator[None]:
    """Ray with two workers, on this machine."""
    with joined("local", 2):
        yield


class Net(torch.nn.Conv2d):
    """A convolution that notes its calls in a folder, and ends its process where a file `deadly` says how often."""

    def __init__(self, folder: Path) -> None:
        super().__init__(2, 3, 5, padding=2, bias=False)
        self.folder = folder
        torch.manual_seed(1)
        torch.nn.init.normal_(self.weight, std=0.3)

    def extra_repr(self) -> str:
        return "noting its calls"

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        (self.folder / f"call-{time.monotonic_ns()}-{os.getpid()}").touch()
        deadly = self.folder / "deadly"
        # Not in the first strips, of which a few shall be done.
        if deadly.exists() and len(list(self.folder.glob("call-*"))) > 20 and (n := int(deadly.read_text())):
            less = deadly.with_name(f"less-{time.monotonic_ns()}-{os.getpid()}")
            less.write_text(str(n - 1))
            less.replace(deadly)  # at once: another thread may read it
            os._exit(1)
        return super().forward(image)


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    folder = tmp_path / "calls"
    folder.mkdir()
    return folder


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Noise with a hole and a border of no data; 17 rows of windows."""
    rng = np.random.default_rng(5)
    image = rng.normal(0, 1, (2, 611, 130)).astype(np.float32)
    image[:, 200:330, 20:90] = np.nan
    image[:, :10] = np.nan
    return write(tmp_path / "scene.tif", image, nodata=float("nan"))


def bundle(calls: Path) -> Bundle:
    options = PredictOptions(window=48, overlap=0.25, batch=2)
    return Bundle.from_module(Net(calls), SCHEME, ["band1", "band2"], predict=options, info={"name": "noise"})


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def test_the_map_of_two_workers_is_that_of_one_process_to_the_bit(
    two: None, scene: Path, calls: Path, tmp_path: Path
) -> None:
    how = {
        "probabilities": "float32",
        "confidence": True,
        "precision": "float32",
        "device": "cpu",
        "quiet": True,
    }
    one = predict(bundle(calls), scene, tmp_path / "one.tif", **how).maps[0]
    more = predict(bundle(calls), scene, tmp_path / "two.tif", ray="auto", workers=2, **how).maps[0]
    for suffix in (".tif", ".probs.tif", ".confidence.tif"):
        a, b = (pixels(tmp_path / f"{name}{suffix}") for name in ("one", "two"))
        assert a.tobytes() == b.tobytes(), suffix
    assert len(np.unique(pixels(tmp_path / "one.tif"))) == 4
    assert (more.pixels, more.nodata_pixels) == (one.pixels, one.nodata_pixels)
    assert (tmp_path / "two.qml").read_text() == (tmp_path / "one.qml").read_text()
    assert not list(tmp_path.glob(".two*"))


def test_several_scenes_in_the_precision_that_the_first_windows_settle(
    two: None, scene: Path, calls: Path, tmp_path: Path
) -> None:
    small = write(
        tmp_path / "small.tif", np.random.default_rng(2).normal(0, 1, (2, 20, 30)).astype(np.float32)
    )
    predict(bundle(calls), [scene, small], tmp_path / "one", device="cpu", quiet=True)
    predict(bundle(calls), [scene, small], tmp_path / "two", device="cpu", quiet=True, ray="auto", workers=2)
    for name in ("scene", "small"):
        a, b = (pixels(tmp_path / folder / f"{name}.map.tif") for folder in ("one", "two"))
        assert a.tobytes() == b.tobytes()


def test_a_scene_of_several_files_is_read_by_the_workers_as_here(
    two: None, scene: Path, calls: Path, tmp_path: Path
) -> None:
    for i, band in enumerate(pixels(scene), start=1):
        write(tmp_path / f"files/b{i}.tif", band, nodata=float("nan"))
    files = ScenesOptions(
        root=str(tmp_path / "files"), images="b1.tif", bands=["band1"], layers={"band2": "b2.tif"}
    )
    predict(bundle(calls), scene, tmp_path / "one.tif", device="cpu", quiet=True)
    predict(bundle(calls), files, tmp_path / "two.tif", device="cpu", quiet=True, ray="auto", workers=2)
    assert pixels(tmp_path / "one.tif").tobytes() == pixels(tmp_path / "two.tif").tobytes()


class Alone:
    """A cluster of one worker in this process, on a machine with a GPU or without."""

    def __init__(self, has_gpu: bool) -> None:
        self.has_gpu, self.size = has_gpu, 1

    @contextmanager
    def team(self, setup, told=str, on_gpu=False):
        self._work = setup()
        yield self

    def __call__(self, part):
        return self._work(part)

    def close(self) -> None:
        pass


class Roomy:
    """A network on a device that has room for three windows."""

    def __init__(self, network) -> None:
        self.precision, self.asked, self._network = "float32", [], network

    def at_once(self, ask, most):
        ask(1)
        return 3

    def __call__(self, image, valid):
        self.asked.append(len(image))
        return self._network(image, valid)


@pytest.mark.parametrize(("has_gpu", "batch"), [(False, "113"), (True, "3")])
def test_every_strip_comes_in_the_batches_that_the_first_worker_has_room_for(
    scene: Path, calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_gpu: bool, batch: str
) -> None:
    model = replace(bundle(calls), predict=PredictOptions(window=48, overlap=0.25))
    how = {"precision": "float32", "device": "cpu", "quiet": True}
    predict(model, scene, tmp_path / "one.tif", **how)
    roomy = Roomy(model.network(device="cpu", precision="float32"))
    if has_gpu:
        monkeypatch.setattr(Bundle, "network", lambda *_: roomy)
    given = Given(model, Drawing(SCHEME), "auto")
    (one,) = scenes_to_map(model, scene)
    map_on(Alone(has_gpu), given, [(one, tmp_path / "two.tif")], "", {}, "float32", True)
    assert pixels(tmp_path / "one.tif").tobytes() == pixels(tmp_path / "two.tif").tobytes()
    with rasterio.open(tmp_path / "two.tif") as file:
        tags = file.tags()
    assert (tags["raremap_batch"], tags["raremap_precision"]) == (batch, "float32")
    assert roomy.asked[0:1] == [1] * has_gpu
    assert max(roomy.asked, default=0) == 3 * has_gpu


def test_an_exported_model_maps_on_two_workers_what_it_maps_here(
    two: None, scene: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason="the extra export is not installed")
    torch.manual_seed(3)
    model = Bundle.from_module(torch.nn.Conv2d(2, 3, 5, padding=2), SCHEME, ["band1", "band2"])
    export(model, tmp_path / "model.onnx", quiet=True)
    for name, more in {"one": {}, "two": {"ray": "auto", "workers": 2}}.items():
        how = {"window": 48, "overlap": 0.25, "device": "cpu", "probabilities": "float32", "quiet": True}
        predict(tmp_path / "model.onnx", scene, tmp_path / f"{name}.tif", **how, **more)
    for suffix in (".tif", ".probs.tif"):
        a, b = (pixels(tmp_path / f"{name}{suffix}") for name in ("one", "two"))
        assert a.tobytes() == b.tobytes(), suffix
    assert len(np.unique(pixels(tmp_path / "one.tif"))) == 4


def test_an_exported_model_travels_and_the_map_tells_its_precision(scene: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra export is not installed")
    torch.manual_seed(3)
    model = Bundle.from_module(torch.nn.Conv2d(2, 3, 5, padding=2), SCHEME, ["band1", "band2"])
    path = export(model, tmp_path / "model.onnx", quiet=True).path
    # Ranges of eight bits need a catalog; the tag follows from what the file says of itself.
    own = Exported.load(path)
    small = replace(own, graph={**own.graph, "precision": "int8"}, predict=PredictOptions(window=48))
    predict(small, scene, tmp_path / "one.tif", quiet=True)
    moved = pickle.loads(pickle.dumps(small))
    path.unlink()
    (one,) = scenes_to_map(moved, scene)
    given = Given(moved, Drawing(SCHEME), "cpu")
    map_on(Alone(False), given, [(one, tmp_path / "two.tif")], "", {}, "auto", True)
    for name in ("one", "two"):
        with rasterio.open(tmp_path / f"{name}.tif") as file:
            assert file.tags()["raremap_precision"] == "int8"
    assert pixels(tmp_path / "one.tif").tobytes() == pixels(tmp_path / "two.tif").tobytes()
    with pytest.raises(ConfigError, match=r"'float32', but model.onnx computes in int8, .* leave it out"):
        map_on(Alone(False), given, [(one, tmp_path / "two.tif")], "", {}, "float32", True)


@pytest.mark.parametrize(
    ("device", "error", "match"),
    [
        ("nonsense", ConfigError, "device 'nonsense' is not one of a cluster's; use auto, cpu or cuda"),
        ("cuda", ClusterError, "no machine of the cluster has a GPU"),
    ],
)
def test_a_device_that_the_cluster_lacks_is_told(
    scene: Path, calls: Path, tmp_path: Path, device: str, error: type[Exception], match: str
) -> None:
    model = bundle(calls)
    (one,) = scenes_to_map(model, scene)
    with pytest.raises(error, match=match):
        map_on(Alone(False), Given(model, Drawing(SCHEME), device), [(one, tmp_path / "m.tif")], "", {})
    assert not list(tmp_path.glob("*m.*"))


def test_strips_of_one_exported_model_are_not_taken_for_those_of_another(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra export is not installed")
    keys = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        model = Bundle.from_module(torch.nn.Conv2d(2, 3, 5, padding=2), SCHEME, ["band1", "band2"])
        path = export(model, tmp_path / "model.onnx", quiet=True).path
        said = {"bundle": Exported.load(path), "drawing": Drawing(SCHEME), "device": "cpu"}
        keys.append(Given(**{f.name: said.get(f.name) for f in fields(Given)}).digest("argmax"))
    assert keys[0] == keys[2] != keys[1]


def test_a_worker_killed_in_the_middle_costs_its_strip_only(
    two: None, scene: Path, calls: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    how = {"precision": "float32", "device": "cpu", "quiet": True}
    predict(bundle(calls), scene, tmp_path / "one.tif", **how)
    for path in calls.iterdir():
        path.unlink()
    (calls / "deadly").write_text("1")
    with caplog.at_level(logging.WARNING, "raremap"):
        predict(bundle(calls), scene, tmp_path / "two.tif", ray="auto", workers=2, **how)
    assert pixels(tmp_path / "one.tif").tobytes() == pixels(tmp_path / "two.tif").tobytes()
    told = [r.getMessage() for r in caplog.records if "was lost" in r.getMessage()]
    assert len(told) == 1
    assert f"{scene}, rows " in told[0]
    assert "is done again, attempt 2" in told[0]


def test_a_stopped_run_goes_on_with_the_strips_that_are_left(
    two: None, scene: Path, calls: Path, tmp_path: Path
) -> None:
    how = {"precision": "float32", "device": "cpu", "quiet": True}
    predict(bundle(calls), scene, tmp_path / "one.tif", **how)
    for path in calls.iterdir():
        path.unlink()
    (calls / "deadly").write_text("9")
    with pytest.raises(ClusterError, match="has cost 3 workers"):
        predict(bundle(calls), scene, tmp_path / "two.tif", ray="auto", workers=1, **how)
    assert not (tmp_path / "two.tif").exists()
    kept = list((tmp_path / ".two.parts").glob("*.part"))
    assert kept
    for path in calls.iterdir():
        path.unlink()
    predict(bundle(calls), scene, tmp_path / "two.tif", ray="auto", workers=1, **how)
    assert pixels(tmp_path / "one.tif").tobytes() == pixels(tmp_path / "two.tif").tobytes()
    assert not (tmp_path / ".two.parts").exists()
    again = len(list(calls.glob("call-*")))
    for path in calls.iterdir():
        path.unlink()
    predict(bundle(calls), scene, tmp_path / "whole.tif", ray="auto", workers=1, **how)
    assert again < len(list(calls.glob("call-*")))


def test_a_fault_of_the_scene_is_told_as_on_one_machine(two: None, calls: Path, tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.tif", np.full((2, 60, 60), np.nan, np.float32), nodata=float("nan"))
    with pytest.raises(SceneError, match=r"empty\.tif holds no valid pixel: all of it is nodata"):
        predict(bundle(calls), empty, tmp_path / "map.tif", device="cpu", ray="auto", workers=1, quiet=True)
    assert not (tmp_path / "map.tif").exists()


@pytest.mark.parametrize("method", ["area", "mode", "fractions"])
def test_rescaled_labels_are_those_of_one_process(two: None, tmp_path: Path, method: str) -> None:
    rng = np.random.default_rng(3)
    fine = rng.choice(np.array([1, 2, 3, 255], np.uint8), (640, 900), p=(0.6, 0.25, 0.05, 0.1))
    labels = write(tmp_path / "fine.tif", fine, nodata=255, pixel=1)
    like = write(tmp_path / "image.tif", np.zeros((64, 90), np.uint8), pixel=10)
    more = {} if method == "mode" else {"block": 8}
    one = rescale(labels, like, tmp_path / "one.tif", method, quiet=True, **more)
    two_ = rescale(labels, like, tmp_path / "two.tif", method, quiet=True, ray="auto", workers=2, **more)
    assert pixels(tmp_path / "one.tif").tobytes() == pixels(tmp_path / "two.tif").tobytes()
    assert one.to_dict()["classes"] == two_.to_dict()["classes"]


def test_a_catalog_counted_on_two_workers_is_the_same(two: None, tmp_path: Path) -> None:
    from tests.workflows.scenes import SCHEME as CLASSES

    from raremap.config import Experiment
    from raremap.workflows.prepare import prepare

    rng = np.random.default_rng(4)
    for i in range(3):
        image = rng.integers(1, 200, (2, 700, 96)).astype(np.uint16)
        image[:, :40, :30] = 0
        origin = (4e5 + 2000 * i, 4.6e6)
        write(tmp_path / f"img/s{i}.tif", image, nodata=0, origin=origin)
        write(
            tmp_path / f"mask/s{i}.tif",
            rng.choice(np.array([0, 1, 2, 5], np.uint8), (700, 96)),
            origin=origin,
        )

    def experiment(out: str) -> Experiment:
        return Experiment.from_dict(
            {
                "out": str(tmp_path / out),
                "scenes": {"images": "img/*.tif", "masks": "mask/*.tif", "root": str(tmp_path)},
                "labels": CLASSES.model_dump(mode="json"),
                "tiles": {"size": 32, "min_valid": 0},
                "split": {"places": 1, "folds": 3},
            }
        )

    one = prepare(experiment("one"), quiet=True)
    more = prepare(experiment("two"), quiet=True, ray="auto", workers=2)
    assert one.table.drop(columns="counts").equals(more.table.drop(columns="counts"))
    np.testing.assert_array_equal(np.stack(one.table["counts"]), np.stack(more.table["counts"]))
    assert not (tmp_path / "two/catalog.counts").exists()


def test_a_map_filtered_on_two_workers_is_the_same(
    two: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raremap.workflows.clean import clean

    array = np.random.default_rng(6).choice(np.array([1, 2, 255], np.uint8), (1100, 60), p=(0.6, 0.38, 0.02))
    source = write(tmp_path / "map.tif", array, nodata=255)
    with rasterio.open(source, "r+") as file:
        file.update_tags(class_1="meadow", class_2="water")
    how = {"majority": 5, "open": {"water": 40}, "mmu": 900, "quiet": True}
    one = clean(source, tmp_path / "one.tif", **how)
    monkeypatch.setattr("raremap.maps.strips._TILE", 20_000)  # so that there is work for both
    more = clean(source, tmp_path / "two.tif", ray="auto", workers=2, **how)
    assert pixels(tmp_path / "one.tif").tobytes() == pixels(tmp_path / "two.tif").tobytes()
    assert (one.area_m2, one.filled) == (more.area_m2, more.filled)
    assert one.changed_pixels > 1000


def test_a_cluster_that_does_not_answer_is_one_line_and_exit_2(
    scene: Path, calls: Path, tmp_path: Path
) -> None:
    started = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-m", "raremap", "rescale", str(scene), "--like", str(scene), "-o", str(tmp_path / "o.tif"),
         "--ray", "127.0.0.1:1"], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert told.returncode == 2
    assert told.stderr == (
        "raremap: no Ray cluster answers at '127.0.0.1:1' (Connection refused); start one, or give --ray local\n"
    )
    assert time.monotonic() - started < 60  # most of it is loading Ray
