"""Features of samples: those of the whole scene, of what was pasted, and of the turned ground."""

from __future__ import annotations

import numpy as np
import pytest
from tests.batches import ground
from tests.rasters import write

from raremap.balance.plan import SamplingPlan
from raremap.balance.sampler import Stream
from raremap.batches.dataset import TrainSamples
from raremap.labels import IGNORE
from raremap.scene.features.options import Canny, GlobalMinMax, LocalMinMax, Median, Sobel
from raremap.scene.features.reader import featured
from raremap.scene.normalize import Normalization
from raremap.scene.raster import open_image
from raremap.scene.turn import TURNS, dihedral
from raremap.scene.window import Window
from raremap.tiles.reader import TileReader

FEATURES = (
    Sobel(of="other"),
    Median(of="other", size=4),
    Canny(of="other", sigma=0.7, low=2e4, high=8e4, reach=5),
    LocalMinMax(of=("other",)),
)
BUDGETS = pytest.mark.parametrize("memory", [2 << 30, 0], ids=["in memory", "by window"])


def scene(tmp_path, name):
    """All channels and the validity of a whole scene."""
    with featured(open_image(tmp_path / f"img/{name}.tif"), FEATURES) as image:
        return image.read(image.grid.window)


@BUDGETS
def test_tiles_have_the_features_of_their_scene(tmp_path, memory):
    catalog = ground.make(tmp_path)
    reader = TileReader(catalog, np.arange(len(catalog)), memory, FEATURES)
    bare = TileReader(catalog, np.arange(len(catalog)), memory)
    rng = np.random.default_rng(0)
    for row, tile in enumerate(catalog.windows):
        channels, valid = scene(tmp_path, catalog.scene_names[row])
        image, usable, mask = reader.sample(row)
        np.testing.assert_array_equal(image, channels[:, *tile.slices()])
        np.testing.assert_array_equal(usable, valid[tile.slices()])
        for a, b in zip(reader.whole(row), bare.whole(row), strict=True):
            np.testing.assert_array_equal(a, b)
        assert reader.whole(row)[0].dtype == bare.sample(row)[0].dtype == np.uint16
        height, width = rng.integers(1, tile.height + 1), rng.integers(1, tile.width + 1)
        part = Window(
            tile.row_off + int(rng.integers(tile.height - height + 1)),
            tile.col_off + int(rng.integers(tile.width - width + 1)),
            int(height),
            int(width),
        )
        cut = reader.cut(row, part)
        np.testing.assert_array_equal(cut.image(), channels[:, *part.slices()])
        np.testing.assert_array_equal(cut.mask, mask[part.slices(within=tile)])


@BUDGETS
def test_features_of_a_composite_are_those_of_what_was_pasted(tmp_path, memory):
    """As if the composite stood in the scene's file."""
    catalog = ground.make(tmp_path / "a")
    reader = TileReader(catalog, np.arange(len(catalog)), memory, FEATURES[:3])
    row = 1
    tile, name = catalog.windows[row], catalog.scene_names[row]
    image, valid, mask = (v.copy() for v in reader.whole(row))
    image[:, 8:14, 3:20] = np.where(valid[8:14, 3:20], 777, image[:, 8:14, 3:20])
    mask[8:14, 3:20] = 2
    with open_image(tmp_path / f"a/img/{name}.tif") as file:
        stored = file.read(file.grid.window)[0]
    stored[:, *tile.slices()] = image
    path = write(tmp_path / "b.tif", stored, nodata=ground.NODATA, names=("number", "other"))
    with featured(open_image(path), FEATURES[:3]) as file:
        expected = file.read(tile)[0]
    part = Window(tile.row_off + 2, tile.col_off, 20, 15)
    for window in (tile, part):
        cut = reader.cut(row, window, (image, valid, mask))
        np.testing.assert_array_equal(cut.image(), expected[:, *window.slices(within=tile)])
        np.testing.assert_array_equal(cut.mask, mask[window.slices(within=tile)])
    assert not np.array_equal(reader.sample(row)[0][2:], expected[2:])
    np.testing.assert_array_equal(
        reader.whole(row)[0][:, valid], stored_before(tmp_path, name, tile)[:, valid]
    )


def stored_before(tmp_path, name, tile):
    with open_image(tmp_path / f"a/img/{name}.tif") as file:
        return file.read(tile)[0]


def test_samples_have_the_features_of_the_turned_scene(tmp_path):
    """Each sample is found again, by its numbers, in one of eight files of the turned scene."""
    catalog = ground.make(tmp_path, sizes=((51, 77),))
    with open_image(tmp_path / "img/s0.tif") as file:
        stored = file.read(file.grid.window)[0]
    turned = []
    for code in TURNS:
        path = write(
            tmp_path / f"t{code}.tif", np.ascontiguousarray(dihedral(stored, code)), nodata=ground.NODATA
        )
        with featured(open_image(path, names=("number", "other")), FEATURES) as image:
            turned.append(image.read(image.grid.window))
    rows = np.arange(len(catalog))
    reader = TileReader(catalog, rows, features=FEATURES)
    stream = Stream(SamplingPlan.uniform(catalog, np.ones(len(catalog), bool)), 0)
    identity = Normalization.identity(len(reader.channels.names))
    samples = TrainSamples(reader, catalog, stream, identity, 20, ground.TURNED, 0)
    seen = set()
    for i in range(60):
        sample = samples[i]
        labelled = sample["mask"] != IGNORE
        if not labelled.any():
            continue
        r, c = (int(v[0]) for v in labelled.nonzero())
        number = sample["image"][0, r, c]
        fits = []
        for code, (channels, valid) in enumerate(turned):
            at = np.argwhere((channels[0] == number) & valid)
            if len(at) != 1 or min(at[0] - (r, c)) < 0:
                continue
            top, left = at[0] - (r, c)
            part = channels[:, top : top + 20, left : left + 20]
            usable = valid[top : top + 20, left : left + 20]
            if part.shape == sample["image"].shape and (sample["image"][0] == part[0] * usable).all():
                fits.append(code)
                np.testing.assert_array_equal(sample["image"], part * usable)
        if fits:  # others are filled up at the rim of the scene
            seen.add(fits[0])
    assert len(seen) >= 6


def test_what_is_fitted_comes_from_the_rows_alone(tmp_path):
    catalog = ground.make(tmp_path)
    features = (GlobalMinMax(of=("number",)), Canny(of="other"))
    reader = TileReader(catalog, np.arange(len(catalog)), features=features)
    rows = np.array([0, 3])
    done, canny = reader.fit_features(rows)
    values = np.concatenate([i[0][v] for i, v, _ in (reader.whole(r) for r in rows)])
    assert (done.low, done.high) == ((values.min(),), (values.max(),))
    assert 0 < canny.low < canny.high
    image, valid, _ = reader.sample(3)
    assert image[2][valid].min() >= 0
    assert image[2][valid].max() <= 1
