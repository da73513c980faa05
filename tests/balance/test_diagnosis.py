"""Figures of a plan of three tiles of 16² with a few houses in the grass."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests.balance import houses

from raremap.balance.diagnosis import diagnose
from raremap.tiles.catalog import Catalog


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    return houses.catalog_of(tmp_path_factory.mktemp("three"), houses.masks())


def test_shares_and_divergences_agree_with_scipy(catalog):
    d = diagnose(houses.plan_of(catalog, [1, 2, 1]), catalog)
    natural, stream = np.array([736, 16]) / 752, np.array([245.5, 6.5]) / 252
    assert d.natural == pytest.approx(natural)
    assert d.stream == pytest.approx(stream)
    target, uniform = np.array([0.5, 0.5]), np.array([0.5, 0.5])
    for found, p in ((d.before, natural), (d.after, stream)):
        assert found.entropy == pytest.approx(stats.entropy(p))
        assert found.kl_target_from == pytest.approx(stats.entropy(target, p))
        assert found.kl_from_target == pytest.approx(stats.entropy(p, target))
        assert found.kl_uniform_from == pytest.approx(stats.entropy(uniform, p))
        assert found.kl_from_uniform == pytest.approx(stats.entropy(p, uniform))
        assert found.variation == pytest.approx(stats.variation(p))
    assert d.before.imbalance_ratio == pytest.approx(736 / 16)


def test_what_is_infinite_or_unknown_is_null_in_json(catalog):
    plan = replace(houses.plan_of(catalog, [1, 2, 1]), target=np.array([1.0, 0.0]))
    data = diagnose(plan, catalog).to_dict()
    assert data["after"]["kl_from_target"] is None
    assert data["by_class"]["grass"]["objects"] is None
    assert data["by_class"]["house"]["objects"] == 4
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_the_table_reads_from_common_to_rare(catalog):
    plan = houses.plan_of(catalog, [1, 2, 1], note="somebody chose so")
    lines = str(diagnose(plan, catalog)).splitlines()
    assert lines[0].split()[:4] == ["class", "natural", "target", "stream"]
    assert lines[1].split() == ["grass", "97.872%", "50.000%", "97.421%", "3", "3.0", "→", "2.7", "–", "–"]
    assert lines[2].split()[:5] == ["house", "*", "2.128%", "50.000%", "2.579%"]
    assert lines[2].split()[5:] == ["2", "1.9", "→", "1.6", "4", "2.9", "→", "2.3"]
    assert "uniform: somebody chose so" in lines
    assert "3 tiles: 1 drawn more than once a pass, 0 never, 2 times at most" in lines
    assert lines[-1] == "* rare"
    infinite = replace(plan, target=np.array([1.0, 0.0]))
    assert "inf" in str(diagnose(infinite, catalog))
