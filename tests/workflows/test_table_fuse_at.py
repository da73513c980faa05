"""From a place and a date to a fused map: against a catalogue on this machine, and terrain that is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from pyproj import Transformer
from tests.scene.acquire.scenes import CRS, SIZE, add_heights, add_scene
from tests.scene.acquire.stac import Api, served

from raremap.bundle import Bundle
from raremap.errors import AcquireError, ConfigError, TableError
from raremap.labels import LabelScheme
from raremap.tabular.calibration import Calibration
from raremap.tabular.columns import Column, Columns
from raremap.tabular.fusion import Fusion
from raremap.tabular.model import TableModel
from raremap.workflows.table_fuse_at import table_fuse_at

AT = Transformer.from_crs(CRS, 4326, always_xy=True).transform(300_400, 4_639_550)
FUSION = Fusion(Calibration(), Calibration(), (1.0, 1.0), 0.0, 0.5, 0.0, (0.0, 0.0))


class First:
    """A scorer that says the first attribute."""

    def raw(self, encoded: np.ndarray) -> np.ndarray:
        return encoded[:, 0]


def table(*names: str) -> TableModel:
    columns = Columns(tuple(Column(n, "numeric") for n in names))
    return TableModel(columns, lambda v: v, First(), 0.0, Calibration(), 0.5, 0.5, 0.0, "1")  # type: ignore[arg-type]


def bundle() -> Bundle:
    """A band of 10,000 reflectances: log-odds are it less 3000, in thousands."""
    net = torch.nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        assert net.bias is not None
        net.weight[:] = torch.tensor([0.0, 0.001]).reshape(2, 1, 1, 1)
        net.bias[:] = torch.tensor([0.0, -3.0])
    return Bundle.from_module(net, LabelScheme({0: "other", 1: "landslide"}), ["B04"], prior=(0.9, 0.1))


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """Two days, the later nearer to 2024-04-12, and heights that rise a metre in ten to the east."""
    from raremap.scene.acquire import source, stac

    monkeypatch.setattr(source, "WAIT_S", 0.0)
    monkeypatch.setattr(stac, "WAIT_S", 0.0)
    classes = np.full((SIZE, SIZE), 4, np.uint8)
    with served(Api()) as api:
        for day, value in (("2024-04-03", 1000), ("2024-04-13", 4000)):
            image = np.full((4, SIZE, SIZE), value, np.uint16)
            add_scene(api, tmp_path, day, f"{day}T10:50:00Z", image, classes)
        lon, lat = AT
        step = 1 / 3600
        to = Transformer.from_crs(4326, CRS, always_xy=True)
        west, north = lon - 60 * step, lat + 60 * step
        lons, lats = np.meshgrid(west + (np.arange(120) + 0.5) * step, north - (np.arange(120) + 0.5) * step)
        x, _ = to.transform(lons, lats)
        add_heights(api, tmp_path, ((x - 300_000) / 10).astype(np.float32), (west, north), step)
        yield api


def at(api: Api, tmp_path: Path, model: TableModel, **more):
    import json

    (tmp_path / "fusion.json").write_text(json.dumps({"fusion": FUSION.to_dict()}))
    given = {"date": "2024-04-12", "at": AT, "source": api.url, "quiet": True} | more
    if given["at"] is not None:
        given = {"buffer_m": 200} | given
    return table_fuse_at(bundle(), model, out=tmp_path / "out", fusion=tmp_path / "fusion.json", **given)


def test_squares_of_ground_are_scored_by_the_nearest_day_and_the_heights(api: Api, tmp_path: Path) -> None:
    done = at(api, tmp_path, table("slope"), cell_m=100)
    units = pd.read_csv(done.units)
    assert (done.count, set(units["scene"])) == (16, {"2024-04-13"})
    np.testing.assert_allclose(units["p_image"], 1 / (1 + np.exp(-1.0)), atol=1e-3)
    # A metre in ten; a slope of heights that were warped, so nearly.
    slope = np.degrees(np.arctan(0.1))
    z = np.log(units["p_table"]) - np.log1p(-units["p_table"])
    np.testing.assert_allclose(z, slope, atol=0.2)
    with rasterio.open(done.maps[0]) as file:
        assert file.descriptions == ("fused", "image", "table")
        assert np.isfinite(file.read()[:, :40, :40]).all()


def test_units_of_the_user_are_the_place_and_keep_their_own_numbers(api: Api, tmp_path: Path) -> None:
    import geopandas as gpd
    import shapely

    shapes = [shapely.box(300_200 + 100 * i, 4_639_400, 300_300 + 100 * i, 4_639_500) for i in range(3)]
    frame = gpd.GeoDataFrame(
        {"unit": ["a", "b", "c"], "rain": [1.0, -2.0, 0.5]}, geometry=shapes, crs=CRS
    ).to_crs(4326)
    frame.to_file(tmp_path / "u.gpkg")
    done = at(api, tmp_path, table("rain", "height_m", "relief_m"), at=None, units=tmp_path / "u.gpkg")
    units = pd.read_csv(done.units)
    assert units["unit"].tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(units["p_table"], 1 / (1 + np.exp(-np.array([1.0, -2.0, 0.5]))), atol=1e-3)
    made = gpd.read_parquet(tmp_path / "out/units.parquet")
    # By hand: the middle of a square is 250, 350 and 450 m east of where the height is 0.
    np.testing.assert_allclose(made["height_m"], [25, 35, 45], atol=1)
    np.testing.assert_allclose(made["relief_m"], 9, atol=1.5)


@pytest.mark.parametrize(
    ("names", "more", "fault", "line"),
    [
        (("slope", "rain"), {}, TableError, "a square of ground has no column 'rain', which the model reads"),
        (("slope",), {"date": "April"}, ConfigError, "the date is 'April', expected one such as 2024-07-01"),
        (("slope",), {"at": None}, ConfigError, "give --at LON,LAT, or --units"),
        (("slope",), {"cell_m": 0}, ConfigError, "cells of 0 m are none"),
        (("slope",), {"date": "2020-01-01"}, AcquireError, "has no scene"),
        (
            ("slope",),
            {"at": None, "units": "u.gpkg", "buffer_m": 9},
            ConfigError,
            "--buffer-m has no effect without --at",
        ),
        (
            ("slope",),
            {"units": "u.gpkg", "cell_m": 9},
            ConfigError,
            "--cell-m has no effect on units that are given",
        ),
        (("slope",), {"layer": "a"}, ConfigError, "--layer has no effect without --units"),
        (("slope",), {"key": "name"}, ConfigError, "--key has no effect without --units"),
        (("slope",), {"landslide": "mud"}, ConfigError, "has no class 'mud'"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(api: Api, tmp_path: Path, names, more, fault, line) -> None:
    with pytest.raises(fault, match=line):
        at(api, tmp_path, table(*names), **more)


def test_the_command_line_says_what_goes_with_a_date(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    from tests.command import raremap

    code, _, said = raremap(capsys, "table", "fuse", "a", "b", "--date", "2024-04-12", "-o", tmp_path)
    assert code == 2
    assert "needs --fusion" in said
    for option in ("--top", "--positive", "--seed"):
        code, _, said = raremap(
            capsys,
            "table",
            "fuse",
            "a",
            "b",
            "--date",
            "2024-04-12",
            "--fusion",
            "f",
            option,
            "1",
            "-o",
            tmp_path,
        )
        assert code == 2
        assert "leave the others out" in said
    code, _, said = raremap(capsys, "table", "fuse", "a", "b", "-o", tmp_path)
    assert code == 2
    assert "give --scenes and --units, or --date" in said
