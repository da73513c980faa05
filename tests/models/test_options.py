"""Options of networks that would do nothing are refused, in one line."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from raremap.models.options import NAMED, model_options

CONCAT = {"kind": "hrnet", "aggregation": "concat"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"kind": "unet", "place": "inside"}, "add block: residual"),
        ({"kind": "unet", "block": "residual", "place": "inside"}, "there is none; add attention: axis"),
        ({**CONCAT, "dim": 128}, "leave dim out, or add ocr: true"),
    ],
)
def test_a_key_without_effect_is_refused(options, line):
    with pytest.raises(ValidationError, match=line):
        model_options(options)


@pytest.mark.parametrize("options", [*NAMED.values(), CONCAT, {**CONCAT, "dim": 128, "ocr": True}])
def test_what_a_bundle_writes_down_is_read_back(options):
    made = model_options(options)
    assert model_options(made.model_dump(mode="json")) == made
