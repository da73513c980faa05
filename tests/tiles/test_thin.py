"""Thinned training: how many tiles and labels stay, that milder thinnings hold the stronger, and who is spared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.workflows.scenes import make

from raremap.errors import RaremapWarning
from raremap.labels import IGNORE
from raremap.tiles.options import SplitOptions, ThinOptions
from raremap.tiles.reader import TileReader
from raremap.tiles.splits import uses as uses_of
from raremap.tiles.thin import imbalance_of, thin


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory):
    return make(tmp_path_factory.mktemp("scenes"), scenes=12, split=SplitOptions(folds=4))[0]


@pytest.mark.parametrize("keep", [0.05, 0.25, 0.5])
def test_a_share_of_the_training_tiles_stays_and_other_uses_are_spared(catalog, keep: float) -> None:
    uses = uses_of(catalog)
    same, thinned = thin(catalog, uses, ThinOptions(keep=keep), [2], seed=0)
    assert same is catalog
    assert (thinned == "train").sum() == max(1, round(keep * (uses == "train").sum()))
    others = uses != "train"
    np.testing.assert_array_equal(thinned[others], uses[others])


def test_what_stays_at_a_small_share_stays_at_larger_ones_and_differs_between_seeds(catalog) -> None:
    uses = uses_of(catalog)

    def kept(keep: float, seed: int) -> set[int]:
        return set(np.flatnonzero(thin(catalog, uses, ThinOptions(keep=keep), [], seed)[1] == "train"))

    assert kept(0.1, 0) < kept(0.3, 0) < kept(0.9, 0)
    assert kept(0.1, 0) != kept(0.1, 1)


@pytest.mark.parametrize("ratio", [20, 60, 1000])
def test_rare_labels_are_hidden_until_the_ratio_is_met(catalog, ratio: float) -> None:
    uses = uses_of(catalog)
    train = uses == "train"
    thinned, same = thin(catalog, uses, ThinOptions(imbalance=ratio), [2], seed=0)
    np.testing.assert_array_equal(same, uses)
    before, after = catalog.counts[train].sum(0), thinned.counts[train].sum(0)
    assert before[:2].tolist() == after[:2].tolist()
    tile = catalog.counts[train, 2].max()
    assert abs(after[2] - max(before[0] / ratio, tile)) <= tile  # to within a tile, one tile at least
    np.testing.assert_array_equal(catalog.counts[~train], thinned.counts[~train])


def test_hidden_labels_are_ignored_by_the_reader_as_they_are_by_the_counts(catalog) -> None:
    uses = uses_of(catalog)
    thinned, _ = thin(catalog, uses, ThinOptions(imbalance=200), [2], seed=0)
    rows = np.flatnonzero(uses == "train")
    reader = TileReader(thinned, rows)
    assert thinned.hidden
    for row in rows:
        mask = reader.whole(int(row))[2]
        np.testing.assert_array_equal(np.bincount(mask[mask != IGNORE], minlength=3), thinned.counts[row])


def test_a_tile_of_every_class_stays(tmp_path: Path) -> None:
    catalog, _ = make(tmp_path, scenes=9, split=SplitOptions(folds=3))
    counts = catalog.counts.copy()
    uses = uses_of(catalog)
    train = np.flatnonzero(uses == "train")
    counts[:, 2] = 0
    counts[train[3], 2] = 7  # one tile alone holds the rare class
    table = catalog.table.assign(counts=list(counts))
    for seed in range(5):
        _, thinned = thin(replace(catalog, table=table), uses, ThinOptions(keep=0.1), [2], seed)
        assert thinned[train[3]] == "train"


@pytest.mark.parametrize("keep", [0.05, 0.1, 0.15])
def test_a_tile_of_every_class_stays_where_that_takes_more_than_the_share(catalog, keep: float) -> None:
    rows = np.flatnonzero(uses_of(catalog) == "train")[:20]
    uses, counts = np.full(len(catalog), "test", object), np.zeros_like(catalog.counts)
    uses[rows] = "train"
    counts[rows, [0, 0, 0, 0, 1, 2] * 3 + [0, 0]] = 100  # a tile holds one class
    pure = replace(catalog, table=catalog.table.assign(counts=list(counts)))
    for seed in range(5):
        thinned = thin(pure, uses, ThinOptions(keep=keep), [2], seed)[1]
        assert (counts[thinned == "train"].sum(0) > 0).all()
        assert (thinned == "train").sum() == 3


def test_a_ratio_below_the_natural_one_changes_nothing_and_that_is_told(catalog) -> None:
    uses = uses_of(catalog)
    total = catalog.counts[uses == "train"].sum(0)
    natural = total[0] / total[2]
    with pytest.warns(RaremapWarning, match=rf"imbalance 5 changes nothing .*: water \({natural:.0f}\)"):
        thinned, same = thin(catalog, uses, ThinOptions(imbalance=5), [2], seed=0)
    np.testing.assert_array_equal(thinned.counts, catalog.counts)
    assert imbalance_of(thinned, same, [2]) == pytest.approx(natural)


def test_the_realised_imbalance_is_counted_by_hand(catalog) -> None:
    uses = uses_of(catalog)
    seen = thin(catalog, uses, ThinOptions(imbalance=100), [2], seed=0)
    total = seen[0].counts[uses == "train"].sum(0)
    assert imbalance_of(*seen, [2]) == pytest.approx(total[0] / total[2])
    assert imbalance_of(*seen, [1, 2]) == pytest.approx(np.sqrt(total[0] / total[1] * total[0] / total[2]))
    assert np.isnan(imbalance_of(*seen, []))


def test_without_thinning_nothing_changes(catalog) -> None:
    uses = uses_of(catalog)
    same, also = thin(catalog, uses, ThinOptions(), [2], seed=0)
    assert same is catalog
    assert also is uses
