"""Polygons by strips, against GDAL's of the whole scene."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from rasterio.features import shapes as gdal_shapes

from raremap.maps.outlines import Tracer, joined
from raremap.maps.rings import polygons

NONE = 255


def traced(index, wanted, rows, areas=None, probs=None):
    tracer = Tracer(index.shape[1], np.array(wanted))
    areas = np.ones((len(index), 1), np.int64) if areas is None else areas
    parts = []
    for top in range(0, len(index), rows):
        strip = slice(top, top + rows)
        parts.append(tracer.add(index[strip], areas[strip], None if probs is None else probs[:, strip]))
    return joined([*parts, tracer.finish()])


def by_gdal(index, wanted):
    mask = np.isin(index, np.flatnonzero(wanted))
    found = gdal_shapes(index, mask=mask, connectivity=4)
    return sorted((int(k), shapely.normalize(shapely.geometry.shape(s)).wkb) for s, k in found)


def canonical(shapes, cls):
    return sorted((int(k), shapely.normalize(s).wkb) for s, k in zip(shapes, cls, strict=True))


def scene(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    classes, coarse = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    cells = rng.integers(0, classes, (-(-height // coarse), -(-width // coarse)))
    index = np.kron(cells, np.ones((coarse, coarse), int))[:height, :width].astype(np.uint8)
    index[rng.random(index.shape) < rng.choice([0, 0.1, 0.5])] = NONE
    return index, rng.random(classes) < 0.7


@pytest.mark.parametrize("seed", range(40))
def test_strips_give_gdals_polygons_of_the_whole_scene(seed):
    index, wanted = scene(seed)
    expected = by_gdal(index, wanted) if wanted.any() else []
    for rows in (1, 4, 100):
        found = traced(index, wanted, rows)
        shapes = polygons(found)
        assert shapely.is_valid(shapes).all()
        assert canonical(shapes, found.cls) == expected
        assert (found.pixels == shapely.area(shapes)).all()


def test_a_ring_that_touches_itself_at_a_corner_has_a_hole_and_is_valid():
    index = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)
    found = traced(index, [False, True], 2)
    (shape,) = polygons(found)
    assert shape.is_valid
    assert len(shape.interiors) == 1
    assert shape.area == 7


def test_area_and_mean_probability_are_those_of_the_pixels():
    rng = np.random.default_rng(0)
    index = np.repeat(np.arange(3, dtype=np.uint8), 4)[:, None] * np.ones((1, 5), np.uint8)
    areas, probs = rng.integers(1, 9, (12, 5)), rng.integers(0, 99, (3, 12, 5)).astype(np.uint16)
    found = traced(index, [True] * 3, 5, areas, probs)
    for k, area, pixels, prob in zip(found.cls, found.area, found.pixels, found.prob, strict=True):
        assert area == areas[index == k].sum()
        assert pixels == 20
        assert prob == probs[k][index == k].sum()


def test_a_million_polygons():
    index = (np.indices((1000, 1000)).sum(0) % 2).astype(np.uint8)
    found = traced(index, [True, True], 128)
    assert len(found.cls) == 10**6
    shapes = polygons(found)
    assert (shapely.area(shapes) == 1).all()


def test_outlines_that_are_finished_are_not_kept():
    tracer = Tracer(100, np.array([True, True]))
    for _ in range(50):
        block = (np.indices((8, 100)).sum(0) % 2).astype(np.uint8)
        block[-1] = NONE
        tracer.add(block, np.ones((8, 1), np.int64))
    assert len(tracer._corners["x"]) < 10_000
    assert len(tracer._records["parent"]) < 5_000
