import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from raremap.balance.paste import (
    Pasted,
    dihedral,
    edge,
    halo,
    paste,
    paste_mask,
    placed,
    render,
    terrain_bands,
)
from raremap.labels import IGNORE

STILL = {"feather": 0.0, "match": False, "terrain": ()}


def tile(height=40, width=48, level=(100, 60), dtype="uint8"):
    image = np.stack([np.full((height, width), v, dtype) for v in level])
    return image, np.ones((height, width), bool), np.zeros((height, width), np.uint8)


def square(side=6, margin=4, inside=(200, 30), outside=(80, 90), dtype="uint8"):
    n = side + 2 * margin
    mask = np.zeros((n, n), bool)
    mask[margin:-margin, margin:-margin] = True
    image = np.stack([np.where(mask, i, o).astype(dtype) for i, o in zip(inside, outside, strict=True)])
    return image, np.ones((n, n), bool), mask


def test_an_object_lies_where_it_is_put_and_nothing_else_changes():
    image, valid, mask = tile()
    got, got_valid, got_mask = paste(image, valid, mask, square(), 3, 0, 1.0, 5, 7, **STILL)
    here = np.zeros(mask.shape, bool)
    here[9:15, 11:17] = True
    assert (got[0] == np.where(here, 200, 100)).all()
    assert (got[1] == np.where(here, 30, 60)).all()
    assert (got_mask == np.where(here, 3, 0)).all()
    assert (got_valid == valid).all()
    assert not np.shares_memory(got, image)
    assert (image[0] == 100).all()
    assert (mask == 0).all()


@given(st.integers(0, 7), st.integers(1, 9), st.integers(1, 7))
def test_the_eight_turns_are_those_of_numpy(code, height, width):
    array = np.arange(height * width).reshape(height, width)
    expected = np.rot90(array, code % 4)
    assert (dihedral(array, code) == (np.fliplr(expected) if code >= 4 else expected)).all()
    assert (placed(array % 3 == 0, code, 1.0) == dihedral(array % 3 == 0, code)).all()


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 7),
    st.floats(0.5, 2, width=32),
    st.integers(-30, 50),
    st.integers(-30, 50),
    st.floats(0, 2),
    st.booleans(),
)
def test_labels_planned_and_rendered_are_the_same_and_only_open_pixels_change(
    seed, code, scale, top, left, feather, match
):
    rng = np.random.default_rng(seed)
    h, w, ph, pw = rng.integers(1, 40, 4)
    image = rng.integers(0, 4000, (3, h, w)).astype(np.uint16)
    mask = rng.choice(np.array([0, 1, 2, IGNORE], np.uint8), (h, w))
    valid = (mask != IGNORE) | (rng.random((h, w)) < 0.5)
    patch_valid = rng.random((ph, pw)) < 0.8
    thing = rng.random((ph, pw)) < 0.5
    thing[0, 0] = True
    patch = rng.integers(0, 4000, (3, ph, pw)).astype(np.uint16), patch_valid | thing, thing
    labels = rng.choice(np.array([0, 1, 2, IGNORE], np.uint8), (ph, pw))
    got, got_valid, got_mask = paste(
        *(image, valid, mask, patch, 1, code, scale, top, left),
        **{"feather": feather, "match": match, "terrain": (1,), "labels": labels},
    )
    planned = paste_mask(mask, thing, 1, code, scale, top, left)
    assert (got_mask == planned).all()
    assert (got_valid == valid).all()
    closed = (mask == IGNORE) | ~valid
    assert (got[:, closed] == image[:, closed]).all()
    assert (got_mask[mask == IGNORE] == IGNORE).all()
    assert (got[1] == image[1]).all()
    again = paste(
        *(image, valid, mask, patch, 1, code, scale, top, left),
        **{"feather": feather, "match": match, "terrain": (1,), "labels": labels},
    )
    assert got.tobytes() == again[0].tobytes()
    assert got.dtype == np.uint16


def test_a_patch_beyond_the_tile_or_larger_than_it_is_cut():
    image, valid, mask = tile(5, 4)
    everything = square(side=30, margin=1)
    assert (paste(image, valid, mask, everything, 2, 0, 1.0, -10, -10, **STILL)[2] == 2).all()
    for top, left in ((-40, 0), (5, 0), (0, 4), (0, -40)):
        got = paste(image, valid, mask, everything, 2, 0, 1.0, top, left, feather=1.0, match=True, terrain=())
        assert (got[0] == image).all()
        assert (got[2] == mask).all()


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.25, 2.0])
@pytest.mark.parametrize("code", range(8))
def test_an_object_of_one_pixel_is_never_lost_and_keeps_its_value_unscaled(code, scale):
    patch = square(side=1, margin=2)
    image, valid, mask = tile()
    hard = placed(patch[2], code, scale)
    assert 1 <= hard.sum() <= 4
    got, _, got_mask = paste(
        image, valid, mask, patch, 3, code, scale, 4, 4, feather=1.0, match=False, terrain=()
    )
    at = got_mask == 3
    assert at.sum() == hard.sum()
    # Scaling mixes single pixels with their neighbours, which is why `propose` does not scale small objects.
    assert (got[0][at] == 200).all() or scale != 1


@given(st.floats(0.5, 2, width=32), st.integers(3, 20))
def test_a_scaled_object_has_its_sides_times_the_scale(scale, side):
    hard = placed(square(side=side)[2], 0, scale)
    sides = [int(hard.any(a).sum()) for a in (0, 1)]
    assert hard.sum() == sides[0] * sides[1]
    assert all(abs(n - side * scale) < 2 for n in sides)


def test_the_image_is_feathered_outside_and_the_label_is_hard():
    image, valid, mask = tile()
    got, _, got_mask = paste(
        image, valid, mask, square(), 3, 0, 1.0, 5, 7, feather=1.0, match=False, terrain=()
    )
    assert (got[0][got_mask == 3] == 200).all()
    line = got[0][12, 17:23].astype(int)
    assert 80 < line[0] < 100
    assert line[0] < line[1] < line[2] == 100
    assert (got_mask[12, 17:] == 0).all()
    assert (line[3:] == 100).all()
    alpha = edge(square()[2], 1.0)
    assert alpha.max() == 1
    assert alpha.min() == 0
    assert (np.diff(alpha[7, 10:]) <= 0).all()


def test_matched_rings_agree_and_the_object_goes_along_as_light_does():
    image, valid, mask = tile(level=(100, 60))
    patch = square(inside=(160, 30), outside=(80, 90))
    # A wide feather shows what the ring became: the level of the tile's own ground.
    got, _, got_mask = paste(image, valid, mask, patch, 3, 0, 1.0, 5, 7, feather=3.0, match=True, terrain=())
    assert (got[:, got_mask == 0] == np.array([[100], [60]])).all()
    assert (got[0][got_mask == 3] == 200).all()  # 160 · 100 / 80
    assert (got[1][got_mask == 3] == 20).all()  # 30 · 60 / 90
    half = np.array([0.5, 0.0])
    got, _, _ = paste(image, valid, mask, patch, 3, 0, 1.0, 5, 7, feather=3.0, match=half, terrain=())
    assert (got[0][got_mask == 3] == round(160 * (100 / 80) ** 0.5)).all()
    assert (got[1][got_mask == 3] == 30).all()


def test_a_noisy_ring_takes_the_mean_of_the_new_one():
    rng = np.random.default_rng(0)
    image = rng.normal(700, 60, (2, 40, 48)).astype(np.float32)
    valid, mask = np.ones((40, 48), bool), np.zeros((40, 48), np.uint8)
    n, thing = 24, np.zeros((24, 24), bool)
    thing[6:18, 6:18] = True
    patch = (rng.normal(400, 30, (2, n, n)).astype(np.float32), np.ones((n, n), bool), thing)
    got, _, _ = paste(image, valid, mask, patch, 1, 0, 1.0, 5, 7, feather=8.0, match=True, terrain=(), ring=4)
    ring, alpha = halo(thing, 4) & ~thing, edge(thing, 8.0)
    here = np.s_[5 : 5 + n, 7 : 7 + n]
    under = image[0][here][ring]
    pasted = under + (got[0][here][ring] - under) / alpha[ring]  # what was blended in
    assert pasted.mean() == pytest.approx(under.mean(), rel=1e-4)
    assert got.dtype == np.float32
    assert pasted.std() == pytest.approx(
        patch[0][0][ring].std() * under.mean() / patch[0][0][ring].mean(), rel=1e-3
    )


def test_only_classes_that_both_rings_hold_are_compared():
    image, valid, mask = tile(level=(100, 100))
    mask[:, 24:], image[:, :, 24:] = 1, 20
    patch = square(inside=(150, 150), outside=(50, 50))
    labels = np.where(patch[2], 3, 0).astype(np.uint8)
    where = dict(code=0, scale=1.0, top=5, left=18)
    more = dict(feather=0.0, match=True, terrain=(), labels=labels)
    got, _, got_mask = paste(image, valid, mask, patch, 3, **where, **more)
    # The object lies half on 100 (its home's class, seen at 50) and half on 20 (a class its home has not).
    assert (got[0][got_mask == 3] == 255).all()  # 150 · 100 / 50, clipped to the type
    labels[labels == 0] = 2
    got, _, got_mask = paste(image, valid, mask, patch, 3, **where, **more)
    assert (got[0][got_mask == 3] == 150).all()


def test_values_that_are_not_positive_are_shifted():
    image, valid, mask = tile(level=(-12, -20), dtype="float32")
    patch = square(inside=(-5, -30), outside=(-15, -15), dtype="float32")
    got, _, got_mask = paste(image, valid, mask, patch, 1, 0, 1.0, 5, 7, feather=1.0, match=True, terrain=())
    assert got[0][got_mask == 1] == pytest.approx(-2)
    assert got[1][got_mask == 1] == pytest.approx(-35)
    assert got[0][got_mask == 0] == pytest.approx(-12)
    assert got[1][got_mask == 0] == pytest.approx(-20)


def test_invalid_pixels_of_a_patch_are_never_pasted():
    image, valid, mask = tile(dtype="float32")
    pixels, usable, thing = square(dtype="float32")
    usable[:, :4] = False
    pixels[:, :, :4] = np.nan
    got, _, got_mask = paste(
        image, valid, mask, (pixels, usable, thing), 3, 0, 1.3, 5, 7, feather=1.5, match=True, terrain=()
    )
    assert np.isfinite(got).all()
    assert (got_mask == 3).sum() == placed(thing, 0, 1.3).sum()
    assert (got[:, :, :7] == image[:, :, :7]).all()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_every_type_of_pixel_is_pasted_exactly_and_clipped(dtype):
    image, valid, mask = tile(level=(100, 60), dtype=dtype)
    top = 255 if dtype == "uint8" else 30000
    patch = square(inside=(top, 30), outside=(50, 60), dtype=dtype)
    got, _, got_mask = paste(image, valid, mask, patch, 3, 0, 1.0, 5, 7, **STILL)
    assert got.dtype == np.dtype(dtype)
    assert (got[0][got_mask == 3] == top).all()
    if dtype in ("uint8", "int16"):
        got, _, _ = paste(image, valid, mask, patch, 3, 0, 1.0, 5, 7, feather=0, match=True, terrain=())
        assert (got[0][got_mask == 3] == np.iinfo(dtype).max).all()


def test_terrain_bands_are_known_by_name_and_left_alone():
    assert terrain_bands(("red", "nir", "B8A", "canopy_height", "slopes")) == ()
    named = ("dem", "Elevation", "height_m", "slope_deg", "aspect_sin", "HILLSHADE", "curvature2")
    assert terrain_bands(named) == tuple(range(7))
    image, valid, mask = tile()
    got, _, got_mask = paste(
        image, valid, mask, square(), 3, 1, 1.2, 5, 7, feather=1.0, match=True, terrain=(0, 1)
    )
    assert (got == image).all()
    assert (got_mask == 3).any()


def test_a_halo_is_all_that_is_within_its_radius():
    rng = np.random.default_rng(1)
    hard = rng.random((30, 33)) < 0.02
    for radius in (1, 3, 4):
        assert (halo(hard, radius) == (ndimage.distance_transform_edt(~hard) <= radius)).all()


class _Bank:
    """Two objects, as the bank gives them."""

    bands = ("red", "dem")
    follows = np.array([0.7, 0.0])

    def patch(self, index):
        return square(side=6 + 3 * index, inside=(220 - 90 * index, 99))

    def labels(self, index):
        return np.where(self.patch(index)[2], 3, 0).astype(np.uint8)

    def klass(self, index):
        return 3 - index


class _Reader:
    def whole(self, row):
        rng = np.random.default_rng(row)
        return (
            rng.integers(60, 140, (2, 64, 64)).astype(np.uint8),
            np.ones((64, 64), bool),
            np.zeros((64, 64), np.uint8),
        )


PASTED = [Pasted(0, 3, 1.1, 4, 6), Pasted(1, 5, 0.9, 30, 28)]


def rendered():
    from raremap.balance.options import CopyPasteOptions

    return render(_Reader(), 5, PASTED, _Bank(), CopyPasteOptions())  # type: ignore[arg-type]


def test_a_composite_is_its_objects_pasted_in_order():
    image, valid, mask = _Reader().whole(5)
    bank = _Bank()
    expected = image, valid, mask
    for p in PASTED:
        more = dict(feather=1.0, match=bank.follows, terrain=(1,), labels=bank.labels(p.object), ring=4)
        expected = paste(*expected, bank.patch(p.object), bank.klass(p.object), *p[1:], **more)  # type: ignore[arg-type]
    for a, b in zip(rendered(), expected, strict=True):
        assert (a == b).all()
    assert (rendered()[0][1] == image[1]).all()
    assert set(np.unique(rendered()[2])) == {0, 2, 3}


def test_a_composite_is_the_same_bytes_in_another_process():
    code = (
        "import hashlib, tests.balance.test_paste as t;"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in t.rendered())).hexdigest())"
    )
    import hashlib

    here = hashlib.sha256(b"".join(a.tobytes() for a in rendered())).hexdigest()
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in "ab"
    ]
    assert [r.stdout.strip() for r in runs] == [here, here]
