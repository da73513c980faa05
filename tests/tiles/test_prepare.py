import numpy as np
import pytest
import rasterio
from tests import project
from tests.rasters import write

from raremap.errors import CatalogError, LabelError, RaremapWarning, SceneError, SplitError
from raremap.labels import LabelScheme
from raremap.scene.sources import ScenesOptions, find_scenes
from raremap.tiles.catalog import Catalog
from raremap.tiles.options import SplitOptions, TileOptions
from raremap.tiles.prepare import prepare
from raremap.tiles.splits import uses

SCHEME = LabelScheme(project.CLASSES, ignore=[0])


def scenes(folder, **more):
    return ScenesOptions(**{"root": str(folder), "images": "img/*.tif", "masks": "mask/*.tif", **more})


def catalog_of(folder, size=32, overlap=0.0, split=None, **more):
    split = split or SplitOptions(block_m=1000, folds=3)
    return prepare(
        scenes(folder, **more),
        SCHEME,
        TileOptions(size=size, overlap=overlap, min_valid=0.1),
        split,
        quiet=True,
    )


def test_counts_are_those_of_the_files(tmp_path):
    project.make(tmp_path, scenes=3, size=50)
    with rasterio.open(tmp_path / "img/s1.tif", "r+") as file:  # a corner without data
        file.nodata = 0
        image = file.read()
        image[:, 40:, 40:] = 0
        file.write(image)
    catalog = catalog_of(tmp_path, nodata=0)
    for row, window in enumerate(catalog.windows):
        name = catalog.scene_names[row]
        with (
            rasterio.open(tmp_path / f"img/{name}.tif") as i,
            rasterio.open(tmp_path / f"mask/{name}.tif") as m,
        ):
            part = window.slices()
            mask, valid = m.read(1)[part], (i.read() != 0).any(0)[part]
        expected = [int(((mask == v) & valid).sum()) for v in SCHEME.values]
        assert catalog.counts[row].tolist() == expected
        assert catalog.table["valid"].iloc[row] == pytest.approx(valid.mean())
        assert catalog.table["labelled"].iloc[row] == pytest.approx(sum(expected) / valid.size)


def test_a_saved_catalog_is_read_back_and_is_geoparquet(tmp_path):
    import geopandas as gpd

    project.make(tmp_path)
    catalog = catalog_of(tmp_path)
    catalog.save(tmp_path / "c.parquet")
    again = Catalog.load(tmp_path / "c.parquet")
    assert again.fingerprint == catalog.fingerprint
    assert again.scenes == catalog.scenes
    assert (again.scheme, again.split, again.tile_options) == (
        catalog.scheme,
        catalog.split,
        catalog.tile_options,
    )
    frame = gpd.read_parquet(tmp_path / "c.parquet")
    assert frame.crs.to_epsg() == 4326
    lon, lat = frame.geometry.iloc[0].centroid.coords[0]
    assert 1 < lon < 3
    assert 41 < lat < 42


def test_changed_sources_are_noticed(tmp_path):
    project.make(tmp_path)
    catalog = catalog_of(tmp_path)
    catalog.check_sources()
    path = tmp_path / "mask/s2.tif"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CatalogError, match=r"scene s2 .* has changed since"):
        catalog.check_sources()
    path.unlink()
    with pytest.raises(CatalogError, match=r"s2\.tif of scene s2 is gone"):
        catalog.check_sources()


@pytest.mark.parametrize("content", [None, b"not parquet"])
def test_a_missing_or_foreign_catalog_is_told(tmp_path, content):
    if content:
        (tmp_path / "c.parquet").write_bytes(content)
    with pytest.raises(CatalogError, match="raremap prepare"):
        Catalog.load(tmp_path / "c.parquet")


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_no_ground_is_in_two_uses(tmp_path, overlap, seed):
    """Two dates of the same ground, overlapping tiles, blocks that do not fit the tiles."""
    rng = np.random.default_rng(seed)
    for date in "ab":
        shift = 0 if date == "a" else 70.0
        image = rng.integers(1, 255, (1, 150, 170), dtype=np.uint8)
        mask = rng.choice(np.array([1, 2, 5], np.uint8), (150, 170))
        write(tmp_path / f"img/{date}.tif", image, (4e5 + shift, 4.6e6 - shift))
        write(tmp_path / f"mask/{date}.tif", mask, (4e5 + shift, 4.6e6 - shift))
    catalog = catalog_of(tmp_path, 16, overlap, SplitOptions(block_m=330, folds=3, seed=seed))
    use = uses(catalog)
    assert {"train", "monitor", "calibration", "test"} <= set(use)
    ground: dict[str, np.ndarray] = {}
    for name in ("train", "monitor", "calibration", "test"):
        seen = np.zeros((200, 200), bool)
        for row in np.flatnonzero(use == name):
            w, off = catalog.windows[row], 0 if catalog.scene_names[row] == "a" else 7
            seen[w.row_off + off : w.row_end + off, w.col_off + off : w.col_end + off] = True
        ground[name] = seen
    assert (sum(g.astype(int) for g in ground.values()) <= 1).all()


def test_scenes_without_crs_never_share_ground_across_uses_either(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path / "img/a.png", rng.integers(1, 255, (3, 100, 100), dtype=np.uint8))
    write(tmp_path / "mask/a.png", rng.choice(np.array([1, 2, 5], np.uint8), (100, 100)))
    options = scenes(tmp_path, images="img/*.png", masks="mask/*.png")
    catalog = prepare(
        options, SCHEME, TileOptions(size=16, overlap=0.5), SplitOptions(block_px=25, folds=3), True
    )
    use = uses(catalog)
    assert catalog.table.geometry.isna().all()
    seen = np.zeros((4, 100, 100), int)
    for k, name in enumerate(("train", "monitor", "calibration", "test")):
        for row in np.flatnonzero(use == name):
            seen[k][catalog.windows[row].slices()] = 1
    assert seen.sum(0).max() == 1
    assert (use == "dropped").any()


def test_rare_classes_are_spread_over_the_folds(tmp_path):
    for i in range(12):
        mask = np.ones((32, 32), np.uint8)
        mask[:, :9] = 2
        if i in (0, 1, 2):  # consecutive files: unshuffled folds would put them together
            mask[20:24, 20:24] = 5
        write(
            tmp_path / f"img/s{i:02}.tif", np.full((1, 32, 32), 9, np.uint8) + mask, (4e5 + 9000 * i, 4.6e6)
        )
        write(tmp_path / f"mask/s{i:02}.tif", mask, (4e5 + 9000 * i, 4.6e6))
    catalog = catalog_of(tmp_path, split=SplitOptions(folds=3))
    assert catalog.table["place"].nunique() == 12
    with_slide = catalog.counts[:, 2] > 0
    assert sorted(catalog.table["fold"][with_slide]) == [0, 1, 2]
    assert catalog.table.groupby("fold").size().tolist() == [4, 4, 4]


def test_places_from_a_file_by_name_stem_or_wildcard(tmp_path):
    project.make(tmp_path)
    (tmp_path / "p.json").write_text('{"s0.tif": 1, "s1": 1, "s2": 2, "s3": 2, "s4": 3, "s5": 3}')
    catalog = catalog_of(tmp_path, split=SplitOptions(places="p.json", folds=3))
    assert catalog.table.groupby("scene")["place"].first().tolist() == ["1", "1", "2", "2", "3", "3"]
    (tmp_path / "p.csv").write_text("s0,1\ns1,1\ns2,2\ns3,2\n")
    with pytest.raises(SplitError, match=r"p\.csv has no place for s4\.tif and 1 more"):
        catalog_of(tmp_path, split=SplitOptions(places="p.csv"))
    (tmp_path / "p.json").write_text("[1]")
    with pytest.raises(SplitError, match="not a JSON object"):
        catalog_of(tmp_path, split=SplitOptions(places="p.json"))
    with pytest.raises(SplitError, match="does not exist"):
        catalog_of(tmp_path, split=SplitOptions(places="q.json"))
    with pytest.raises(SplitError, match="has 1 wildcards"):
        catalog_of(tmp_path, split=SplitOptions(places=2))


def test_named_test_places_and_division_within_a_place(tmp_path):
    project.make(tmp_path, scenes=2, size=96)
    (tmp_path / "p.json").write_text('{"s0": "up", "s1": "down"}')
    catalog = catalog_of(tmp_path, split=SplitOptions(places="p.json", test=["down"], within=32))
    use = uses(catalog)
    assert set(catalog.scene_names[use == "test"]) == {"s1"}
    assert {"train", "monitor", "calibration"} == set(use[catalog.scene_names == "s0"])
    with pytest.raises(SplitError, match="names the place 'dwn'"):
        uses(catalog, SplitOptions(places="p.json", test=["dwn"], within=32))


def test_a_class_without_training_pixels_is_named(tmp_path):
    project.make(tmp_path, scenes=5)
    for i in (1, 2, 3, 4):
        with rasterio.open(tmp_path / f"mask/s{i}.tif", "r+") as file:
            mask = file.read(1)
            file.write(np.where(mask == 5, 1, mask), 1)
    (tmp_path / "p.json").write_text('{"s0": "a", "s1": "b", "s2": "c", "s3": "d", "s4": "e"}')
    catalog = catalog_of(tmp_path, split=SplitOptions(places="p.json", test=["a"]))
    with pytest.warns(RaremapWarning, match="no training pixel of 'slide'"):
        uses(catalog)


def test_too_few_places_are_told(tmp_path):
    project.make(tmp_path, scenes=2)
    (tmp_path / "p.json").write_text('{"s0": "a", "s1": "b"}')
    catalog = catalog_of(tmp_path, split=SplitOptions(places="p.json", test=["a"]))
    with pytest.raises(SplitError, match="too few to train and to monitor"):
        uses(catalog)


class TestBadInput:
    @pytest.fixture(autouse=True)
    def _project(self, tmp_path):
        project.make(tmp_path, scenes=3)

    def fails(self, folder, error, match, **more):
        with pytest.raises(error, match=match):
            catalog_of(folder, **more)

    def test_nothing_matches(self, tmp_path):
        self.fails(tmp_path, SceneError, r"nothing matches .*imgs/\*\.tif", images="imgs/*.tif")

    def test_a_single_file_that_is_not_there(self, tmp_path):
        self.fails(tmp_path, SceneError, r"x\.tif does not exist", images="x.tif", masks="y.tif")

    def test_an_image_without_its_mask_and_the_other_way_round(self, tmp_path):
        (tmp_path / "mask/s1.tif").rename(tmp_path / "mask/other.tif")
        self.fails(tmp_path, SceneError, r"image .*s1\.tif has no mask")
        (tmp_path / "img/s1.tif").unlink()
        self.fails(tmp_path, SceneError, r"mask .*other\.tif has no image")

    @pytest.mark.parametrize(
        ("mask", "match"),
        [
            ({"shape": (64, 63)}, r"mask .*s1\.tif has size 63x64, expected 64x64"),
            ({"origin": (4e5 + 5005.0, 4.6e6)}, r"s1\.tif has another grid .*0\.5 pixels"),
            ({"crs": "EPSG:25830"}, r"s1\.tif has CRS EPSG:25830, expected EPSG:25831"),
        ],
    )
    def test_a_mask_of_another_size_grid_or_crs(self, tmp_path, mask, match):
        shape, origin = mask.pop("shape", (64, 64)), mask.pop("origin", (4e5 + 5000.0, 4.6e6))
        write(tmp_path / "mask/s1.tif", np.ones(shape, np.uint8), origin, **mask)
        self.fails(tmp_path, SceneError, match)

    def test_a_value_that_is_not_in_the_scheme(self, tmp_path):
        write(tmp_path / "mask/s1.tif", np.full((64, 64), 9, np.uint8), (4e5 + 5000.0, 4.6e6))
        self.fails(tmp_path, LabelError, r"s1\.tif has value 9 \(\d+ pixels\), not in labels \{1,2,5\}")

    def test_a_band_that_is_not_there(self, tmp_path):
        self.fails(
            tmp_path,
            SceneError,
            r"s0\.tif has no band 'gren', it has red, green, blue; did you mean 'green'",
            use=["gren"],
        )

    def test_scenes_with_different_bands(self, tmp_path):
        write(tmp_path / "img/s1.tif", np.ones((2, 64, 64), np.uint8), (4e5 + 5000.0, 4.6e6))
        self.fails(
            tmp_path, SceneError, r"s1\.tif has bands band1, band2, but .*s0\.tif has red, green, blue"
        )

    def test_all_without_data(self, tmp_path):
        for i in range(3):
            write(tmp_path / f"img/s{i}.tif", np.zeros((3, 64, 64), np.uint8), (4e5 + i * 5000.0, 4.6e6))
        self.fails(
            tmp_path, SceneError, r"no tile is left of 3 scenes \(12 tiles: no valid pixel\)", nodata=0
        )

    def test_nothing_labelled(self, tmp_path):
        for i in range(3):
            write(tmp_path / f"mask/s{i}.tif", np.zeros((64, 64), np.uint8), (4e5 + i * 5000.0, 4.6e6))
        self.fails(tmp_path, SceneError, "no labelled pixel")

    def test_a_file_cut_short(self, tmp_path):
        path = tmp_path / "img/s1.tif"
        path.write_bytes(path.read_bytes()[:3000])
        self.fails(tmp_path, SceneError, r"s1\.tif (cannot be|has)")

    def test_no_mask_pattern(self, tmp_path):
        self.fails(tmp_path, SceneError, r"scenes\.masks is not given", masks=None)

    def test_a_nodata_tag_that_is_a_class_keeps_the_class(self, tmp_path):
        for i in range(3):
            with rasterio.open(tmp_path / f"mask/s{i}.tif", "r+") as file:
                file.nodata = 5
        with pytest.warns(
            RaremapWarning,
            match=r"tagged nodata 5, which is the class 'slide'; the class is kept.*and 2 more",
        ):
            catalog = catalog_of(tmp_path)
        assert catalog.counts[:, 2].sum() > 0


def test_one_file_a_band(tmp_path):
    for i in range(2):
        for band in ("B2", "B3"):
            write(
                tmp_path / f"s{i}_{band}.tif",
                np.full((32, 32), i + int(band[1]), np.uint8),
                (4e5 + 900 * i, 4.6e6),
            )
        write(tmp_path / f"s{i}_mask.tif", np.ones((32, 32), np.uint8), (4e5 + 900 * i, 4.6e6))
    options = ScenesOptions(
        root=str(tmp_path), band_files={"B3": "*_B3.tif", "B2": "*_B2.tif"}, masks="*_mask.tif"
    )
    found = find_scenes(options)
    assert [s.name for s in found] == ["s0", "s1"]
    catalog = prepare(options, SCHEME, TileOptions(size=32), SplitOptions(), quiet=True)
    assert catalog.bands == ("B3", "B2")
    with catalog.open_image("s1") as image:
        assert image.read(image.grid.window)[0][:, 0, 0].tolist() == [4, 3]
    (tmp_path / "s1_B2.tif").unlink()
    with pytest.raises(SceneError, match=r"s1_B3\.tif has no partner for band B2"):
        find_scenes(options)


def test_real_shares_are_those_that_come_with_the_data(real_data):
    scheme = LabelScheme(
        {0: "background", 1: "building", 2: "road", 3: "bare", 4: "forest", 5: "water"}, ignore=[255]
    )
    options = ScenesOptions(root=str(real_data / "naip"), images="img/tile_1*.tif", masks="mask/tile_1*.tif")
    catalog = prepare(options, scheme, TileOptions(), SplitOptions(), quiet=True)
    total = np.zeros(6, int)
    for path in sorted((real_data / "naip/mask").glob("tile_1*.tif")):
        with rasterio.open(path) as file:
            total += np.bincount(file.read(1).ravel(), minlength=256)[:6]
    # Three bands by default: black pixels of the fourth, which the files call alpha, are invalid.
    assert np.abs(catalog.counts.sum(0) / catalog.counts.sum() - total / total.sum()).max() < 0.01
