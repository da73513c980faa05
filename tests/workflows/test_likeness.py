"""Scenes that are not like the training: what is said, and of which nothing is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
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
