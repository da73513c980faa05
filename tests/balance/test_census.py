from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests import project

from raremap.balance.census import census, entropy, kl, rare_classes
from raremap.tiles.splits import uses
from raremap.workflows.prepare import prepare


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    project.make(folder)
    return prepare(project.experiment(folder, folder / "run"), quiet=True)


def test_entropy_and_divergence_agree_with_scipy():
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.1, 0.8])
    assert entropy(p) == pytest.approx(stats.entropy(p))
    assert kl(p, q) == pytest.approx(stats.entropy(p, q))
    assert kl(p, np.array([0.5, 0.5, 0.0])) == float("inf")
    assert kl(np.array([0.5, 0.5, 0.0]), p) == pytest.approx(stats.entropy([0.5, 0.5, 0.0], p))


def test_a_class_is_rare_below_half_of_an_even_share_unless_the_scheme_says():
    shares = np.array([0.86, 0.13, 0.01, 0.0])
    assert rare_classes(shares, ("a", "b", "c", "d"), None) == ("c",)
    assert rare_classes(shares, ("a", "b", "c", "d"), ("a",)) == ("a",)


def test_the_census_adds_up(catalog):
    use = uses(catalog)
    c = census(catalog, use)
    total = sum(d.counts for d in c.by_use.values())
    kept = catalog.counts[use != "dropped"].sum(0)
    assert total.tolist() == kept.tolist()
    assert sum(c.by_place.values()).tolist() == catalog.counts.sum(0).tolist()
    data = c.to_dict()
    assert data["total"]["shares"]["slide"] == pytest.approx(
        catalog.counts[:, 2].sum() / catalog.counts.sum()
    )
    assert data["rare"] == ["slide"]
    assert "slide *" in str(c)


def test_nothing_labelled_has_no_ratio(catalog):
    table = catalog.table.copy()
    table["counts"] = list(0 * catalog.counts)
    empty = census(replace(catalog, table=table))
    assert empty.to_dict()["total"]["imbalance_ratio"] is None
    line = next(line for line in str(empty).splitlines() if line.startswith("max/min"))
    assert line.split() == ["max/min", "–"]
