"""Folders in their real layouts, made here, become catalogs; other folders are told in one line."""

from __future__ import annotations

import sys
from types import ModuleType

import h5py
import numpy as np
import pytest
import rasterio
from tests.rasters import write

from raremap.config import Experiment
from raremap.errors import ConfigError, MissingExtra, RaremapWarning, SceneError
from raremap.tiles.formats import LANDSLIDE4SENSE_BANDS, convert_landslide4sense, layout
from raremap.tiles.prepare import prepare
from raremap.tiles.splits import uses


def experiment(root, name, **more):
    scenes = {"layout": name, "root": str(root)}
    return Experiment.from_dict({"out": str(root / "run"), "scenes": scenes, "tiles": {"size": 16}, **more})


def catalog_of(e):
    return prepare(e.scenes, e.labels, e.tiles, e.split, quiet=True)


def picture(path, shape=(3, 32, 32), values=range(1, 250), **more):
    rng = np.random.default_rng(abs(hash(path.name)) % 1000)
    return write(path, rng.choice(np.array(list(values), np.uint8), shape), **more)


def test_folders_of_pairs(tmp_path):
    for i in range(3):
        picture(tmp_path / f"img300/{i}.tif")
        picture(tmp_path / f"mask300/{i}.tif", (32, 32), (0, 1))
    (tmp_path / "notes").mkdir()
    e = experiment(tmp_path, "pairs", labels={"classes": {0: "a", 1: "b"}}, split={"block_px": 16})
    assert len(catalog_of(e)) == 12
    picture(tmp_path / "img100/1.tif")
    picture(tmp_path / "mask100/1.tif", (32, 32), (0, 1))
    with pytest.raises(ConfigError, match="found img100 with mask100, img300 with mask300; give"):
        layout("pairs", tmp_path)
    with pytest.raises(ConfigError, match="found none"):
        layout("pairs", tmp_path / "notes")
    (tmp_path / "mask300/1.tif").rename(tmp_path / "mask300/9.tif")
    with pytest.raises(SceneError, match=r"image .*1\.tif has no mask"):
        catalog_of(Experiment.from_dict({"out": "x", "labels": {"classes": {0: "a", 1: "b"}}, "scenes": {
            "root": str(tmp_path), "images": "img300/*.tif", "masks": "mask300/*.tif"}}))  # fmt: skip


def test_openearthmap(tmp_path):
    for k, region in enumerate(["aachen", "accra", "bielefeld", "svaneti", "tonga"]):
        for i in (1, 2, 3):
            at = {"origin": (4e5 + 900 * i, 4.6e6 + 9000 * k)}
            picture(tmp_path / f"{region}/images/{region}_{i}.tif", **at)
            if i < 3:  # the test's labels are not published
                picture(tmp_path / f"{region}/labels/{region}_{i}.tif", (32, 32), range(9), **at)
    e = experiment(tmp_path, "openearthmap", split={"folds": 3})
    assert e.split.folds == 3
    with pytest.warns(RaremapWarning, match=r"5 of 15 scenes have no mask and are left out"):
        catalog = catalog_of(e)
    assert set(catalog.table["place"]) == {"aachen", "accra", "bielefeld", "svaneti", "tonga"}
    assert catalog.scheme.names[1] == "rangeland"
    with rasterio.open(tmp_path / "tonga/labels/tonga_2.tif") as file:
        mask = file.read(1)
    here = catalog.counts[catalog.scene_names == "tonga/tonga_2"].sum(0)
    assert here.tolist() == np.bincount(mask.ravel(), minlength=9)[1:].tolist()


def test_loveda_and_its_official_halves(tmp_path):
    for number, half in enumerate(["Train/Urban", "Train/Rural", "Val/Urban", "Test/Rural"] * 2):
        picture(tmp_path / half / f"images_png/{number}.png")
        if "Test" not in half:
            picture(tmp_path / half / f"masks_png/{number}.png", (32, 32), range(8))
    with pytest.warns(RaremapWarning, match="2 of 8 scenes"):
        catalog = catalog_of(experiment(tmp_path, "loveda"))
    test = uses(catalog, warn=False) == "test"
    assert {str(s).split("/")[0] for s in catalog.scene_names[test]} == {"Val"}
    assert {str(s).split("/")[0] for s in catalog.scene_names[~test]} == {"Train"}


@pytest.mark.parametrize("folder", ["", "de_1m_2013_extended-debuffered-train_tiles/"])
def test_chesapeake(tmp_path, folder):
    for i, name in enumerate(["m_3807537_ne_18_1", "m_3807537_nw_18_1"]):
        at = {"origin": (4e5 + 900 * i, 4.6e6)}
        picture(tmp_path / f"{folder}{name}_naip-new.tif", (4, 32, 32), **at)
        picture(tmp_path / f"{folder}{name}_lc.tif", (32, 32), (1, 2, 3, 4, 5, 6, 15), **at)
        picture(tmp_path / f"{folder}{name}_nlcd.tif", (32, 32), **at)
    if folder:
        last = "de_1m_2013_extended-debuffered-test_tiles/m_3"
        picture(tmp_path / f"{last}_naip-new.tif", (4, 32, 32), origin=(5e5, 4.6e6))
        picture(tmp_path / f"{last}_lc.tif", (32, 32), range(1, 7), origin=(5e5, 4.6e6))
    catalog = catalog_of(experiment(tmp_path, "chesapeake"))
    assert catalog.bands == ("red", "green", "blue", "nir")
    assert catalog.scheme.names[-1] == "impervious_road"
    if folder:
        test = uses(catalog, catalog.split.model_copy(update={"within": 16}), warn=False) == "test"
        assert {"test_tiles" in str(s) for s in catalog.scene_names[test]} == {True}
        assert not any("test_tiles" in str(s) for s in catalog.scene_names[~test])


def tile(root, part, number, mask=True, bands=14):
    """A tile as Landslide4Sense has it: HDF5, `img` `[128, 128, 14]` in float64 and `mask` `[128, 128]`."""
    rng = np.random.default_rng(number)
    image = rng.normal(1, 0.3, (128, 128, bands))
    slides = (rng.random((128, 128)) < 0.1).astype(np.uint8)
    for kind, key, array in (("img", "image", image), ("mask", "mask", slides))[: 1 + mask]:
        path = root / part / kind / f"{key}_{number}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file.create_dataset(kind, data=array, compression="gzip")
    return image, slides


def test_landslide4sense_as_geotiffs(tmp_path):
    made = {i: tile(tmp_path / "l4s", "TrainData", i) for i in (1, 2, 3, 10)}
    made[4] = tile(tmp_path / "l4s", "TestData", 4)
    tile(tmp_path / "l4s", "ValidData", 1, mask=False)
    with pytest.raises(ConfigError, match=r"raremap layout landslide4sense FOLDER -o OUT"):
        layout("landslide4sense", tmp_path / "l4s")
    sections = layout("landslide4sense", tmp_path / "l4s", tmp_path / "tif", quiet=True)
    for number, part in ((10, "TrainData"), (4, "TestData")):
        with rasterio.open(tmp_path / f"tif/{part}/img/image_{number}.tif") as file:
            assert file.descriptions == LANDSLIDE4SENSE_BANDS
            assert (file.read() == np.moveaxis(made[number][0], -1, 0).astype(np.float32)).all()
    e = Experiment.from_dict({"out": str(tmp_path / "run"), **sections})
    with pytest.warns(RaremapWarning, match="1 of 6 scenes have no mask"):
        catalog = catalog_of(e)
    slides = {str(s): c[1] for s, c in zip(catalog.scene_names, catalog.counts, strict=True)}
    assert slides["TrainData/10"] == made[10][1].sum()
    assert catalog.bands[12:] == ("slope", "dem")
    test = uses(catalog, warn=False) == "test"
    assert catalog.scene_names[test].tolist() == ["TestData/4"]


def test_landslide4sense_divides_runs_of_files_and_not_single_tiles(tmp_path):
    for i in range(1, 61):
        picture(tmp_path / f"TrainData/img/image_{i}.tif", (14, 16, 16), range(1, 250), crs=None)
        picture(tmp_path / f"TrainData/mask/mask_{i}.tif", (16, 16), (0, 1), crs=None)
    catalog = catalog_of(experiment(tmp_path, "landslide4sense"))
    place = dict(zip(catalog.scene_names, catalog.table["place"], strict=True))
    assert len(set(place.values())) == 20
    assert place["TrainData/7"] == place["TrainData/8"] == place["TrainData/9"] == "TrainData/files 7-9"
    assert not (uses(catalog, warn=False) == "dropped").any()


def test_a_stopped_conversion_goes_on(tmp_path):
    for i in (1, 2):
        tile(tmp_path / "l4s", "TrainData", i)
    convert_landslide4sense(tmp_path / "l4s", tmp_path / "tif", quiet=True)
    first, second = (tmp_path / f"tif/TrainData/img/image_{i}.tif" for i in (1, 2))
    before, there = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    convert_landslide4sense(tmp_path / "l4s", tmp_path / "tif", quiet=True)
    assert (first.stat().st_mtime_ns, second.read_bytes()) == (before, there)


def test_tiles_that_are_not_landslide4sense(tmp_path, capfd):
    tile(tmp_path / "a", "TrainData", 1, bands=12)
    with pytest.raises(SceneError, match=r"image_1\.h5 'img' has shape \(128, 128, 12\), expected"):
        convert_landslide4sense(tmp_path / "a", tmp_path / "tif", quiet=True)
    path = tmp_path / "b/TrainData/img/image_1.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file["other"] = np.zeros((4, 4))
    with pytest.raises(SceneError, match=r"image_1\.h5 has no readable 'img'"):
        convert_landslide4sense(tmp_path / "b", tmp_path / "tif", quiet=True)
    path.write_bytes(b"no")
    with pytest.raises(SceneError, match=r"image_1\.h5 has no readable 'img' \(it is no HDF5 file\)"):
        convert_landslide4sense(tmp_path / "b", tmp_path / "tif", quiet=True)
    assert "HDF5-DIAG" not in capfd.readouterr().err
    with pytest.raises(ConfigError, match=r"holds no \*/img/\*\.h5"):
        convert_landslide4sense(tmp_path, tmp_path / "tif", quiet=True)


@pytest.mark.parametrize("name", ["openearthmap", "loveda", "chesapeake", "landslide4sense"])
def test_a_folder_of_another_layout(tmp_path, name):
    with pytest.raises(ConfigError, match=f"is not laid out like {name}: nothing matches"):
        experiment(tmp_path, name)


def test_no_folder_and_no_such_layout(tmp_path):
    with pytest.raises(ConfigError, match="is no folder; give the one that holds the loveda files"):
        layout("loveda", tmp_path / "x")
    with pytest.raises(ConfigError, match="no layout is called 'lovda'; did you mean 'loveda'"):
        layout("lovda", tmp_path)


class TestTorchgeo:
    """A stand-in with torchgeo's own interface; the library itself is too large to be a test's."""

    @pytest.fixture
    def torchgeo(self, monkeypatch):
        class NonGeoDataset:
            pass

        class Little(NonGeoDataset):
            splits = ("train", "test")
            classes = ("ground", "building")

            def __init__(self, root="data", split="train", transforms=None, download=False, checksum=False):
                self.split = split
                if root.endswith("nowhere"):
                    raise RuntimeError("the network\nis away")

            def __len__(self):
                return 3 if self.split == "train" else 2

            def __getitem__(self, i):
                image = np.full((3, 16, 16), 10.0 * (i + 1), np.float32)
                return {"image": image, "mask": np.eye(16, dtype=np.int64)}

        class Odd(Little):
            def __getitem__(self, i):
                return {**super().__getitem__(i), "mask": np.eye(16, dtype=np.int64) - 1}

        class Changes(Little):
            def __getitem__(self, i):
                return {**super().__getitem__(i), "image": np.ones((2, 3, 16, 16), np.float32)}

        class Scenes:
            pass

        module, sets = ModuleType("torchgeo"), ModuleType("torchgeo.datasets")
        sets.NonGeoDataset, sets.Little, sets.Scenes = NonGeoDataset, Little, Scenes
        sets.Odd, sets.Changes, sets.utils = Odd, Changes, ModuleType("torchgeo.datasets.utils")
        module.datasets = sets
        monkeypatch.setitem(sys.modules, "torchgeo", module)
        monkeypatch.setitem(sys.modules, "torchgeo.datasets", sets)

    def test_a_set_becomes_geotiffs_and_an_experiment(self, tmp_path, torchgeo):
        sections = layout("torchgeo:Little", tmp_path / "down", tmp_path / "tif", quiet=True)
        with rasterio.open(tmp_path / "tif/train/img/000002.tif") as file:
            assert file.dtypes == ("uint8",) * 3
            assert (file.read() == 30).all()
        e = Experiment.from_dict({"out": "x", "tiles": {"size": 16}, **sections})
        catalog = catalog_of(e)
        assert catalog.counts.sum(0).tolist() == [5 * 240, 5 * 16]
        assert sorted(catalog.scene_names[uses(catalog, warn=False) == "test"]) == [
            "test/000000",
            "test/000001",
        ]

    def test_what_cannot_be_had(self, tmp_path, torchgeo):
        for name, root, match in (
            ("Litle", "a", "no set 'Litle'; did you mean 'Little'"),
            ("utils", "a", "no set 'utils'; known: "),
            ("Scenes", "a", "Scenes is of whole rasters"),
            ("Odd", "a", "Odd has mask values -1 to 0, expected 0 to 255"),
            ("Changes", "a", r"Changes gives images \(2, 3, 16, 16\) with masks \(16, 16\), expected"),
            ("Little", "nowhere", r"cannot be had \(RuntimeError: the network is away\)"),
        ):
            with pytest.raises(ConfigError, match=match):
                layout(f"torchgeo:{name}", tmp_path / root, tmp_path / "tif", quiet=True)
        with pytest.raises(ConfigError, match="-o OUT"):
            layout("torchgeo:Little", tmp_path)

    def test_without_the_library(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torchgeo", None)
        with pytest.raises(MissingExtra, match=r"pip install 'raremap\[torchgeo\]'"):
            layout("torchgeo:LandCoverAI", tmp_path, tmp_path / "tif")
