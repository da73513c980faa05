"""How a scene is predicted: the size of the windows, their overlap and how they are blended."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raremap.options import Options


class PredictOptions(Options):
    """Windows of `window`² pixels that share the fraction `overlap` with their neighbours.

    `blend` weighs the probabilities of windows that share a pixel: "hann" trusts a window's centre more
    than its edge, "mean" trusts all of it alike. `batch` is the number of windows that the network gets
    at once (None: as many as make 512² pixels, which is fastest on ordinary processors).
    """

    window: int = Field(default=512, ge=1)
    overlap: float = Field(default=0.25, ge=0, lt=1)
    blend: Literal["hann", "mean"] = "hann"
    batch: int | None = Field(default=None, ge=1)
