"""How the features of a vector layer become a mask: the options."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raremap.errors import LabelError, nearest
from raremap.labels import LabelScheme
from raremap.options import Options


class VectorOptions(Options):
    """How the features of a layer become a mask.

    `attribute` is the column that says the class: by its name, or by its value in `labels.classes`; `values`
    translates what stands there (`{Wald: forest, "312": forest, Wolke: null}`, null is unlabelled). Where
    every feature is of one class give that as `feature_class` instead. Ground without a feature is unlabelled,
    or of the class `background`.

    A pixel belongs to the feature that covers its centre (`all_touched`: that touches it); a point labels the
    pixel that it is in. Where several cover a pixel the one of highest `priority` (a column of numbers) is
    seen, and among equals the smallest (`order: area`, so that a house stays visible in its wood; points and
    lines go before polygons) or the last in the file (`order: file`).

    With `fractions` a pixel is labelled with the share of each class in it, from 64 points.

    `crs` is for a layer that does not say its own, as GeoJSON may not.
    """

    layer: str | None = None
    attribute: str | None = None
    feature_class: str | None = None
    values: dict[str, str | None] = Field(default_factory=dict)
    background: str | None = None
    all_touched: bool = False
    priority: str | None = None
    order: Literal["area", "file"] = "area"
    fractions: bool = False
    crs: str | None = None

    @field_validator("values", mode="before")
    @classmethod
    def _texts(cls, values: Any) -> Any:
        return {text_of(k): v for k, v in values.items()} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _one_source_of_class(self) -> VectorOptions:
        if (self.attribute is None) == (self.feature_class is None):
            raise ValueError(
                "give either attribute (the column that says the class) or feature_class (one class for all features)"
            )
        return self

    def check(self, scheme: LabelScheme) -> None:
        """Raise `LabelError` where a class that is named here is none of the scheme's."""
        named = [("feature_class", self.feature_class), ("background", self.background)]
        for key, name in [*named, *((f"values.{k}", v) for k, v in self.values.items())]:
            if name is not None and name not in scheme.names:
                raise LabelError(
                    f"scenes.vector.{key} is '{name}', which is not a class; {nearest(name, scheme.names)}"
                )


def text_of(value: Any) -> str:
    """What stands in an attribute, as text; whole numbers without decimals, nothing for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(int(value)) if isinstance(value, bool) else str(value).strip()
