import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import rasterio

from raremap.errors import OutputError
from raremap.valley.cover import ISOLATED
from raremap.valley.layout import HOUSE, LOST_HOUSE, make_layout
from raremap.valley.options import ValleyOptions
from raremap.valley.simulate import _claim, simulate
from raremap.valley.terrain import make_terrain

SIZE = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valleys")
    simulate(folder, ValleyOptions(size=SIZE, valleys=2))
    return folder


def read(folder, layer, name="valley_01"):
    with rasterio.open(folder / layer / f"{name}.tif") as file:
        data = file.read()
        return (data[0] if file.count == 1 else data), file.profile


def digests(folder, name):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob(f"{name}.*")
    }  # fmt: skip


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_valleys(folder, tmp_path):
    simulate(tmp_path / "again", ValleyOptions(size=SIZE, valleys=1))
    assert digests(tmp_path / "again", "valley_00") == digests(folder, "valley_00")
    simulate(tmp_path / "other", ValleyOptions(size=SIZE, valleys=1, seed=1))
    mine, other = digests(folder, "valley_00"), digests(tmp_path / "other", "valley_00")
    assert mine["labels/valley_00.tif"] != other["labels/valley_00.tif"]


def test_coarse_labels_and_fractions_follow_from_the_fine_ones(folder):
    for suffix in ("", "_true"):
        fine, fine_profile = read(folder, f"labels_fine{suffix}")
        coarse, profile = read(folder, f"labels{suffix}")
        shares, _ = read(folder, f"fractions{suffix}")
        assert np.array_equal(coarse, fine[5::10, 5::10])
        for value in range(1, 13):
            counted = (fine == value).reshape(SIZE, 10, SIZE, 10).sum((1, 3))
            assert np.array_equal(shares[value - 1], counted)
        assert fine_profile["crs"] == profile["crs"] == rasterio.CRS.from_epsg(25831)
        assert fine_profile["transform"] @ (10, 10) == profile["transform"] @ (1, 1)


def test_valleys_lie_apart_and_images_are_sentinel_bands(folder):
    bounds = []
    for name in ("valley_00", "valley_01"):
        with rasterio.open(folder / "august" / f"{name}.tif") as file:
            bounds.append(file.bounds)
            assert file.descriptions == ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
            assert (file.dtypes[0], file.nodata, file.scales[0]) == ("uint16", 0, 1e-4)
            assert file.read().min() >= 1
    assert bounds[0].right < bounds[1].left


def test_water_runs_downhill_and_forests_are_greener_than_quarries(folder):
    terrain = make_terrain(128, np.random.default_rng(3), coast=False)
    flat, to = terrain.height.ravel(), terrain.receiver.ravel()
    moves = to != np.arange(to.size)
    lake = terrain.lake.ravel()
    assert (flat[to][moves & ~lake] <= flat[moves & ~lake] + 1e-3).all()
    assert moves.reshape(128, 128)[:-1].all()
    image, _ = read(folder, "august")
    labels, _ = read(folder, "labels_true")
    clear = read(folder, "clouds_august_true")[0] == 0
    red, nir = image[2].astype(float), image[6].astype(float)
    ndvi = (nir - red) / (nir + red)
    assert ndvi[(labels == 3) & clear].mean() > 0.5
    assert ndvi[(labels == 3) & clear].mean() > ndvi[(labels == 6) & clear].mean() + 0.2


def test_scars_start_on_steep_ground_and_are_not_there_in_april(folder):
    found = 0
    for name in ("valley_00", "valley_01"):
        scar, _ = read(folder, "landslides_fine_true", name)
        share = (scar == 1).reshape(SIZE, 10, SIZE, 10).mean((1, 3))
        slope, _ = read(folder, "slope", name)
        whole = share > 0.95
        found += int(whole.sum())
        clear = (read(folder, "clouds_april_true", name)[0] == 0) & (
            read(folder, "clouds_august_true", name)[0] == 0
        )
        bare = whole & clear & (read(folder, "labels_true", name)[0] == 3)
        ndvi = []
        for month in ("april", "august"):
            image = read(folder, month, name)[0].astype(float)
            ndvi.append((image[6] - image[2]) / (image[6] + image[2]))
        if bare.sum() > 5:
            assert (ndvi[0] - ndvi[1])[bare].mean() > 0.15
        if whole.any():
            assert np.median(slope[whole]) > 18
    assert found > 0


def test_given_labels_have_the_faults_of_real_ones(folder):
    terrain = make_terrain(256, np.random.default_rng(5), coast=False)
    layout = make_layout(terrain, np.random.default_rng(6))
    assert layout.houses > 60
    assert 0.02 < layout.lost_houses / layout.houses < 0.18
    assert (layout.codes == HOUSE).sum() > 8 * (layout.codes == LOST_HOUSE).sum() / 2
    given, true = read(folder, "labels_fine")[0], read(folder, "labels_fine_true")[0]
    assert 0.03 < (given != true).mean() < 0.3
    assert (true == ISOLATED).any()


def test_the_given_cloud_mask_misses_some_cloud():
    from raremap.valley.sensor import CLOUD, _given_clouds

    truth = np.zeros((200, 200), np.uint8)
    truth[40:150, 30:170] = CLOUD
    given = _given_clouds(truth, np.random.default_rng(0))
    assert (given[truth == CLOUD] == 0).mean() == pytest.approx(0.07, abs=0.005)
    assert (given[truth == 0] == 0).all()


def test_slope_units_have_a_row_each(folder):
    table = pd.read_csv(folder / "slope_units.csv")
    assert set(table["valley"]) == {"valley_00", "valley_01"}
    unit, _ = read(folder, "slope_units")
    rows = table[table["valley"] == "valley_01"]
    assert len(rows) == unit.max() + 1
    assert rows["area_m2"].tolist() == (np.bincount(unit[unit >= 0]) * 100).tolist()
    assert set(table["landslide"]) == {0, 1}


def test_a_stopped_run_goes_on_and_other_options_are_refused(folder, tmp_path):
    def stop(steps=1):
        raise KeyboardInterrupt

    class Stopping:
        advance = staticmethod(stop)

        def note(self, text):
            pass

    options = ValleyOptions(size=SIZE, valleys=2)
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "v", options, Stopping())
    stamp = (tmp_path / "v/labels/valley_00.tif").stat().st_mtime_ns
    simulate(tmp_path / "v", options)
    assert (tmp_path / "v/labels/valley_00.tif").stat().st_mtime_ns == stamp
    assert digests(tmp_path / "v", "valley_01") == digests(folder, "valley_01")
    assert json.loads((tmp_path / "v/places.json").read_text()) == {
        "valley_00.tif": "valley_00",
        "valley_01.tif": "valley_01",
    }
    with pytest.raises(OutputError, match="holds valleys of other options"):
        simulate(tmp_path / "v", ValleyOptions(size=SIZE, valleys=2, seed=9))


def test_scars_follow_the_terrain_as_far_as_the_coupling_says():
    from raremap.valley.landslides import make_scars
    from raremap.valley.layout import make_layout
    from raremap.valley.terrain import make_terrain

    terrain = make_terrain(128, np.random.default_rng(3), coast=False)
    layout = make_layout(terrain, np.random.default_rng(4))

    def wetness(coupling):
        drained = []
        for seed in range(4):
            scars = make_scars(terrain, layout, np.random.default_rng(seed), coupling)
            there = scars.reshape(128, 10, 128, 10).any((1, 3))
            drained.append(np.log(terrain.drained[there]).mean())
        return np.mean(drained)

    assert wetness(0.0) < wetness(1.0) < wetness(3.0)


def test_a_folder_from_before_the_coupling_goes_on_and_another_coupling_is_refused(tmp_path):
    (tmp_path / "valley.json").write_text('{"seed": 0, "size": 64, "many": true}')
    _claim(tmp_path, ValleyOptions(size=64, valleys=1))
    with pytest.raises(OutputError, match="holds valleys of other options"):
        _claim(tmp_path, ValleyOptions(size=64, valleys=1, coupling=2.0))
