"""Which features there are: options that are their own callables, `Ndvi()(pixels)` → float32 `[n, h, w]`.

No heavy import: arrays are computed in the modules beside.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from raremap.errors import nearest
from raremap.scene.features.options.base import FeatureOptions as FeatureOptions
from raremap.scene.features.options.base import unknown_ground as unknown_ground
from raremap.scene.features.options.filters import Canny, Gaussian, Grey, Median, Sobel
from raremap.scene.features.options.indices import Bsi, Mndwi, Nbr, Ndbi, Ndmi, Ndvi, Ndwi
from raremap.scene.features.options.ranges import GlobalMinMax, LocalMinMax
from raremap.scene.features.options.terrain import Aspect, Curvature, Hillshade, Slope

_Any = (
    Ndvi | Ndmi | Nbr | Ndwi | Mndwi | Ndbi | Bsi
    | Grey | Gaussian | Median | Canny | Sobel
    | LocalMinMax | GlobalMinMax
    | Slope | Aspect | Hillshade | Curvature
)  # fmt: skip
KINDS: dict[str, type[FeatureOptions]] = {c.model_fields["kind"].default: c for c in get_args(_Any)}
_OTHER_NAMES = {"gray": "grey", "vi": "ndmi", "edges": "canny"}


def _read(value: Any) -> Any:
    """A plain name is the kind with its defaults; a wrong one is told with the nearest."""
    if isinstance(value, str):
        value = {"kind": value}
    if isinstance(value, dict):
        kind = str(value.get("kind")).lower()
        kind = _OTHER_NAMES.get(kind, kind)
        if kind not in KINDS:
            raise ValueError(f"no feature is called '{value.get('kind')}'; {nearest(kind, KINDS)}")
        return {**value, "kind": kind}
    return value


Feature = Annotated[Annotated[_Any, Field(discriminator="kind")], BeforeValidator(_read)]
