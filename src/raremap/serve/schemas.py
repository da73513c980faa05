"""What the API gives and takes, as its OpenAPI description says it."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Degrees = Annotated[float, Field(allow_inf_nan=False)]


class _Told(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


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

    id: str
    name: str
    card_markdown: str
    bands: list[str] = Field(examples=[["red", "green", "blue", "nir"]])
    classes: list[ClassRow]
    resolution_m: float | None
    metrics: dict[str, Any]


class Area(ClassRow):
    """How much of a map is of a class."""

    area_m2: float = Field(description="square metres on the ground")
    share: float = Field(description="of what has data, from 0 to 1")


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
        description="addresses by kind: map, confidence, probabilities, polygons, preview",
    )
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
    """A map at one place; `value` and `name` are null where there is no data."""

    value: int | None
    name: str | None
    probabilities: list[Probability] = Field(description="the most probable first")


class Health(_Told):
    """Whether the server is well."""

    status: Literal["ok"]
    models: int
    queued: int


class Place(BaseModel):
    """A place and a date, whose scene is fetched."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = Field(max_length=100)
    bbox: tuple[
        Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)],
        Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)],
        Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)],
        Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)],
    ] = Field(description="west, south, east, north in degrees", examples=[[2.1, 41.3, 2.2, 41.4]])
    date: date

    @model_validator(mode="after")
    def _a_box(self) -> Place:
        west, south, east, north = self.bbox
        if not (west < east and south < north):
            raise ValueError("bbox is west, south, east, north, with west below east and south below north")
        return self
