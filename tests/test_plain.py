"""What goes into JSON files and onto standard output."""

import json
import math
from pathlib import Path

import numpy as np

from raremap.plain import plain


def test_numbers_of_libraries_become_json_and_what_is_no_number_null():
    data = {
        "array": np.array([[1, 2], [3, 4]], np.int16),
        "f32": np.float32(0.5),
        "count": np.int64(3),
        "yes": np.True_,
        "lost": [math.nan, np.float64("inf"), -math.inf],
        "where": Path("a/b"),
        "names": ("x", None),
        7: "seven",
    }
    told = json.loads(json.dumps(plain(data), allow_nan=False))
    assert told == {
        "array": [[1, 2], [3, 4]],
        "f32": 0.5,
        "count": 3,
        "yes": True,
        "lost": [None, None, None],
        "where": "a/b",
        "names": ["x", None],
        "7": "seven",
    }
