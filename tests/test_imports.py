"""What each door of the package may load, proved in fresh interpreters."""

import subprocess
import sys

import pytest


def _loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\nLOADED', *sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("LOADED", 1)[1].split())


def test_help_loads_nothing_heavy():
    code = """
sys.argv = ["raremap", "--help"]
from raremap.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    assert not _loaded(code) & {"torch", "numpy", "rasterio", "pydantic", "lightning", "yaml", "matplotlib"}


def test_import_raremap_loads_neither_torch_nor_rasterio():
    assert not _loaded("import raremap") & {"torch", "numpy", "rasterio", "pydantic"}


def test_an_experiment_is_read_without_torch_or_rasterio():
    loaded = _loaded("import raremap.config")
    assert not loaded & {"torch", "lightning", "rasterio", "geopandas", "matplotlib"}


@pytest.mark.slow
def test_prediction_never_loads_lightning(tmp_path):
    code = f"""
import numpy as np, rasterio, torch
from torch import nn
import raremap as rm
folder = {str(tmp_path)!r}
with rasterio.open(folder + "/scene.tif", "w", driver="GTiff", height=40, width=50, count=2, dtype="uint8",
                   crs="EPSG:25831", transform=rasterio.transform.from_origin(4e5, 4.6e6, 10, 10)) as file:
    file.write(np.random.default_rng(0).integers(1, 255, (2, 40, 50), dtype="uint8"))
bundle = rm.Bundle.from_module(nn.Conv2d(2, 2, 1), rm.LabelScheme({{0: "a", 1: "b"}}), ["x", "y"])
rm.predict(bundle, folder + "/scene.tif", folder + "/map.tif", quiet=True)
"""
    assert not _loaded(code) & {"lightning", "pytorch_lightning"}


@pytest.mark.parametrize(
    "name",
    [
        "prepare",
        "census",
        "plan",
        "train",
        "evaluate",
        "predict",
        "clean",
        "vectorize",
        "simulate",
        "demo",
        "layout",
        "export-tiles",
        "models",
        "tune",
        "serve",
        "export",
    ],
)
def test_every_verb_has_help_with_an_example(name):
    done = subprocess.run(
        [sys.executable, "-m", "raremap", name, "--help"], capture_output=True, text=True, check=True
    )
    assert f"Example: raremap {name}" in done.stdout
