"""`raremap sample` and `raremap area`: points of a map, labelled, and what they say of it."""

from __future__ import annotations

import json
import sqlite3
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pyogrio
import pytest
from scipy.ndimage import maximum_filter
from tests.command import raremap
from tests.rasters import write
from tests.workflows.mapped import ground, label, write_map

from raremap.errors import ConfigError, RaremapWarning, SampleError, SceneError
from raremap.maps.strata import BESIDE
from raremap.workflows.area import area
from raremap.workflows.sample import sample

TRUE, MAPPED = ground()


@pytest.fixture
def drawn(tmp_path: Path) -> tuple[Path, Path]:
    """A map and its labelled sample."""
    map_, points = write_map(tmp_path / "map.tif", MAPPED), tmp_path / "points.gpkg"
    sample(map_, points, points=500, rare=["slide"], quiet=True)
    label(points, TRUE)
    return map_, points


def table(points: Path, query: str) -> list[tuple]:
    with sqlite3.connect(points) as base:
        return base.execute(query).fetchall()


def test_strata_are_the_classes_and_what_lies_beside_rare_ones(tmp_path: Path) -> None:
    map_ = write_map(tmp_path / "map.tif", MAPPED)
    found = sample(map_, tmp_path / "p.gpkg", rare=["slide"], buffer_px=2, points=300, quiet=True)
    slide = MAPPED == 7
    beside = maximum_filter(slide, size=5) & ~slide
    expected = {
        "forest": (MAPPED == 1) & ~beside,
        "water": (MAPPED == 2) & ~beside,
        "slide": slide,
        BESIDE: beside,
    }
    assert {s.name: s.pixels for s in found.strata} == {n: int(m.sum()) for n, m in expected.items()}
    assert sum(s.points for s in found.strata) == 300
    rows = table(
        tmp_path / "p.gpkg", "SELECT row, col, name FROM sample_points JOIN sample_strata USING (stratum)"
    )
    assert len({r[:2] for r in rows}) == 300
    assert all(expected[name][row, col] for row, col, name in rows)


def test_every_pixel_of_a_stratum_is_as_likely_in_any_block(tmp_path: Path) -> None:
    array = np.ones((1030, 1040), np.uint8)  # four blocks, three of them slivers
    array[:, 1030:] = 2
    map_ = write_map(tmp_path / "map.tif", array)
    sample(map_, tmp_path / "p.gpkg", points=4000, minimum=2, rare=[], allocation="equal", quiet=True)
    rows = table(tmp_path / "p.gpkg", "SELECT row, col, stratum FROM sample_points")
    assert all((col >= 1030) == bool(h) for _, col, h in rows)
    below = sum(row >= 1024 for row, _, h in rows if h == 1)
    assert abs(below - 2000 * 6 / 1030) < 4 * np.sqrt(2000 * 6 / 1030)


def test_the_same_seed_gives_the_same_points(tmp_path: Path) -> None:
    map_ = write_map(tmp_path / "map.tif", MAPPED)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        sample(map_, tmp_path / f"{name}.gpkg", points=200, seed=seed, quiet=True)
    a, b, c = (table(tmp_path / f"{n}.gpkg", "SELECT row, col FROM sample_points") for n in "abc")
    assert a == b
    assert a != c


def test_points_are_blind_and_offer_the_classes_by_name(tmp_path: Path) -> None:
    map_ = write_map(tmp_path / "map.tif", MAPPED)
    sample(map_, tmp_path / "p.gpkg", points=200, quiet=True)
    frame = pyogrio.read_dataframe(tmp_path / "p.gpkg", layer="points")
    assert [*frame.columns] == ["id", "reference", "note", "geometry"]
    assert frame["reference"].isna().all()
    assert frame.crs.to_epsg() == 25831
    # The order gives nothing away either.
    strata = [s for (s,) in table(tmp_path / "p.gpkg", "SELECT stratum FROM sample_points ORDER BY id")]
    assert sorted(strata) != strata
    (style,) = table(tmp_path / "p.gpkg", "SELECT styleQML FROM layer_styles WHERE f_table_name = 'points'")[
        0
    ]
    field = ET.fromstring(style.split(">", 1)[1]).find(
        "fieldConfiguration/field[@name='reference']/editWidget"
    )
    assert field is not None
    assert field.get("type") == "ValueMap"
    offered = {o.get("name"): o.get("value") for o in field.iter("Option") if o.get("type") == "QString"}
    assert offered == {"forest": "1", "water": "2", "slide": "7"}
    sample(map_, tmp_path / "open.gpkg", points=200, shown=True, quiet=True)
    assert {"stratum", "map_class"} < {
        *pyogrio.read_dataframe(tmp_path / "open.gpkg", layer="points").columns
    }


def test_estimates_lie_near_the_truth_that_the_map_misses(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    found = area(*drawn, out=tmp_path / "report")
    for value, name in ((1, "forest"), (2, "water"), (7, "slide")):
        true = (value == TRUE).sum() / 100 * 0.9996**-2  # UTM lengthens by so much at 400 km east … nearly
        assert abs(found.areas[name].value - true) < 3 * found.areas[name].se + 0.01 * true
    assert found.unit == "ha"
    data = json.loads((tmp_path / "report" / "area.json").read_text())
    assert data["classes"]["slide"]["area"]["value"] == pytest.approx(found.areas["slide"].value)
    assert data["overall"]["value"] == pytest.approx((TRUE == MAPPED).mean(), abs=4 * found.found.overall.se)
    page = (tmp_path / "report" / "area.html").read_text()
    assert "slide" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_interval_is_chosen_and_said(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    own, normal = area(*drawn, out=tmp_path / "a"), area(*drawn, out=tmp_path / "b", interval="normal")
    said = [json.loads((tmp_path / name / "area.json").read_text()) for name in "ab"]
    assert [s["interval"] for s in said] == ["jeffreys", "normal"]
    assert "no point has met" in (tmp_path / "a" / "area.html").read_text()
    assert "1.96 standard errors" in (tmp_path / "b" / "area.html").read_text()
    for name, estimate in own.areas.items():
        other = normal.areas[name]
        assert (estimate.value, estimate.se) == (other.value, other.se)
        assert estimate.low <= estimate.value <= estimate.high
        assert other.high - other.value == pytest.approx(1.96 * other.se, rel=1e-4)
        # Common classes, many points: both say nearly the same.
        if name != "slide":
            assert estimate.high - estimate.low == pytest.approx(other.high - other.low, rel=0.1)
    with pytest.raises(ConfigError, match=r"'norm' is no interval; did you mean 'normal'"):
        area(*drawn, interval="norm")  # type: ignore[arg-type]


def test_a_normal_interval_of_few_points_is_remarked(tmp_path: Path) -> None:
    map_, points = write_map(tmp_path / "map.tif", MAPPED), tmp_path / "points.gpkg"
    sample(map_, points, points=200, rare=["slide"], quiet=True)
    label(points, np.where(TRUE == 7, 1, TRUE))
    with pytest.warns(RaremapWarning, match=r"fewer than 5 reference points hold 'slide' \(0\)"):
        area(map_, points, interval="normal")
    assert area(map_, points).remarks == ()


def test_the_sample_judges_another_map_too(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    perfect = write_map(tmp_path / "perfect.tif", TRUE)
    found = area(perfect, drawn[1])
    assert found.found.overall.value == 1
    assert found.areas["slide"].value == pytest.approx(area(*drawn).areas["slide"].value)


def test_a_reference_may_be_written_by_name_and_in_another_crs(
    drawn: tuple[Path, Path], tmp_path: Path
) -> None:
    frame = pyogrio.read_dataframe(drawn[1], layer="points").to_crs("EPSG:4326")
    names = {1: "forest", 2: "water", 7: "slide"}
    frame["reference"] = frame["reference"].map(names)
    pyogrio.write_dataframe(frame, drawn[1], layer="points")
    before = (MAPPED == TRUE).mean()
    assert area(*drawn).found.overall.value == pytest.approx(before, abs=0.05)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:25831", "EPSG:3035"])
def test_mapped_areas_are_those_of_the_ellipsoid(crs: str, tmp_path: Path) -> None:
    from pyproj import Geod, Transformer
    from shapely import segmentize, transform
    from shapely.geometry import box

    origin, pixel = {
        "EPSG:4326": ((0.5, 46.0), 0.02),
        "EPSG:25831": ((150_000, 5_000_000), 1000.0),
        "EPSG:3035": ((3_600_000, 2_500_000), 1000.0),
    }[crs]
    array = np.ones((120, 100), np.uint8)
    array[20:90, 10:70] = 7
    map_ = write_map(tmp_path / "map.tif", array, crs=crs, origin=origin, pixel=pixel)
    points = tmp_path / "p.gpkg"
    sample(map_, points, points=200, buffer_px=0, quiet=True)
    label(points, array, origin, pixel)
    left, top = origin
    polygon = box(left + 10 * pixel, top - 90 * pixel, left + 70 * pixel, top - 20 * pixel)
    fine = segmentize(polygon, pixel)
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    true = (
        abs(
            Geod(ellps="GRS80").geometry_area_perimeter(
                transform(fine, to_degrees.transform, interleaved=False)
            )[0]
        )
        / 1e4
    )
    found = area(map_, points)
    assert found.found.mapped[2] == pytest.approx(true, rel=1e-3)
    assert found.areas["slide"].value == pytest.approx(
        true, rel=1e-3
    )  # the map is right, and its strata are classes
    assert found.areas["slide"].se < 1e-3 * true


def test_a_map_without_a_legend_is_refused_with_the_way_out(tmp_path: Path) -> None:
    map_ = write(tmp_path / "map.tif", MAPPED)
    with pytest.raises(SceneError, match=r"map .*map\.tif has no legend.*class_7=landslide"):
        sample(map_, tmp_path / "p.gpkg", quiet=True)
    with pytest.raises(SceneError, match="no legend"):
        area(map_, write_sample(tmp_path))


def write_sample(folder: Path) -> Path:
    points = folder / "p.gpkg"
    sample(write_map(folder / "other.tif", MAPPED), points, points=200, quiet=True)
    return points


def test_points_that_cannot_be_used_are_counted(drawn: tuple[Path, Path]) -> None:
    map_, points = drawn
    frame = pyogrio.read_dataframe(points, layer="points")
    frame["reference"] = frame["reference"].astype("Int64")
    frame.loc[0, "reference"] = None
    frame.loc[1, "reference"] = 255  # the map's value of no data
    frame.loc[2, "reference"] = -1
    frame.loc[3, "geometry"] = frame.geometry[3].__class__(0, 0)
    frame.loc[4, "id"] = 10_000
    pyogrio.write_dataframe(frame.drop(index=5), points, layer="points")
    with pytest.warns(
        RaremapWarning, match=r"points left out: 1 without a reference, 2 that could not be told, 1 outside"
    ):
        found = area(map_, points)
    assert found.left_out == {
        "without a reference": 1,
        "that could not be told": 2,
        "outside the map": 1,
        "that the design does not know": 1,
        "of the design that are no longer in the file": 2,
    }
    assert found.points == 500 - 6


def test_a_class_that_the_map_lacks_is_an_error_wherever_it_was_found(drawn: tuple[Path, Path]) -> None:
    map_, points = drawn
    frame = pyogrio.read_dataframe(points, layer="points")
    names = np.array([*{1: "forest", 2: "water", 7: "slide"}.values()])[
        np.searchsorted([1, 2, 7], frame["reference"])
    ]
    lost = (names == "forest") & (np.arange(len(names)) % 3 == 0)
    names[lost] = "house"
    frame["reference"] = names
    pyogrio.write_dataframe(frame, points, layer="points")
    with pytest.warns(RaremapWarning, match=rf"classes that the map does not have: 'house' \({lost.sum()}\)"):
        found = area(map_, points)
    # Stehman 2014, equations 3, 14 and 16, by hand: a stratum's ground times the share of its points.
    strata = table(points, "SELECT stratum, area, points FROM sample_strata")
    of = dict(table(points, "SELECT id, stratum FROM sample_points"))
    weight = np.array([strata[of[i]][1] / strata[of[i]][2] for i in frame["id"]]) / 1e4
    col, row = ((frame.geometry.x - 4e5) // 10).astype(int), ((4.6e6 - frame.geometry.y) // 10).astype(int)
    called = np.array([{1: "forest", 2: "water", 7: "slide"}[v] for v in MAPPED[row, col]])
    assert found.areas["house"].value == pytest.approx(weight[lost].sum())
    assert found.areas["forest"].value == pytest.approx(weight[names == "forest"].sum())
    assert found.found.overall.value == pytest.approx(weight[called == names].sum() / weight.sum())
    user = weight[(called == "forest") & (names == "forest")].sum() / weight[called == "forest"].sum()
    assert found.found.users[0].value == pytest.approx(user)
    assert (found.found.mapped[3], found.found.producers[3].value, found.points) == (0, 0, 500)
    house = found.to_dict()["classes"]["house"]
    assert (house["reference_points"], house["users_accuracy"]["value"]) == (lost.sum(), None)


def test_a_number_means_the_class_that_the_sample_offered(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    other = np.array([255, 2, 1])[np.searchsorted([1, 2, 7], TRUE)].astype(np.uint8)  # 1 is a slide here
    map_ = write_map(tmp_path / "other.tif", other, {2: "water", 1: "slide", 255: "forest"}, nodata=None)
    assert area(map_, drawn[1]).found.overall.value == 1


def test_a_number_that_the_sample_offered_is_no_other_class_of_the_same_number(
    drawn: tuple[Path, Path], tmp_path: Path
) -> None:
    # As a map of changes has: the sample's 1, 2 and 7 are other things there.
    codes = {1: "forest → water", 2: "water → slide", 7: "slide → slide"}
    map_ = write_map(tmp_path / "changes.tif", MAPPED, codes)
    with pytest.raises(
        SampleError, match=r"no reference of .* is a class of .*changes\.tif \(they are 'forest', 'slide'"
    ):
        area(map_, drawn[1])
    # Where one of them is there, the others are errors of the map, and told.
    map_ = write_map(tmp_path / "partly.tif", MAPPED, {**codes, 2: "water"})
    with pytest.warns(RaremapWarning, match=r"classes that the map does not have: 'forest' \(336\), 'slide'"):
        assert area(map_, drawn[1]).found.overall.value < 0.4


@pytest.mark.parametrize("how", ["wider", "half", "beside", "empty"])
def test_a_map_of_other_ground_than_the_samples_is_refused(
    drawn: tuple[Path, Path], tmp_path: Path, how: str
) -> None:
    array = {"wider": np.hstack([MAPPED, MAPPED]), "half": MAPPED[:, :100], "beside": MAPPED}.get(
        how, np.full_like(MAPPED, 255)
    )
    map_ = write_map(tmp_path / "o.tif", array, origin=(4e5 + 600 * (how == "beside"), 4.6e6))
    told = r"o\.tif has classes on .* ha, .* was drawn from 400\.\d\d ha"
    with pytest.raises(SampleError, match=r"\d+ of 500 points .* has no class" if how == "beside" else told):
        area(map_, drawn[1])


def test_a_map_of_coarser_pixels_that_ends_inside_the_last_is_of_the_same_ground(
    drawn: tuple[Path, Path], tmp_path: Path
) -> None:
    coarse = write_map(tmp_path / "c.tif", MAPPED[1::3, 1::3], pixel=30.0)  # 67 x 30 m for 200 x 10 m
    assert area(coarse, drawn[1]).points == 500


def test_a_stratum_without_points_stops_it(drawn: tuple[Path, Path]) -> None:
    map_, points = drawn
    strata = dict(table(points, "SELECT id, stratum FROM sample_points"))
    frame = pyogrio.read_dataframe(points, layer="points")
    pyogrio.write_dataframe(frame[[strata[i] != 2 for i in frame["id"]]], points, layer="points")
    with pytest.raises(SampleError, match=r"stratum 'slide' .* has no point with a reference"):
        area(map_, points)


def test_points_without_a_design_count_as_drawn_within_classes(tmp_path: Path) -> None:
    import geopandas as gpd

    map_ = write_map(tmp_path / "map.tif", MAPPED)
    rng = np.random.default_rng(0)
    row, col = rng.integers(0, 200, (2, 800))
    frame = gpd.GeoDataFrame(
        {"reference": TRUE[row, col].astype(int)},
        geometry=gpd.points_from_xy(4e5 + 10 * col + 5, 4.6e6 - 10 * row - 5),
        crs="EPSG:25831",
    )
    frame.to_file(tmp_path / "own.gpkg")
    with pytest.raises(SampleError, match=r"does not say how its points were drawn, which a sample loses"):
        area(map_, tmp_path / "own.gpkg")
    with pytest.warns(RaremapWarning, match="does not say how its points were drawn; as was said"):
        found = area(map_, tmp_path / "own.gpkg", random_within_classes=True)
    assert abs(found.areas["water"].value - (TRUE == 2).sum() / 100) < 3 * found.areas["water"].se + 0.5


def test_what_is_no_sample_is_said_to_be_none(tmp_path: Path) -> None:
    map_ = write_map(tmp_path / "map.tif", MAPPED)
    with pytest.raises(SampleError, match=r"none\.gpkg does not exist"):
        area(map_, tmp_path / "none.gpkg")
    (tmp_path / "text.gpkg").write_text("no points")
    with pytest.raises(SampleError, match="cannot be read as points"):
        area(map_, tmp_path / "text.gpkg")
    with pytest.raises(SampleError, match=r"no point that can be used: 200 without a reference"):
        area(map_, write_sample(tmp_path))
    empty = write_map(tmp_path / "empty.tif", np.full((30, 30), 255))
    with pytest.raises(SampleError, match="all of it is nodata"):
        sample(empty, tmp_path / "e.gpkg", quiet=True)


def test_wrong_wishes_are_told(tmp_path: Path) -> None:
    map_ = write_map(tmp_path / "map.tif", MAPPED)
    with pytest.raises(ConfigError, match=r"'slid' is not a class .* did you mean 'slide'"):
        sample(map_, tmp_path / "p.gpkg", rare=["slid"], quiet=True)
    with pytest.raises(ConfigError, match="standard error is 7"):
        sample(map_, tmp_path / "p.gpkg", se=7, quiet=True)
    with pytest.raises(ConfigError, match="expected shares above 0"):
        sample(map_, tmp_path / "p.gpkg", expected={"forest": 0}, quiet=True)


def test_fewer_points_than_the_strata_need_are_told(tmp_path: Path) -> None:
    map_ = write_map(tmp_path / "map.tif", MAPPED)
    with pytest.warns(
        RaremapWarning, match=r"60 points are fewer than 50 in each of 4 strata: 200 are drawn"
    ):
        assert sum(s.points for s in sample(map_, tmp_path / "p.gpkg", points=60, quiet=True).strata) == 200
    found = sample(map_, tmp_path / "p.gpkg", points=60, minimum=5, quiet=True)
    assert sum(s.points for s in found.strata) == 60


def test_a_map_of_one_class_and_no_crs_is_counted_in_pixels(tmp_path: Path) -> None:
    map_ = write_map(tmp_path / "map.tif", np.ones((40, 30)), crs=None)
    points = tmp_path / "p.gpkg"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*crs.*", category=UserWarning)
        sample(map_, points, points=60, quiet=True)
        frame = pyogrio.read_dataframe(points, layer="points")
        frame["reference"] = 1
        pyogrio.write_dataframe(frame, points, layer="points")
    found = area(map_, points)
    assert (found.unit, found.areas["forest"].value, found.areas["forest"].se) == (
        "pixels",
        pytest.approx(1200),
        0,
    )


def test_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    map_, points = write_map(tmp_path / "map.tif", MAPPED), tmp_path / "p.gpkg"
    code, out, _ = raremap(
        capsys, "sample", map_, "-o", points, "--points", 300, "--rare", "slide", "--json", "-q"
    )
    assert (code, json.loads(out)["points"]) == (0, 300)
    label(points, TRUE)
    code, out, _ = raremap(capsys, "area", map_, points, "-o", tmp_path / "rep")
    assert code == 0
    assert "overall accuracy" in out
    assert "jeffreys" in out
    code, out, _ = raremap(capsys, "area", map_, points, "--interval", "normal", "--json")
    assert (code, json.loads(out)["interval"]) == (0, "normal")
    pyogrio.write_dataframe(pyogrio.read_dataframe(points, layer="points"), tmp_path / "p.geojson")
    code, _, err = raremap(capsys, "area", map_, tmp_path / "p.geojson")
    assert (code, err.count("\n")) == (2, 1)
    code, out, _ = raremap(capsys, "area", map_, tmp_path / "p.geojson", "--random-within-classes", "--json")
    assert (code, json.loads(out)["points"]) == (0, 300)
    code, _, err = raremap(capsys, "area", map_, points, "--random-within-classes")
    assert (code, "leave out --random-within-classes" in err) == (2, True)
    code, _, err = raremap(capsys, "area", map_, tmp_path / "none.gpkg")
    assert code == 2
    assert err.count("\n") == 1
