"""Scenes that are not like the training: what is said, and of which nothing is."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
import torch
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from tests.rasters import write

from raremap.bundle import Bundle
from raremap.errors import RaremapWarning
from raremap.labels import LabelScheme
from raremap.scene.normalize import Normalization
from raremap.workflows.predict import predict

LEARNED = 800.0, 2500.0


def model(**info) -> Bundle:
    """Trained on reflectances times ten thousand, dark in the first band and bright in the second."""
    net = torch.nn.Conv2d(2, 2, 1).eval()
    normal = Normalization("standard", LEARNED, (1 / 300, 1 / 900))
    return Bundle.from_module(
        net, LabelScheme({0: "a", 1: "b"}), ["red", "nir"], normal, info={"name": "m", **info}
    )


def scene(path: Path, low: float, high: float, dtype: str = "float32", **more) -> Path:
    rng = np.random.default_rng(1)
    pixels = np.stack([rng.uniform(0.8, 1.2, (70, 90)) * level for level in (low, high)]).astype(dtype)
    return write(path, pixels, **more)


@pytest.mark.parametrize(
    ("levels", "dtype"),
    [((0.08, 0.25), "float32"), ((8, 25), "uint8"), ((8e6, 2.5e7), "float32"), ((-12.0, -9.0), "float32")],
)
def test_numbers_of_another_scale_are_told_in_a_line(tmp_path: Path, levels, dtype: str) -> None:
    path = scene(tmp_path / "s.tif", *levels, dtype)
    with pytest.warns(
        RaremapWarning, match=r"s\.tif holds numbers of about .*, and m was trained on about 1.65e\+03"
    ) as said:
        predict(model(), path, tmp_path / "map.tif", quiet=True)
    assert len(said) == 1


@pytest.mark.parametrize(
    "levels", [LEARNED, (400, 100), (300, 250), (6000, 7000)]
)  # ground, a lake, shade, snow
def test_dark_and_bright_ground_is_no_other_scale(tmp_path: Path, levels) -> None:
    predict(model(), scene(tmp_path / "s.tif", *levels), tmp_path / "map.tif", quiet=True)


def test_nothing_is_said_where_there_is_nothing_to_compare(tmp_path: Path) -> None:
    """Bands that the network takes as they are, and bands around 0."""
    net, labels = torch.nn.Conv2d(2, 2, 1).eval(), LabelScheme({0: "a", 1: "b"})
    path = scene(tmp_path / "s.tif", 0.08, 0.25)
    predict(Bundle.from_module(net, labels, ["red", "nir"]), path, tmp_path / "a.tif", quiet=True)
    normal = Normalization("standard", (1.0, -2.0), (0.01, 0.01))
    predict(Bundle.from_module(net, labels, ["red", "nir"], normal), path, tmp_path / "b.tif", quiet=True)


@pytest.mark.parametrize(("pixel", "told"), [(10, False), (14, False), (7, False), (20, True), (0.6, True)])
def test_pixels_of_another_size_are_told(tmp_path: Path, recwarn, pixel: float, told: bool) -> None:
    path = scene(tmp_path / "s.tif", *LEARNED, pixel=pixel)
    predict(model(resolution_m=10.0), path, tmp_path / "map.tif", quiet=True)
    said = [str(w.message) for w in recwarn if issubclass(w.category, RaremapWarning)]
    wanted = f"has pixels of {pixel:g} m, and m was trained on pixels of 10 m"
    assert [wanted in line for line in said] == [True] * told


def placed(path: Path, how: str) -> Path:
    """A scene of 40 by 30 pixels of 10 m from 400000, 4600000 on, or of as many of 0.001 degrees, without a grid of its own."""
    pixels = np.full((2, 30, 40), 900, np.float32)
    pixels[:, :10, :20] = 2000
    profile = dict(driver="GTiff", width=40, height=30, count=2, dtype="float32")
    corners = [(r, c) for r in (0, 30) for c in (0, 40)]
    with warnings.catch_warnings(), rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
        if how == "GCPs":
            points = [GroundControlPoint(r, c, 4e5 + 10 * c, 4.6e6 - 10 * r) for r, c in corners]
            file.gcps = points, "EPSG:25831"
        else:
            # Line and sample are linear in latitude and longitude: -30000 * (lat - 41.985) and so on.
            one = [1.0] + [0.0] * 19
            lat, lon = ([0.0] * i + [s] + [0.0] * (19 - i) for i, s in ((2, -1.0), (1, 1.0)))
            file.rpcs = RPC(
                height_off=0, height_scale=500, lat_off=41.985, lat_scale=0.015, line_num_coeff=lat, line_den_coeff=one,
                line_off=15, line_scale=15, long_off=1.02, long_scale=0.02, samp_num_coeff=lon, samp_den_coeff=one,
                samp_off=20, samp_scale=20, err_bias=0, err_rand=0,
            )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("how", "told", "code", "origin"),
    [("GCPs", "4 ground control points", 25831, (4e5, 4.6e6)), ("RPCs", "RPCs", 32631, None)],
)
def test_a_scene_without_a_grid_is_told_the_command_that_gives_it_one(
    tmp_path: Path, monkeypatch, how, told, code, origin
) -> None:
    path = placed(tmp_path / "my scene.tif", how)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(RaremapWarning) as said:
        predict(model(), path, tmp_path / "map.tif", quiet=True)
    (line,) = (str(w.message) for w in said if "is placed by" in str(w.message))
    assert line.startswith(
        f"{path} is placed by {told}, which a map does not keep; for a map with a place: gdalwarp "
    )
    if shutil.which("gdalwarp") is None:
        return
    command = shlex.split(line.partition("place: ")[2].partition(", with")[0])
    subprocess.run(command, check=True, capture_output=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(model(), tmp_path / "my scene.placed.tif", tmp_path / "placed.tif", quiet=True)
    with rasterio.open(tmp_path / "placed.tif") as file:
        assert file.crs.to_epsg() == code
        if origin:
            assert file.transform.c == pytest.approx(origin[0], abs=5)
            assert file.transform.f == pytest.approx(origin[1], abs=5)
        else:
            west, south, east, north = rasterio.warp.transform_bounds(file.crs, "EPSG:4326", *file.bounds)
            assert (west, south, east, north) == pytest.approx((1.0, 41.97, 1.04, 42.0), abs=0.002)
