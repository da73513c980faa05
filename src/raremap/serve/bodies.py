"""How the OpenAPI description tells what an address takes: JSON, or a form with files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

MODEL = {"type": "string", "description": "its id", "maxLength": 100}
LAYER = {"type": "string", "description": "layer of a GeoPackage that holds several"}


def file(what: str) -> dict[str, str]:
    """A file of a form."""
    return {"type": "string", "format": "binary", "description": what}


def form(
    required: tuple[str, ...], example: Mapping[str, Any], **fields: Mapping[str, Any]
) -> dict[str, Any]:
    """A multipart form of these fields, as part of what `body` is made of; of a file the example has the name."""
    schema = {"type": "object", "required": list(required), "properties": fields}
    return {"multipart/form-data": {"schema": schema, "example": example}}


def json(model: type[BaseModel], example: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object, as part of what `body` is made of."""
    return {"application/json": {"schema": model.model_json_schema(), "example": example}}


def body(*kinds: dict[str, Any]) -> dict[str, Any]:
    """What FastAPI wants as `openapi_extra` of an address that takes any of these kinds."""
    content = {kind: told for part in kinds for kind, told in part.items()}
    return {"requestBody": {"required": True, "content": content}}
