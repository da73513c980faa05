import numpy as np
import pytest
from scipy import stats
from tests import project

from raremap.balance.census import census, entropy, kl, rare_classes
from raremap.balance.plan import SamplingPlan
from raremap.balance.sampler import WeightedOrder
from raremap.errors import CatalogError, SplitError
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


def test_a_uniform_plan_holds_every_training_tile_alike_and_is_read_back(catalog, tmp_path):
    chosen = uses(catalog) == "train"
    plan = SamplingPlan.uniform(catalog, chosen)
    assert plan.weights.sum() == pytest.approx(1)
    assert plan.effective_size == pytest.approx(chosen.sum())
    each = catalog.counts[chosen]
    assert plan.shares == pytest.approx(each.sum(0) / each.sum())
    again = SamplingPlan.load(plan.save(tmp_path / "p.parquet"))
    assert again.rows(catalog).tolist() == np.flatnonzero(chosen).tolist()
    assert again.shares.tolist() == plan.shares.tolist()
    with pytest.raises(SplitError, match="no training tile"):
        SamplingPlan.uniform(catalog, np.zeros(len(catalog), bool))
    (tmp_path / "x").write_text("")
    with pytest.raises(CatalogError, match="not a sampling plan"):
        SamplingPlan.load(tmp_path / "x")


def test_draws_follow_the_weights_and_depend_on_seed_and_number_alone():
    weights = np.array([1.0, 2, 3, 4])
    sampler = WeightedOrder(weights, seed=3)
    draws = [sampler[i] for i in range(4000)]
    counts = np.array([draws.count(r) for r in range(4)]) / 4000
    assert counts == pytest.approx(weights / 10, abs=0.01)
    again = WeightedOrder(weights, seed=3)
    assert [again[i] for i in reversed(range(500))] == draws[:500][::-1]
    assert [WeightedOrder(weights, seed=4)[i] for i in range(500)] != draws[:500]


def test_equal_weights_give_each_tile_once_a_round():
    sampler = WeightedOrder(np.ones(10), seed=0)
    for block in range(5):
        assert sorted(sampler[block * 10 + i] for i in range(10)) == list(range(10))
