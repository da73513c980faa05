"""Options of prediction; no heavy import."""

from __future__ import annotations

from pydantic import Field

from raremap.options import Options


class PredictOptions(Options):
    """Windows of `window` pixels square, each sharing `overlap` of itself with the next, `batch` at a time.

    Where windows overlap their probabilities are blended with Hann weights. Another window or overlap is
    another map: both are kept with the model.
    """

    window: int = Field(512, ge=1)
    overlap: float = Field(0.25, ge=0, lt=1)
    batch: int | None = Field(None, ge=1)
