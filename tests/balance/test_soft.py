"""Plans on labels that are shares of classes: what a stream delivers is area, crops and composites included."""

from __future__ import annotations

import numpy as np
import pytest
from tests import soft

from raremap.balance.make import make_plan
from raremap.balance.options import CopyPasteOptions, Mixture, Uniform
from raremap.balance.paste import pasted_labels, render
from raremap.balance.sampler import Stream
from raremap.batches.dataset import TrainSamples
from raremap.batches.options import AugmentOptions
from raremap.labels import IGNORE
from raremap.scene.normalize import Normalization
from raremap.tiles.reader import TileReader


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soft")
    labels = soft.make(folder)
    return labels, soft.catalog_of(folder, tile=32)


def everything(catalog):
    return np.ones(len(catalog), bool)


def pasting(**more):
    return Mixture(
        kind="mixture",
        copy_paste=CopyPasteOptions(
            classes=["slide"], min_area=2, max_area=60, placement="random", share=1.0
        ),
        **more,
    )


def test_the_natural_shares_and_those_of_whole_tiles_are_of_areas(ground):
    labels, catalog = ground
    plan = make_plan(catalog, everything(catalog), Uniform(), 32, 0)
    whole = np.concatenate(labels)
    expected = np.array([(whole == v).sum() for v in (1, 2, 5)]) / (whole > 0).sum()
    assert plan.natural == pytest.approx(expected, abs=1e-6)
    assert plan.shares == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("aim", [0.0, 0.5])
def test_the_shares_stated_are_those_of_the_samples_drawn(ground, aim):
    _, catalog = ground
    plan = make_plan(catalog, everything(catalog), pasting(aim=aim), 12, 0)
    assert plan.composite.any()
    reader = TileReader(catalog, np.arange(len(catalog)))
    still = AugmentOptions(dihedral=True, gain=0, offset=0)
    samples = TrainSamples(reader, catalog, Stream(plan, 0), Normalization.identity(3), 12, still, 0)
    drawn = np.array([samples[i]["fractions"].sum((1, 2), dtype=float) for i in range(700)]).sum(0)
    assert drawn / drawn.sum() == pytest.approx(plan.shares, rel=0.08)
    # The stream itself is what it says, and not the shares of the largest classes.
    assert np.array_equal(samples[0]["prior"], plan.shares.astype(np.float32))


def test_planned_areas_of_composites_are_those_of_their_labels(ground):
    _, catalog = ground
    plan = make_plan(catalog, everything(catalog), pasting(), 32, 0)
    assert plan.composites is not None
    assert plan.bank is not None
    reader = TileReader(catalog, np.arange(len(catalog)))
    for m in range(len(plan.composites)):
        row, pasted = int(plan.composites.row[m]), plan.composites.pasted(m)
        mask, shares = pasted_labels(reader.labels(row), reader.shares(row), pasted, plan.bank)
        assert np.array_equal(mask, render(reader, row, pasted, plan.bank, plan.copy_paste)[2])
        labelled = mask != IGNORE
        assert plan.composites.counts[m] == pytest.approx(shares[:, labelled].sum(1) / 200, abs=1e-9)
        assert (shares.sum(0)[labelled] == 200).all()
        changed = (shares != reader.shares(row)).any(0)
        assert (shares[2][changed] == 200).all()
        assert changed.any()
        # A cell under the object that held some of its class already is now all of it.
        assert (mask[changed] == 2).all()
