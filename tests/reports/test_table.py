"""The page of a training on a table: what its figures say of themselves."""

from __future__ import annotations

import numpy as np
import pytest

from raremap.reports.table import Rows, _residuals
from raremap.tabular.read import crs_name


@pytest.mark.parametrize(
    ("code", "degrees", "unit_m", "unit", "wide"),
    [
        (32717, False, 1.0, ", m", 4.0),
        (2229, False, 0.3048, ", m", 4.0),
        (4326, True, 1.0, ", degrees", 2.0),
        (None, False, 1.0, "", 4.0),
    ],
)
def test_the_map_of_residuals_has_its_unit_on_both_axes(monkeypatch, code, degrees, unit_m, unit, wide):
    """A box four times as wide as high, in degrees at 60° as on the ground: half of that."""
    from matplotlib.axes import Axes

    seen: dict[str, object] = {}
    for name in ("set_xlabel", "set_ylabel", "set_aspect"):
        plain = getattr(Axes, name)

        def told(self, value, *args, _plain=plain, _name=name, **more):
            seen.setdefault(_name, value)
            return _plain(self, value, *args, **more)

        monkeypatch.setattr(Axes, name, told)
    xy = np.array([[0.0, 59], [8, 59], [0, 61], [8, 61]])
    half = np.full(4, 0.5)
    rows = Rows(half[:, None], half > 1, half, xy, ["numeric"], [()])
    crs = None if code is None else crs_name(f"EPSG:{code}")
    svg = _residuals(rows, {"crs": crs, "degrees": degrees, "unit_m": unit_m})
    assert svg is not None
    assert (seen["set_xlabel"], seen["set_ylabel"]) == (f"x from the middle of the rows{unit}", f"y{unit}")
    assert 8 / (2 * float(str(seen["set_aspect"]))) == pytest.approx(wide)


def test_a_crs_is_called_as_the_register_calls_it():
    assert crs_name("EPSG:32717") == "WGS 84 / UTM zone 17S"
    assert crs_name(None) is None
