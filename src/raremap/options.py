"""`Options`: the frozen pydantic model that every room's settings are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Frozen settings that forbid unknown keys; they live beside what they describe."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
