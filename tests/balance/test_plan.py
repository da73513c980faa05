from dataclasses import replace

import numpy as np
import pytest
import rasterio
from pydantic import TypeAdapter
from tests import project
from tests.balance import little
from tests.batches import ground

from raremap.balance.make import make_plan
from raremap.balance.options import BalanceOptions, Diao, Mixture, Uniform
from raremap.balance.plan import SamplingPlan
from raremap.errors import CatalogError, ConfigError, RaremapWarning, SplitError
from raremap.tiles.reader import TileReader
from raremap.tiles.splits import uses
from raremap.workflows.prepare import prepare

KINDS = ("uniform", "diao", "mixture", "repeat_factor", "rare_class", "copies", "inverse_frequency")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    project.make(folder)
    return prepare(project.experiment(folder, folder / "run"), quiet=True)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A catalog of tiles of several sizes with ignored ground, and its folder."""
    folder = tmp_path_factory.mktemp("ground")
    return ground.make(folder, sizes=((70, 77), (40, 33), (64, 64))), folder


def options_of(kind, **more) -> BalanceOptions:
    return TypeAdapter(BalanceOptions).validate_python({"kind": kind, **more})


def train(catalog):
    return uses(catalog) == "train"


def same(one, two):
    """Whether two plans are the same, part by part."""
    for name in ("weights", "repeats", "counts", "natural", "target", "rare", "path"):
        a, b = getattr(one, name), getattr(two, name)
        assert (a is None and b is None) or (a.tolist() == b.tolist()), name
    assert one.tile_ids.tolist() == two.tile_ids.tolist()
    assert (one.options, one.note) == (two.options, two.note)
    assert (one.grid is None, one.crop) == (two.grid is None, two.crop)
    assert one.delivered.tolist() == two.delivered.tolist()
    if one.grid is not None and two.grid is not None:
        assert (one.grid.size, one.grid.step) == (two.grid.size, two.grid.step)
        for name in ("first", "top", "left", "counts", "empty", "chance"):
            assert getattr(one.grid, name).tolist() == getattr(two.grid, name).tolist(), name
    assert one.shares.tolist() == two.shares.tolist()


def test_a_uniform_plan_holds_every_training_tile_alike_and_is_read_back(catalog, tmp_path):
    chosen = train(catalog)
    plan = SamplingPlan.uniform(catalog, chosen)
    assert plan.weights.sum() == pytest.approx(1)
    assert plan.effective_size == pytest.approx(chosen.sum())
    each = catalog.counts[chosen]
    assert plan.shares == pytest.approx(each.sum(0) / each.sum())
    again = SamplingPlan.load(plan.save(tmp_path / "p.parquet"))
    same(again, plan)
    assert again.rows(catalog).tolist() == np.flatnonzero(chosen).tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("crop", "aim"), [(32, True), (16, True), (16, False)], ids=["tiles", "aimed", "crops"]
)
def test_a_plan_is_read_back_as_it_was_written(catalog, tmp_path, kind, crop, aim):
    plan = make_plan(catalog, train(catalog), options_of(kind, aim=aim), crop, 0)
    assert (plan.grid is not None, plan.cropped is not None) == (crop == 16 and aim, crop == 16 and not aim)
    again = SamplingPlan.load(plan.save(tmp_path / "plan.parquet"))
    same(again, plan)
    q = np.array([0.2, 0.2, 0.6])
    assert again.toward(q).weights.tolist() == plan.toward(q).weights.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["diao", "mixture"])
def test_a_plan_with_composites_and_crops_is_read_back_and_renders_the_same(tmp_path, kind):
    catalog = little.catalog_of(tmp_path / "data", [little.village(i) for i in range(8)])
    pasted = little.options(share=1.0, repeats=2)
    options = options_of(kind, aim=1, copy_paste=pasted.model_dump(mode="json"))
    plan = make_plan(catalog, np.ones(len(catalog), bool), options, 32, 0)
    assert plan.composite.sum() > 0
    assert plan.weights[plan.composite].sum() > 0
    assert plan.repeats[plan.composite].max() <= 2 * (1 + 1e-9)
    assert plan.grid is not None
    assert len(plan.grid.first) == len(plan.weights) + 1
    again = SamplingPlan.load(plan.save(tmp_path / "plan.parquet"))
    same(again, plan)
    assert again.composite.tolist() == plan.composite.tolist()
    assert again.composites is not None
    assert plan.composites is not None
    for m in range(len(plan.composites)):
        assert again.composites.pasted(m) == plan.composites.pasted(m)
    assert again.copy_paste == pasted
    assert again.bank is not None
    assert plan.bank is not None
    assert all(np.array_equal(a, b) for a, b in zip(again.bank.patch(0), plan.bank.patch(0), strict=True))
    same(again.toward(plan.target), plan)


def test_objects_of_another_plan_are_not_pasted(tmp_path):
    catalog = little.catalog_of(tmp_path / "data", [little.village(i) for i in range(4)])
    everywhere = np.ones(len(catalog), bool)
    pasted = [little.options(share=1.0, ring=ring).model_dump() for ring in (4, 6)]
    one, two = (make_plan(catalog, everywhere, options_of("diao", copy_paste=p), 64, 0) for p in pasted)
    path, objects = tmp_path / "plan.parquet", tmp_path / "plan.objects.parquet"
    one.save(path)
    first = path.read_bytes()
    assert SamplingPlan.load(two.save(path)).bank is not None
    # As a writing leaves it that is stopped between the objects and the plan.
    path.write_bytes(first)
    with pytest.raises(
        CatalogError, match=r"plan\.objects\.parquet holds the objects of another plan; make the"
    ):
        SamplingPlan.load(path)
    make_plan(catalog, everywhere, Uniform(), 64, 0).save(path)
    assert not objects.exists()


def test_what_is_no_plan_is_told_in_one_line(catalog, tmp_path):
    (tmp_path / "x").write_text("")
    for path in (tmp_path / "x", tmp_path / "none.parquet"):
        with pytest.raises(CatalogError, match="is not a sampling plan; make it again"):
            SamplingPlan.load(path)
    with pytest.raises(SplitError, match="no training tile"):
        SamplingPlan.uniform(catalog, np.zeros(len(catalog), bool))
    with pytest.raises(SplitError, match="no training tile"):
        make_plan(catalog, np.zeros(len(catalog), bool), Uniform(), 32, 0)


def test_a_plan_of_another_catalog_is_refused(catalog):
    plan = SamplingPlan.uniform(catalog, train(catalog))
    other = replace(plan, tile_ids=np.array([f"{t}x" for t in plan.tile_ids], object))
    with pytest.raises(CatalogError, match=r"names tile s\d:\d+:\d+x, which is not in the catalog"):
        other.rows(catalog)


def counted(catalog, folder, row):
    """Labelled pixels by class of a tile, with rasterio alone."""
    w = catalog.windows[row]
    window = rasterio.windows.Window(w.col_off, w.row_off, w.width, w.height)
    with rasterio.open(folder / f"img/{catalog.scene_names[row]}.tif") as file:
        valid = (file.read(window=window) != ground.NODATA).all(0)
    with rasterio.open(folder / f"mask/{catalog.scene_names[row]}.tif") as file:
        mask = file.read(1, window=window)
    return [int(((mask == v) & valid).sum()) for v in (3, 4, 9)]


@pytest.mark.parametrize("kind", KINDS)
def test_repeats_never_count_ignored_pixels_or_places_of_another_use(numbered, kind):
    catalog, folder = numbered
    chosen = np.arange(len(catalog)) % 3 != 1
    plan = make_plan(catalog, chosen, options_of(kind), 32, 0)
    rows = plan.rows(catalog)
    assert rows.tolist() == [r for r in np.flatnonzero(chosen) if catalog.counts[r].sum() > 0]
    assert plan.counts.tolist() == [counted(catalog, folder, r) for r in rows]
    assert plan.natural == pytest.approx(plan.counts.sum(0) / plan.counts.sum())
    # What is not chosen could hold anything.
    spoiled = ground.make(folder, sizes=((70, 77), (40, 33), (64, 64)))
    spoiled.table.loc[~chosen, "counts"] = None
    others = spoiled.table["counts"].to_list()
    spoiled.table["counts"] = [np.array([1, 1, 9e6], np.float32) if c is None else c for c in others]
    same(make_plan(spoiled, chosen, options_of(kind), 32, 0), plan)


def test_crops_count_no_ignored_pixel_and_no_place_of_another_use(numbered):
    catalog, folder = numbered
    chosen = np.arange(len(catalog)) % 3 != 1
    plan = make_plan(catalog, chosen, Mixture(kind="mixture", aim=1), 16, 0)
    assert plan.grid is not None
    rows = plan.rows(catalog)
    assert len(plan.grid.first) == len(rows) + 1
    for i, row in enumerate(rows):
        here = slice(plan.grid.first[i], plan.grid.first[i + 1])
        assert (plan.grid.counts[here] <= np.array(counted(catalog, folder, row)) + 1e-3).all()
    assert (plan.grid.counts.sum(1) <= 256 + 1e-3).all()


def test_tiles_of_one_class_and_those_no_larger_than_the_crop_are_not_read(tmp_path, monkeypatch):
    masks = [np.full((64, 64), 1), np.full((24, 30), 2), little.village(0)]
    masks[1][:9] = 0
    catalog = little.catalog_of(tmp_path, masks)
    read = []
    labels = TileReader.labels
    monkeypatch.setattr(TileReader, "labels", lambda self, row: read.append(row) or labels(self, row))
    plan = make_plan(catalog, np.ones(3, bool), Uniform(), 32, 0)
    assert [catalog.windows[r].height for r in read] == [64]
    assert catalog.counts[read[0]].astype(bool).sum() > 1
    assert plan.delivered[0].tolist() == [32 * 32, 0, 0, 0]
    assert plan.delivered[1].tolist() == [0, 15 * 30, 0, 0]
    monkeypatch.setattr(TileReader, "labels", None)
    assert (
        make_plan(catalog, np.ones(3, bool), Uniform(), 64, 0).delivered.tolist() == catalog.counts.tolist()
    )


def plan_of(counts, weights=None, options=None):
    counts = np.asarray(counts, float)
    n, k = counts.shape
    weights = np.full(n, 1 / n) if weights is None else np.asarray(weights)
    natural = counts.sum(0) / counts.sum()
    return SamplingPlan(
        np.arange(n),
        weights,
        weights * n,
        counts,
        natural,
        natural,
        natural < 0.5 / k,
        options or Uniform(),
    )


def test_shares_are_pooled_over_pixels_so_that_a_tile_with_few_labels_counts_for_little():
    plan = plan_of([[90, 10], [0, 10]], [0.25, 0.75])
    assert plan.shares == pytest.approx([22.5 / (25 + 7.5), 10 / (25 + 7.5)])
    assert plan.effective_size == pytest.approx(1 / (0.0625 + 0.5625))


@pytest.mark.parametrize("kind", ["diao", "mixture"])
def test_another_target_draws_the_same_rows_by_other_weights(kind):
    rng = np.random.default_rng(0)
    options = options_of(kind)
    plan = plan_of(rng.dirichlet([2, 1, 0.3], 50) * 1000, options=options)
    plan = plan.toward(np.array([0.5, 0.35, 0.15]))
    asked = plan.toward(np.array([0.2, 0.2, 0.6]))
    assert asked.shares[2] > plan.shares[2] + 0.03
    assert asked.repeats.max() <= 4 * (1 + 1e-9)
    assert asked.weights.sum() == pytest.approx(1)
    assert asked.counts is plan.counts
    same(asked.toward(plan.target), plan)
    assert asked.toward(plan.natural).shares == pytest.approx(plan.natural, abs=0.02)


def test_aimed_crops_follow_another_target(catalog):
    plan = make_plan(catalog, train(catalog), Diao(kind="diao", budget=0, aim=1), 16, 0)
    more = plan.toward(np.array([0.1, 0.1, 0.8]))
    assert more.weights.tolist() == plan.weights.tolist(), "no repeat is allowed"
    assert more.shares[2] > plan.shares[2] > plan.natural[2]
    same(more.toward(plan.target), plan)


def test_absent_classes_leave_the_support(numbered):
    catalog, _ = numbered
    water = catalog.counts[:, 2] > 0
    catalog = ground.make(numbered[1], sizes=((70, 77), (40, 33), (64, 64)))
    catalog.table["counts"] = [c * np.array([1, 1, 0], np.float32) for c in catalog.table["counts"]]
    assert water.any()
    for kind in KINDS:
        plan = make_plan(catalog, np.ones(len(catalog), bool), options_of(kind), 32, 0)
        assert plan.target == pytest.approx([0.5, 0.5, 0])
        assert plan.shares[2] == 0
        assert np.isfinite(plan.weights).all()
    named = options_of("mixture", target={"shares": {"water": 0.5}})
    with pytest.warns(RaremapWarning, match="names water, of which there is no training pixel"):
        make_plan(catalog, np.ones(len(catalog), bool), named, 32, 0)


def test_a_single_class_leaves_nothing_to_balance(numbered):
    catalog = ground.make(numbered[1], sizes=((70, 77), (40, 33), (64, 64)))
    catalog.table["counts"] = [c * np.array([1, 0, 0], np.float32) for c in catalog.table["counts"]]
    for kind in KINDS:
        with pytest.warns(RaremapWarning, match="all training labels are of class rock"):
            plan = make_plan(catalog, np.ones(len(catalog), bool), options_of(kind), 32, 0)
        assert plan.shares.tolist() == [1, 0, 0]
        if kind != "rare_class":
            assert plan.weights == pytest.approx(np.full(len(plan.weights), 1 / len(plan.weights)))


def test_names_that_are_no_class_are_told(catalog):
    chosen = train(catalog)
    for options, key in (
        (options_of("diao", target={"shares": {"slides": 0.3}}), "balance.target.shares"),
        (options_of("copies", classes=["slides"]), "balance.classes"),
        (options_of("mixture", copy_paste={"classes": ["slides"]}), "balance.copy_paste.classes"),
    ):
        with pytest.raises(ConfigError, match=rf"{key} names 'slides', which is not a class; .*slide"):
            make_plan(catalog, chosen, options, 32, 0)
