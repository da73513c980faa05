import numpy as np
import pytest

from raremap.errors import SceneError
from raremap.scene.normalize import Normalization, NormalizeOptions, fit


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    return [
        (rng.normal((10, 1000), (3, 50), (9 + i, 11, 2)).transpose(2, 0, 1), rng.random((9 + i, 11)) < 0.8)
        for i in range(5)
    ]


def pooled(pixels):
    return np.concatenate([image[:, valid] for image, valid in pixels], 1)


def test_one_pass_statistics_are_those_of_all_valid_pixels(pixels):
    values = pooled(pixels)
    n = fit(pixels, ("a", "b"), NormalizeOptions(kind="standard"))
    assert n.shift == pytest.approx(values.mean(1))
    assert 1 / np.array(n.scale) == pytest.approx(values.std(1))
    n = fit(pixels, ("a", "b"), NormalizeOptions(kind="mean"))
    assert n.shift == (0, 0)
    assert 1 / np.array(n.scale) == pytest.approx(values.mean(1))
    n = fit(pixels, ("a", "b"), NormalizeOptions(kind="minmax"))
    assert n.shift == pytest.approx(values.min(1))
    n = fit(pixels, ("a", "b"), NormalizeOptions(kind="percentile", low=5, high=95))
    assert n.shift == pytest.approx(np.percentile(values, 5, axis=1))


def test_invalid_pixels_become_zero_even_where_they_are_nan():
    image = np.array([[[1.0, np.nan]], [[3.0, 4.0]]])
    out = Normalization("standard", (1.0, 1.0), (2.0, 0.5)).apply(image, np.array([[True, False]]))
    assert out.dtype == np.float32
    assert out.tolist() == [[[0, 0]], [[1, 0]]]


def test_none_leaves_the_bands_and_is_read_back():
    n = fit([], ("a", "b"), NormalizeOptions(kind="none"))
    assert Normalization.from_dict(n.to_dict()) == n == Normalization.identity(2)


def test_constant_and_missing_pixels_are_told():
    flat = [(np.ones((2, 3, 3)) * [[[1]], [[2]]], np.ones((3, 3), bool))]
    with pytest.raises(SceneError, match="band 'a' is constant"):
        fit(flat, ("a", "b"), NormalizeOptions())
    with pytest.raises(SceneError, match="no valid pixel"):
        fit([(np.ones((2, 3, 3)), np.zeros((3, 3), bool))], ("a", "b"), NormalizeOptions())


def test_a_band_that_is_all_but_constant_is_not_stretched_by_its_percentiles():
    edges = np.zeros((1, 100, 100))
    edges[0, 0] = 1
    valid = np.ones((100, 100), bool)
    with pytest.raises(
        SceneError, match=r"band 'canny' is 0 at percentile 2 and at 98 .* use minmax or standard"
    ):
        fit([(edges, valid)], ("canny",), NormalizeOptions(kind="percentile"))
    assert fit([(edges, valid)], ("canny",), NormalizeOptions(kind="minmax")).scale == (1.0,)
