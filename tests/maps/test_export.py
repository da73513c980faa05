"""The files of a map: what other programs read in them, and what remains when the work is broken off."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import rasterio
from tests.rasters import write

from raremap.errors import LabelError, OutputError, SceneError
from raremap.labels import LabelScheme
from raremap.maps import drawing as drawing_module
from raremap.maps.export import held_rows, write_map
from raremap.maps.options import PredictOptions
from raremap.scene import cog
from raremap.scene.cog import CogWriter
from raremap.scene.raster import open_image

SCHEME = LabelScheme({3: "low", 7: "middle <&>", 9: "high"}, colors={"low": "#102030"})


def band_passed_through(image, valid):
    """Class 0 gets the first band as its probability: a pixel's output depends on that pixel alone."""
    first = image[:, 0].astype(np.float32) / 255
    return np.stack([first, (1 - first) * 0.25, (1 - first) * 0.75], axis=1)


def scene(folder, height, width, **more):
    image = np.random.default_rng(0).integers(1, 256, (2, height, width), dtype=np.uint8)
    return image, write(folder / "scene.tif", image, **more)


def mapped(path, out, **more):
    with open_image(path) as reader:
        return write_map(reader, more.pop("network", band_passed_through), out, SCHEME, **more)


def expected_classes(image):
    first = image[0].astype(np.float32) / 255
    return np.array([3, 7, 9])[np.stack([first, (1 - first) * 0.25, (1 - first) * 0.75]).argmax(0)]


def rio_info(path: Path) -> dict:
    rio = Path(sys.executable).with_name("rio")
    return json.loads(subprocess.run([rio, "info", path], capture_output=True, text=True, check=True).stdout)


def test_a_map_has_the_scenes_grid_and_the_most_probable_class_of_every_pixel(tmp_path):
    image, path = scene(tmp_path, 513, 1300)
    summary = mapped(
        path, tmp_path / "out" / "map.tif", options=PredictOptions(window=128), tags={"made_by": "me"}
    )
    info, before = rio_info(tmp_path / "out" / "map.tif"), rio_info(path)
    assert {k: info[k] for k in ("crs", "transform", "shape")} == {
        k: before[k] for k in ("crs", "transform", "shape")
    }
    assert (info["nodata"], info["dtype"], info["count"], info["compress"]) == (255, "uint8", 1, "deflate")
    with rasterio.open(tmp_path / "out" / "map.tif") as file:
        assert np.array_equal(file.read(1), expected_classes(image))
        assert file.colormap(1)[3] == (0x10, 0x20, 0x30, 255)
        assert file.tags() == {
            "class_3": "low", "class_7": "middle <&>", "class_9": "high", "made_by": "me", "AREA_OR_POINT": "Area",
            "raremap_precision": "float32", "raremap_batch": "16",
        }  # fmt: skip
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.overviews(1) == [2, 4]
    assert sum(summary.pixels.values()) == 513 * 1300
    assert summary.nodata_pixels == 0
    assert summary.hectares is not None
    assert summary.hectares["low"] == pytest.approx((expected_classes(image) == 3).sum() * 0.01)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["map.qml", "map.tif"]


def test_the_style_names_and_colours_the_classes(tmp_path):
    _, path = scene(tmp_path, 5, 6)
    mapped(path, tmp_path / "map.tif")
    entries = ET.parse(tmp_path / "map.qml").getroot().findall(".//paletteEntry")
    assert [(e.get("value"), e.get("label"), e.get("color")) for e in entries] == list(
        zip("379", SCHEME.names, SCHEME.palette, strict=True)
    )


def test_invalid_pixels_are_nodata_and_not_counted_whatever_the_network_says(tmp_path):
    image, _ = scene(tmp_path, 200, 300)
    image[:, 50:150, 20:250] = 0
    path = write(tmp_path / "holes.tif", image, nodata=0)
    summary = mapped(path, tmp_path / "map.tif", options=PredictOptions(window=64), probabilities="float32")
    empty = (image == 0).all(0)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert np.array_equal(file.read(1), np.where(empty, 255, expected_classes(image)))
    with rasterio.open(tmp_path / "map.probs.tif") as file:
        assert np.array_equal(np.isnan(file.read()), np.repeat(empty[None], 3, 0))
    assert summary.nodata_pixels == empty.sum()
    assert sum(summary.pixels.values()) == (~empty).sum()


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_probabilities_are_a_band_a_class(tmp_path, kind):
    image, path = scene(tmp_path, 70, 600)
    summary = mapped(path, tmp_path / "map.tif", options=PredictOptions(window=64), probabilities=kind)
    expected = band_passed_through(image[None], None)[0]
    with rasterio.open(summary.probabilities) as file:
        assert file.descriptions == SCHEME.names
        assert file.dtypes == (kind,) * 3
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        got = file.read() * np.array(file.scales)[:, None, None]
    assert np.abs(got - expected).max() <= (0.002 + 1e-6 if kind == "uint8" else 1e-6)


def test_a_rule_decides_in_place_of_the_most_probable_class(tmp_path, monkeypatch):
    _, path = scene(tmp_path, 200, 300)
    monkeypatch.setattr(drawing_module, "_PIECE", 1000)
    shapes = set()

    def rule(probs):
        shapes.add(probs.shape[:1] + probs.shape[2:])
        assert probs.shape[1] * probs.shape[2] <= 1000
        return (probs[0] < 0.5).astype(np.uint8) * 2

    mapped(path, tmp_path / "map.tif", decide=rule)
    with rasterio.open(path) as a, rasterio.open(tmp_path / "map.tif") as b:
        assert np.array_equal(b.read(1), np.where(a.read(1) / 255 < 0.5, 9, 3))
    assert shapes == {(3, 300)}


def test_where_255_is_a_class_nodata_is_another_value(tmp_path):
    image = np.full((1, 4, 5), 9, np.uint8)
    image[0, 0, 0] = 0
    path = write(tmp_path / "a.tif", image, nodata=0)
    scheme = LabelScheme({1: "a", 255: "b"})
    with open_image(path) as reader:
        write_map(
            reader,
            lambda im, ok: np.stack([im[:, 0] * 0.0, im[:, 0] * 0 + 1.0], 1),
            tmp_path / "m.tif",
            scheme,
        )
    with rasterio.open(tmp_path / "m.tif") as file:
        assert file.nodata == 254
        assert (file.read(1)[0, 0], file.read(1)[1, 1]) == (254, 255)


def test_a_picture_of_one_pixel_without_crs_is_mapped(tmp_path):
    path = write(tmp_path / "one.png", np.full((3, 1, 1), 200, np.uint8))
    summary = mapped(path, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs is None
        assert file.read(1).tolist() == [[3]]
    assert summary.hectares is None
    assert "low" in str(summary)
    assert json.loads(json.dumps(summary.to_dict()))["pixels"] == {"low": 1, "middle <&>": 0, "high": 0}


def test_a_rotated_grid_and_feet_are_kept_and_measured(tmp_path):
    from affine import Affine

    transform = Affine.translation(1e6, 2e6) * Affine.rotation(30) * Affine.scale(100, -50)
    profile = {"driver": "GTiff", "height": 10, "width": 20, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", **profile, crs="EPSG:2229", transform=transform) as file:
        file.write(np.full((1, 10, 20), 255, np.uint8))
    summary = mapped(tmp_path / "a.tif", tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.transform.almost_equals(transform)
        assert file.crs.to_epsg() == 2229
    assert summary.hectares is not None
    assert summary.hectares["low"] == pytest.approx(200 * 5000 * (1200 / 3937) ** 2 / 1e4)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError("the network's own"), MemoryError])
def test_work_broken_off_leaves_nothing_and_the_older_map_whole(tmp_path, fault):
    _, path = scene(tmp_path, 200, 200)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "map.tif").write_bytes(b"older")
    calls = []

    def failing(image, valid):
        calls.append(1)
        if len(calls) > 5:
            raise fault
        return band_passed_through(image, valid)

    with pytest.raises(fault if isinstance(fault, type) else type(fault)):
        mapped(
            path, tmp_path / "out" / "map.tif", network=failing, options=PredictOptions(window=64, batch=1),
            probabilities="float32",
        )  # fmt: skip
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["map.tif"]
    assert (tmp_path / "out" / "map.tif").read_bytes() == b"older"
    assert not [t for t in threading.enumerate() if t.name.startswith("raremap")]


def test_no_file_takes_its_name_when_one_of_them_fails(tmp_path, monkeypatch):
    from raremap.scene import cog

    _, path = scene(tmp_path, 100, 100)
    real = cog.rio_copy

    def failing(raw, fresh, **options):
        if options["OVERVIEW_RESAMPLING"] == "average":
            raise OSError(28, "No space left on device")
        real(raw, fresh, **options)

    monkeypatch.setattr(cog, "rio_copy", failing)
    with pytest.raises(OutputError, match=r"map\.probs\.tif cannot be written \(.*No space left"):
        mapped(path, tmp_path / "out" / "map.tif", probabilities="uint8")
    assert not list((tmp_path / "out").iterdir())


def test_an_empty_scene_is_told_and_leaves_nothing(tmp_path):
    path = write(tmp_path / "a.tif", np.zeros((2, 50, 60), np.uint8), nodata=0)
    (tmp_path / "out").mkdir()
    with pytest.raises(SceneError, match=r"a\.tif holds no valid pixel: all of it is nodata \(0\)"):
        mapped(path, tmp_path / "out" / "m.tif")
    assert not list((tmp_path / "out").iterdir())


def test_a_file_cut_short_is_named_and_leaves_nothing(tmp_path):
    _, path = scene(tmp_path, 600, 600, tiled=True, blockxsize=256, blockysize=256)
    path.write_bytes(path.read_bytes()[:400_000])
    (tmp_path / "out").mkdir()
    with pytest.raises(SceneError, match=r"scene\.tif cannot be read at rows"):
        mapped(path, tmp_path / "out" / "m.tif", options=PredictOptions(window=128))
    assert not list((tmp_path / "out").iterdir())


def test_classes_that_fit_no_byte_are_told_before_anything_is_written(tmp_path):
    _, path = scene(tmp_path, 5, 5)
    (tmp_path / "out").mkdir()
    with open_image(path) as reader, pytest.raises(LabelError, match="300 does not fit a uint8 map"):
        write_map(
            reader, band_passed_through, tmp_path / "out" / "m.tif", LabelScheme({1: "a", 2: "b", 300: "c"})
        )
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_written_is_told_before_the_network_is_asked(tmp_path):
    _, path = scene(tmp_path, 20, 20)
    (tmp_path / "file").write_text("")

    def never(image, valid):
        raise AssertionError

    with pytest.raises(OutputError, match=r"m\.tif cannot be written"):
        mapped(path, tmp_path / "file" / "m.tif", network=never)
    (tmp_path / "m.tif").mkdir()
    with pytest.raises(OutputError, match=r"m\.tif is a folder"):
        mapped(path, tmp_path / "m.tif", network=never)


_FULL = """
import resource, sys, numpy as np
from raremap.labels import LabelScheme
from raremap.errors import OutputError
from raremap.maps.export import write_map
from raremap.scene.raster import open_image
rng = np.random.default_rng(0)
def noise(image, valid):
    probs = rng.random((len(image), 5, *valid.shape[1:]), np.float32)
    return probs / probs.sum(1, keepdims=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    with open_image(sys.argv[1]) as reader:
        write_map(reader, noise, sys.argv[2], LabelScheme({i: f"c{i}" for i in range(5)}))
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [4_000, 300_000, 900_000, 999_000])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, room):
    """A limit on the size of files stands in for the disk: the raw raster needs 1 MB, the map 0.5 MB."""
    _, path = scene(tmp_path, 1000, 1000)
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(path), str(tmp_path / "out" / "m.tif"), str(room)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "m.tif cannot be written" in done.stdout, done.stderr
    assert not list((tmp_path / "out").iterdir())


def test_a_map_says_in_what_it_was_computed_and_how_many_windows_at_once(tmp_path):
    """The device turns out to have less room than it was found to have: the last number is told."""

    class Roomy:
        precision, most = "bf16", None

        def at_once(self, ask, most):
            return 8

        def __call__(self, image, valid):
            self.most = 4
            return band_passed_through(image, valid)

    _, path = scene(tmp_path, 100, 200)
    mapped(
        path, tmp_path / "m.tif", network=Roomy(), options=PredictOptions(window=64), probabilities="uint8"
    )
    for name in ("m.tif", "m.probs.tif"):
        with rasterio.open(tmp_path / name) as file:
            tags = file.tags()
        assert (tags["raremap_precision"], tags["raremap_batch"]) == ("bf16", "4")


def left(monkeypatch, free):
    """A disk with so many bytes left."""
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr("raremap.scene.cog.shutil.disk_usage", lambda _: usage)


def test_the_files_of_a_map_must_have_room_on_the_disk_together(tmp_path, monkeypatch):
    _, path = scene(tmp_path, 600, 600)
    one = 600 * 600 * 4 // 3  # bytes of the class map with its overviews
    left(monkeypatch, 2 * one)
    mapped(path, tmp_path / "one/map.tif")
    mapped(path, tmp_path / "two/map.tif", quantities=("confidence",))
    with pytest.raises(
        OutputError, match=r"map\.tif and 2 more files beside it need 0\.0 GB while they are made"
    ):
        mapped(path, tmp_path / "three/map.tif", quantities=("confidence", "entropy"))
    assert not (tmp_path / "three").exists()


def test_of_a_sparse_scene_room_is_asked_for_what_it_holds(tmp_path, monkeypatch):
    path, block = tmp_path / "sparse.tif", 512
    size = dict(height=12_000, width=700, tiled=True, blockxsize=block, blockysize=block)
    with rasterio.open(
        path, "w", driver="GTiff", count=2, dtype="uint8", nodata=0, sparse_ok=True, **size
    ) as file:
        image = np.random.default_rng(0).integers(1, 256, (2, block, block), dtype=np.uint8)
        file.write(image, window=rasterio.windows.Window(0, 8 * block, block, block))
    taken, copy = [], cog.rio_copy

    def copying(raw, fresh, **options):
        raws = tmp_path.glob(".map.*/raw*.bin")
        taken.append(sum(p.stat().st_blocks * 512 for p in raws))
        return copy(raw, fresh, **options)

    monkeypatch.setattr(cog, "rio_copy", copying)
    options = PredictOptions(window=256)
    with open_image(path) as reader:
        rows = held_rows(reader, options.window)
    need = CogWriter(tmp_path / "map.tif", reader.grid, "uint8").room(rows)
    assert need < 12_000 * 700 / 3
    left(monkeypatch, need)
    mapped(path, tmp_path / "map.tif", options=options)
    assert 0 < max(taken) <= need + 4096 * 6  # whole blocks of the disk
    left(monkeypatch, need - 1)
    with pytest.raises(OutputError, match="needs"):
        mapped(path, tmp_path / "map.tif", options=options)
