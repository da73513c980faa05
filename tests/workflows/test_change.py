"""`raremap change`: differences of two maps, and change that is estimated."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
from tests.command import raremap
from tests.rasters import write
from tests.workflows.mapped import write_map

from raremap.errors import OutputError, RaremapWarning, SampleError, SceneError
from raremap.workflows.change import change
from raremap.workflows.sample import sample

NAMES = {1: "forest", 2: "water", 7: "slide"}
VALUES = np.array([1, 2, 7])


def maps(
    folder: Path, size: tuple[int, int] = (60, 70), seed: int = 0
) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    before = rng.choice([1, 2, 7, 255], size, p=[0.6, 0.2, 0.1, 0.1]).astype(np.uint8)
    after = np.where(rng.random(size) < 0.2, rng.choice([1, 2, 7, 255], size), before).astype(np.uint8)
    return (
        write_map(folder / "a.tif", before, NAMES),
        write_map(folder / "b.tif", after, NAMES),
        before,
        after,
    )


def test_every_pixel_has_the_code_of_its_two_classes(tmp_path: Path) -> None:
    one, other, before, after = maps(tmp_path)
    found = change(one, other, tmp_path / "c.tif", quiet=True)
    there = (before != 255) & (after != 255)
    expected = np.full(before.shape, 65535)
    expected[there] = 3 * np.searchsorted(VALUES, before[there]) + np.searchsorted(VALUES, after[there])
    with rasterio.open(tmp_path / "c.tif") as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert (file.nodata, file.dtypes[0], file.crs.to_epsg()) == (65535, "uint16", 25831)
        assert file.tags()["class_2"] == "forest → slide"
    assert found.found.missing == (~there).sum()
    lines = (tmp_path / "c.csv").read_text(encoding="utf-8").splitlines()
    rows = {(r["from"], r["to"]): int(r["pixels"]) for r in csv.DictReader(lines)}
    assert rows[("forest", "slide")] == ((before == 1) & (after == 7)).sum()
    assert sum(rows.values()) == there.sum()
    style = ET.fromstring((tmp_path / "c.qml").read_text(encoding="utf-8").split(">", 1)[1])
    labels = {e.get("value"): e.get("label") for e in style.iter("paletteEntry")}
    assert labels["2"] == "forest → slide"
    assert "differences of maps, not estimated change" in str(found)


def test_blocks_are_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, *_ = maps(tmp_path)
    whole = change(one, other, tmp_path / "c.tif", quiet=True)
    monkeypatch.setattr("raremap.maps.classmap._BLOCK", 16)
    pieces = change(one, other, tmp_path / "d.tif", quiet=True)
    np.testing.assert_array_equal(whole.found.pixels, pieces.found.pixels)
    np.testing.assert_allclose(whole.found.ground, pieces.found.ground)
    assert (
        rasterio.open(tmp_path / "c.tif").read().tobytes()
        == rasterio.open(tmp_path / "d.tif").read().tobytes()
    )


def test_maps_that_do_not_fit_are_told(tmp_path: Path) -> None:
    one, other, before, _ = maps(tmp_path)
    small = write_map(tmp_path / "small.tif", before[:50], NAMES)
    with pytest.raises(SceneError, match=r"small\.tif has size 70x50, expected 70x60 as .*a\.tif has"):
        change(one, small, tmp_path / "c.tif", quiet=True)
    moved = write_map(tmp_path / "moved.tif", before, NAMES, origin=(4e5 + 5, 4.6e6))
    with pytest.raises(SceneError, match=r"another grid \(shifted"):
        change(one, moved, tmp_path / "c.tif", quiet=True)
    renamed = write_map(tmp_path / "renamed.tif", before, {**NAMES, 2: "lake"})
    with pytest.raises(SceneError, match=r"value 2 is 'water' in .* and 'lake' in"):
        change(one, renamed, tmp_path / "c.tif", quiet=True)
    with pytest.raises(SceneError, match="no legend"):
        change(one, write(tmp_path / "bare.tif", before), tmp_path / "c.tif", quiet=True)
    bare = write_map(tmp_path / "bare.tif", before, NAMES, crs=None)
    with pytest.raises(SceneError, match=r"bare\.tif has no CRS, .*a\.tif has one"):
        change(one, bare, tmp_path / "c.tif", quiet=True)
    with pytest.raises(OutputError, match=r"k\.png is no name for a map; give one that ends in \.tif"):
        change(one, other, tmp_path / "k.png", quiet=True)
    with pytest.raises(OutputError, match="would overwrite the map"):
        change(one, other, one, quiet=True)


def test_change_is_estimated_from_a_sample(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    before = np.ones((150, 150), np.uint8)
    after = before.copy()
    for _ in range(9):
        r, c = rng.integers(0, 135, 2)
        after[r : r + 9, c : c + 11] = 7
    seen = after.copy()  # the later map: slides of its own, and some missed
    seen[rng.random(after.shape) < 0.01] = 7
    seen[:70][after[:70] == 7] = np.where(rng.random((after[:70] == 7).sum()) < 0.3, 1, 7)
    one, other = write_map(tmp_path / "a.tif", before, NAMES), write_map(tmp_path / "b.tif", seen, NAMES)
    change(one, other, tmp_path / "c.tif", quiet=True)
    drawn = sample(tmp_path / "c.tif", tmp_path / "p.gpkg", points=900, quiet=True)
    assert [s.name for s in drawn.strata] == ["no change", "forest → slide", "beside rare classes"]
    frame = pyogrio.read_dataframe(tmp_path / "p.gpkg", layer="points")
    col, row = ((frame.geometry.x - 4e5) / 10).astype(int), ((4.6e6 - frame.geometry.y) / 10).astype(int)
    frame["reference"] = np.where(after[row, col] == 7, "forest → slide", "forest → forest")
    pyogrio.write_dataframe(frame, tmp_path / "p.gpkg", layer="points")
    found = change(one, other, tmp_path / "c.tif", tmp_path / "p.gpkg", quiet=True)
    assert found.estimated is not None
    estimate, true = found.estimated.areas["forest → slide"], (after == 7).sum() / 100
    assert abs(estimate.value - true) < 3 * estimate.se
    assert "estimated from the reference sample" in str(found)


def test_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other, *_ = maps(tmp_path)
    code, out, _ = raremap(capsys, "change", one, other, "-o", tmp_path / "c.tif", "--json", "-q")
    assert code == 0
    assert json.loads(out)["what"] == "differences of maps, not estimated change"


def test_points_of_another_origin_tell_of_change_where_one_says_how_they_were_drawn(tmp_path: Path) -> None:
    import geopandas as gpd

    one, other, before, after = maps(tmp_path)
    there = (before != 255) & (after != 255)
    row, col = np.nonzero(there)  # every pixel: the estimate is the count
    code = 3 * np.searchsorted(VALUES, before[there]) + np.searchsorted(VALUES, after[there])
    with rasterio.open(one) as file:
        x, y = file.xy(row, col)
    frame = gpd.GeoDataFrame({"reference": code}, geometry=gpd.points_from_xy(x, y), crs="EPSG:25831")
    frame.to_file(tmp_path / "own.gpkg")
    with pytest.raises(SampleError, match="does not say how its points were drawn"):
        change(one, other, tmp_path / "c.tif", tmp_path / "own.gpkg", quiet=True)
    with pytest.warns(RaremapWarning, match="as was said"):
        found = change(
            one, other, tmp_path / "c.tif", tmp_path / "own.gpkg", random_within_classes=True, quiet=True
        )
    assert found.estimated is not None
    assert found.estimated.found.overall.value == pytest.approx(1.0)
