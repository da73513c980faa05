"""Turns, colour jitter and CutMix of samples, traced back to the files by the number that every pixel bears."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.batches import ground

from raremap.balance.plan import SamplingPlan
from raremap.balance.sampler import Stream
from raremap.batches.augment import Jitter, drawn_turn
from raremap.batches.dataset import TrainSamples
from raremap.batches.distance import BoundaryMaps, signed_distance
from raremap.batches.loader import TrainBatches
from raremap.batches.mix import cutmix, rectangle
from raremap.batches.options import AugmentOptions
from raremap.errors import ConfigError
from raremap.labels import IGNORE
from raremap.scene.features.channels import Channels
from raremap.scene.features.options import Ndvi, Slope
from raremap.scene.features.pixels import Pixels
from raremap.scene.normalize import Normalization
from raremap.scene.turn import TURNS, dihedral
from raremap.tiles.reader import TileReader

MIXED = AugmentOptions(dihedral=False, gain=0, offset=0, cutmix=1)


def test_the_eight_flips_and_turns_are_different():
    image = np.arange(12.0).reshape(1, 3, 4)
    assert len({dihedral(image, c).tobytes() + str(dihedral(image, c).shape).encode() for c in TURNS}) == 8
    assert {drawn_turn(ground.TURNED, np.random.default_rng(i)) for i in range(99)} == set(TURNS)


BANDS = ("red", "nir", "dem", "extra")
NORMALIZATION = Normalization(
    "standard", (100.0, 50.0, 800.0, 0.0, 0.0, 0.0), (0.1, 0.05, 0.01, 1.0, 1.0, 1.0)
)
CHANNELS = Channels(BANDS, (Ndvi(), Slope(dem="extra", pixel_m=10)))
JITTER = AugmentOptions(gain=0.3, offset=0.2)


def pixels():
    rng = np.random.default_rng(0)
    return Pixels(rng.integers(1, 200, (4, 5, 6)).astype(np.uint16), np.ones((5, 6), bool), BANDS)


def test_gain_and_offset_are_those_of_the_normalised_band_and_the_ground_keeps_its_height():
    before, draws = pixels(), np.random.default_rng(7)
    after = Jitter(JITTER, CHANNELS, NORMALIZATION)(before, np.random.default_rng(7))
    gain, offset = np.exp(draws.normal(0, 1, 4) * 0.3), draws.normal(0, 1, 4) * 0.2
    for i in (0, 1):
        normal = (before.image[i] - NORMALIZATION.shift[i]) * NORMALIZATION.scale[i]
        found = (after.image[i] - NORMALIZATION.shift[i]) * NORMALIZATION.scale[i]
        np.testing.assert_allclose(found, gain[i] * normal + offset[i], atol=1e-4)
    for i in (2, 3):  # one by its name, one because the slope is made of it
        np.testing.assert_array_equal(after.image[i], before.image[i])


def test_features_are_made_of_the_changed_bands():
    after = Jitter(JITTER, CHANNELS, NORMALIZATION)(pixels(), np.random.default_rng(7))
    made = CHANNELS.compute(after)
    red, nir = after.image[:2]
    np.testing.assert_allclose(made[4], ((nir - red) / (nir + red)).clip(-1, 1), rtol=1e-4)
    np.testing.assert_array_equal(made[5], CHANNELS.compute(pixels())[5])


def test_bands_can_be_named_that_stay_and_others_move_as_they_did():
    some = Jitter(JITTER.model_copy(update={"still": ("red",)}), CHANNELS, NORMALIZATION)
    every = Jitter(JITTER, CHANNELS, NORMALIZATION)
    a, b = (j(pixels(), np.random.default_rng(1)).image for j in (some, every))
    np.testing.assert_array_equal(a[0], pixels().image[0])
    np.testing.assert_array_equal(a[1], b[1])
    with pytest.raises(
        ConfigError, match=r"augment\.still names 'rad', which is not a band; did you mean 'red'"
    ):
        Jitter(JITTER.model_copy(update={"still": ("rad",)}), CHANNELS, NORMALIZATION)


def test_the_rectangle_has_an_even_share_where_it_is_not_cut_off():
    rng, sizes = np.random.default_rng(0), []
    for _ in range(4000):
        rows, cols = rectangle((64, 64), rng)
        assert 0 <= rows.start <= rows.stop <= 64
        assert 0 <= cols.start <= cols.stop <= 64
        sizes.append((rows.stop - rows.start) * (cols.stop - cols.start) / 64**2)
    # A side s = √u, u even, keeps of its length s - s²/4 on average: E[(s - s²/4)²] = 1/2 - 1/5 + 1/48.
    assert np.mean(sizes) == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.015)


def test_a_mixed_sample_is_one_outside_of_the_rectangle_and_the_other_inside():
    rng = np.random.default_rng(3)
    one, other = (
        {
            "image": rng.normal(size=(2, 20, 20)).astype(np.float32),
            "mask": rng.choice([0, 1, IGNORE], (20, 20)),
            "worth": rng.random((20, 20)).astype(np.float32),
        }
        for _ in range(2)
    )
    kept = {k: v.copy() for k, v in one.items()}
    mixed = cutmix(one, other, np.random.default_rng(5))
    rows, cols = rectangle((20, 20), np.random.default_rng(5))
    inside = np.zeros((20, 20), bool)
    inside[rows, cols] = True
    assert 0 < inside.sum() < 400
    for name, values in mixed.items():
        np.testing.assert_array_equal(values, np.where(inside, other[name], one[name]))
        np.testing.assert_array_equal(one[name], kept[name])


def test_mixed_samples_are_of_two_tiles_and_every_pixel_keeps_its_class(tmp_path):
    catalog = ground.make(tmp_path)
    truth = ground.classes_by_number(tmp_path)
    plain, mixed = (ground.samples(catalog, 24, how) for how in (ground.STILL, MIXED))
    changed = []
    for draw in range(30):
        image, mask = mixed[draw]["image"], mixed[draw]["mask"]
        np.testing.assert_array_equal(mask, truth[image[0].astype(int)])
        changed.append((image != plain[draw]["image"]).any(0).mean())
        np.testing.assert_array_equal(mixed[draw]["prior"], plain[draw]["prior"])
    assert 0.15 < np.mean(changed) < 0.45


def test_half_of_the_samples_are_mixed_and_the_others_are_as_without(tmp_path):
    catalog = ground.make(tmp_path)
    plain, all_, half = (
        ground.samples(catalog, 24, AugmentOptions(cutmix=share)) for share in (0.0, 1.0, 0.5)
    )
    as_all = 0
    for draw in range(200):
        found = half[draw]["image"].tobytes()
        mixed = found == all_[draw]["image"].tobytes()
        assert mixed or found == plain[draw]["image"].tobytes()
        as_all += mixed
    assert 70 < as_all < 130


def test_the_partners_are_drawn_by_the_plan_in_force():
    weights = np.array([0.7, 0.3, 0.0, 0.0])
    even = np.ones(2) / 2
    plan = SamplingPlan(np.arange(4), weights, np.ones(4), np.ones((4, 2)), even, even, np.zeros(2, bool))
    stream = Stream(plan, 0)
    stream.follow(replace(plan, weights=weights[::-1].copy()), 400)
    rows = np.array([stream.partner(i) for i in range(800)])
    np.testing.assert_allclose(np.bincount(rows[:400], minlength=4) / 400, weights, atol=0.01)
    np.testing.assert_allclose(np.bincount(rows[400:], minlength=4) / 400, weights[::-1], atol=0.01)
    own = np.array([stream[i][1] for i in range(400)])
    assert 0.4 < (own == rows[:400]).mean() < 0.75  # by chance .58


def test_distances_are_made_of_the_mixed_mask(tmp_path):
    catalog = ground.make(tmp_path)
    rows = np.arange(len(catalog))
    stream = Stream(SamplingPlan.uniform(catalog, np.ones(len(catalog), bool)), 0)
    maps = BoundaryMaps(3, ("distance",))
    samples = TrainSamples(
        TileReader(catalog, rows), catalog, stream, Normalization.identity(2), 24, MIXED, 0, maps
    )
    for draw in range(5):
        np.testing.assert_array_equal(
            samples[draw]["distance"], signed_distance(samples[draw]["mask"], (0, 1, 2))
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_mixed_scaled_and_changed_batches_are_the_same_from_any_step_by_any_workers(tmp_path, workers):
    how = AugmentOptions(cutmix=0.5, scale=(0.75, 1.33), gain=0.1)
    samples = ground.samples(ground.make(tmp_path), 24, how)

    def batches(first=0, workers=0, share=(0, 1)):
        loader = TrainBatches(samples, first, 5, 4, workers, False, share=share)
        return [b["image"].numpy() for b in loader]

    whole = batches()
    for found, expected in zip(batches(2, workers), whole[2:], strict=True):
        np.testing.assert_array_equal(found, expected)
    for rank in range(2):
        for found, expected in zip(batches(0, workers, (rank, 2)), whole, strict=True):
            np.testing.assert_array_equal(found, expected[rank::2])
