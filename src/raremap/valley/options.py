"""Options of the simulated valleys; no heavy import."""

from __future__ import annotations

from pydantic import Field

from raremap.options import Options


class ValleyOptions(Options):
    """One scene of `size`² pixels of 10 m, or `valleys` independent ones; the same seed gives the same bytes."""

    seed: int = Field(default=0, ge=0)
    size: int = Field(default=1024, ge=64, le=4096, multiple_of=8)
    valleys: int | None = Field(default=None, ge=1, le=999)
    coupling: float = Field(default=1.0, ge=0, le=4)
    """How far landslides follow the terrain: 0 anywhere on slopes of 25 to 45 degrees, 2 twice as strictly as by default."""
