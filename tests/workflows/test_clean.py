"""`raremap clean`: a map to a map, and what wrong input is told."""

from __future__ import annotations

import json
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import rasterio
from tests.command import raremap
from tests.maps.whole import filled
from tests.rasters import write
from tests.workflows.mapped import write_map

import raremap as rm
from raremap.errors import ConfigError, LabelError, OutputError, RaremapWarning, SceneError
from raremap.maps import strips
from raremap.maps.exact import ExactAreas
from raremap.scene.raster import open_image

NAMES = {3: "forest", 5: "house", 9: "water"}
VALUES = np.array([3, 5, 9])


@pytest.fixture(autouse=True)
def _filters():
    with warnings.catch_warnings():
        yield


def make(folder, index, pixel=10.0, legend=True, **more):
    """A map of class index (255: no data) with values 3, 5 and 9."""
    stored = np.where(index == 255, 200, VALUES[np.minimum(index, 2)]).astype(np.uint8)
    path = write(folder / "map.tif", stored, pixel=pixel, nodata=200, **more)
    with rasterio.open(path, "r+") as file:
        if legend:
            file.update_tags(raremap_model="m", **{f"class_{v}": n for v, n in NAMES.items()})
        file.write_colormap(1, {3: (0, 90, 0, 255), 5: (200, 0, 0, 255), 9: (0, 0, 200, 255)})
    return path


def noise(seed, height=61, width=47):
    rng = np.random.default_rng(seed)
    index = rng.choice([0, 0, 0, 1, 2], (height, width)).astype(np.uint8)
    index[rng.random((height, width)) < 0.1] = 255
    return index


def expected(path, index, pixels, *more, **rest):
    """The whole scene cleaned; sizes in pixels of 100 m², which in UTM are that within 0.5 %."""
    with open_image(path) as image:
        exact = ExactAreas(image.grid)
    limits = {
        k: exact.whole(99.5 * np.array(v)) for k, v in {"unit": pixels, **rest}.items() if k != "confidence"
    }
    if "confidence" in rest:
        limits["confidence"] = rest["confidence"]
    return filled(index, exact.areas(image.grid.window), limits.pop("unit"), *more, **limits)


def read(path):
    with rasterio.open(path) as file:
        stored = file.read(1)
    index = np.full(stored.shape, 255, np.uint8)
    for k, v in enumerate(VALUES):
        index[stored == v] = k
    assert np.array_equal(index == 255, stored == 200)
    return index


@pytest.mark.parametrize("rows", [8, 512])
def test_a_map_is_cleaned_as_the_whole_scene_would_be(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(strips, "_ROWS", rows)
    index = noise(0)
    path = make(tmp_path, index)
    done = rm.clean(path, tmp_path / "out" / "clean.tif", mmu={"forest": 1500, "house": 300}, quiet=True)
    got = read(tmp_path / "out" / "clean.tif")
    assert np.array_equal(got, expected(path, index, [15, 3, 0], True))
    assert done.changed_pixels == (got != index).sum() > 0
    assert done.pixels == (index != 255).sum()
    assert done.area_m2["house"][1] == pytest.approx((got == 1).sum() * 100, rel=2e-3)


def test_the_cleaned_map_keeps_grid_legend_tags_and_style(tmp_path):
    path = make(tmp_path, noise(1))
    rm.clean(path, tmp_path / "clean.tif", mmu=900, quiet=True)
    with rasterio.open(path) as old, rasterio.open(tmp_path / "clean.tif") as new:
        assert (new.crs, new.transform, new.shape, new.nodata) == (old.crs, old.transform, old.shape, 200)
        assert {v: new.colormap(1)[v] for v in NAMES} == {v: old.colormap(1)[v] for v in NAMES}
        tags = new.tags()
        assert {f"class_{v}": n for v, n in NAMES.items()}.items() <= tags.items()
        assert tags["raremap_model"] == "m"
        assert json.loads(tags["raremap_clean"]) == {"mmu": 900}
        assert new.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    entries = ET.parse(tmp_path / "clean.qml").getroot().findall(".//paletteEntry")
    assert [(e.get("value"), e.get("label")) for e in entries] == [(str(v), n) for v, n in NAMES.items()]


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_probabilities_choose_among_neighbours_and_doubtful_components_go(tmp_path, kind):
    rng = np.random.default_rng(2)
    index = noise(2)
    steps = rng.integers(0, 251, (3, *index.shape)).astype(np.uint8)
    probs = steps if kind == "uint8" else (steps / np.float32(250)).astype(np.float32)
    path = write(
        tmp_path / "p.tif", probs, names=list(NAMES.values()), nodata=255 if kind == "uint8" else np.nan
    )
    if kind == "uint8":
        with rasterio.open(path, "r+") as file:
            file.scales = (0.004,) * 3
    source = make(tmp_path, index)
    rm.clean(
        source, tmp_path / "clean.tif", mmu={"house": 200}, small={"water": 700}, min_confidence=0.52,
        probabilities=path, quiet=True,
    )  # fmt: skip
    whole = expected(
        source, index, [0, 2, 0], True, steps.astype(float) / 250, doubtful=[0, 0, 7], confidence=0.52 - 1e-9
    )
    assert np.array_equal(read(tmp_path / "clean.tif"), whole)


def test_in_degrees_a_pixel_counts_by_its_ground(tmp_path):
    index = np.zeros((1800, 3), np.uint8)
    index[::20, 1] = 1
    path = make(tmp_path, index, pixel=0.1, crs="EPSG:4326")
    with rasterio.open(path, "r+") as file:
        file.transform = rasterio.transform.from_origin(0, 90, 0.1, 0.1)
    limit = 6371**2 * np.radians(0.1) ** 2 * np.cos(np.radians(60))  # km² of a pixel at 60 degrees, about
    rm.clean(path, tmp_path / "clean.tif", mmu={"house": limit * 1e6}, quiet=True)
    rows = np.flatnonzero((read(tmp_path / "clean.tif") == 1).any(1))
    assert abs(90 - rows * 0.1).max() == pytest.approx(60, abs=1.5)


def test_the_order_is_majority_opening_closing_components(tmp_path):
    index = np.zeros((40, 40), np.uint8)
    index[5:8, 5:30] = 1  # a bar of three rows: an opening of 50 m takes it away
    index[20:30, 20:30] = 1
    index[24:26, 24:26] = 2  # a gap that a closing of 40 m fills
    index[35, 35] = 1  # a crumb
    out = tmp_path / "clean.tif"
    rm.clean(
        make(tmp_path, index), out, {"open": {"house": 50}, "close": {"house": 40}, "mmu": 200}, quiet=True
    )
    block = np.zeros((40, 40), bool)
    block[20:30, 20:30] = True
    got = read(out) == 1
    assert not got[:18].any()
    assert not got[33:].any()
    assert got[24:26, 24:26].all()
    assert (got & ~block).sum() == 0
    assert got.sum() >= 88  # an opening by a disc rounds the corners
    rm.clean(make(tmp_path, index), out, majority=3, quiet=True)
    assert read(out)[35, 35] == 0


def test_filters_by_tiles_are_those_of_the_whole_scene(tmp_path, monkeypatch):
    path = make(tmp_path, np.kron(noise(6, 30, 20), np.ones((4, 4), np.uint8)))
    how = {"majority": 3, "open": {"house": 70, "forest": 30}, "close": {"water": 50}, "quiet": True}
    rm.clean(path, tmp_path / "whole.tif", **how)
    monkeypatch.setattr(strips, "_TILE", 1)  # so that a tile is of 32 pixels a side
    rm.clean(path, tmp_path / "tiles.tif", **how)
    whole = read(tmp_path / "whole.tif")
    assert np.array_equal(read(tmp_path / "tiles.tif"), whole)
    assert not np.array_equal(whole, read(path))


def test_classes_above_a_byte_are_cleaned_and_kept(tmp_path):
    index = noise(7)
    path = make(tmp_path, index)
    how = {"mmu": 400, "open": {"house": 30}, "majority": 3, "quiet": True}
    rm.clean(path, tmp_path / "bytes.tif", **how)
    expected = read(tmp_path / "bytes.tif")
    few = {301: "forest", 302: "house", 990: "water"}
    many = {**few, **{v: f"class {v}" for v in range(400, 700)}}
    for names in (few, many):
        values = np.array([301, 302, 990, 65535], np.uint16)
        stored = values[np.minimum(index, 3)]
        wide = write_map(tmp_path / "wide.tif", stored, names, dtype=np.uint16, nodata=65535)
        rm.clean(wide, tmp_path / "c.tif", **how)
        with rasterio.open(tmp_path / "c.tif") as file:
            assert (file.dtypes[0], file.nodata, file.tags()["class_990"]) == ("uint16", 65535, "water")
            assert np.array_equal(file.read(1), values[np.minimum(expected, 3)])


def test_options_come_from_a_file_and_the_command_line_goes_before(tmp_path, capsys):
    path = make(tmp_path, noise(3))
    (tmp_path / "o.yaml").write_text("mmu: {house: 900}\nconnectivity: 4\n")
    words = ("clean", path, "-o", tmp_path / "a.tif", "--options", tmp_path / "o.yaml", "--json", "-q")
    code, out, _ = raremap(capsys, *words, "--mmu", "house: 300, water: 400")
    assert code == 0
    assert json.loads(out)["classes"]["water"]["filled"] > 0
    assert np.array_equal(read(tmp_path / "a.tif"), expected(path, noise(3), [0, 3, 4], False))


def test_all_no_data_and_one_class_pass_unchanged(tmp_path):
    for value in (255, 1):
        index = np.full((20, 9), value, np.uint8)
        rm.clean(make(tmp_path, index), tmp_path / "c.tif", mmu=1e6, majority=3, quiet=True)
        assert np.array_equal(read(tmp_path / "c.tif"), index)


def test_a_size_below_a_pixel_is_said_to_do_nothing(tmp_path):
    path = make(tmp_path, noise(5))
    with pytest.warns(RaremapWarning, match=r"open house of 5 m does nothing: it is one pixel, of 10 x 10 m"):
        done = rm.clean(path, tmp_path / "c.tif", open={"house": 5}, quiet=True)
    assert done.changed_pixels == 0


def test_a_mapping_unit_of_a_pixel_is_said_to_do_nothing(tmp_path, recwarn):
    map_ = make(tmp_path, noise(5))  # pixels of 100 m²
    for size, told in ((100.0, True), (100.1, False)):
        recwarn.clear()
        rm.clean(map_, tmp_path / "c.tif", mmu=size, quiet=True)
        assert any("mmu 100 m² is at most one pixel" in str(w.message) for w in recwarn) == told


def test_wrong_input_is_told_in_one_line(tmp_path):
    path, out = make(tmp_path, noise(4)), tmp_path / "c.tif"
    with pytest.raises(LabelError, match="names 'hous', which is not a class; did you mean 'house'"):
        rm.clean(path, out, mmu={"hous": 3}, quiet=True)
    with pytest.raises(ConfigError, match="'mmus' is no option of clean; did you mean 'mmu'"):
        rm.clean(path, out, mmus=3, quiet=True)
    with pytest.raises(ConfigError, match="majority 4 has no middle pixel"):
        rm.clean(path, out, majority=4, quiet=True)
    with pytest.raises(ConfigError, match="belong together"):
        rm.clean(path, out, min_confidence=0.5, quiet=True)
    with pytest.raises(ConfigError, match="needs the probabilities"):
        rm.clean(path, out, min_confidence=0.5, small=100, quiet=True)
    with pytest.raises(ConfigError, match="mmu -1"):
        rm.clean(path, out, mmu=-1, quiet=True)
    with pytest.raises(OutputError, match="would overwrite"):
        rm.clean(path, path, mmu=1, quiet=True)
    with pytest.raises(ConfigError, match="nothing is to be cleaned; give mmu"):
        rm.clean(path, out, mmu={"house": 0}, connectivity=4, quiet=True)
    with pytest.raises(OutputError, match=r"c\.png is no name for a map; give one that ends in \.tif"):
        rm.clean(path, tmp_path / "c.png", mmu=1, quiet=True)
    with pytest.raises(SceneError, match="does not exist"):
        rm.clean(tmp_path / "no.tif", out, mmu=1, quiet=True)
    other = write(tmp_path / "p.tif", np.zeros((3, 61, 46), np.float32), names=list(NAMES.values()))
    with pytest.raises(SceneError, match="has size 46x61, expected 47x61"):
        rm.clean(path, out, mmu=1, probabilities=other, quiet=True)
    with pytest.raises(SceneError, match=r"p\.tif has 3 bands, expected one of class values"):
        rm.clean(other, out, mmu=1, quiet=True)
    bare = write(tmp_path / "q.tif", np.zeros((3, 61, 47), np.float32))
    with pytest.raises(SceneError, match="no band 'forest'"):
        rm.clean(path, out, mmu=1, probabilities=bare, quiet=True)
    bare = make(tmp_path, noise(4), crs=None)
    with pytest.raises(ConfigError, match="has no CRS"):
        rm.clean(bare, out, mmu=1, quiet=True)
    with pytest.raises(SceneError, match="no legend"):
        rm.clean(make(tmp_path, noise(4), legend=False), out, mmu=1, quiet=True)
    assert not out.exists()
    assert not list(tmp_path.glob(".c*"))
