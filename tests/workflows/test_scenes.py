"""Scenes of several files, mapped as they were trained: layers, a file a band, several dates, clouds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from pydantic import TypeAdapter
from tests.command import raremap
from tests.rasters import write
from tests.workflows.mapped import dated_map

from raremap.bundle import Bundle
from raremap.errors import BundleError, ConfigError, OutputError, RaremapError, RaremapWarning, SceneError
from raremap.labels import LabelScheme
from raremap.maps.options import PredictOptions
from raremap.models.options import UNet
from raremap.scene.features.options import Feature
from raremap.scene.normalize import Normalization
from raremap.scene.sources import ScenesOptions
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare
from raremap.workflows.predict import predict
from raremap.workflows.renew import renew
from raremap.workflows.scenes import read_scenes, scenes_to_map
from raremap.workflows.scoring import scored

SCHEME = LabelScheme({1: "land", 2: "slide"})
SIZE = (70, 90)
DATES = ("2024-04-12", "2024-08-20")
BEFORE, AFTER = DATES
NET = UNet(kind="unet", width=4, depth=2)
SLOPE = TypeAdapter(tuple[Feature, ...]).validate_python(["slope"])

SECTIONS: dict[str, dict[str, Any]] = {
    "layers": {"images": f"img/{AFTER}/*.tif"},
    "band files": {"band_files": {"red": "red/*.tif", "nir": "nir/*.tif"}},
    "separate dates": {"images": "img/{date}/*.tif", "dates": "separate"},
    "a stack of dates": {"images": "img/{date}/*.tif", "dates": "stack"},
    "pre and post": {"images": "img/{date}/*.tif", "dates": "pre_post"},
}
BANDS = {
    "layers": ("red", "nir"),
    "band files": ("red", "nir"),
    "separate dates": ("red", "nir"),
    "a stack of dates": tuple(f"{b}@{d}" for d in DATES for b in ("red", "nir")),
    "pre and post": ("pre_red", "pre_nir", "post_red", "post_nir"),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two places on two dates: red, nir and SCL with gaps of 0, heights with gaps of their own, and masks.

    The later date is there as a file a band, too.
    """
    rng = np.random.default_rng(0)
    for i, name in enumerate("ab"):
        at = (4e5 + 5000 * i, 4.6e6)
        for date in DATES:
            image = rng.integers(1, 5000, (3, *SIZE)).astype(np.uint16)
            image[2] = rng.choice([4, 9], SIZE, p=(0.8, 0.2))
            image[0, 30, 40] = 0  # dark, and no gap
            image[:2, : 5 + 3 * i] = 0
            image[:2, 20:30, 50:60] = 0 if date == BEFORE else image[:2, 20:30, 50:60]
            write(tmp_path / f"img/{date}/{name}.tif", image, at, nodata=0, names=("red", "nir", "SCL"))
        for band, values in zip(("red", "nir"), image, strict=False):
            write(tmp_path / f"{band}/{name}.tif", values, at, nodata=0)
        dem = rng.normal(500, 80, SIZE).astype(np.float32)
        dem[60:, 80:] = -9999
        dem[40:44] = 0  # the sea
        write(tmp_path / f"dem/{name}.tif", dem, at, nodata=-9999)
        write(tmp_path / f"mask/{name}.tif", rng.integers(1, 3, SIZE).astype(np.uint8), at)
    return tmp_path


def bundle(kind: str = "layers", **more: Any) -> Bundle:
    """A net of random weights for the bands of a section, heights, and the slope that is made of them."""
    torch.manual_seed(3)
    bands = (*BANDS[kind], "dem")
    net = NET.build(len(bands) + 1, 2).eval()
    with torch.no_grad():
        net.head.last.weight *= 20
        net.head.last.bias -= net(torch.randn(1, len(bands) + 1, 64, 64)).mean((0, 2, 3))  # both classes come
    scale = Normalization(
        "standard", (2500.0,) * len(BANDS[kind]) + (500.0, 20.0), (1e-3,) * len(BANDS[kind]) + (0.01, 0.05)
    )
    given = {"options": NET, "features": SLOPE, "predict": PredictOptions(window=48, overlap=0.25)}
    return Bundle(net, SCHEME, bands, scale, **{**given, **more})


def section(data: Path, kind: str = "layers", **more: Any) -> dict[str, Any]:
    clouds = {} if kind == "band files" else {"clouds": "SCL"}
    return {
        "root": str(data),
        "masks": "mask/*.tif",
        "layers": {"dem": "dem/*.tif"},
        **clouds,
        **SECTIONS[kind],
        **more,
    }


def told(path: Path, **sections: Any) -> Path:
    """An experiment's file, with sections that prediction does not look at."""
    path.write_text(yaml.safe_dump({"out": "runs/x", "labels": {"classes": {1: "land"}}, **sections}))
    return path


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def by_hand(data: Path, kind: str, name: str, date: str, path: Path) -> Path:
    """One GeoTIFF of what a scene's files hold, NaN in all bands where any rule of no data says so."""
    dates = DATES if kind in ("a stack of dates", "pre and post") else (date,)
    bands = np.concatenate([pixels(data / f"img/{d}/{name}.tif")[:2] for d in dates]).astype(np.float32)
    dem = pixels(data / f"dem/{name}.tif")
    stacked = np.concatenate([bands, dem])
    stacked[:, (bands == 0).all(0) | (dem[0] == -9999)] = np.nan
    with rasterio.open(data / f"mask/{name}.tif") as file:
        at = (file.transform.c, file.transform.f)
    return write(path, stacked, at, names=(*BANDS[kind], "dem"))


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_map_of_several_files_is_that_of_one_stacked_by_hand_and_evaluations_own(
    data: Path, kind: str
) -> None:
    file = told(data / "mine.yaml", scenes=section(data, kind))
    how: dict[str, Any] = {"probabilities": "float32", "device": "cpu", "precision": "float32", "quiet": True}
    model = bundle(kind)
    found = predict(model, file, data / "maps", **how).maps
    dates = DATES if kind == "separate dates" else (AFTER,)
    names = {(f"{n}@{d}" if kind == "separate dates" else n): (n, d) for n in "ab" for d in dates}
    assert [m.path.name for m in found] == [f"{name}.map.tif" for name in names]
    for called, (name, date) in names.items():
        one = by_hand(data, kind, name, date, data / "by_hand" / f"{called}.tif")
        predict(model, one, data / "one.tif", **how)
        for end in (".tif", ".probs.tif"):
            np.testing.assert_array_equal(
                pixels(data / f"maps/{called}.map{end}"), pixels(data / f"one{end}")
            )
        assert set(np.unique(pixels(data / "one.tif"))) == {1, 2, 255}

    catalog = prepare(
        ScenesOptions(**section(data, kind)), SCHEME, TileOptions(size=32, min_valid=0),
        SplitOptions(folds=2, block_px=32), quiet=True,
    )  # fmt: skip
    assert catalog.bands == model.bands
    network = model.network(device="cpu", precision="float32")
    seen = 0
    for part in scored(model, network, catalog, np.arange(len(catalog))):
        called = str(catalog.scene_names[part.row])
        mapped = pixels(data / f"maps/{called}.map.probs.tif")[:, *part.window.slices()]
        valid = ~np.isnan(mapped[0])
        np.testing.assert_array_equal(part.probs[:, valid], mapped[:, valid])
        seen += int(valid.sum())
    assert seen > 0.8 * SIZE[0] * SIZE[1] * len(names)


def test_layers_are_named_beside_a_file_whose_bands_are_taken_by_name_or_in_order(data: Path) -> None:
    scene = data / f"img/{AFTER}/a.tif"
    plain = write(data / "plain.tif", pixels(scene)[:2], nodata=0)
    heights = {"dem": data / "dem/a.tif"}
    predict(bundle(), scene, data / "named.tif", layers=heights, quiet=True)
    predict(bundle(), plain, data / "in_order.tif", layers=heights, quiet=True)
    one = by_hand(data, "layers", "a", AFTER, data / "one.tif")
    predict(bundle(), one, data / "expected.tif", quiet=True)
    for name in ("named", "in_order"):
        np.testing.assert_array_equal(pixels(data / f"{name}.tif"), pixels(data / "expected.tif"))


def test_no_data_is_what_is_asked_else_what_the_section_says_else_the_training_else_the_tag(
    data: Path,
) -> None:
    image = pixels(data / f"img/{AFTER}/a.tif")[:2]
    image[image == 0] = 1
    image[:, :5] = 7
    image[:, 5:9] = 8
    scene = write(data / "plain/a.tif", image, names=("red", "nir"))
    model = bundle(nodata=7)
    more = {"layers": {"dem": data / "dem/a.tif"}, "quiet": True}

    def gaps(given: Any, **options: Any) -> np.ndarray:
        predict(model, given, data / "map.tif", **options)
        return (pixels(data / "map.tif")[0] == 255)[:9, 0]

    files = section(data, images="plain/a.tif", layers={"dem": "dem/a.tif"}, clouds=None)
    assert gaps(scene, **more).tolist() == [True] * 5 + [False] * 4
    assert gaps(scene, nodata=8, **more).tolist() == [False] * 5 + [True] * 4
    assert gaps(ScenesOptions(**files), quiet=True).tolist() == [True] * 5 + [False] * 4
    assert gaps(ScenesOptions(**files, nodata=8), quiet=True).tolist() == [False] * 5 + [True] * 4
    assert gaps(ScenesOptions(**files, nodata=8), nodata=7, quiet=True).tolist() == [True] * 5 + [False] * 4

    write(scene, image, names=("red", "nir"), nodata=8)
    with pytest.warns(RaremapWarning) as told:
        assert gaps(scene, **more).tolist() == [True] * 5 + [False] * 4  # as in training
    assert [str(w.message) for w in told] == [
        f"{scene} is tagged nodata 8, but the model was trained with scenes.nodata 7, which is used; "
        "give --nodata 8 where the tag is right"
    ]
    assert gaps(scene, nodata=8, **more).tolist() == [False] * 5 + [True] * 4
    assert gaps(ScenesOptions(**files, nodata=7), quiet=True).tolist() == [True] * 5 + [False] * 4
    model = bundle()
    assert gaps(scene, **more).tolist() == [False] * 5 + [True] * 4


def test_a_map_has_the_gaps_of_the_training_whatever_the_tag_of_the_file(data: Path) -> None:
    image = pixels(data / f"img/{AFTER}/a.tif")[:2] | 1
    image[:, :5], image[:, 5:9] = 8, 16
    scene = write(data / "plain/a.tif", image, names=("red", "nir"), nodata=16)
    (data / "mask/b.tif").unlink()
    given = ScenesOptions(**section(data, images="plain/*.tif", clouds=None, nodata=8))
    catalog = prepare(given, SCHEME, TileOptions(size=16), SplitOptions(block_m=200), quiet=True)
    (record,) = catalog.scenes.values()
    with record.open_image() as trained:
        _, seen = trained.read(trained.grid.window)
    model, heights = bundle(nodata=given.nodata), {"dem": data / "dem/a.tif"}
    with pytest.warns(RaremapWarning, match="is tagged nodata 16"):
        predict(model, scene, data / "map.tif", layers=heights, quiet=True)
    assert not seen[:5].any()
    assert seen[5:9].all()
    np.testing.assert_array_equal(pixels(data / "map.tif")[0] != 255, seen)


def test_a_map_needs_no_clouds_and_no_masks(data: Path) -> None:
    given = section(data, masks="gone/*.tif", clouds="gone/*.tif")
    assert len(predict(bundle(), ScenesOptions(**given), data / "maps", quiet=True).maps) == 2


@pytest.mark.parametrize(
    ("kind", "given", "error", "message"),
    [
        (
            "layers",
            f"img/{AFTER}/a.tif",
            BundleError,
            r"has no band 'dem'; the bundle needs red, nir, dem, the scene has red, nir, SCL; "
            r"where it is in a file of its own: --layer dem=FILE, or scenes\.layers in a YAML file$",
        ),
        ("layers", {"layers": {"dm": "dem/*.tif"}}, BundleError, r"no band 'dem'.*; did you mean 'dm'\?$"),
        ("layers", {"layers": {"dem": "coarse/*.tif"}}, SceneError, r"layer .*coarse/a\.tif has size 35x30"),
        ("layers", {"layers": {"dem": "one/*.tif"}}, SceneError, r"img/2024-08-20/b\.tif has no layer dem"),
        (
            "layers",
            {"images": "none/*.tif"},
            SceneError,
            r"^nothing matches .*none/\*\.tif; check the pattern",
        ),
        (
            "a stack of dates",
            {"images": f"img/{AFTER}/*.tif"},
            BundleError,
            r"no band 'red@2024-04-12'.*scenes\.dates: \{kind: stack, names: \[2024-04-12, 2024-08-20\]\}",
        ),
        (
            "a stack of dates",
            {"images": "one/{date}/*.tif", "dates": {"kind": "stack", "names": list(DATES)}},
            SceneError,
            r"scene a has 1 dates \(2024-08-20\), but scenes\.dates\.names gives 2",
        ),
        (
            "pre and post",
            {"images": f"img/{AFTER}/*.tif"},
            BundleError,
            r"no band 'pre_red'.*; map its two dates as one, from a YAML file with scenes\.dates: pre_post$",
        ),
        (
            "pre and post",
            {"images": "one/{date}/*.tif", "dates": "pre_post"},
            SceneError,
            r"scene a .* has the dates 2024-08-20; pre and post need two",
        ),
    ],
)
def test_what_a_scene_lacks_is_told_in_one_line_before_anything_is_mapped(
    data: Path, kind: str, given: str | dict[str, Any], error: type[RaremapError], message: str
) -> None:
    write(data / "coarse/a.tif", np.ones((30, 35), np.float32))
    write(data / "coarse/b.tif", np.ones((30, 35), np.float32))
    write(data / "one/a.tif", np.ones(SIZE, np.float32))
    write(data / f"one/{AFTER}/a.tif", np.ones((2, *SIZE), np.uint16), names=("red", "nir"))
    if isinstance(given, dict):
        scenes: Any = told(data / "mine.yaml", scenes=section(data) | given)
    else:
        scenes = data / given
    with pytest.raises(error, match=message) as found:
        predict(bundle(kind), scenes, data / "maps", quiet=True)
    assert "\n" not in str(found.value)
    assert not (data / "maps").exists()


def test_dates_of_another_year_are_a_stack_by_their_order(data: Path) -> None:
    for date, later in zip(DATES, ("2025-04-02", "2025-08-30"), strict=True):
        (data / f"img/{date}").rename(data / f"img/{later}")
    model = bundle("a stack of dates")
    named = {"kind": "stack", "names": list(DATES)}
    given = ScenesOptions(**section(data, "a stack of dates", dates=named))
    assert [m.path.name for m in predict(model, given, data / "maps", quiet=True).maps] == [
        "a.map.tif",
        "b.map.tif",
    ]
    for s in scenes_to_map(model, given):
        with s.opened(model) as image:
            assert image.bands == model.channels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scene: {images: a.tif}", r"x\.yaml has no section 'scenes'; did you mean 'scene'\?"),
        (
            "labels: {}",
            r"x\.yaml has no section 'scenes'; known: labels; .* scenes: \{images: data/img/\*\.tif\}$",
        ),
        ("scenes: {image: a.tif}", r"x\.yaml: unknown key 'scenes\.image'; did you mean 'images'\?"),
        ("scenes: {masks: a.tif}", r"x\.yaml: scenes: give either images .* or band_files"),
        ("scenes: [", r"scenes file .*x\.yaml is not valid YAML at line"),
        ("- a.tif", r"scenes file .*x\.yaml holds list, expected keys such as scenes"),
    ],
)
def test_a_file_that_tells_no_scenes_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_scenes(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match=r"scenes file .*none\.yaml does not exist"):
        read_scenes(tmp_path / "none.yaml")


def test_a_known_layout_tells_scenes_too(tmp_path: Path) -> None:
    for folder in ("img300", "mask300"):
        write(tmp_path / folder / "s1.tif", np.ones((8, 8), np.uint8))
    (tmp_path / "x.yaml").write_text("scenes: {layout: pairs}")
    found = read_scenes(tmp_path / "x.yaml", [f"scenes.root={tmp_path}"])
    assert (found.root, found.images) == (str(tmp_path), "img300/*.tif")


def test_the_command_line_takes_layers_and_yaml_files_and_changes_these(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, scene = bundle().save(data / "bundle"), data / f"img/{AFTER}/a.tif"
    file = told(data / "mine.yaml", scenes=section(data, root="elsewhere"))
    code, out, err = raremap(
        capsys, "predict", folder, file, "-o", data / "maps", "--root", data, "--json", "-q"
    )
    assert (code, err) == (0, "")
    assert [Path(m["map"]).name for m in json.loads(out)["maps"]] == ["a.map.tif", "b.map.tif"]
    code, _, err = raremap(
        capsys, "predict", folder, scene, "-o", data / "a.tif", "--layer", f"dem={data}/dem/a.tif", "-q"
    )
    assert (code, err) == (0, "")
    np.testing.assert_array_equal(pixels(data / "a.tif"), pixels(data / "maps/a.map.tif"))
    code, _, err = raremap(
        capsys, "predict", folder, file, "-o", data / "b.tif", "--root", data, "-q",
        "--set", f"scenes.images=img/{AFTER}/b.tif", "--set", "scenes.layers.dem=dem/b.tif",
    )  # fmt: skip
    assert (code, err) == (0, "")
    np.testing.assert_array_equal(pixels(data / "b.tif"), pixels(data / "maps/b.map.tif"))

    for words, message in (
        ((file,), "nothing matches elsewhere/"),
        ((file, "--set", "train.steps=3"), "override 'train.steps=3' changes no scene"),
        ((scene, "--root", data), "--set and --root change a YAML file of scenes, and none is given"),
        ((scene, "--layer", "dem.tif"), "'dem.tif' is not of the form NAME=FILE, such as dem=heights.tif"),
        ((scene, "--layer", "dem=a.tif", "--layer", "dem=b.tif"), "gives 'dem' twice"),
        ((scene, "--layer", f"dem={data}/gone.tif"), "gone.tif does not exist"),
        ((scene, "--layer", f"red={data}/dem/a.tif"), "is called like a band of"),
    ):
        code, out, err = raremap(capsys, "predict", folder, *words, "-o", data / "none", "-q")
        assert (code, out) == (2, ""), words
        assert message in " ".join(err.replace("│", " ").split()), words
        assert not (data / "none").exists()


def test_two_scenes_for_one_map_are_refused(data: Path) -> None:
    file = told(data / "mine.yaml", scenes=section(data))
    with pytest.raises(OutputError, match=r"2 scenes cannot share the map .*map\.tif; give a folder"):
        predict(bundle(), file, data / "map.tif", quiet=True)
    twin = by_hand(data, "layers", "a", AFTER, data / "by_hand/a.tif")
    with pytest.raises(OutputError, match=r"two scenes would write .*a\.map\.tif"):
        predict(bundle(), [file, twin], data / "maps", quiet=True)


def test_a_renewal_takes_the_date_and_the_clouds_of_the_scenes_file(data: Path) -> None:
    only_a = {
        "images": "img/{date}/a.tif",
        "layers": {"dem": "dem/a.tif"},
    }
    file = told(data / "mine.yaml", scenes=section(data, "separate dates", **only_a))
    old = np.ones(SIZE, np.uint8)
    map_ = dated_map(data / "map.tif", old, {1: "land", 2: "slide"})
    steps = renew(bundle(), file, map_, data / "new.tif", margin=0, device="cpu", quiet=True).scenes
    assert [s.date for s in steps] == list(DATES)
    seen = pixels(data / "new.dates.tif")[0]
    dem = pixels(data / "dem/a.tif")[0]
    unseen = (np.datetime64("2000-01-01") - np.datetime64("1970-01-01")).astype(int)
    expected = np.full(SIZE, unseen, np.int64)
    for date in DATES:
        image = pixels(data / f"img/{date}/a.tif")
        looked = (image[:2] != 0).any(0) & (dem != -9999) & (image[2] == 4)
        day = (np.datetime64(date) - np.datetime64("1970-01-01")).astype(int)
        expected[looked] = day
    np.testing.assert_array_equal(seen, expected)
    assert len(np.unique(expected)) == 3
    assert pixels(data / "new.tif")[0][expected == unseen].tolist() == old[expected == unseen].tolist()


def test_a_renewal_by_a_stack_is_of_its_last_date_and_a_month_is_no_day(data: Path) -> None:
    model = bundle("a stack of dates")
    map_ = dated_map(data / "map.tif", np.ones(SIZE), {1: "land", 2: "slide"})
    given = section(data, "a stack of dates", images="img/{date}/a.tif", layers={"dem": "dem/a.tif"})
    (step,) = renew(model, ScenesOptions(**given), map_, data / "new.tif", device="cpu", quiet=True).scenes
    assert step.date == AFTER
    both = [(pixels(data / f"img/{d}/a.tif")[2] == 9) for d in DATES]
    bands = np.concatenate([pixels(data / f"img/{d}/a.tif")[:2] for d in DATES])
    valid = (bands != 0).any(0) & (pixels(data / "dem/a.tif")[0] != -9999)
    assert step.clouded == (valid & both[0] & both[1]).sum()
    monthly = {**given, "images": "img/{date}-20/a.tif", "dates": "separate"}
    with pytest.raises(SceneError, match=r"scene a@2024-08 is of 2024-08, which is no day; .* --date"):
        renew(bundle(), ScenesOptions(**monthly), map_, data / "x.tif", quiet=True)
