"""Boundary maps against scipy's distances and the authors' code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from raremap.batches.distance import BoundaryMaps, centrality, edge_distance, signed_distance
from raremap.labels import IGNORE


def scene(seed=0, k=4, size=(40, 31), ignored=0.0, smooth=3):
    """Blobs of k classes."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.normal(size=(k, *size)), (0, smooth, smooth))
    mask = fields.argmax(0)
    mask[rng.random(size) < ignored] = IGNORE
    return mask


def one_hot2dist(one_hot):
    """The authors' (LIVIAETS/boundary-loss, dataloader.py), one class after the other."""
    out = np.zeros(one_hot.shape, np.float32)
    for k in range(len(one_hot)):
        inside = one_hot[k].astype(bool)
        if inside.any():
            outside = ~inside
            out[k] = (
                ndimage.distance_transform_edt(outside) * outside
                - (ndimage.distance_transform_edt(inside) - 1) * inside
            )
    return out


@given(st.integers(0, 1000))
def test_signed_distances_are_the_authors(seed: int) -> None:
    mask = scene(seed, 3)
    mask[0, 0], mask[-1, -1] = 0, 1  # two classes at least: theirs is not defined where one fills the crop
    expected = one_hot2dist(np.stack([mask == c for c in range(4)]))
    np.testing.assert_allclose(signed_distance(mask, (0, 1, 2, 3), clip=None), expected, atol=1e-4)


def test_they_are_clipped_and_scaled_to_one_in_float16() -> None:
    mask = scene(1, 2, (80, 80), smooth=12)
    plain, clipped = signed_distance(mask, (0, 1), clip=None), signed_distance(mask, (0, 1), clip=8)
    assert clipped.dtype == np.float16
    assert np.abs(plain).max() > 8
    np.testing.assert_allclose(clipped, plain.clip(-8, 8) / 8, atol=5e-4)


@given(st.integers(0, 1000))
def test_ignored_pixels_are_neither_a_class_nor_its_surroundings(seed: int) -> None:
    mask = scene(seed, 3, (12, 11), ignored=0.3)
    found = signed_distance(mask, (0, 1, 2), clip=None)
    assert not found[:, mask == IGNORE].any()
    for c in range(3):
        inside, outside = np.argwhere(mask == c), np.argwhere((mask != c) & (mask != IGNORE))
        if len(inside) and len(outside):
            apart = np.linalg.norm(inside[:, None] - outside[None], axis=-1)
            np.testing.assert_allclose(found[c][tuple(inside.T)], 1 - apart.min(1), atol=1e-4)
            np.testing.assert_allclose(found[c][tuple(outside.T)], apart.min(0), atol=1e-4)


def test_a_class_that_is_absent_or_alone_has_no_boundary() -> None:
    mask = np.zeros((5, 6), int)
    mask[2] = IGNORE
    assert not signed_distance(mask, (0, 1)).any()
    assert not signed_distance(np.full((5, 6), IGNORE), (0, 1)).any()


def by_neighbours(mask):
    edges = np.zeros(mask.shape, bool)
    for r, c in np.ndindex(mask.shape):
        for a, b in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            if 0 <= a < mask.shape[0] and 0 <= b < mask.shape[1]:
                pair = {mask[r, c], mask[a, b]}
                edges[r, c] |= len(pair) == 2 and IGNORE not in pair
    return edges


@pytest.mark.parametrize("ignored", [0.0, 0.2])
def test_edge_distance_is_scipys_from_boundary_pixels(ignored) -> None:
    mask = scene(2, 3, ignored=ignored)
    expected = ndimage.distance_transform_edt(~by_neighbours(mask))
    expected[mask == IGNORE] = 0
    np.testing.assert_allclose(edge_distance(mask), expected, atol=0.02)


def test_without_a_boundary_all_are_far() -> None:
    mask = np.zeros((30, 40), int)
    mask[:, 7] = IGNORE
    assert set(np.unique(edge_distance(mask))) == {0, 50}
    assert not centrality(mask).any()


def test_centrality_is_one_at_the_innermost_pixel_of_each_object() -> None:
    mask = np.zeros((20, 20), int)
    mask[2:9, 2:9], mask[12:15, 12:15] = 1, 1
    found = centrality(mask).astype(float)
    assert found[5, 5] == 1
    assert found[13, 13] == 1
    assert found[2, 5] == pytest.approx(1 / 4, abs=1e-3)
    assert found[12, 13] == pytest.approx(1 / 2, abs=1e-3)


@pytest.mark.parametrize("ignored", [0.0, 0.2])
def test_centrality_is_scipys(ignored) -> None:
    mask = scene(3, 3, ignored=ignored)
    labelled = mask != IGNORE
    expected = np.zeros(mask.shape)
    for c in range(3):
        inside = mask == c
        depth = ndimage.distance_transform_edt(~(labelled & ~inside)) * inside
        objects, count = ndimage.label(inside, np.ones((3, 3)))
        for i in range(1, count + 1):
            expected[objects == i] = depth[objects == i] / depth[objects == i].max()
    np.testing.assert_allclose(centrality(mask), expected, atol=1e-3)


def test_a_sample_gets_the_maps_that_are_wanted() -> None:
    mask = scene()
    maps = BoundaryMaps(4, ("distance", "edge"), only=(3, 1))(mask)
    assert list(maps) == ["distance", "edge"]
    np.testing.assert_array_equal(maps["distance"], signed_distance(mask, (3, 1)))
    assert BoundaryMaps(4)(mask)["distance"].shape == (4, 40, 31)
    assert BoundaryMaps(4, ("center",))(mask)["center"].shape == (40, 31)
