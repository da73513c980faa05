"""Options of augmentation; no heavy import."""

from __future__ import annotations

from pydantic import Field

from raremap.options import Options


class AugmentOptions(Options):
    """`dihedral`: one of the eight flips and quarter turns; `gain` and `offset`: mild changes band by band.

    A band is multiplied by exp(N(0, gain)) and moved by N(0, offset), in units of the normalised image.
    """

    dihedral: bool = True
    gain: float = Field(default=0.05, ge=0, le=1)
    offset: float = Field(default=0.05, ge=0, le=1)
