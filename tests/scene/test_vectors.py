"""Vector labels: every window is what GDAL burns over the whole scene; nothing is left out in silence."""

from __future__ import annotations

import json
import pickle
import re

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.features import rasterize
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from raremap.errors import LabelError, SceneError
from raremap.labels import IGNORE, LabelScheme
from raremap.scene import layers
from raremap.scene.grid import Grid
from raremap.scene.vector_options import VectorOptions
from raremap.scene.vectors import open_vector
from raremap.scene.window import Window

SCHEME = LabelScheme({1: "land", 2: "water", 5: "slide"}, ignore=[0])
GRID = Grid(90, 120, CRS.from_epsg(25831), Affine(10, 0, 4e5, 0, -10, 4.6e6))


def layer(path, shapes, crs="EPSG:25831", **columns):
    gpd.GeoDataFrame(columns, geometry=list(shapes), crs=crs).to_file(path)
    return path


def px(col, row, width, height):
    """A rectangle in pixels of `GRID`."""
    x, y = GRID.transform @ (col, row)
    return box(x, y - 10 * height, x + 10 * width, y)


def mask_of(path, grid=GRID, **options):
    return open_vector(path, VectorOptions(**({"attribute": "c"} | options)), SCHEME, grid)


def blobs(n=150, seed=0):
    """Discs over and beyond the grid, some with corners enough to be cut to the window."""
    rng = np.random.default_rng(seed)
    at = np.column_stack([4e5 + rng.uniform(-100, 1300, n), 4.6e6 - rng.uniform(-100, 1000, n)])
    found = shapely.buffer(shapely.points(at), rng.uniform(4, 150, n))
    found[:3] = shapely.buffer(shapely.points(at[:3]), 300, quad_segs=900)
    return found, rng.choice(["land", "water", "slide"], n)


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "shp"])
@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("all_touched", [True, False])
def test_windows_are_what_gdal_burns_over_the_whole_scene(tmp_path, monkeypatch, suffix, keeps, all_touched):
    if not keeps:  # ask the file for each window
        monkeypatch.setattr(layers, "_SMALL", -1)
        monkeypatch.setattr(layers, "_TEXT", frozenset())
    shapes, names = blobs(60)
    crs = "EPSG:4326" if suffix == "geojson" else "EPSG:25831"  # what the format asks for
    frame = gpd.GeoDataFrame({"c": names}, geometry=shapes, crs="EPSG:25831")
    frame.to_crs(crs).to_file(tmp_path / f"a.{suffix}")
    back = gpd.read_file(tmp_path / f"a.{suffix}").to_crs("EPSG:25831")
    back = back.iloc[np.argsort(-back.area.to_numpy(), kind="stable")]
    code = {name: i for i, name in enumerate(SCHEME.names)}
    truth = rasterize(
        [(g, code[c]) for g, c in zip(back.geometry, back["c"], strict=True)],
        (90, 120), fill=IGNORE, transform=GRID.transform, all_touched=all_touched, dtype="uint8",
    )  # fmt: skip
    mask = mask_of(tmp_path / f"a.{suffix}", all_touched=all_touched)
    assert (mask.read(GRID.window) == truth).all()
    parts = [
        [mask.read(Window(r, c, 32, 47).intersect(GRID.window)) for c in range(0, 120, 47)]
        for r in range(0, 90, 32)
    ]
    assert (np.block(parts) == truth).all()


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(-8, 60), st.integers(-8, 60), st.integers(1, 40), st.integers(1, 40)),
        min_size=1, max_size=6,
    ),
    st.integers(1, 40),
    st.integers(1, 40),
)  # fmt: skip
def test_edges_through_pixel_centres_fall_the_same_way_in_every_window(
    tmp_path_factory, rectangles, rows, cols
):
    """Corners on multiples of half a pixel: the ties that rounding would break."""
    path = tmp_path_factory.mktemp("t") / "a.gpkg"
    half = [px(c / 2 + 0.5, r / 2, w / 2, h / 2) for c, r, w, h in rectangles]
    layer(path, half, c=[SCHEME.names[i % 3] for i in range(len(half))])
    grid = Grid(40, 40, GRID.crs, GRID.transform)
    mask = mask_of(path, grid)
    windows = [
        [mask.read(Window(r, c, rows, cols).intersect(grid.window)) for c in range(0, 40, cols)]
        for r in range(0, 40, rows)
    ]
    assert (np.block(windows) == mask.read(grid.window)).all()


def test_the_smallest_is_seen_unless_told_otherwise(tmp_path):
    shapes = [px(10, 10, 4, 4), px(0, 0, 50, 50), px(12, 12, 10, 10)]
    path = layer(tmp_path / "a.gpkg", shapes, c=["slide", "land", "water"], rank=[0, 5, None])
    counts = lambda **o: np.bincount(mask_of(path, **o).read(GRID.window).ravel(), minlength=256)[:3].tolist()  # noqa: E731
    assert counts() == [2500 - 112, 96, 16]  # 4x4 on 10x10 on 50x50; they share 2x2
    assert counts(order="file") == [2400, 100, 0]
    assert counts(priority="rank") == [2500, 0, 0]


@pytest.mark.parametrize("crs", [25831, 3857])
def test_shapes_as_large_as_the_world_cover_the_scene(tmp_path, crs):
    place = Affine(10, 0, 4e5, 0, -10, 4.6e6)
    grid = Grid(90, 120, CRS.from_epsg(crs), place)
    x, y = gpd.GeoSeries([Point(4e5 + 600, 4.6e6 - 450)], crs=crs).to_crs(4326).iloc[0].coords[0]
    # Largest last, so that the file's order would show another one.
    shapes = [box(x - 1e-3, y - 1e-3, x + 1e-3, y + 1e-3), box(-60, 10, 60, 80), box(-180, -90, 180, 90)]
    path = layer(tmp_path / "a.gpkg", shapes, crs=4326, c=["slide", "land", "water"])
    mask = mask_of(path, grid)
    assert sorted(np.unique(mask.read(grid.window), return_counts=True)[0]) == [0, 2]
    assert mask.read(Window(45, 60, 1, 1)).item() == 2
    only = layer(tmp_path / "b.gpkg", shapes[2:], crs=4326, c=["water"])
    assert (mask_of(only, grid).read(grid.window) == 1).all()


@pytest.mark.parametrize("keeps", [True, False])
def test_features_on_both_sides_of_the_date_line(tmp_path, monkeypatch, keeps):
    if not keeps:  # ask the file for each window
        monkeypatch.setattr(layers, "_SMALL", -1)
    grid = Grid(60, 240, CRS.from_epsg(32760), Affine(100, 0, 810600, 0, -100, 8228500))  # Fiji
    x, y = grid.transform @ (0, 30)
    to_degrees = Transformer.from_crs(32760, 4326, always_xy=True).transform
    discs = shapely.buffer(shapely.points([[x + d, y] for d in (3000, 9600, 17000)]), 1500)
    degrees = shapely.transform(discs, lambda xy: np.column_stack(to_degrees(*xy.T)) % [360, 180] - [0, 180])
    degrees = [
        shapely.intersection(degrees, box(0, -90, 180, 0)),
        shapely.intersection(degrees, box(180, -90, 360, 0)),
    ]
    degrees[1] = shapely.transform(degrees[1], lambda xy: xy - [360, 0])
    cut = shapely.union_all(np.array(degrees), axis=0)  # as GeoJSON asks for it: a part on either side
    assert [shapely.bounds(c)[[0, 2]].round().tolist() for c in cut] == [
        [180, 180],
        [-180, 180],
        [-180, -180],
    ]
    world = box(-180, -80, 180, 80)
    path = layer(tmp_path / "l.gpkg", [*cut, world], "EPSG:4326", c=["slide"] * 3 + ["land"])
    truth = rasterize([(d, 2) for d in discs], (60, 240), transform=grid.transform)
    with mask_of(path, grid) as mask:
        assert mask.survey.features == 4
        found = mask.read(grid.window)
        differ = found != truth
        assert differ.sum() < 8  # an edge of a disc is straight in degrees
        assert {0, 2} == set(np.unique(found))
        for col in range(0, 240, 48):
            part = mask.read(Window(0, col, 60, 48))
            assert (part == found[:, col : col + 48]).all()


@pytest.mark.parametrize("says", [True, False])
def test_geojson_that_says_no_crs_has_the_given_one(tmp_path, says):
    path = layer(tmp_path / "l.geojson", [px(10, 20, 30, 40)], c=["slide"])
    text = json.loads(path.read_text())
    if not says:
        del text["crs"]
        path.write_text(json.dumps(text))
    with mask_of(path, crs="EPSG:25831" if not says else "EPSG:4326") as mask:
        found = mask.read(GRID.window)
    assert (found == 2).sum() == (found[20:60, 10:40] == 2).sum() == 1200


def test_points_and_lines_lie_on_polygons(tmp_path):
    x, y = GRID.transform @ (7.5, 5.5)
    line = LineString([(x - 30, y), (x + 30, y)])
    path = layer(tmp_path / "a.gpkg", [Point(x, y), line, px(0, 0, 20, 20)], c=[5, 2, 1])
    truth = np.zeros((20, 20), int)
    truth[5, 4:11] = 1
    truth[5, 7] = 2
    assert (mask_of(path).read(Window(0, 0, 20, 20)) == truth).all()


def test_ground_without_a_feature_is_unlabelled_or_the_background(tmp_path):
    path = layer(tmp_path / "a.gpkg", [px(2, 2, 3, 3), px(3, 3, 1, 1)], c=["slide", "0"])
    seen = mask_of(path).read(Window(0, 0, 6, 6))
    assert (seen == IGNORE).sum() == 36 - 8
    seen = mask_of(path, background="land").read(Window(0, 0, 6, 6))
    assert seen[3, 3] == IGNORE  # a value under labels.ignore is unlabelled also on the background
    assert (seen == 0).sum() == 36 - 9


@pytest.mark.parametrize("suffix", ["geojson", "gpkg", "shp"])
@pytest.mark.parametrize("shapes", [[], [None, None]])
def test_labels_without_a_shape_are_told_in_one_line_unless_all_is_background(tmp_path, suffix, shapes):
    path = layer(tmp_path / f"a.{suffix}", shapes, c=["land", "water"][: len(shapes)])
    expected = "expected polygons, lines or points of the classes; name the class of all its ground"
    found = f"none of the 2 features of {path} has a shape" if shapes else f"{path} holds no feature"
    with pytest.raises(SceneError, match=re.escape(f"{found}, {expected}")) as told:
        assert mask_of(path).survey
    assert "\n" not in str(told.value)
    mask = mask_of(path, background="water")
    assert mask.remark == f"{found}; it is water all over"
    assert (mask.read(GRID.window) == 1).all()


def test_an_empty_geojson_has_no_feature_rather_than_no_column(tmp_path):
    (tmp_path / "a.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(SceneError, match=r"a\.geojson holds no feature, expected polygons"):
        mask_of(tmp_path / "a.geojson")


def test_values_are_read_as_names_numbers_or_by_their_translation(tmp_path):
    boxes = [px(i, 0, 1, 1) for i in range(6)]
    path = layer(tmp_path / "a.gpkg", boxes, c=["slide", "5", " water", "Wald", "Wolke", None])
    seen = mask_of(path, values={"Wald": "land", "Wolke": None}).read(Window(0, 0, 1, 6))
    assert seen.tolist() == [[2, 2, 1, 0, IGNORE, IGNORE]]
    path = layer(tmp_path / "b.gpkg", boxes, c=[5.0, 2.0, 1.0, 312.0, np.nan, 0.0])
    seen = mask_of(path, values={312: "land"}).read(Window(0, 0, 1, 6))
    assert seen.tolist() == [[2, 1, 0, 0, IGNORE, IGNORE]]
    seen = mask_of(path, attribute=None, feature_class="slide").read(Window(0, 0, 1, 6))
    assert seen.tolist() == [[2] * 6]


def test_what_was_mended_left_out_or_claimed_twice_is_counted(tmp_path):
    x, y = GRID.transform @ (40, 40)
    bowtie = Polygon([(x, y), (x + 100, y - 100), (x + 100, y), (x, y - 100)])
    shapes = [bowtie, None, px(0, 0, 10, 10), px(5, 0, 10, 10), px(60, 60, 5, 5)]
    path = layer(tmp_path / "a.gpkg", shapes, c=["slide", "land", "land", "water", None])
    mask = mask_of(path)
    found = mask.survey
    assert (found.features, found.repaired, found.no_shape, found.no_class) == (4, 1, 1, 1)
    assert "1 invalid shapes were repaired" in mask.remark
    assert "1 features without 'c' were left out" in mask.remark
    slide = int((mask.read(GRID.window) == 2).sum())
    assert slide == pytest.approx(50, abs=10)  # two triangles of 25 pixels
    assert f"{100 * 50 / (150 + slide):.2g} % of the labelled pixels lie under several classes" in mask.remark


def test_a_polygon_of_no_area_is_no_label(tmp_path):
    x, y = GRID.transform @ (4.5, 4.5)
    path = layer(tmp_path / "a.gpkg", [Polygon([(x, y), (x + 50, y), (x, y)]), px(0, 0, 1, 1)], c=[5, 1])
    assert (mask_of(path).read(GRID.window) != IGNORE).sum() == 1


def test_fractions_are_the_areas_that_shapely_finds(tmp_path):
    shapes = [shapely.affinity.rotate(px(3, 3, 9, 7), 30), px(14, 2, 3.5, 5.25)]
    path = layer(tmp_path / "a.gpkg", shapes, c=["slide", "water"])
    window = Window(1, 1, 18, 20)
    shares = mask_of(path).fractions(window, oversample=16)
    assert shares.shape == (3, 18, 20)
    for k, shape in ((2, shapes[0]), (1, shapes[1])):
        exact = np.array(
            [[px(c, r, 1, 1).intersection(shape).area / 100 for c in range(1, 21)] for r in range(1, 19)]
        )
        assert np.abs(shares[k] - exact).max() < 0.06
        assert shares[k].sum() == pytest.approx(exact.sum(), rel=5e-3)
    assert shares.sum(0).max() <= 1


def test_a_rotated_grid_and_holes(tmp_path):
    ring = MultiPolygon([px(20, 20, 12, 12).difference(px(24, 24, 4, 4)), px(60, 60, 3, 3)])
    grid = Grid(60, 60, GRID.crs, GRID.transform @ Affine.translation(20, 5) @ Affine.rotation(20))
    path = layer(tmp_path / "a.gpkg", [ring], c=["slide"])
    truth = rasterize([(ring, 2)], (60, 60), fill=IGNORE, transform=grid.transform, dtype="uint8")
    mask = mask_of(path, grid)
    assert 100 < (truth == 2).sum() < 160
    assert (np.hstack([mask.read(Window(0, 0, 60, 31)), mask.read(Window(0, 31, 60, 29))]) == truth).all()


def test_a_reader_travels_to_workers(tmp_path):
    mask = mask_of(layer(tmp_path / "a.geojson", [px(0, 0, 9, 9)], c=["land"]))
    before = mask.read(GRID.window)
    assert (pickle.loads(pickle.dumps(mask)).read(GRID.window) == before).all()


def test_a_layer_that_changed_is_read_again(tmp_path):
    path = layer(tmp_path / "a.geojson", [px(0, 0, 9, 9)], c=["land"])
    assert (mask_of(path).read(GRID.window) == 0).sum() == 81
    layer(path, [px(0, 0, 3, 3), px(7, 7, 1, 1)], c=["land", "land"])
    assert (mask_of(path).read(GRID.window) == 0).sum() == 10


class TestBadInput:
    def fails(self, path, error, match, grid=GRID, **options):
        with pytest.raises(error, match=match) as caught:
            mask_of(path, grid, **options).remark  # noqa: B018
        assert "\n" not in str(caught.value)

    def test_a_layer_with_nothing_on_the_scene(self, tmp_path):
        path = layer(tmp_path / "a.gpkg", [px(5000, 5000, 9, 9)], c=["land"])
        assert "has no feature on the scene" in mask_of(path).remark
        assert "it is unlabelled all over" in mask_of(path).remark

    def test_values_without_a_class(self, tmp_path):
        path = layer(tmp_path / "a.gpkg", [px(i, 0, 1, 1) for i in range(3)], c=["Wald", "Wald", "land"])
        match = r"a\.gpkg: 'c' says 'Wald' \(2\), which no class is called .* scenes\.vector\.values"
        self.fails(path, LabelError, match)
        with pytest.raises(LabelError, match=match):
            mask_of(path).read(GRID.window)

    def test_names_that_are_not_there(self, tmp_path):
        path = layer(tmp_path / "a.gpkg", [px(0, 0, 1, 1)], c=["land"])
        self.fails(path, SceneError, r"no column 'k' \(scenes\.vector\.attribute\); known: c", attribute="k")
        self.fails(path, SceneError, r"no column 'z' \(scenes\.vector\.priority\)", priority="z")
        self.fails(path, SceneError, r"no layer 'b' .*known: a", layer="b")
        self.fails(path, SceneError, r"'c' .*priority.* holds 'land', expected numbers", priority="c")
        self.fails(path, LabelError, r"background is 'lnd'.*did you mean 'land'", background="lnd")
        layer(tmp_path / "b.gpkg", [px(0, 0, 1, 1)], c=["land"])
        gpd.GeoDataFrame({"c": ["land"]}, geometry=[px(0, 0, 1, 1)], crs="EPSG:25831").to_file(
            tmp_path / "b.gpkg", layer="more"
        )
        self.fails(tmp_path / "b.gpkg", SceneError, r"holds 2 layers \(b, more\); name one")

    def test_no_layer_at_all(self, tmp_path):
        self.fails(tmp_path / "x.gpkg", SceneError, r"x\.gpkg does not exist")
        (tmp_path / "x.gpkg").write_bytes(b"nothing")
        self.fails(tmp_path / "x.gpkg", SceneError, "cannot be opened as a vector layer")

    def test_ground_that_is_not_known(self, tmp_path):
        path = layer(tmp_path / "a.gpkg", [px(0, 0, 1, 1)], c=["land"])
        self.fails(path, SceneError, "image has no georeferencing", grid=Grid(9, 9))
        self.fails(path, SceneError, "its image has none", grid=Grid(9, 9, None, GRID.transform))
        path = layer(tmp_path / "b.shp", [px(0, 0, 1, 1)], c=["land"])
        path.with_suffix(".prj").unlink()
        self.fails(path, SceneError, r"does not say its CRS; give it as scenes\.vector\.crs")
        assert (mask_of(path, crs="EPSG:25831").read(GRID.window) == 0).sum() == 1
        self.fails(path, SceneError, "which is no CRS", crs="EPSG:none")

    def test_options_that_contradict(self):
        with pytest.raises(ValueError, match="either attribute"):
            VectorOptions()
        with pytest.raises(ValueError, match="either attribute"):
            VectorOptions(attribute="c", feature_class="land")
