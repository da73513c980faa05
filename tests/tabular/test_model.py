"""Models of tables: the prior counted once, the same numbers from ONNX, bundles that tell what ails them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from raremap.errors import BundleError
from raremap.files import digest_of
from raremap.tabular.calibration import Calibration, log_odds, sigmoid
from raremap.tabular.columns import Column, Columns
from raremap.tabular.crossval import cross_validate
from raremap.tabular.evaluation import evaluate
from raremap.tabular.fitting import fit
from raremap.tabular.folds import by_row
from raremap.tabular.model import TableModel
from raremap.tabular.options import Boosting, Forest, Logistic, TableOptions

COLUMNS = Columns(
    (Column("a", "numeric"), Column("b", "numeric"), Column("rock", "categorical", ("1", "2", "3", "4")))
)
SMALL = [Boosting(iterations=20), Forest(trees=20), Logistic()]


def rows(n: int, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, truth and the true posterior's log-odds: two normal attributes moved by the class, a rock that says nothing.

    Within classes the attributes are independent and normal with unit variance, so that the log-odds are
    log(π/(1-π)) + Σ δ·(x - δ/2) (Bayes' rule).
    """
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < share
    x = rng.normal(size=(n, 2)) + truth[:, None] * np.array([1.2, 0.6])
    posterior = log_odds(share) + x @ np.array([1.2, 0.6]) - (1.2**2 + 0.6**2) / 2
    values = np.column_stack([x, rng.integers(0, 4, n)]).astype(np.float32)
    return values, truth, posterior


def gaps(values: np.ndarray, share: float = 0.1) -> np.ndarray:
    out = values.copy()
    out[np.random.default_rng(5).random(values.shape) < share] = np.nan
    return out


@pytest.mark.parametrize("balance", ["weights", "smote", "none"])
def test_the_prior_is_counted_once_whatever_the_balance(balance):
    """On rows with a known posterior: calibrated probabilities are near it, those that weights move are not."""
    values, truth, _ = rows(3000, 0.04)
    fresh, _, posterior = rows(5000, 0.04, seed=1)
    options = TableOptions(label="y", model=Logistic(), tune=False, balance=balance, folds=3)
    found = cross_validate(values, truth, COLUMNS, by_row(len(truth)), options)
    model = fit(values, truth, COLUMNS, options.model, balance, 0)
    true = sigmoid(posterior)
    calibrated = sigmoid(found.calibration(model.logits(fresh)))
    assert np.abs(calibrated - true).mean() < 0.012
    assert calibrated.mean() == pytest.approx(true.mean(), rel=0.15)
    # Put back without calibration it is near, too; as the model says it is far, where the balance moved it.
    assert np.abs(sigmoid(model.logits(fresh)) - true).mean() < 0.015
    raw = sigmoid(model.logits(fresh) + model.shift)
    if balance == "none":
        assert model.shift == 0
    else:
        assert model.shift == pytest.approx(np.log((~truth).sum() / truth.sum()))
        assert raw.mean() > 5 * true.mean()


def test_the_figures_of_a_balanced_draw_are_those_of_the_natural_table():
    """The same process at 5 %, and at half and half with `prior`: what is told of the second is true of the first."""

    def told(n: int, share: float, prior: float | None, seed: int) -> dict:
        values, truth, _ = rows(n, share, seed)
        options = TableOptions(label="y", model=Logistic(), tune=False, folds=3, prior=prior, replicates=2)
        places = by_row(n)
        found = cross_validate(values, truth, COLUMNS, places, options)
        fitted = fit(values, truth, COLUMNS, options.model, "weights", 0)
        return evaluate(values, truth, places, COLUMNS, found, fitted, options, "1", "t.csv")[1]

    natural, balanced = told(60_000, 0.05, None, 0), told(20_000, 0.5, 0.05, 1)
    raw = told(20_000, 0.5, None, 1)
    for key in ("average_precision", "auc", "f1"):
        value = natural["intervals"][key]["value"]
        assert balanced["intervals"][key]["value"] == pytest.approx(value, abs=0.03), key
        assert key == "auc" or raw["intervals"][key]["value"] > value + 0.3
    for key in ("precision", "recall", "least"):
        assert balanced[key] == pytest.approx(natural[key], abs=0.1), key
    for step in ("before", "after"):
        one, other = balanced["calibration"][step], natural["calibration"][step]
        for key, within in (("error", 0.006), ("brier", 0.004), ("log_loss", 0.01), ("mean", 0.004)):
            assert one[key] == pytest.approx(other[key], abs=within), (step, key)
        claimed, share = np.array([(c["claimed"], c["share"]) for c in one["curve"]]).T
        np.testing.assert_allclose(share, claimed, atol=0.05)
    for found in (0.2, 0.5, 0.8):
        at = [np.interp(found, *np.array(e["curve"]).T) for e in (balanced, natural)]
        assert at[0] == pytest.approx(at[1], abs=0.05)
    folds = [f["average_precision"] for f in balanced["folds"]["each"]]
    assert np.mean(folds) == pytest.approx(natural["intervals"]["average_precision"]["value"], abs=0.03)


def test_folds_of_different_settings_are_put_together_as_probabilities(monkeypatch):
    """Stumps and deep trees give log-odds of different widths: raw, rows of one fold would all lie before another's."""
    from sklearn.metrics import roc_auc_score

    values, truth, _ = rows(3000, 0.1)
    fresh, _, posterior = rows(5000, 0.1, seed=1)
    stumps, deep = Boosting(leaves=2, iterations=10), Boosting(leaves=15, iterations=60, learning_rate=0.4)
    monkeypatch.setattr(Boosting, "grid", property(lambda self: (stumps, deep)))
    given = iter([1.0, 0.0, 0.0, 1.0] * 2)  # by turns the first and the second of the grid, last the second
    monkeypatch.setattr("raremap.tabular.crossval.average_precision", lambda *_: next(given))
    options = TableOptions(label="y", model=Boosting(), folds=3)
    found = cross_validate(values, truth, COLUMNS, by_row(len(truth)), options)
    assert found.chosen.options == deep
    each = [roc_auc_score(truth[found.fold == k], found.logits[found.fold == k]) for k in range(3)]
    assert roc_auc_score(truth, found.logits) < np.mean(each) - 0.02
    assert roc_auc_score(truth, found.calibrated) > np.mean(each) - 0.005
    # The final model's calibration is of its own setting.
    model = fit(values, truth, COLUMNS, deep, options.balance, 0)
    true = sigmoid(posterior).mean()
    assert sigmoid(found.calibration(model.logits(fresh))).mean() == pytest.approx(true, rel=0.2)
    mixed = Calibration.fit("sigmoid", found.logits, truth)
    assert abs(sigmoid(mixed(model.logits(fresh))).mean() - true) > abs(
        sigmoid(found.calibration(model.logits(fresh))).mean() - true
    )


def test_another_prior_gives_the_posterior_of_that_ground():
    """Trained where half the rows are positive, served where 4 % are: near the posterior of such rows."""
    values, truth, _ = rows(3000, 0.5)
    fresh, _, posterior = rows(5000, 0.04, seed=1)
    model = TableModel.of(
        fit(values, truth, COLUMNS, Logistic(), "weights", 0), COLUMNS, Calibration(), prior=float(truth.mean()),
        serves=0.04, threshold=0.0, positive="1",
    )  # fmt: skip
    true = sigmoid(posterior)
    assert np.abs(model.probabilities(fresh) - true).mean() < 0.01
    assert np.abs(model.probabilities(fresh, prior=0.5) - true).mean() > 0.1
    # An alarm needs the same evidence: the least probability moves with the prior.
    assert ((model.probabilities(fresh) >= model.least()) == (model.logits(fresh) >= 0)).all()


@pytest.mark.parametrize("options", SMALL, ids=lambda o: o.kind)
@pytest.mark.parametrize("missing", [False, True])
def test_onnx_gives_the_probabilities_of_scikit_learn(tmp_path, options, missing):
    values, truth, _ = rows(1200, 0.2)
    values = gaps(values) if missing else values
    fitted = fit(values, truth, COLUMNS, options, "weights", 0)
    more = {
        "prior": 0.2,
        "serves": 0.1,
        "threshold": 0.3,
        "positive": "1",
        "info": {"name": "m", "rows": 1200},
    }
    model = TableModel.of(fitted, COLUMNS, Calibration("sigmoid", 0.8, -0.1), **more)
    model.save(tmp_path / "b")
    loaded = TableModel.load(tmp_path / "b")
    fresh = gaps(rows(3000, 0.2, seed=3)[0], 0.3)
    np.testing.assert_allclose(loaded.probabilities(fresh), model.probabilities(fresh), atol=1e-5)
    # Scikit-learn's own probability, by hand from the estimator.
    p = fitted.estimator.predict_proba(fitted.encoder(fresh))[:, 1].astype(float)
    p = np.clip(p, 0.5 / 20, 1 - 0.5 / 20) if options.kind == "forest" else p
    z = 0.8 * (np.log(p / (1 - p)) - fitted.shift) - 0.1
    np.testing.assert_allclose(loaded.logits(fresh), z, atol=1e-4)
    assert (loaded.serves, loaded.threshold, loaded.columns) == (0.1, 0.3, COLUMNS)
    assert not len(loaded.logits(np.empty((0, 3), np.float32)))


@pytest.mark.parametrize("options", SMALL[:2], ids=lambda o: o.kind)
def test_onnx_parts_neighbouring_float32_values_as_scikit_learn_does(tmp_path, options):
    """Attributes of neighbouring float32 values, where a threshold rounded to float32 may fall on either."""
    base = np.float32(1000.0)
    steps = [base]
    for _ in range(40):
        steps.append(np.nextafter(steps[-1], np.float32(np.inf)))
    rng = np.random.default_rng(0)
    index = rng.integers(0, 41, 2000)
    values = np.column_stack([np.array(steps, np.float32)[index], np.zeros(2000), np.zeros(2000)]).astype(
        np.float32
    )
    truth = (index % 7 < 3) ^ (rng.random(2000) < 0.05)
    options = options.model_copy(update={"min_leaf": 1})
    fitted = fit(values, truth, COLUMNS, options, "none", 0)
    model = TableModel.of(fitted, COLUMNS, Calibration(), prior=0.4, serves=0.4, threshold=0.0, positive="1")
    np.testing.assert_allclose(model.exported().probabilities(values), model.probabilities(values), atol=1e-5)


def test_categories_tell_where_they_do():
    """Positives lie in rock 3 and where the rock is not known: every model finds both."""
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(size=(800, 2)), rng.integers(0, 4, 800)]).astype(np.float32)
    values[rng.random(800) < 0.15, 2] = np.nan
    truth = (values[:, 2] == 2) | np.isnan(values[:, 2])
    truth ^= rng.random(800) < 0.03
    for options in SMALL:
        model = fit(values, truth, COLUMNS, options, "none", 0)
        asked = np.float32([[0, 0, 2], [0, 0, np.nan], [0, 0, 0], [0, 0, 3]])
        p = sigmoid(model.logits(asked))
        assert (p > 0.7).tolist() == [True, True, False, False], options.kind


def test_smote_keeps_codes_whole_and_works_with_gaps():
    values, truth, _ = rows(600, 0.1)
    from raremap.tabular.encode import Encoder
    from raremap.tabular.fitting import _smote

    values = gaps(values)
    encoder = Encoder.fit(values, COLUMNS, fill=True, standardise=False)
    filled, both = _smote(encoder.fill(values), truth, encoder, 0)
    assert both.sum() == (~both).sum() == (~truth).sum()
    assert set(np.unique(filled[:, 2])) <= {0, 1, 2, 3, 4}
    assert set(np.unique(filled[:, 3:])) == {0, 1}
    np.testing.assert_allclose(filled[: len(values)], encoder.fill(values), atol=1e-5)


def test_a_row_is_scored_by_a_model_that_has_not_seen_it():
    """Labels that are noise: a forest that knows its rows by heart scores no better than chance out of fold."""
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(size=(400, 2)), np.zeros(400)]).astype(np.float32)
    truth = rng.random(400) < 0.5
    options = TableOptions(label="y", model=Forest(trees=20, min_leaf=1), folds=4, tune=False)
    found = cross_validate(values, truth, COLUMNS, by_row(400), options)
    from sklearn.metrics import roc_auc_score

    assert 0.4 < roc_auc_score(truth, found.logits) < 0.6
    assert roc_auc_score(truth, found.models[0].logits(values)) > 0.8
    again = cross_validate(values, truth, COLUMNS, by_row(400), options)
    np.testing.assert_array_equal(again.logits, found.logits)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    values, truth, _ = rows(300, 0.3)
    fitted = fit(values, truth, COLUMNS, Logistic(), "weights", 0)
    more = {"prior": 0.3, "serves": 0.3, "threshold": 0.0, "positive": "1"}
    return TableModel.of(fitted, COLUMNS, Calibration(), **more).save(tmp_path_factory.mktemp("b") / "bundle")


def _copy(bundle, folder):
    import shutil

    return shutil.copytree(bundle, folder / "copy")


def test_a_bundle_holds_no_pickle(bundle):
    assert {p.name for p in bundle.iterdir()} == {"model.onnx", "model.json", "README.md"}
    assert "| rock | categorical of 4 |" in (bundle / "README.md").read_text()


def test_bundles_that_cannot_be_used_are_told(bundle, tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        TableModel.load(tmp_path / "nowhere")
    copy = _copy(bundle, tmp_path)
    item = json.loads((copy / "model.json").read_text())
    item["properties"]["raremap:threshold"] = 1.0
    (copy / "model.json").write_text(json.dumps(item))
    with pytest.raises(BundleError, match=r"model\.json was altered"):
        TableModel.load(copy)
    (copy / "model.json").write_bytes((bundle / "model.json").read_bytes())
    (copy / "model.onnx").write_bytes(b"cut")
    with pytest.raises(BundleError, match=r"model\.onnx is missing, altered or cut short"):
        TableModel.load(copy)
    (copy / "model.json").write_text("[]")
    with pytest.raises(BundleError, match=r"model\.json is not a bundle's description"):
        TableModel.load(copy)
    imagery = {"properties": {"raremap:format": 1}}
    imagery["properties"]["raremap:digest"] = digest_of(imagery)
    (copy / "model.json").write_text(json.dumps(imagery))
    with pytest.raises(BundleError, match="is no model of a table"):
        TableModel.load(copy)
    newer = {"properties": {"raremap:table": 99}}
    newer["properties"]["raremap:digest"] = digest_of(newer)
    (copy / "model.json").write_text(json.dumps(newer))
    with pytest.raises(BundleError, match="has format 99, this raremap reads up to 1; update raremap"):
        TableModel.load(copy)


def test_a_prediction_loads_neither_scikit_learn_nor_torch_nor_pandas(bundle):
    import subprocess

    code = f"""
import sys, numpy as np
from raremap.tabular.model import TableModel
print(TableModel.load({str(bundle)!r}).probabilities(np.zeros((2, 3), np.float32)).shape)
print(sorted({{m.split('.')[0] for m in sys.modules}} & {{"sklearn", "torch", "pandas", "skl2onnx", "imblearn", "onnx"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["(2,)", "[]"]
