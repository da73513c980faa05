"""The command line as a user meets it: exit codes, one line for each mistake, results on standard output."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import rasterio
import yaml
from tests import project
from tests.command import raremap
from tests.rasters import write

from raremap.scene.cog import CogWriter
from raremap.scene.grid import Grid
from raremap.scene.window import Window


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A project with an experiment file, trained and ready to be used."""
    folder = tmp_path_factory.mktemp("cli")
    project.make(folder / "data")
    experiment = project.experiment(folder / "data", folder / "run")
    (folder / "e.yaml").write_text(experiment.to_yaml())
    from raremap.workflows.train import train_experiment

    train_experiment(experiment, quiet=True)
    return folder


@pytest.fixture(autouse=True)
def _filters():
    """`main` sets warning filters for the process; tests keep their own."""
    import warnings

    with warnings.catch_warnings():
        shown = warnings.showwarning
        yield
        warnings.showwarning = shown


def test_the_whole_path(capsys, work):
    code, out, _ = raremap(
        capsys, "prepare", work / "e.yaml", "--set", f"out={work / 'other'}", "--json", "-q"
    )
    assert code == 0
    assert json.loads(out)["tiles"] == 24
    code, out, _ = raremap(capsys, "census", work / "run/catalog.parquet")
    assert code == 0
    assert "slide *" in out
    code, out, _ = raremap(
        capsys, "evaluate", work / "run/bundle", "--catalog", work / "run/catalog.parquet", "--json", "-q"
    )
    assert code == 0
    data = json.loads(out)
    assert data == json.loads((work / "run/evaluation.json").read_text())
    assert sum(map(sum, data["argmax"]["confusion"])) > 0
    assert "| slide |" in (work / "run/bundle/README.md").read_text()
    scenes = [work / "data/img/s0.tif", work / "data/img/s1.tif"]
    code, out, _ = raremap(
        capsys, "predict", work / "run/bundle", *scenes, "-o", work / "maps", "--json", "-q"
    )
    assert code == 0
    assert len(json.loads(out)["maps"]) == 2
    with rasterio.open(work / "maps/s1.map.tif") as made, rasterio.open(scenes[1]) as scene:
        assert (made.crs, made.transform, made.shape, made.nodata) == (
            scene.crs,
            scene.transform,
            scene.shape,
            255,
        )
        assert set(np.unique(made.read(1))) <= {1, 2, 5}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("census nowhere.parquet", "catalog nowhere.parquet does not exist"),
        ("prepare nowhere.yaml", "experiment nowhere.yaml does not exist"),
        ("train {w}/e.yaml --set train.stpes=3", "unknown key 'train.stpes'; did you mean 'steps'?"),
        ("prepare {w}/e.yaml --root nowhere", "nothing matches nowhere/img/*.tif"),
        ("prepare {w}/e.yaml --set out={w}/e.yaml", "cannot be written"),
        ("train {w}/e.yaml --set out={w}/e.yaml/run", "cannot be"),
        ("train {w}/e.yaml --set out={w}/fresh --resume", "nothing to resume"),
        ("train {w}/e.yaml --set out={w}/m --set model.encoder=resnet19", "did you mean 'resnet18'?"),
        ("evaluate nowhere --catalog {w}/run/catalog.parquet", "bundle nowhere does not exist"),
        ("evaluate {w}/run/bundle --catalog {w}/run/catalog.parquet --use tset", "'tset' is not among the uses"),
        ("predict nowhere x.tif -o m.tif", "bundle nowhere does not exist"),
        ("predict {w}/run/bundle nowhere.tif -o {w}/m.tif", "nowhere.tif does not exist"),
        ("predict {w}/run/bundle {w}/data/mask/s0.tif -o {w}/m.tif", "has no band 'red'"),
        ("predict {w}/run/bundle {w}/data/img/s0.tif -o {w}/e.yaml/m.tif", "cannot be written"),
        ("predict {w}/run/bundle {w}/data/img/s0.tif -o {w}/data/img/s0.tif", "would overwrite its own scene"),
        ("predict {w}/run/bundle {w}/data/img/s0.tif {w}/data/img/s1.tif -o {w}/m.tif", "2 scenes cannot share"),
        ("predict {w}/run/bundle {w}/data/img/s0.tif -o {w}/m.tif --device nonsense", "device 'nonsense'"),
        ("simulate {w}/e.yaml", "cannot be written"),
        ("simulate {w}/v --size 65", "size 65: input should be a multiple of 8"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(capsys, work, words, line):
    before = {p for p in work.rglob("*") if p.parent.name != "fresh" and p.name != "fresh"}
    code, out, err = raremap(
        capsys, *(w.format(w=work) for w in words.split()), *(["-q"] if "census" not in words else [])
    )
    assert (code, out) == (2, "")
    assert line in err
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("raremap: ")
    left = {p for p in work.rglob("*") if p.is_file() and p.name != ".lock"} - before
    assert not [p for p in left if p.suffix in (".tif", ".qml", ".safetensors") or p.name.startswith(".")]


def test_wrong_usage_is_exit_code_2(capsys):
    assert raremap(capsys, "train")[0] == 2
    assert raremap(capsys, "nonsense")[0] == 2


def test_a_damaged_scene_stops_before_the_first_map(capsys, work, tmp_path):
    good = shutil.copy(work / "data/img/s0.tif", tmp_path / "good.tif")
    (tmp_path / "bad.tif").write_bytes(b"II*\x00 nothing")
    code, _, err = raremap(
        capsys, "predict", work / "run/bundle", good, tmp_path / "bad.tif", "-o", tmp_path / "out", "-q"
    )
    assert code == 2
    assert "bad.tif cannot be opened" in err
    assert not (tmp_path / "out").exists()


def test_a_scene_without_band_names_is_taken_in_order(capsys, work, tmp_path):
    with rasterio.open(work / "data/img/s0.tif") as file:
        write(tmp_path / "plain.tif", file.read())
    code, *_ = raremap(
        capsys, "predict", work / "run/bundle", tmp_path / "plain.tif", "-o", tmp_path / "a.tif", "-q"
    )
    assert code == 0
    raremap(capsys, "predict", work / "run/bundle", work / "data/img/s0.tif", "-o", tmp_path / "b.tif", "-q")
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "b.tif") as b:
        assert np.array_equal(a.read(1), b.read(1))


def test_a_warning_is_one_line_too(capsys, work):
    data = yaml.safe_load((work / "e.yaml").read_text())
    data["labels"]["classes"][9] = "glacier"
    data["out"] = str(work / "warned")
    (work / "w.yaml").write_text(yaml.safe_dump(data))
    raremap(capsys, "prepare", work / "w.yaml", "-q")
    code, _, err = raremap(capsys, "census", work / "warned/catalog.parquet")
    assert code == 0
    assert err == "raremap: warning: no training pixel of 'glacier'; it cannot be learned from this split\n"


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 128 + 15), ("SIGHUP", 128 + 1), ("SIGINT", 128 + 2)])
def test_a_job_that_a_batch_system_or_a_closed_session_stops_leaves_nothing(
    capsys, tmp_path, monkeypatch, name, code
):
    number = getattr(signal, name)

    def stopped(*_, **__):
        with CogWriter(tmp_path / "map.tif", Grid(600, 600), "uint8") as out:
            out.write(Window(0, 0, 5, 600), np.ones((5, 600), np.uint8))
            assert list(tmp_path.glob(".map.*"))
            os.kill(os.getpid(), number)
            if name == "SIGHUP":  # a terminal that closes says so twice
                os.kill(os.getpid(), number)
            time.sleep(20)

    monkeypatch.setattr("raremap.workflows.rescale.rescale", stopped)
    monkeypatch.setattr("signal.raise_signal", lambda n: sys.exit(128 + n))  # the end of this process, too
    before = signal.getsignal(number)
    if name == "SIGINT":  # a process that a shell put in the background ignores it
        before = signal.default_int_handler
        signal.signal(number, before)
    found = raremap(capsys, "rescale", "a.tif", "--like", "b.tif", "-o", tmp_path / "map.tif")
    assert found == (code, "", "raremap: stopped; nothing half-written was left\n")
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(number) == before


def test_what_nohup_has_set_stays(capsys, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(
        "raremap.workflows.rescale.rescale", lambda *_, **__: os.kill(os.getpid(), signal.SIGHUP)
    )
    try:
        assert raremap(capsys, "rescale", "a.tif", "--like", "b.tif", "-o", "map.tif")[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable(capsys, work, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = raremap(
        capsys, "predict", work / "run/bundle", work / "data/img/s0.tif", "-o", tmp_path / "m.tif", "-q"
    )
    tmp_path.chmod(0o700)
    assert code == 2
    assert "cannot be written" in err
