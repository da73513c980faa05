"""The decision: fitted where it pays, zero where it does not, and applied to maps exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import balanced_accuracy_score, f1_score, fbeta_score, jaccard_score

from raremap.errors import ConfigError
from raremap.measure.decision import Decision, most_likely
from raremap.measure.fitting import fit_decision
from raremap.measure.options import DecisionOptions
from raremap.measure.sample import PixelSample

Pixels = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def skewed(
    n: int = 6000, places: int = 8, seed: int = 0, shares: tuple[float, ...] = (0.85, 0.1, 0.05)
) -> Pixels:
    """Pixels of places whose probabilities undervalue the rare classes: the bias that helps is known."""
    rng = np.random.default_rng(seed)
    k = len(shares)
    truth = rng.choice(k, n, p=shares)
    scores = rng.normal(size=(n, k))
    scores[np.arange(n), truth] += 2.0
    scores[:, 0] += 3.0  # what training on an uneven stream leaves
    probs = np.exp(scores)
    probs = (probs / probs.sum(1, keepdims=True)).astype(np.float32)
    return probs, truth, rng.integers(0, places, n), np.ones(n)


def decided(decision: Decision, probs: np.ndarray) -> np.ndarray:
    return decision.apply(np.ascontiguousarray(probs.T)[:, None, :])[0]


@given(st.integers(0, 999), st.integers(2, 9), st.integers(1, 7), st.integers(1, 7))
def test_without_a_bias_it_is_numpys_argmax(seed: int, k: int, h: int, w: int) -> None:
    rng = np.random.default_rng(seed)
    probs = rng.integers(0, 4, (k, h, w)).astype(np.float32)  # with ties
    index = Decision((0.0,) * k).apply(probs)
    assert index.dtype == np.uint8
    np.testing.assert_array_equal(index, probs.argmax(0))
    np.testing.assert_array_equal(most_likely(probs), probs.argmax(0))


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.25, 4))
def test_of_two_classes_a_decision_is_a_threshold_on_the_probability_of_either(
    first: float, second: float, temperature: float
) -> None:
    p = np.linspace(0, 1, 401, dtype=np.float32)
    decision = Decision((first, second), temperature=temperature)
    found = decided(decision, np.stack([1 - p, p], 1))
    threshold = decision.threshold(1)
    clear = np.abs(p - threshold) > 1e-5
    np.testing.assert_array_equal(found[clear], (p > threshold)[clear])
    assert decision.threshold(0) == pytest.approx(1 - threshold)
    assert Decision((0.0, 0.0), temperature=temperature).threshold(1) == 0.5
    with pytest.raises(ValueError, match="of 3 classes has no one threshold"):
        Decision((0.0,) * 3).threshold(1)


@given(st.integers(0, 999), st.integers(2, 6))
def test_a_bias_is_added_to_log_probabilities(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(k), (5, 6)).transpose(2, 0, 1).astype(np.float32)
    bias = rng.normal(0, 1, k)
    expected = (np.log(probs.astype(np.float64)) + bias[:, None, None]).argmax(0)
    view = np.concatenate([probs, probs], 2)[:, 1:, 3:8]  # strips are views into larger buffers
    np.testing.assert_array_equal(Decision(tuple(bias)).apply(probs), expected)
    assert Decision(tuple(bias)).apply(view).shape == (4, 5)


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="3 classes on probabilities of 2"):
        Decision((0.0,) * 3).apply(np.zeros((2, 1, 1), np.float32))


@pytest.mark.parametrize(
    ("options", "score"),
    [
        (DecisionOptions(), lambda t, p: f1_score(t, p, average="macro")),
        (DecisionOptions(metric="miou"), lambda t, p: jaccard_score(t, p, average="macro")),
        (DecisionOptions(metric="balanced_accuracy"), balanced_accuracy_score),
        (
            DecisionOptions(metric="f_beta", of="rarest", beta=2),
            lambda t, p: fbeta_score(t, p, beta=2, labels=[2], average="macro"),
        ),
    ],
)
def test_it_raises_the_metric_that_was_asked_for_on_pixels_it_has_not_seen(options, score) -> None:
    decision = fit_decision(*skewed(), options, names=("common", "rare", "rarest"))
    assert decision.fitted
    assert decision.gain_se is not None
    assert decision.gain > decision.gain_se
    probs, truth, *_ = skewed(seed=1)
    gained = score(truth, decided(decision, probs)) - score(truth, probs.argmax(1))
    assert gained > 0.02
    assert gained == pytest.approx(decision.gain, abs=0.06)


def test_probabilities_that_are_right_already_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 6000)
    scores = rng.normal(size=(6000, 3))
    scores[np.arange(6000), truth] += 2
    probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    decision = fit_decision(probs, truth, rng.integers(0, 8, 6000), np.ones(6000), DecisionOptions())
    assert not decision.fitted
    assert decision.note.startswith("argmax, since a bias by class would not pay (cross-fitted gain")


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_it_is_kept_exactly_where_its_gain_exceeds_its_standard_error(seed: int) -> None:
    decision = fit_decision(*skewed(n=200, places=5, seed=seed, shares=(0.5, 0.3, 0.2)), DecisionOptions())
    assert decision.gain_se is not None
    assert not decision.fitted or decision.gain > decision.gain_se
    assert decision.note.startswith("bias" if decision.fitted else "argmax")
    assert decision.places == 5


@pytest.mark.parametrize("places", [0, 1])
def test_under_two_places_it_stays_zero_and_says_so(places: int) -> None:
    probs, truth, place, weight = skewed(n=500 * places, places=max(1, places))
    decision = fit_decision(probs, truth, place, weight, DecisionOptions())
    assert decision.bias == (0.0, 0.0, 0.0)
    assert f"{places} calibration place(s) are too few" in decision.note


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_for_two_classes_the_threshold_is_the_best_that_there_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 60
    p1 = rng.integers(1, 40, n) / 41  # with ties
    truth = (rng.random(n) < p1 * 0.7).astype(int)
    truth[:2] = 0, 1
    probs = np.stack([1 - p1, p1], 1)
    from raremap.measure.fitting import _metric, best_bias

    bias = best_bias(np.log(probs), truth, np.ones(n), _metric(DecisionOptions(), ()))
    ours = f1_score(truth, (np.log(probs) + bias).argmax(1), average="macro", zero_division=0)
    every = [f1_score(truth, p1 > t, average="macro", zero_division=0) for t in [*(p1 - 1e-9), 1.0]]
    assert ours == pytest.approx(max(every))


def test_weights_stand_for_pixels() -> None:
    probs, truth, place, _ = skewed(n=900)
    times = np.random.default_rng(0).integers(1, 4, 900)
    weighed = fit_decision(probs, truth, place, times.astype(float), DecisionOptions())
    repeated = fit_decision(
        *(np.repeat(a, times, axis=0) for a in (probs, truth, place)), np.ones(times.sum()), DecisionOptions()
    )
    np.testing.assert_allclose(weighed.bias, repeated.bias)
    assert weighed.gain == pytest.approx(repeated.gain)


def test_a_class_without_a_calibration_pixel_keeps_a_zero_bias() -> None:
    probs, truth, place, weight = skewed()
    four = np.concatenate([probs * 0.9, probs.sum(1, keepdims=True) * 0.1], 1)
    decision = fit_decision(four, truth, place, weight, DecisionOptions())
    assert decision.fitted
    assert decision.bias[0] == decision.bias[3] == 0  # the likeliest, and the absent one
    assert decision.held == (8, 8, 8, 0)


def test_the_same_pixels_give_the_same_decision() -> None:
    one, other = (fit_decision(*skewed(), DecisionOptions(), {"window": 64}) for _ in range(2))
    assert one == other


def test_a_decision_survives_json() -> None:
    decision = fit_decision(
        *skewed(), DecisionOptions(), {"window": 256, "overlap": 0.25, "precision": "float32"}
    )
    again = Decision.from_dict(json.loads(json.dumps(decision.to_dict(), allow_nan=False)))
    assert again == decision
    assert again.way["window"] == 256


def test_a_gain_of_unknown_error_is_not_taken_and_is_written_as_json() -> None:
    probs, truth, place, weight = skewed(places=2)
    truth[place == 1] = 0
    options = DecisionOptions(metric="f_beta", of="rarest")
    decision = fit_decision(probs, truth, place, weight, options, names=("common", "rare", "rarest"))
    assert not decision.fitted
    assert decision.gain_se is None
    json.dumps(decision.to_dict(), allow_nan=False)


def test_argmax_can_be_asked_for() -> None:
    decision = fit_decision(*skewed(), DecisionOptions(kind="argmax"))
    assert not decision.fitted
    assert decision.note == "argmax, as asked"


def test_the_class_of_f_beta_must_be_one() -> None:
    options = DecisionOptions(metric="f_beta", of="watr")
    with pytest.raises(
        ConfigError, match=r"decision\.of is 'watr', which is not a class; did you mean 'water'"
    ):
        fit_decision(*skewed(), options, names=("land", "water", "road"))
    with pytest.raises(ValidationError, match="give both or neither"):
        DecisionOptions(metric="f_beta")


def test_the_sample_is_bounded_keeps_rare_classes_whole_and_weighs_to_the_pixels_seen() -> None:
    sample = PixelSample(3, 300, seed=0)
    rng = np.random.default_rng(1)
    seen = np.zeros(3)
    for place in range(20):
        truth = rng.choice(3, 500, p=(0.89, 0.109, 0.001))
        seen += np.bincount(truth, minlength=3)
        probs = np.zeros((3, 500), np.float32)
        probs[truth, np.arange(500)] = 1
        sample.add(probs, truth, place)
    probs, truth, place, weight = sample.arrays()
    kept = np.bincount(truth, minlength=3)
    assert kept.tolist() == [100, 100, seen[2]]
    np.testing.assert_allclose(np.bincount(truth, weight), seen)
    np.testing.assert_array_equal(probs.argmax(1), truth)
    assert len(np.unique(place[truth == 0])) == 20


def test_every_pixel_is_as_likely_in_the_sample_wherever_it_comes() -> None:
    taken = np.zeros(10)
    for seed in range(60):
        sample = PixelSample(2, 100, seed)
        for place in range(10):
            sample.add(np.full((2, 200), 0.5, np.float32), np.zeros(200, int), place)
        taken += np.bincount(sample.arrays()[2], minlength=10)
    # 3,000 pixels over ten places: 300 each, give or take 17.
    assert abs(taken - 300).max() < 75
