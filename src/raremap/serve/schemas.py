"""What the API gives and takes, as its OpenAPI description says it."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raremap.errors import AcquireError
from raremap.workflows.nearest import check_date

_Value = (
    bool | int | Annotated[float, Field(allow_inf_nan=False)] | Annotated[str, Field(max_length=1000)] | None
)

Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class _Told(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


def _like(**example: Any) -> ConfigDict:
    """The setting that shows a whole answer of a kind."""
    return ConfigDict(json_schema_extra={"examples": [example]})


class Fault(_Told):
    """Why a request was refused."""

    error: str = Field(description="one clear line", examples=["no prediction is called 3f0…"])


class ClassRow(_Told):
    """A class of a model."""

    value: int = Field(description="value in the map")
    name: str
    color: str = Field(examples=["#CC6677"])
    rare: bool


class ModelRow(_Told):
    """A model that maps scenes."""

    model_config = _like(
        kind="image", id="landslides", name="landslides", card_markdown="# landslides\n…",
        bands=["red", "green", "blue", "nir"],
        classes=[
            {"value": 0, "name": "ground", "color": "#DDCC77", "rare": False},
            {"value": 1, "name": "landslide", "color": "#CC6677", "rare": True},
        ],
        resolution_m=0.6, metrics={"macro_f1": 0.81},
        no_place="bundle landslides was trained on pixels of 0.6 m, and Sentinel-2's are 10 m: it needs imagery of its own kind",
    )  # fmt: skip

    kind: Literal["image"] = "image"
    id: str
    name: str
    card_markdown: str
    bands: list[str] = Field(examples=[["red", "green", "blue", "nir"]])
    classes: list[ClassRow]
    resolution_m: float | None = Field(description="metres along a pixel of its training, null where unknown")
    metrics: dict[str, Any]
    no_place: str | None = Field(
        description="why no scenes of a place and a date are fetched for it, null where they are"
    )


class Attribute(_Told):
    """A column that a model of tables reads."""

    name: str = Field(examples=["slope_mean"])
    kind: Literal["numeric", "categorical"]
    categories: list[str]


class TableRow(_Told):
    """A model that scores rows of a table."""

    model_config = _like(
        kind="table", id="units", name="units", card_markdown="# units\n…",
        attributes=[
            {"name": "slope_mean", "kind": "numeric", "categories": []},
            {"name": "rock", "kind": "categorical", "categories": ["schist", "marl"]},
        ],
        label="landslide", positive="1", prior=0.02, least=0.31, metrics={"average_precision": 0.64, "auc": 0.93},
    )  # fmt: skip

    kind: Literal["table"] = "table"
    id: str
    name: str
    card_markdown: str
    attributes: list[Attribute]
    label: str = Field(description="what the probability is of", examples=["landslide"])
    positive: str = Field(description="the label's value that is looked for", examples=["1"])
    prior: float = Field(description="share of positives that probabilities are given for")
    least: float = Field(description="probability from which on a row is an alarm")
    metrics: dict[str, Any]


class FusedRow(_Told):
    """A model of scenes and one of tables, joined."""

    model_config = _like(
        kind="fused", id="landslides-units-fused", name="landslides with units", image="landslides", table="units",
        landslide="landslide", weights=[0.6, 0.4], prior=0.02,
    )  # fmt: skip

    kind: Literal["fused"] = "fused"
    id: str
    name: str
    image: str = Field(description="id of the model of scenes")
    table: str = Field(description="id of the model of tables")
    landslide: str = Field(description="class of the model of scenes that is looked for")
    weights: tuple[float, float] = Field(description="of image and table")
    prior: float


AnyModel = Annotated[ModelRow | TableRow | FusedRow, Field(discriminator="kind")]


class Area(ClassRow):
    """How much of a map is of a class."""

    area_m2: float = Field(description="square metres on the ground")
    share: float = Field(description="of what has data, from 0 to 1")


class FusedUnits(_Told):
    """What a fused prediction found."""

    units: int
    known: dict[str, int] = Field(
        description="units known to both sides, to the image alone, to the table alone"
    )
    alarms: int
    double_check: bool
    notes: list[str] = Field(description="what was met in the rows and treated as missing, and the like")


class Scene(_Told):
    """What was mapped: an upload, or what was fetched of a place."""

    name: str | None = Field(description="of the upload")
    date: str | None = Field(description="the day of the imagery, where it is known", examples=["2024-07-03"])
    scenes: list[str] = Field(description="names of the scenes that were fetched")
    source: str | None = Field(description="where from", examples=["earth-search sentinel-2-c1-l2a"])
    covered: float | None = Field(description="share of the place with data, from 0 to 1")
    cloud: float | None = Field(description="clouded share of that, mapped as no data")


class Prediction(_Told):
    """A prediction: a job until it is done, then a map."""

    id: str
    model: str
    status: Literal["queued", "running", "done", "failed"]
    progress: float = Field(ge=0, le=1)
    ahead: int | None = Field(description="how many wait before it, while it is queued")
    error: str | None
    bounds: tuple[float, float, float, float] | None = Field(
        description="west, south, east, north in degrees (EPSG:4326)"
    )
    areas: list[Area] = Field(description="rare classes first")
    files: dict[str, str] = Field(
        examples=[{"map": "/api/predictions/0123456789abcdef01234567/map.tif"}],
        description="addresses by kind: map, preview, and confidence, probabilities, polygons or, where it is fused, "
        "alarms, units",
    )
    scene: Scene | None = Field(description="what was mapped, when it is done")
    notes: list[str] = Field(description="doubts about the map, a line each", examples=[[]])
    fused: FusedUnits | None = Field(description="of a fused prediction that is done")
    created: str
    expires: str


class Accepted(_Told):
    """A prediction that waits."""

    id: str
    status: Literal["queued"]
    url: str


class Probability(_Told):
    """Of a class, at a pixel."""

    name: str
    p: float


class Pixel(_Told):
    """A map at one place; `value` and `name` are null where there is no data.

    Of a fused map they are 1 and alarm, or 0 and no alarm, and the probabilities those of fused, image and table.
    """

    value: int | None
    name: str | None
    probabilities: list[Probability] = Field(description="the most probable first")


class Health(_Told):
    """Whether the server is well."""

    model_config = _like(status="ok", models=2, queued=0)

    status: Literal["ok"]
    models: int
    queued: int


class ScoredRow(_Told):
    """Of a row of a table."""

    probability: float = Field(ge=0, le=1)
    alarm: bool
    kept: dict[str, Any] = Field(
        description="the row's values in the columns of `keep`", examples=[{"unit": 7}]
    )


class Scores(_Told):
    """What a model says of the rows of a table, in their order."""

    model: str
    label: str
    positive: str
    prior: float = Field(description="share of positives that probabilities are given for")
    least: float = Field(description="probability from which on a row is an alarm")
    alarms: int
    mean: float
    notes: list[str] = Field(description="what was met and treated as missing")
    rows: list[ScoredRow]


class Rows(BaseModel):
    """Rows of a table as objects."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = Field(max_length=100)
    rows: list[dict[str, _Value]] = Field(
        min_length=1, max_length=10_000, description="attributes by name; null, or none: missing",
        examples=[[{"unit": 7, "slope_mean": 31.5, "rock": "schist"}, {"unit": 8, "slope_mean": 4, "rock": None}]],
    )  # fmt: skip
    prior: Share | None = Field(None, description="share of positives to expect")
    keep: list[Annotated[str, Field(max_length=200)]] = Field(
        [], max_length=20, description="columns that come back in `kept`"
    )


class Ground(BaseModel):
    """A place and a date."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    bbox: tuple[
        Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)],
        Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)],
        Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)],
        Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)],
    ] = Field(description="west, south, east, north in degrees", examples=[[2.1, 41.3, 2.2, 41.4]])
    date: date

    @field_validator("date", mode="before")
    @classmethod
    def _a_day(cls, given: Any) -> Any:
        if not (isinstance(given, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", given, re.ASCII)):
            raise ValueError("a day is written such as 2024-07-01")
        return given

    @field_validator("date")
    @classmethod
    def _imaged(cls, day: date) -> date:
        try:
            check_date(day)
        except AcquireError as error:
            raise ValueError(str(error)) from None
        return day

    @model_validator(mode="after")
    def _a_box(self) -> Self:
        west, south, east, north = self.bbox
        if not (west < east and south < north):
            raise ValueError("bbox is west, south, east, north, with west below east and south below north")
        return self


class Place(Ground):
    """A place and a date, whose scene is fetched, and a model."""

    model: str = Field(max_length=100)
