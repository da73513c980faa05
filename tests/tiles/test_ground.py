"""No ground in two uses: whatever the dates, sizes, overlaps and buffers; the truth is ground that was painted."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from tests.rasters import write

from raremap.errors import RaremapWarning, SplitError
from raremap.labels import LabelScheme
from raremap.scene.sources import ScenesOptions
from raremap.tiles.options import USES, SplitOptions, TileOptions
from raremap.tiles.prepare import prepare
from raremap.tiles.splits import NEAR, SHARED, dropped_at_borders, uses

SCHEME = LabelScheme({1: "land", 2: "water"})
PIXEL = 10.0


def ground_scene(path: Path, row: int, col: int, height: int, width: int, seed: int = 0, **more) -> None:
    """A labelled scene whose first pixel is that row and column of the ground."""
    rng = np.random.default_rng((seed, row, col))
    origin = (4e5 + col * PIXEL, 4.6e6 - row * PIXEL)
    if more.get("crs", "") is None:
        more["transform"] = Affine(PIXEL, 0, origin[0], 0, -PIXEL, origin[1])
    write(path, rng.integers(1, 255, (1, height, width), dtype=np.uint8), origin, PIXEL, **more)
    write(
        path.parent.parent / "mask" / path.name.split("_")[-1],
        rng.integers(1, 3, (height, width), dtype=np.uint8),
        origin,
        PIXEL,
        **more,
    )


def painted(catalog, use, offsets, shape):
    """Ground of each use, bool by name, from windows and the scenes' offsets alone."""
    out = {}
    for name in (*USES, "holdout"):
        seen = np.zeros(shape, bool)
        for r in np.flatnonzero(use == name):
            w = catalog.windows[r]
            row, col = offsets[str(catalog.scene_names[r]).split("@")[0]]
            seen[row + w.row_off : row + w.row_end, col + w.col_off : col + w.col_end] = True
        out[name] = seen
    return out


@st.composite
def layouts(draw):
    scenes = draw(
        st.lists(st.tuples(*(st.integers(0, 60),) * 2, *(st.integers(80, 140),) * 2), min_size=1, max_size=3)
    )
    sizes = draw(st.lists(st.sampled_from([16, 20, 24]), min_size=1, max_size=2, unique=True))
    return {
        "scenes": scenes,
        "dates": draw(st.integers(1, 2)),
        "crs": draw(st.booleans()),
        "tiles": TileOptions(size=sizes, stride=draw(st.sampled_from([None, 8, 12]))),
        "buffer": draw(st.sampled_from([0, 0, 3, 7])),
        "block": draw(st.integers(20, 40)),
        "metres": draw(st.booleans()),
        "seed": draw(st.integers(0, 5)),
    }


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
@given(layouts())
def test_no_pixel_of_ground_is_in_two_uses(layout):
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", RaremapWarning)
        folder = Path(name)
        offsets = {}
        for i, (row, col, height, width) in enumerate(layout["scenes"]):
            offsets[f"s{i}"] = (row, col)
            for month in range(layout["dates"]):
                more = {} if layout["crs"] else {"crs": None}
                ground_scene(folder / f"img/2024-0{month + 4}_s{i}.tif", row, col, height, width, **more)
        in_metres = layout["metres"] and layout["crs"]
        split = SplitOptions(
            folds=3,
            seed=layout["seed"],
            **({"block_m": layout["block"] * PIXEL} if in_metres else {"block_px": layout["block"]}),
            **({"buffer_m": layout["buffer"] * PIXEL} if in_metres and layout["buffer"] else {}),
            **({"buffer_px": layout["buffer"]} if not in_metres and layout["buffer"] else {}),
        )
        scenes = ScenesOptions(root=name, images="img/{date}_*.tif", masks="mask/*.tif")
        catalog = prepare(scenes, SCHEME, layout["tiles"], split, quiet=True)
        try:
            use = uses(catalog)
        except SplitError:  # too few places, or all of a use dropped
            assume(False)
            return
    assert catalog.table["date"].nunique() == layout["dates"]
    ground = painted(catalog, use, offsets, (200, 200))
    assert (sum(g.astype(int) for g in ground.values()) <= 1).all()
    if layout["buffer"]:
        for name, here in ground.items():
            others = np.logical_or.reduce([g for n, g in ground.items() if n != name])
            if here.any() and others.any():
                # Rows and columns between the edges of two pixels: one less than between the pixels.
                gaps = ndimage.distance_transform_cdt(~others, "chessboard")[here].min() - 1
                rows, cols = np.nonzero(here)
                other_rows, other_cols = np.nonzero(others)
                if gaps < layout["buffer"]:  # the corner-wise distance is longer: look exactly
                    down = np.maximum(np.abs(rows[:, None] - other_rows[None]) - 1, 0)
                    right = np.maximum(np.abs(cols[:, None] - other_cols[None]) - 1, 0)
                    assert np.hypot(down, right).min() >= layout["buffer"] - 1e-6
    dropped = dropped_at_borders(catalog)
    assert sum(dropped.values()) == (use == "dropped").sum()
    assert set(dropped) == ({SHARED, NEAR} if layout["buffer"] else {SHARED})


def catalog_of(folder: Path, split: SplitOptions, size: int = 16, **more):
    scenes = ScenesOptions(**{"root": str(folder), "images": "img/*.tif", "masks": "mask/*.tif", **more})
    return prepare(scenes, SCHEME, TileOptions(size=size), split, quiet=True)


def places_of(catalog) -> dict[str, str]:
    return dict(zip(catalog.scene_names, catalog.table["place"], strict=True))


def test_files_of_a_mosaic_without_crs_that_touch_are_one_place(tmp_path):
    for i in range(12):  # twelve pairs side by side, the pairs apart
        ground_scene(tmp_path / f"img/a{i}.tif", 40 * i, 0, 16, 16, crs=None)
        ground_scene(tmp_path / f"img/b{i}.tif", 40 * i, 16, 16, 16, crs=None)
    places = places_of(catalog_of(tmp_path, SplitOptions()))
    assert all(places[f"a{i}"] == places[f"b{i}"] for i in range(12))
    assert len(set(places.values())) == 12


def test_a_mosaic_that_all_hangs_together_keeps_its_files_as_places_unless_asked(tmp_path):
    for i in range(11):
        ground_scene(tmp_path / f"img/a{i}.tif", 0, 16 * i, 16, 16, crs=None)
    assert len(set(places_of(catalog_of(tmp_path, SplitOptions())).values())) == 11
    asked = catalog_of(tmp_path, SplitOptions(places="touching"))
    assert len(set(places_of(asked).values())) == 1


def test_scenes_that_touch_at_a_corner_or_overlap_through_a_third_are_one_place(tmp_path):
    for name, row, col in (("a", 0, 0), ("b", 16, 16), ("c", 24, 24), ("d", 60, 60)):
        ground_scene(tmp_path / f"img/{name}.tif", row, col, 16, 16)
    places = places_of(catalog_of(tmp_path, SplitOptions(places="touching")))
    assert places["a"] == places["b"] == places["c"] != places["d"]


def test_a_pixel_size_alone_is_no_place(tmp_path):
    for i in range(12):
        more = {"crs": None, "transform": Affine(PIXEL, 0, 0, 0, -PIXEL, 0)}
        rng = np.random.default_rng(i)
        write(tmp_path / f"img/t{i}.tif", rng.integers(1, 255, (16, 16), dtype=np.uint8), **more)
        write(tmp_path / f"mask/t{i}.tif", rng.integers(1, 3, (16, 16), dtype=np.uint8), **more)
    catalog = catalog_of(tmp_path, SplitOptions(folds=3))
    assert catalog.table["place"].nunique() == 12
    assert not (uses(catalog) == "dropped").any()


def test_runs_of_files_count_nine_before_ten(tmp_path):
    for i in range(1, 13):
        write(tmp_path / f"img/image_{i}.png", np.full((3, 16, 16), 9, np.uint8))
        write(tmp_path / f"mask/image_{i}.png", np.ones((16, 16), np.uint8))
    catalog = catalog_of(
        tmp_path, SplitOptions(block_files=5), images="img/image_*.png", masks="mask/image_*.png"
    )
    places = places_of(catalog)
    assert {n for n, p in places.items() if p == "files 1-5"} == {"1", "2", "3", "4", "5"}
    assert {n for n, p in places.items() if p == "files 6-10"} == {"6", "7", "8", "9", "10"}
    assert {n for n, p in places.items() if p == "files 11-12"} == {"11", "12"}


def test_runs_of_files_do_not_leave_their_places(tmp_path):
    for part, last in (("test", 3), ("train", 12)):
        for i in range(1, last + 1):
            write(tmp_path / f"{part}/img/{i}.png", np.full((3, 16, 16), 9, np.uint8))
            write(tmp_path / f"{part}/mask/{i}.png", np.ones((16, 16), np.uint8))
    split = SplitOptions(places=1, block_files=2, test=["test"])
    catalog = catalog_of(tmp_path, split, images="*/img/*.png", masks="*/mask/*.png")
    places = places_of(catalog)
    assert [places[f"test/{i}"] for i in (1, 2, 3)] == ["test/files 1-2", "test/files 1-2", "test/files 3-3"]
    assert {n for n, p in places.items() if p == "train/files 9-10"} == {"train/9", "train/10"}
    assert sorted(catalog.scene_names[uses(catalog, warn=False) == "test"]) == ["test/1", "test/2", "test/3"]


def test_dates_without_coordinates_stay_together(tmp_path):
    for i in range(12):
        for date in ("20240401", "20240801"):
            write(tmp_path / f"img/{date}_t{i}.png", np.full((3, 32, 32), 9, np.uint8))
        write(tmp_path / f"mask/t{i}.png", np.ones((32, 32), np.uint8))
    options = {"images": "img/{date}_*.png", "masks": "mask/*.png"}
    for split in (SplitOptions(), SplitOptions(block_px=16), SplitOptions(block_files=2)):
        catalog = catalog_of(tmp_path, split, **options)
        by_date = catalog.table.sort_values(["row_off", "col_off"]).groupby("date")
        first, second = (
            dict(
                zip(
                    zip(t["scene"].str.split("@").str[0], t["row_off"], t["col_off"], strict=True),
                    t["place"],
                    strict=True,
                )
            )
            for _, t in by_date
        )
        assert first == second
        assert len(first) == 12 * 4


def test_a_list_that_parts_the_dates_of_a_place_is_told(tmp_path):
    for date in ("2024-04", "2024-08"):
        ground_scene(tmp_path / f"img/{date}_s0.tif", 0, 0, 32, 32)
    (tmp_path / "p.json").write_text('{"2024-04_s0.tif": "a", "2024-08_s0.tif": "b"}')
    with pytest.raises(
        SplitError, match=r"puts s0@2024-08 into the place 'b' and another date of it into 'a'"
    ):
        catalog_of(tmp_path, SplitOptions(places="p.json"), images="img/{date}_*.tif")


def test_a_buffer_in_metres_is_one_on_the_ground_in_degrees_too(tmp_path):
    """Two scenes at 60° north, 100 columns of about 5.6 m apart: the truth is geodesic."""
    from pyproj import Geod

    pixel = 1e-4
    for i, col in enumerate((0, 132, 5000, 9000)):
        rng = np.random.default_rng(i)
        for kind, array in (
            ("img", rng.integers(1, 9, (32, 32), dtype=np.uint8)),
            ("mask", np.ones((32, 32), np.uint8)),
        ):
            write(tmp_path / f"{kind}/s{i}.tif", array, (10 + col * pixel, 60.0), pixel, crs="EPSG:4326")
    _, _, gap = Geod(ellps="WGS84").inv(10 + 32 * pixel, 60.0, 10 + 132 * pixel, 60.0)
    assert 500 < gap < 600
    (tmp_path / "p.json").write_text('{"s0": "a", "s1": "b", "s2": "c", "s3": "d"}')
    for buffer, dropped in ((gap * 0.98, 0), (gap * 1.02, 1)):
        split = SplitOptions(places="p.json", test=["a"], buffer_m=buffer)
        catalog = catalog_of(tmp_path, split, size=32)
        assert dropped_at_borders(catalog)[NEAR] == dropped


def test_a_buffer_in_metres_needs_a_crs(tmp_path):
    for i in range(4):
        ground_scene(tmp_path / f"img/a{i}.tif", 0, 40 * i, 32, 32, crs=None)
    catalog = catalog_of(tmp_path, SplitOptions(folds=3, block_px=16, buffer_m=50.0))
    with pytest.raises(
        SplitError, match=r"scene a0 has no CRS, so split\.buffer_m has no meaning; use split\.buffer_px"
    ):
        uses(catalog)


@pytest.mark.parametrize("split", [{}, {"block_px": 16}, {"block_files": 1}])
def test_scenes_with_and_without_a_crs_are_not_compared(tmp_path, split):
    ground_scene(tmp_path / "img/a.tif", 0, 0, 32, 32)
    ground_scene(tmp_path / "img/b.tif", 0, 40, 32, 32, crs=None)
    with pytest.raises(SplitError, match=r"b\.tif has no CRS, but .*a\.tif has one; give both the same"):
        catalog_of(tmp_path, SplitOptions(**split))
