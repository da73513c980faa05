import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raremap.errors import LabelError
from raremap.labels import BUILT_IN, IGNORE, LabelScheme

SCHEME = LabelScheme({0: "other", 7: "landslide", 2: "water"}, ignore=[255])


def test_values_become_indices_in_the_order_of_the_scheme():
    mask = np.array([[0, 7], [2, 255]], np.uint8)
    assert SCHEME.encode(mask).tolist() == [[0, 1], [2, IGNORE]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_every_kind_of_number_is_read_alike(dtype):
    mask = np.array([[0, 7, 255]], dtype)
    assert SCHEME.encode(mask).tolist() == [[0, 1, IGNORE]]


def test_an_unknown_value_is_named_with_its_file_and_count():
    with pytest.raises(
        LabelError, match=r"mask valley\.tif has value 9 \(2 pixels\), not in labels \{0,7,2\}"
    ):
        SCHEME.encode(np.array([[9, 9, 0]], np.uint8), "valley.tif")


def test_254_is_found_unknown_too():
    with pytest.raises(LabelError, match="value 254"):
        SCHEME.encode(np.array([[254]], np.uint8))


def test_fractions_in_a_mask_are_refused():
    with pytest.raises(LabelError, match=r"fractions such as 0\.5"):
        SCHEME.encode(np.array([[0.5]], np.float32))


def test_a_nodata_tag_that_is_no_class_is_ignored_and_one_that_is_a_class_is_kept():
    mask = np.array([[0, 7, 9]], np.uint8)
    assert SCHEME.encode(mask, nodata=9).tolist() == [[0, 1, IGNORE]]
    assert SCHEME.encode(np.array([[0, 7]], np.uint8), nodata=0).tolist() == [[0, 1]]


def test_colours_are_classes():
    scheme = LabelScheme({"#50E3C2": "water", "#9b9b9b": "other"}, ignore=["#000000"])
    mask = np.array([[[0x50, 0x9B, 0]], [[0xE3, 0x9B, 0]], [[0xC2, 0x9B, 0]]], np.uint8)
    assert scheme.encode(mask).tolist() == [[0, 1, IGNORE]]
    assert scheme.values == (0, 1)
    with pytest.raises(LabelError, match="value #010203"):
        scheme.encode(np.array([[[1]], [[2]], [[3]]], np.uint8))


def test_a_grey_mask_under_a_colour_scheme_says_so():
    with pytest.raises(LabelError, match="classes are colours"):
        LabelScheme({"#50E3C2": "water", "#9b9b9b": "other"}).encode(np.zeros((1, 2, 2), np.uint8))


@given(hnp.arrays(np.uint8, (5, 7), elements=st.sampled_from([0, 1, 2, IGNORE])))
def test_decode_then_encode_is_the_identity(index):
    assert (SCHEME.encode(SCHEME.decode(index)) == index).all()


def test_nodata_of_maps_is_255_unless_that_is_a_class():
    assert SCHEME.map_nodata == 255
    assert LabelScheme({0: "a", 255: "b"}).map_nodata == 254
    with pytest.raises(LabelError, match="does not fit a uint8 map"):
        _ = LabelScheme({0: "a", 300: "b"}).map_nodata


@pytest.mark.parametrize(
    ("classes", "more", "message"),
    [
        ({0: "a"}, {}, "needs 2 to 254 classes"),
        ({0: "a", 1: "a"}, {}, "'a' is given twice"),
        ({0: "a", "#000000": "b"}, {}, "mixes values and colours"),
        ({0: "a", 1: "b"}, {"ignore": [1]}, "both a class"),
        ({0: "a", 1: "b"}, {"rare": ["c"]}, "'c' is not a class"),
        ({"red": "a", 1: "b"}, {}, "neither an integer nor a colour"),
    ],
)
def test_schemes_that_cannot_be_are_refused(classes, more, message):
    with pytest.raises(ValueError, match=message):
        LabelScheme(classes, **more)


def test_built_in_schemes_have_a_colour_for_each_class():
    for scheme in BUILT_IN.values():
        assert scheme.rgb.shape == (scheme.num_classes, 3)
        assert len(set(scheme.palette)) == scheme.num_classes
    assert LabelScheme.named("catalonia").values == tuple(range(1, 13))
    with pytest.raises(LabelError, match="did you mean 'loveda'"):
        LabelScheme.named("lovda")
