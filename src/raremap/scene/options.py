"""Options of label rescaling; no heavy import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raremap.options import Options


class _Rescale(Options):
    """What every method knows.

    A cell is mapped where at least the share `min_cover` of its ground is labelled. Source values in
    `ignore` count as unlabelled, as the file's nodata value does.
    """

    min_cover: float = Field(default=0.5, ge=0, le=1)
    ignore: tuple[int, ...] = ()


class _Blocked(_Rescale):
    """Methods that keep areas, block of ground by block: `block` cells a side, or `block_m` metres."""

    block: int = Field(default=64, ge=1, le=2048)
    block_m: float | None = Field(default=None, gt=0)


class Area(_Blocked):
    """Every class keeps its area (Johnson and Clarke): quotas by block of ground, filled by the largest shares."""

    kind: Literal["area"] = "area"


class Fractions(_Blocked):
    """A band a class: its share of each cell's labelled ground, uint8 in steps of 1/200, nodata 255."""

    kind: Literal["fractions"] = "fractions"


class Mode(_Rescale):
    """The class with the most ground in the cell, ties as GDAL breaks them."""

    kind: Literal["mode"] = "mode"


class Nearest(_Rescale):
    """The class at the cell's centre, as GDAL picks it; `min_cover` does not apply."""

    kind: Literal["nearest"] = "nearest"


class Weighted(_Rescale):
    """The class with the most weighted ground.

    A fine pixel weighs exp(-d²/2σ²), d its distance to the cell's centre and σ `sigma`, both in cells; then
    each class is divided by (its share of the whole)^`inverse` (0: not at all).
    """

    kind: Literal["weighted"] = "weighted"
    sigma: float = Field(default=0.25, gt=0.05, le=10)
    inverse: float = Field(default=0.0, ge=0, le=1)


RescaleOptions = Annotated[Area | Mode | Nearest | Weighted | Fractions, Field(discriminator="kind")]

METHODS: dict[str, type[Area] | type[Mode] | type[Nearest] | type[Weighted] | type[Fractions]] = {
    "area": Area,
    "mode": Mode,
    "nearest": Nearest,
    "weighted": Weighted,
    "fractions": Fractions,
}
