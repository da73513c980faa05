"""Ranking, honesty and folds, against scikit-learn and counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_recall_curve,
    roc_auc_score,
)

from raremap.errors import SplitError
from raremap.tabular import measures
from raremap.tabular.calibration import Calibration, log_odds, sigmoid
from raremap.tabular.folds import by_block, by_group, by_row, deal, repeated
from raremap.tabular.read import read_table


def _rows(n: int = 400, share: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < share
    scores = np.round(rng.normal(truth * 1.0, 1), 1)  # with ties
    return scores, truth, rng.integers(0, 4, n).astype(float)


def test_ranking_is_that_of_scikit_learn_with_ties_and_weights():
    scores, truth, weights = _rows()
    assert measures.average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))
    assert measures.auc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))
    expected = average_precision_score(truth, scores, sample_weight=weights)
    assert measures.average_precision(scores, truth, weights) == pytest.approx(expected)
    expected = roc_auc_score(truth, scores, sample_weight=weights)
    assert measures.auc(scores, truth, weights) == pytest.approx(expected)
    assert np.isnan(measures.auc(scores, np.zeros_like(truth)))


def test_the_threshold_has_the_highest_f1_of_all():
    scores, truth, _ = _rows()
    precision, recall, _ = precision_recall_curve(truth, scores)
    best = np.nanmax(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    assert f1_score(truth, scores >= measures.best_threshold(scores, truth)) == pytest.approx(best)


def test_intervals_are_of_the_figures_and_draw_places():
    scores, truth, _ = _rows(600)
    place = np.arange(600) // 10
    found = measures.intervals(scores, truth, scores >= 1, place, 300, 0)
    assert found["average_precision"].value == pytest.approx(average_precision_score(truth, scores))
    assert found["auc"].value == pytest.approx(roc_auc_score(truth, scores))
    assert found["f1"].value == pytest.approx(f1_score(truth, scores >= 1))
    for one in found.values():
        assert one.low < one.value < one.high
    assert found["auc"].places == 60
    # Every row ten times in one place tells no more than once: the same places, the same interval.
    ten = [np.repeat(a, 10) for a in (scores, truth, scores >= 1, place)]
    again = measures.intervals(*ten, 300, 0)
    assert again["auc"].low == pytest.approx(found["auc"].low)


def test_a_difference_to_itself_is_nothing():
    scores, truth, _ = _rows()
    found = measures.intervals(scores, truth, scores > 0, np.arange(len(truth)), 50, 0, other=scores)
    assert (found["auc"].value, found["auc"].low, found["auc"].high) == (0, 0, 0)
    assert found["auc"].paired


def test_intervals_cover_what_they_should():
    """AUC of normal scores one apart is Φ(1/√2); of 60 draws of 300 rows about 57 intervals hold it."""
    from scipy.stats import norm

    rng, held = np.random.default_rng(1), 0
    for i in range(60):
        truth = rng.random(300) < 0.3
        scores = rng.normal(truth * 1.0, 1)
        one = measures.intervals(scores, truth, scores > 0, np.arange(300), 200, i)["auc"]
        held += one.low <= norm.cdf(1 / np.sqrt(2)) <= one.high
    assert 51 <= held <= 60


def test_calibration_error_by_hand():
    logits = np.array([log_odds(0.25)] * 4 + [log_odds(0.75)] * 4)
    truth = np.array([1, 0, 0, 0, 1, 1, 1, 1], bool)
    assert measures.calibration_error(logits, truth, cells=2) == pytest.approx(0.125)
    assert measures.brier(logits, truth) == pytest.approx((0.5625 + 3 * 0.0625 + 4 * 0.0625) / 8)


def test_rows_weighted_to_another_share_are_measured_as_scikit_learn_does():
    scores, truth, _ = _rows(600, 0.5)
    weights = measures.weights_for(truth, 0.03)
    assert weights is not None
    assert measures.weights_for(truth, None) is None
    assert np.average(truth, weights=weights) == pytest.approx(0.03)
    assert weights.sum() == pytest.approx(600)
    called, own = scores > 1, {"sample_weight": weights}
    found = measures.intervals(scores, truth, called, np.arange(600), 100, 0, weights=weights)
    assert found["average_precision"].value == pytest.approx(average_precision_score(truth, scores, **own))
    assert found["auc"].value == pytest.approx(roc_auc_score(truth, scores, **own))
    assert found["f1"].value == pytest.approx(f1_score(truth, called, **own))
    assert found["f1"].low < found["f1"].value < found["f1"].high < f1_score(truth, called)
    p = sigmoid(scores)
    assert measures.brier(scores, truth, weights) == pytest.approx(brier_score_loss(truth, p, **own))
    assert measures.log_loss(scores, truth, weights) == pytest.approx(log_loss(truth, p, **own))
    # A row of weight 3 is as three rows of it: two cells of weight 6 each.
    logits = np.array([log_odds(q) for q in (0.1, 0.2, 0.3, 0.8, 0.9)])
    truth, weights = np.array([0, 1, 0, 1, 1], bool), np.array([3.0, 2, 1, 5, 1])
    whole = np.repeat(logits, weights.astype(int)), np.repeat(truth, weights.astype(int))
    expected = measures.calibration_error(*whole, cells=2)
    assert measures.calibration_error(logits, truth, 2, weights) == pytest.approx(expected)
    assert expected == pytest.approx((abs(3 * 0.1 + 2 * 0.2 + 0.3 - 2) + abs(5 * 0.8 + 0.9 - 6)) / 12)


def test_sigmoid_calibration_is_the_maximum_of_the_likelihood():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    z = rng.normal(-3, 2, 4000)
    truth = rng.random(4000) < sigmoid(0.5 * z - 1)
    found = Calibration.fit("sigmoid", z, truth)
    expected = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(z[:, None], truth)
    assert found.slope == pytest.approx(expected.coef_[0, 0], rel=1e-3)
    assert found.offset == pytest.approx(expected.intercept_[0], rel=1e-3)
    assert sigmoid(found(z)).mean() == pytest.approx(truth.mean(), abs=1e-6)


@pytest.mark.parametrize("kind", ["sigmoid", "isotonic"])
def test_calibration_survives_scores_that_tell_nothing_or_all(kind):
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.1
    for z in (np.zeros(200), -truth.astype(float), np.where(truth, 5.0, -5.0), rng.normal(size=200)):
        p = sigmoid(Calibration.fit(kind, z, truth)(z))
        assert np.isfinite(p).all()
        assert p.mean() == pytest.approx(truth.mean(), abs=0.02)


def test_isotonic_calibration_follows_scikit_learn_and_stays_inside():
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(0)
    z = rng.normal(size=3000)
    truth = rng.random(3000) < sigmoid(2 * z - 2)
    found = Calibration.fit("isotonic", z, truth)
    p = sigmoid(found(z))
    assert np.abs(p - IsotonicRegression().fit(z, truth).predict(z)).mean() < 0.02
    assert (np.diff(found(np.linspace(-10, 10, 500))) >= 0).all()
    assert 0 < sigmoid(found(np.array([-50.0])))[0] < sigmoid(found(np.array([50.0])))[0] < 1
    again = Calibration.from_dict(found.to_dict())
    np.testing.assert_array_equal(again(z), found(z))


def test_no_place_is_in_two_folds_and_positives_are_spread():
    rng = np.random.default_rng(0)
    truth, group = rng.random(600) < 0.2, rng.integers(0, 60, 600)
    for places in (
        by_group(group),
        by_block(np.column_stack([group * 1000.0 + 10, np.zeros(600)]), 500, False),
    ):
        fold = deal(truth, places, 5, 0)
        assert all(len(set(fold[places.index == p])) == 1 for p in range(places.count))
        counts = [truth[fold == k].sum() for k in range(5)]
        assert max(counts) < 2 * min(counts)
    assert set(np.bincount(deal(truth, by_row(600), 5, 0))) <= {119, 120, 121}


def test_blocks_in_degrees_are_as_long_as_in_metres():
    metres = by_block(np.array([[0.0, 0], [900, 0], [1100, 0], [0, 1100]]), 1000, False)
    assert len(set(metres.index.tolist())) == 3
    # 0.009° of latitude is 1,001 m; of longitude at 60° it is half as long.
    degrees = by_block(np.array([[10.0, 60.0], [10.0085, 60.0], [10.0, 60.0135]]), 1000, True)
    assert degrees.index[0] != degrees.index[2]
    ten = by_block(np.column_stack([10 + np.arange(100) * 0.009, np.full(100, 60.001)]), 1000, True)
    assert ten.count == pytest.approx(50, abs=2)


@pytest.mark.parametrize(("code", "unit"), [(2229, 1200 / 3937), (32611, 1.0), (3424, 1200 / 3937)])
def test_blocks_in_feet_are_as_long_as_in_metres(tmp_path, code, unit):
    """The same ground in US survey feet (EPSG:2229, California, and 3424, New Jersey) and in metres has the same blocks."""
    import geopandas as gpd

    metres = np.random.default_rng(0).uniform(1e5, 1.05e5, (400, 2))
    places = gpd.GeoDataFrame({"a": range(400)}, geometry=gpd.points_from_xy(*(metres / unit).T), crs=code)
    places.to_file(tmp_path / "t.gpkg")
    places.to_parquet(tmp_path / "t.parquet")
    expected = len(np.unique(metres // 500, axis=0))
    for name in ("t.gpkg", "t.parquet"):
        source = read_table(tmp_path / name)
        assert source.unit_m == pytest.approx(unit)
        assert source.xy is not None
        assert by_block(source.xy, 500, source.degrees, source.unit_m).count == expected
        assert not source.unsure


def test_places_that_cannot_be_divided_are_told():
    truth = np.array([True, True] + [False] * 8)
    with pytest.raises(SplitError, match="positive rows lie in 1 group, too few for 3 folds"):
        deal(truth, by_group(np.array([0, 0] + [1, 2] * 4)), 3, 0)
    with pytest.raises(SplitError, match="1 rows have no coordinates"):
        by_block(np.array([[0.0, 1], [np.nan, 2]]), 100, False)


def test_rows_that_stand_in_two_folds_are_counted():
    nan = np.nan
    values = np.float32([[1, nan], [1, nan], [2, 3], [2, 3], [0.0, 1], [-0.0, 1], [5, 5]])
    assert repeated(values, np.array([0, 1, 0, 0, 1, 2, 0])) == 4
