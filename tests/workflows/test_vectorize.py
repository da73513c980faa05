"""`raremap vectorize`: a map to polygons that other programs read."""

from __future__ import annotations

import json
import sqlite3
import xml.etree.ElementTree as ET
from contextlib import closing, nullcontext

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from pyproj import Geod
from rasterio.features import rasterize
from scipy import ndimage
from tests.command import raremap
from tests.rasters import write
from tests.workflows.mapped import write_map

import raremap as rm
from raremap.errors import ConfigError, LabelError, OutputError, RaremapWarning
from raremap.maps import strips

NAMES = {0: "background", 4: "house", 7: "wood & field"}


def make(folder, stored, **more):
    path = write(folder / "map.tif", stored.astype(np.uint8), nodata=255, **more)
    with rasterio.open(path, "r+") as file:
        file.update_tags(**{f"class_{v}": n for v, n in NAMES.items()})
        file.write_colormap(1, {0: (1, 2, 3, 255), 4: (200, 0, 0, 255), 7: (0, 99, 0, 255)})
    return path


def ground(seed=0, height=70, width=50):
    rng = np.random.default_rng(seed)
    soft = ndimage.gaussian_filter(rng.random((height, width)), 2)
    stored = np.select([soft < 0.47, soft < 0.52], [0, 4], 7)
    stored[:5, :5] = 255
    return stored


@pytest.mark.parametrize("name", ["p.gpkg", "p.parquet"])
def test_the_polygons_are_the_map_with_class_area_and_confidence(tmp_path, monkeypatch, name):
    monkeypatch.setattr(strips, "_ROWS", 16)
    stored = ground()
    probs = np.random.default_rng(1).random((3, *stored.shape)).astype(np.float32)
    path = make(tmp_path, stored)
    done = rm.vectorize(
        path, tmp_path / name, probabilities=write(tmp_path / "q.tif", probs, names=list(NAMES.values())), quiet=True
    )  # fmt: skip
    frame = gpd.read_parquet(tmp_path / name) if name.endswith("parquet") else gpd.read_file(tmp_path / name)
    with rasterio.open(path) as file:
        burnt = rasterize(
            zip(frame.geometry, frame["class"], strict=True), file.shape, transform=file.transform
        )
        assert frame.crs == file.crs
    assert np.array_equal(burnt, np.where(stored == 255, 0, stored))
    assert frame.is_valid.all()
    assert set(zip(frame["class"], frame["name"], strict=True)) == {(4, "house"), (7, "wood & field")}
    assert done.left_out == ("background",)
    assert sum(done.polygons.values()) == len(frame)
    geod = Geod(ellps="GRS80")
    for shape, area in zip(frame.to_crs(4258).geometry, frame["area_m2"], strict=True):
        assert abs(geod.geometry_area_perimeter(shape)[0]) == pytest.approx(area, rel=1e-4)
    row = frame.iloc[frame["pixels"].argmax()]
    with rasterio.open(path) as file:
        inside = rasterize([row.geometry], file.shape, transform=file.transform) == 1
    k = list(NAMES).index(row["class"])
    assert row["confidence"] == pytest.approx(probs[k][inside].mean(), abs=1e-4)
    style = ET.parse((tmp_path / name).with_suffix(".qml")).getroot()
    assert style.find("renderer-v2").get("attr") == "name"
    assert [c.get("value") for c in style.findall(".//category")] == ["house", "wood & field"]
    assert "200,0,0,255" in [o.get("value") for o in style.findall(".//Option[@name='color']")]


@pytest.mark.parametrize("suffix", ["gpkg", "parquet"])
def test_polygons_of_the_map_s_own_name_leave_its_style_alone(tmp_path, suffix):
    path = make(tmp_path, ground())
    style = path.with_suffix(".qml")
    style.write_text("<qgis><pipe><rasterrenderer/></pipe></qgis>")
    out = path.with_suffix(f".{suffix}")
    with (
        nullcontext()
        if suffix == "gpkg"
        else pytest.warns(RaremapWarning, match=r"style of a raster and is kept")
    ):
        rm.vectorize(path, out, quiet=True)
    assert style.read_text() == "<qgis><pipe><rasterrenderer/></pipe></qgis>"
    if suffix == "parquet":
        return
    with closing(sqlite3.connect(out)) as base:
        ((layer, default, text),) = base.execute(
            "SELECT f_table_name, useAsDefault, styleQML FROM layer_styles"
        )
    assert (layer, default) == ("map", 1)
    renderer = ET.fromstring(text.split(">", 1)[1]).find("renderer-v2")
    assert [c.get("value") for c in renderer.findall(".//category")] == ["house", "wood & field"]
    assert len(gpd.read_file(out, layer="map"))


def test_the_background_is_written_when_asked_and_classes_can_be_chosen(tmp_path):
    path, out = make(tmp_path, ground()), tmp_path / "p.gpkg"
    rm.vectorize(path, out, background=True, quiet=True)
    assert set(gpd.read_file(out)["class"]) == {0, 4, 7}
    rm.vectorize(path, out, classes=["house"], quiet=True)
    frame = gpd.read_file(out)
    assert set(frame["class"]) == {4}
    assert frame["confidence"].isna().all()


def test_polygons_of_a_map_of_many_changes_keep_its_codes(tmp_path):
    rng = np.random.default_rng(0)
    names = {v: f"c{v}" for v in range(1, 18)}
    before, after = (np.kron(rng.integers(1, 18, (20, 25)), np.ones((2, 3), int)) for _ in "ab")
    after[:20] = before[:20]
    one, two = (write_map(tmp_path / f"{n}.tif", a, names) for n, a in (("a", before), ("b", after)))
    rm.change(one, two, tmp_path / "c.tif", quiet=True)
    codes = 17 * (before - 1) + after - 1
    for background in (False, True):
        done = rm.vectorize(tmp_path / "c.tif", tmp_path / "p.gpkg", background=background, quiet=True)
        frame = gpd.read_file(tmp_path / "p.gpkg")
        with rasterio.open(tmp_path / "c.tif") as file:
            where = {"out_shape": file.shape, "transform": file.transform, "fill": 999, "dtype": "int32"}
        burnt = rasterize(zip(frame.geometry, frame["class"], strict=True), **where)
        assert np.array_equal(burnt, np.where((before == after) & (not background), 999, codes))
    assert codes.max() > 255
    assert set(frame["name"]) == {f"c{a} → c{b}" for a, b in zip(before.flat, after.flat, strict=True)}
    style = ET.parse(tmp_path / "p.qml").getroot()
    assert {c.get("value") for c in style.findall(".//category")} == set(frame["name"])
    assert len(str(done).splitlines()) == 1 + frame["name"].nunique()
    assert "and " not in str(done)


def test_components_that_hold_together_by_corners_are_warned_of(tmp_path):
    path = make(tmp_path, ground())
    for connectivity in (8, 4):
        rm.clean(path, tmp_path / "c.tif", mmu=300, connectivity=connectivity, quiet=True)
        with (
            nullcontext()
            if connectivity == 4
            else pytest.warns(
                RaremapWarning, match="below the minimum mapping unit; clean with --connectivity 4"
            )
        ):
            rm.vectorize(tmp_path / "c.tif", tmp_path / "p.gpkg", background=True, quiet=True)
        least = gpd.read_file(tmp_path / "p.gpkg")["pixels"].min()
        assert (least >= 3) == (connectivity == 4)


def test_simplified_neighbours_keep_their_common_borders(tmp_path):
    path, out = make(tmp_path, ground(3, 90, 80)), tmp_path / "p.gpkg"
    rm.vectorize(path, out, background=True, quiet=True)
    before = gpd.read_file(out)
    rm.vectorize(path, out, background=True, simplify_m=25, quiet=True)
    after = gpd.read_file(out)
    assert after.is_valid.all()
    assert shapely.coverage_is_valid(after.geometry.to_numpy())
    points = [shapely.get_num_coordinates(f.geometry.to_numpy()).sum() for f in (before, after)]
    assert points[1] < 0.6 * points[0]
    together = [f.union_all().area for f in (before, after)]
    assert after.area.sum() == pytest.approx(together[1])  # nothing lies twice
    assert together[1] == pytest.approx(together[0], rel=0.02)
    assert np.allclose(np.sort(after["area_m2"]), np.sort(before["area_m2"]))  # that of the pixels


def test_a_map_without_a_polygon_gives_an_empty_layer(tmp_path):
    path = make(tmp_path, np.full((30, 30), 255))
    for name in ("p.gpkg", "p.parquet"):
        done = rm.vectorize(path, tmp_path / name, quiet=True)
        assert done.polygons == {"house": 0, "wood & field": 0}
        frame = gpd.read_parquet(tmp_path / name) if "parquet" in name else gpd.read_file(tmp_path / name)
        assert not len(frame)


def test_wrong_input_is_told_in_one_line(tmp_path, capsys):
    path = make(tmp_path, ground())
    with pytest.raises(OutputError, match=r"neither \.gpkg nor \.parquet"):
        rm.vectorize(path, tmp_path / "p.shp", quiet=True)
    with pytest.raises(LabelError, match="names 'hous', which is not a class; did you mean 'house'"):
        rm.vectorize(path, tmp_path / "p.gpkg", classes=["hous"], quiet=True)
    with pytest.raises(ConfigError, match="simplify -3"):
        rm.vectorize(path, tmp_path / "p.gpkg", simplify_m=-3, quiet=True)
    code, out, err = raremap(capsys, "vectorize", path, "-o", tmp_path / "p.gpkg", "--classes", "", "-q")
    assert code == 2
    assert "no class of" in err
    code, out, _ = raremap(capsys, "vectorize", path, "-o", tmp_path / "p.gpkg", "--json", "-q")
    assert code == 0
    assert json.loads(out)["left_out"] == ["background"]
