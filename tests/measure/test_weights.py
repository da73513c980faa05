"""Class weights against their formulas."""

import numpy as np
import pytest

from raremap.errors import ConfigError
from raremap.measure.weights import EffectiveNumber, class_weights

SHARES = np.array([0.7, 0.2, 0.1, 0.0])
TILES = np.array([[90, 10, 0, 0], [50, 0, 0, 0], [40, 50, 10, 0], [99, 1, 0, 0]])


def mean_one(raw):
    return [*(np.asarray(raw) / np.mean(raw)), 0]


@pytest.mark.parametrize(("kind", "power"), [("ins", 1), ("sqrt_ins", 0.5)])
def test_weights_by_shares_follow_their_formula_and_have_the_mean_one(kind, power) -> None:
    np.testing.assert_allclose(class_weights(kind, SHARES), mean_one((1 / SHARES[:3]) ** power))
    assert class_weights("none", SHARES).tolist() == [1, 1, 1, 0]
    assert class_weights("ins", np.array([*[0.0832] * 12, 1e-9])).max() == 10


def test_median_frequency_is_over_the_tiles_that_hold_a_class() -> None:
    frequency = np.array([279 / 350, 61 / 300, 10 / 100])
    theirs = np.median(frequency) / frequency
    np.testing.assert_allclose(class_weights("median_frequency", SHARES, TILES), mean_one(theirs))


@pytest.mark.parametrize("beta", [0.9, 0.9999])
def test_effective_number_counts_tiles_or_what_it_is_given(beta) -> None:
    tiles = np.array([4, 3, 1])
    raw = (1 - beta) / (1 - beta**tiles)
    kind = EffectiveNumber(beta=beta)
    np.testing.assert_allclose(class_weights(kind, SHARES, TILES), mean_one(raw))
    objects = np.array([300, 40, 7, 0])
    raw = (1 - beta) / (1 - beta ** objects[:3])
    np.testing.assert_allclose(class_weights(kind, SHARES, objects), mean_one(raw))


def test_effective_number_of_pixels_says_nothing() -> None:
    pixels = np.array([1e9, 1e7, 1e5, 0])
    np.testing.assert_allclose(class_weights("effective_number", SHARES, pixels), [1, 1, 1, 0], atol=1e-4)
    zero = class_weights(EffectiveNumber(beta=0), SHARES, pixels)
    assert zero.tolist() == [1, 1, 1, 0]


def test_explicit_weights_are_taken_as_they_are() -> None:
    assert class_weights((1, 20, 3, 0.5), SHARES).tolist() == [1, 20, 3, 0.5]
    with pytest.raises(ConfigError, match="2 class weights are given for 4 classes"):
        class_weights((1, 2), SHARES)


@pytest.mark.parametrize("kind", ["median_frequency", "effective_number"])
def test_weights_that_need_counts_ask_for_them(kind) -> None:
    with pytest.raises(ConfigError, match=rf"'{kind}' need counts by tile \[N, K\]; found none"):
        class_weights(kind, SHARES)
